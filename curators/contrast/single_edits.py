"""One-constraint edits: an answer that meets every constraint of its prompt, edited so that it fails exactly one.

Small edits (a word, a comma, a letter's case, a sentence, a line, a keyword) are tried in drawn order, and the first after which exactly
one constraint no longer holds makes the pair: whatever a model learns from it, it learns about that constraint. The constraints come from
the prompt's reference, `{"constraints": [{"kind": …, "value": …}, …]}`, and are verified by `curators.constraints`. A house construct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from curators import constraints
from curators.constraints import constraints_of, holds
from curators.contrast.candidates import Attempt, contrasts, settings, text_of
from curators.contrast.differences import edit_sim
from curators.pairs import unit_hash
from curators.sampling import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleEditConfig:
    """`min_edit_sim` bounds how far the edited text may be from the answer."""

    min_edit_sim: float = 0.5
    seed: int = 0


def single_edits(rows: pl.DataFrame, *, config: SingleEditConfig | None = None) -> pl.DataFrame:
    """`contrasts` of `answers`, one for each; `axis` names the constraint that the rejected text fails."""
    config = config or SingleEditConfig()
    return contrasts(_single(row, config) for row in rows.iter_rows(named=True))


def edits(text: str, wanted: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Named small edits of a text; what the constraints name decides which keywords are taken out or put in.

    >>> dict(edits("Blue whales sing.", []))["comma"]
    'Blue, whales sing.'
    """
    words = text.split()
    lines = text.splitlines(keepends=True)
    sentence = re.split(r"(?<=[.!?])\s+", text.strip())[-1]
    yield "drop the last word", text.rstrip()[: len(text.rstrip()) - len(words[-1])].rstrip() if words else ""
    yield "drop the first word", text.lstrip()[len(words[0]) :].lstrip() if words else ""
    yield "comma", text.replace(words[0], f"{words[0]},", 1) if words else ""
    yield "upper-case letter", text[:1].upper() + text[1:]
    yield "lower-case letter", text[:1].lower() + text[1:]
    yield "repeat the last sentence", f"{text.rstrip()} {sentence}"
    yield "drop the last sentence", text.rstrip()[: len(text.rstrip()) - len(sentence)].rstrip()
    yield "drop the last line", "".join(lines[:-1]).rstrip()
    yield "repeat the last line", f"{text.rstrip()}\n{lines[-1].strip()}" if lines else ""
    yield "new paragraph", f"{text.rstrip()}\n\n{sentence}"
    yield "join the paragraphs", re.sub(r"\n\s*\n", "\n", text)
    yield "word at the end", f"{text.rstrip()} too"
    yield "words at the front", f"Now then: {text}"
    for each in wanted:
        yield from _by_value(text, each)


def _by_value(text: str, constraint: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind: str = constraint["kind"]
    value: Any = constraint.get("value")
    for keyword in value if isinstance(value, list) else [value]:
        if kind in ("contains", "contains_all", "contains_any"):
            yield f"without {keyword}", re.sub(rf"\s?(?<!\w){re.escape(str(keyword))}(?!\w)", "", text, flags=re.IGNORECASE)
        elif kind == "not_contains":
            yield f"with {keyword}", f"{text.rstrip()} {keyword}"
    if kind in ("max_words", "min_words", "n_words"):
        found, body = constraints.words(text), text.rstrip().rstrip(".!?")
        yield (
            "more words",
            " ".join([body, *found * (value // max(len(found), 1) + 1)][: value - len(found) + 2]) + text.rstrip()[len(body) :],
        )
        yield "fewer words", " ".join(text.split()[: max(value - 1, 0)])


def _single(source: Row, config: SingleEditConfig) -> Row:
    text, key = text_of(source), source["generation_id"]
    shared: Row = {"source": source, "method": "single_edit", "source_ids": [key], "held_fixed": ("every other constraint",)}
    attempt = Attempt(axis="one constraint", parameters=settings(config), **shared)
    try:
        wanted = constraints_of(source["reference"])
        before = [holds(text, each) for each in wanted]
    except ValueError as error:
        return attempt.row(source, state="unverified", reason=str(error))
    if not all(before):
        return attempt.row(source, state="already_wrong", reason=f"the answer fails {before.count(False)} of {len(wanted)} constraints")
    possible: dict[int, list[tuple[str, str]]] = {}
    for name, edited in edits(text, wanted):
        after = [holds(edited, each) for each in wanted]
        if edited.strip() and after.count(False) == 1 and edit_sim(text.split(), edited.split()) >= config.min_edit_sim:
            possible.setdefault(after.index(False), []).append((name, edited))
    if not possible:
        return attempt.row(source, state="unsatisfiable", reason="no edit fails exactly one constraint")
    broken = min(possible, key=lambda index: (unit_hash("constraint", config.seed, key, index), index))
    name, edited = min(possible[broken], key=lambda edit: (unit_hash("edit", config.seed, key, edit), edit))
    made = Attempt(axis=str(wanted[broken]["kind"]), parameters={**settings(config), "edit": name}, **shared)
    checks = {"constraints": wanted, "chosen": before, "rejected": [index != broken for index in range(len(wanted))]}
    return made.row(source, edited, checks=checks, label_source="constraints", degree=1.0)
