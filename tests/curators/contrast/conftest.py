"""Small prompts, answers and verifiers for the tests of contrastive synthesis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import polars as pl

from curators.contrast.candidates import answers
from curators.engines.base import digest
from curators.sampling import Row, make_prompt
from curators.schema import GENERATIONS, PROMPTS, frame
from curators.verifiers import Check, Verifier

POLICY = "policy-1"


def in_process(check: Check, name: str = "check") -> Verifier:
    """A check that is called where it stands, however long the text."""
    return Verifier(name=name, check=check, code_digest="test", in_process_chars=float("inf"))


def generation(prompt: Row, text: str, index: int = 0, **columns: Any) -> Row:
    row = {"prompt_id": prompt["prompt_id"], "policy": POLICY, "sample_index": index, "text": text, "state": "ok"}
    return {"generation_id": digest(prompt["prompt_id"], index, text), **row, **columns}


def answered(rows: Iterable[tuple[Row, Sequence[str]]], scores: Sequence[float | None] | None = None) -> pl.DataFrame:
    """`answers` of prompts and their texts, scored in the order given."""
    rows = list(rows)
    made = [generation(prompt, text, index) for prompt, texts in rows for index, text in enumerate(texts)]
    given = None
    if scores is not None:
        given = pl.DataFrame(
            {"generation_id": [row["generation_id"] for row in made], "score": scores}, schema_overrides={"score": pl.Float64}
        )
    return answers(frame([prompt for prompt, _ in rows], PROMPTS), frame(made, GENERATIONS), given)


def one(text: str, prompt: str = "?", reference: Any = None) -> pl.DataFrame:
    return answered([(make_prompt(prompt, reference=reference), [text])])


def said(messages: str) -> str:
    """The text of one side of a pair."""
    return str(orjson.loads(messages)[-1]["content"])
