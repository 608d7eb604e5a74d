"""Rows of existing preference data → `prompts`, `generations`, `judgments`.

What a source recorded is kept as recorded: who wrote a text is a policy `source:<name>` (or the writer that a column names),
who judged it is the judge `source:<name>`, the channel is `recorded`. A labelled pair is one pairwise judgment, first the
chosen answer; a pair with scores is a list of two (equal scores make a tie, and so no pair later); a list of scored answers is one
pointwise judgment an answer, and an answer without a score has none.

The same prompt in several rows is one prompt, and all its answers belong to it; the same text of the same writer there is one
generation. The same row again is dropped. Nothing depends on the order of rows, but for `source`, which names the row that a prompt
came from.

Deliberately not done here: deciding anything. Verdicts, pairs and gates treat imported facts like any others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Protocol

import polars as pl

from curators.engines.base import canonical, digest
from curators.errors import SchemaError
from curators.funnel import Funnel
from curators.importing.columns import ColumnMap, check_sources, column_map, detect
from curators.importing.conversations import BadRow
from curators.importing.rows import Recorded, RowFacts, Written, row_facts
from curators.sampling import Row, bad_prompt, sample_state
from curators.schema import GENERATIONS, JUDGMENTS, PROMPTS, Schema, frame

MAX_CHARS = 1_000_000
_PEEK_ROWS = 1000
_CHUNK_ROWS = 20_000


class SourceRow(Protocol):
    """What a reader of files gives: the row's number from 1, its columns (null when it could not be read), and why."""

    @property
    def number(self) -> int: ...
    @property
    def row(self) -> dict[str, Any] | None: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The facts of one import.

    `prompts` holds one row for every prompt (state ok) and one for every dropped row (its state and reason). `funnel` counts rows. `notes`
    count what is worth knowing about kept rows: `duplicate_prompt` (rows beyond the first of their prompt), `tie`, `ambiguous`,
    and answers with `no_score` or as `empty_answer`. `layouts` says, for every file, which layout was taken, its kind and its columns.
    """

    prompts: pl.DataFrame
    generations: pl.DataFrame
    judgments: pl.DataFrame
    funnel: Funnel
    notes: Mapping[str, int]
    layouts: Mapping[str, ColumnMap]


@dataclass(kw_only=True)
class _Growing:
    """Rows on their way into frames, a chunk at a time, so that a million rows never stand as a million dicts."""

    name: str
    rows: dict[str, list[Row]] = field(default_factory=lambda: {"prompts": [], "generations": [], "judgments": []})
    frames: dict[str, list[pl.DataFrame]] = field(default_factory=lambda: {"prompts": [], "generations": [], "judgments": []})
    seen: set[str] = field(default_factory=set)
    prompt_ids: set[str] = field(default_factory=set)
    n_rows: int = 0
    n_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


_SCHEMAS: Mapping[str, Schema] = {"prompts": PROMPTS, "generations": GENERATIONS, "judgments": JUDGMENTS}


def import_facts(
    files: Mapping[str, Iterable[SourceRow]],
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    max_chars: int = MAX_CHARS,
) -> Imported:
    """Facts of one or more files (file name → its rows). Without `columns` each file's layout is recognised by its columns.

    >>> from types import SimpleNamespace
    >>> row = SimpleNamespace(number=1, row={"prompt": "2+2?", "chosen": "4", "rejected": "5"}, state="ok", reason=None)
    >>> facts = import_facts({"mine.jsonl": [row]}, name="mine")
    >>> facts.layouts["mine.jsonl"].layout, facts.generations.height, facts.judgments["label"].to_list()
    ('trl_preference', 2, ['first'])

    Raises:
        SchemaError: a map that names no known target or a column that is not there, or columns of no known layout.
    """
    declared = column_map(columns) if columns else None
    growing = _Growing(name=name)
    layouts: dict[str, ColumnMap] = {}
    for file, rows in files.items():
        found, rows = _layout(rows, declared, file)
        layouts[file] = found
        for row in rows:
            _take(growing, row, found, file=file, max_chars=max_chars)
            if len(growing.rows["generations"]) >= _CHUNK_ROWS:
                _flush(growing)
    _flush(growing)
    return _finish(growing, layouts)


def _layout(rows: Iterable[SourceRow], declared: ColumnMap | None, file: str) -> tuple[ColumnMap, Iterator[SourceRow]]:
    """The map of a file, by its first rows, and all its rows."""
    rest = iter(rows)
    first = list(islice(rest, _PEEK_ROWS))
    readable = [row.row for row in first if row.row is not None]
    if declared is None and not readable:
        why = f"{first[0].state}: {first[0].reason}" if first else "there are none"
        raise SchemaError(f"{file}: none of the first {len(first)} rows can be read ({why}); is it the right file?")
    found = declared or detect(readable, file=file)
    if readable:
        check_sources(found, readable, file=file)
    return found, chain(first, rest)


def _take(growing: _Growing, row: SourceRow, found: ColumnMap, *, file: str, max_chars: int) -> None:
    source = f"{file}:{row.number}"
    growing.n_rows += 1
    try:
        if row.row is None:
            raise BadRow(row.state, row.reason or row.state)
        facts = row_facts(row.row, found, source=source, max_chars=max_chars)
    except BadRow as bad:
        _drop(growing, bad.state, bad.reason, source)
        return
    generations = [_generation(growing.name, facts.prompt["prompt_id"], written) for written in facts.written]
    judgments = [_judgment(growing.name, facts, generations, said) for said in facts.recorded]
    key = digest([g["generation_id"] for g in generations], [j["judgment_id"] for j in judgments])
    if key in growing.seen:
        _drop(growing, "duplicate", "the same prompt, answers and labels as another row", source)
    else:
        growing.seen.add(key)
        growing.prompt_ids.add(facts.prompt["prompt_id"])
        growing.n_kept += 1
        growing.notes.update(_notes(facts, found))
    # A duplicate is taken too: which of the copies stays (by content, not by position) is decided at the end.
    growing.rows["prompts"].append(facts.prompt)
    growing.rows["generations"] += generations
    growing.rows["judgments"] += judgments


def _drop(growing: _Growing, state: str, reason: str, source: str) -> None:
    growing.dropped[state] += 1
    growing.rows["prompts"].append(bad_prompt(state, reason, source=source))


def _notes(facts: RowFacts, found: ColumnMap) -> Iterator[str]:
    for said in facts.recorded:
        scores = said.columns.get("scores") or []
        if said.columns.get("label") == "tie" or (len(scores) == 2 and scores[0] == scores[1]):
            yield "tie"
        if said.columns.get("state") == "ambiguous":
            yield "ambiguous"
    if found.kind == "responses":
        judged = {index for said in facts.recorded for index in said.shown}
        for index, written in enumerate(facts.written):
            if written.answer.empty:
                yield "empty_answer"
            elif index not in judged:
                yield "no_score"


def _generation(name: str, prompt_id: str, written: Written) -> Row:
    answer = written.answer
    state, reason = sample_state(answer.text, None, [answer.tool_calls] if answer.tool_calls else None)
    policy = f"source:{written.policy or name}"
    return {
        "generation_id": digest(prompt_id, policy, written.sample_index, [answer.text, answer.reasoning, answer.tool_calls]),
        "prompt_id": prompt_id,
        "policy": policy,
        "sample_index": written.sample_index,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "tool_calls": answer.tool_calls,
        "state": state,
        "reason": reason,
    }


def _judgment(name: str, facts: RowFacts, generations: list[Row], said: Recorded) -> Row:
    """One recorded judgment. `raw` is what the source said in its own words: labels, scores and, for a pair, its other columns."""
    shown = [generations[index]["generation_id"] for index in said.shown]
    rest = facts.rest if len(shown) > 1 else {}
    order = int(said.columns["protocol"] == "pairwise" and shown[0] > shown[1])
    return {
        "judgment_id": digest("recorded", name, shown, dict(said.columns)),
        "prompt_id": facts.prompt["prompt_id"],
        "judge": f"source:{name}",
        "generation_ids": shown,
        "order": order,
        "vote": 0,
        "attempt": 0,
        "channel": "recorded",
        "raw": canonical({**rest, **said.said}).decode(),
        "state": "ok",
        **said.columns,
    }


def _flush(growing: _Growing) -> None:
    for kind, rows in growing.rows.items():
        if rows:
            growing.frames[kind].append(frame(rows, _SCHEMAS[kind]))
            rows.clear()


def _finish(growing: _Growing, layouts: Mapping[str, ColumnMap]) -> Imported:
    """One row for every id. Copies differ in what the source said beside them: the smallest text stays, in whatever order they came."""
    prompts, generations, judgments = (
        pl.concat(growing.frames[kind]) if growing.frames[kind] else pl.DataFrame(schema=dict(schema)) for kind, schema in _SCHEMAS.items()
    )
    prompts = prompts.sort("prompt_id", "meta", "reference", "source", "messages", "tools")
    prompts = prompts.unique("prompt_id", keep="first", maintain_order=True)
    generations = generations.sort("prompt_id", "generation_id", "tool_calls").unique("generation_id", keep="first", maintain_order=True)
    judgments = judgments.sort("judgment_id", "raw").unique("judgment_id", keep="first", maintain_order=True)
    vote = pl.col("judgment_id").rank("ordinal").over("generation_ids").cast(pl.Int16) - 1
    judgments = judgments.with_columns(vote=vote).sort("prompt_id", "judgment_id")
    notes = growing.notes + Counter(duplicate_prompt=growing.n_kept - len(growing.prompt_ids))
    return Imported(
        prompts=prompts,
        generations=generations,
        judgments=judgments,
        funnel=Funnel(stage="import", unit="rows", n_in=growing.n_rows, n_kept=growing.n_kept, dropped=growing.dropped),
        notes=dict(sorted(notes.items())),
        layouts=layouts,
    )
