"""Frozen copies of versions, as publishing leaves them, made from a few rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import polars as pl
import pytest

from curators.engines.base import canonical
from curators.schema import CONTRASTS, GENERATIONS, JOINT_PAIRS, JUDGMENTS, NODES, PAIRS, PROMPTS, RATIONALES, STEP_PAIRS, Schema

Row = Mapping[str, Any]
MakeFrozen = Callable[..., Path]


def text_of(value: Any) -> str | None:
    return None if value is None else canonical(value).decode()


def answer(text: str | None, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text, **more}]


def question(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def pair(prompt: Any, chosen: Any, rejected: Any, *, split: str = "train", **more: Any) -> dict[str, Any]:
    """A row of `pairs`; texts become one turn each."""
    prompt = question(prompt) if isinstance(prompt, str) else prompt
    sides = [answer(side) if isinstance(side, str) else side for side in (chosen, rejected)]
    row = {"prompt": text_of(prompt), "chosen": text_of(sides[0]), "rejected": text_of(sides[1]), "split": split, "kind": "response"}
    for name in ("tools", "chat_template_kwargs"):
        row[name] = text_of(more.pop(name, None))
    row["prompt_id"] = _id(row["prompt"], row["tools"], row["chat_template_kwargs"])
    row["pair_id"] = _id(row["prompt_id"], row["chosen"], row["rejected"])
    row["chosen_id"], row["rejected_id"] = (_id(row["prompt_id"], row[side]) for side in ("chosen", "rejected"))
    return {**row, **more}


def _id(*parts: str | None) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:16]


def prompts_of(pairs: Sequence[Row], **references: str) -> list[dict[str, Any]]:
    """The prompts of pairs, as `prompts` holds them."""
    rows = {row["prompt_id"]: row for row in pairs}
    return [
        {
            "prompt_id": prompt_id,
            "messages": row["prompt"],
            "state": "ok",
            **{name: row[name] for name in ("tools", "chat_template_kwargs")},
            "reference": references.get(str(json.loads(row["prompt"])[-1]["content"])),
        }
        for prompt_id, row in rows.items()
    ]


def scored(pairs: Sequence[Row], *, judge: str = "judge") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The generations of plain pairs and a pointwise judgment of each: 8 for chosen, 3 for rejected."""
    generations, judgments = {}, []
    for row in pairs:
        for index, (side, score) in enumerate((("chosen", 8.0), ("rejected", 3.0))):
            generation = {"generation_id": row[f"{side}_id"], "prompt_id": row["prompt_id"], "sample_index": index, "state": "ok"}
            generations[row[f"{side}_id"]] = {**generation, "text": json.loads(row[side])[0]["content"], "policy": "p"}
            judgments.append(judgment(row["prompt_id"], [row[f"{side}_id"]], judge=judge, protocol="pointwise", scores=[score]))
    return list(generations.values()), judgments


def judgment(prompt_id: str, generation_ids: Sequence[str], **more: Any) -> dict[str, Any]:
    """A row of `judgments` in state ok."""
    row = {"prompt_id": prompt_id, "generation_ids": list(generation_ids), "vote": 0, "attempt": 0, "state": "ok", "judge": "judge", **more}
    row["judgment_id"] = _id(*(str(value) for value in row.values()))
    return row


@pytest.fixture
def rows() -> SimpleNamespace:
    """The functions above, for test modules (which cannot import this one)."""
    return SimpleNamespace(
        pair=pair, answer=answer, question=question, prompts_of=prompts_of, scored=scored, judgment=judgment, text_of=text_of
    )


def write_rows(root: Path, table: str, rows: Sequence[Row], schema: Schema, key: str) -> None:
    pl.DataFrame(list(rows), schema=dict(schema)).sort(key).write_parquet(root / f"{table}.parquet", compression="zstd")


@pytest.fixture
def make_frozen(tmp_path: Path) -> MakeFrozen:
    """`make_frozen(pairs, prompts=…, generations=…, judgments=…, nodes=…, rationales=…, contrasts=…)`: a version's directory."""

    def make(
        pairs: Sequence[Row],
        *,
        prompts: Sequence[Row] | None = None,
        generations: Sequence[Row] = (),
        judgments: Sequence[Row] = (),
        nodes: Sequence[Row] = (),
        rationales: Sequence[Row] = (),
        contrasts: Sequence[Row] = (),
        name: str = "sums",
        version: int = 1,
    ) -> Path:
        root = tmp_path / "frozen" / name / f"v{version}"
        root.mkdir(parents=True)
        schema = STEP_PAIRS if nodes else JOINT_PAIRS if any("rejected_prompt" in pair for pair in pairs) else PAIRS
        write_rows(root, "pairs", pairs, schema, "pair_id")
        write_rows(root, "prompts", prompts_of(pairs) if prompts is None else prompts, PROMPTS, "prompt_id")
        write_rows(root, "generations", generations, GENERATIONS, "generation_id")
        write_rows(root, "judgments", judgments, JUDGMENTS, "judgment_id")
        if nodes:
            write_rows(root, "nodes", nodes, NODES, "node_id")
        if rationales:
            write_rows(root, "rationales", rationales, RATIONALES, "rationale_id")
        if contrasts:
            write_rows(root, "contrasts", contrasts, CONTRASTS, "contrast_id")
        digest = hashlib.sha256((root / "pairs.parquet").read_bytes()).hexdigest()
        (root / "manifest.json").write_text(json.dumps({"name": name, "version": version, "digest": digest, "n_pairs": len(pairs)}))
        return root

    return make


@pytest.fixture(autouse=True)
def cache_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` offline, with a cache of this test's own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf-cache")
