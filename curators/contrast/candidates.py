"""Synthetic candidates: one row of `contrasts` for every attempt, and the pairs of those that passed.

The states that every method shares are set here: `empty` (a side without text) and `identical_text` (the same prompt and, white space at
the ends aside, the same text on both sides). A method sets its own before: the first check that fails is the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import orjson
import polars as pl

from curators.contrast.differences import differences
from curators.engines.base import as_json, canonical, digest
from curators.errors import SchemaError
from curators.funnel import Funnel
from curators.pairs import assistant_turn, split_of
from curators.sampling import Row
from curators.schema import CONTRASTS, JOINT_PAIRS, PAIRS, check, empty, frame

Side = str | Mapping[str, Any] | None
"""A text made here, or the row of `answers` that it is."""

MEASURED = ("edit_sim", "jaccard", "shared_prefix_share", "len_ratio", "checks", "pair_id", "contrast_id")


def answers(prompts: pl.DataFrame, generations: pl.DataFrame, scores: pl.DataFrame | None = None) -> pl.DataFrame:
    """Usable generations beside their prompts, sorted by prompt and generation id: what most synthesisers start from.

    Kept are rows whose own and whose prompt's state is ok. `scores` has `generation_id` and `score`; without it `score` is null.

    Raises:
        SchemaError: a frame lacks a column, or a generation has two scores.
    """
    asked = check(prompts, "prompts").filter(pl.col("state") == "ok").drop("source", "state", "reason").unique("prompt_id", keep="any")
    written = check(generations, "generations").filter(pl.col("state") == "ok").drop("state", "reason").unique("generation_id", keep="any")
    rows = written.join(asked, on="prompt_id")
    if scores is None:
        rows = rows.with_columns(score=pl.lit(None, dtype=pl.Float64))
    elif scores["generation_id"].is_duplicated().any():
        raise SchemaError("scores: a generation has more than one score; combine judges or votes first (group_scores)")
    else:
        rows = rows.join(scores.select("generation_id", pl.col("score").cast(pl.Float64)), on="generation_id", how="left")
    return rows.sort("prompt_id", "generation_id")


def by_prompt(rows: pl.DataFrame) -> list[list[Row]]:
    """The rows of every prompt, prompts by id, rows by sample index and id, whatever order they came in."""
    groups: dict[str, list[Row]] = {}
    for row in rows.sort("prompt_id", "sample_index", "generation_id", nulls_last=True).iter_rows(named=True):
        groups.setdefault(row["prompt_id"], []).append(row)
    return list(groups.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What all rows of one attempt share: the prompt's row that it starts from, the method, and what is meant to differ."""

    source: Mapping[str, Any]
    method: str
    axis: str
    parameters: Mapping[str, Any]
    held_fixed: Sequence[str] = ()
    source_ids: Sequence[str] = ()

    def row(
        self,
        chosen: Side = None,
        rejected: Side = None,
        *,
        state: str = "ok",
        reason: str | None = None,
        checks: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> Row:
        """A row of `contrasts`; `columns` are any others, prompts as JSON messages."""
        row: Row = {
            "prompt_id": self.source["prompt_id"],
            "method": self.method,
            "axis": self.axis,
            "parameters": canonical(self.parameters).decode(),
            "held_fixed": as_json(list(self.held_fixed)),
            "source_ids": list(self.source_ids),
            "prompt": self.source["messages"],
            "tools": self.source.get("tools"),
            "chat_template_kwargs": self.source.get("chat_template_kwargs"),
            **_side("chosen", chosen),
            **_side("rejected", rejected),
            **columns,
        }
        if state == "ok":
            state, reason = _form(row, text_of(chosen), text_of(rejected))
        row |= {"state": state, "reason": reason, "checks": as_json(dict(checks)) if checks else None}
        if chosen is not None and rejected is not None:
            row |= differences(text_of(chosen), text_of(rejected))._asdict()
        row["pair_id"] = _pair_id(row) if state == "ok" else None
        row["contrast_id"] = digest({name: value for name, value in row.items() if name not in MEASURED})
        return row


def settings(config: Any) -> dict[str, Any]:
    """A configuration's values by name, for `parameters`; what is a dataclass within it is written as an object."""
    return {each.name: getattr(config, each.name) for each in fields(config)}


def text_of(side: Side) -> str:
    """The text of a side; empty where there is none."""
    if side is None or isinstance(side, str):
        return side or ""
    return str(side["text"] or "")


def _side(name: str, side: Side) -> Row:
    if side is None:
        return {}
    if isinstance(side, str):
        return {name: assistant_turn(side, None, None)}
    return {
        name: assistant_turn(side["text"], side.get("reasoning"), side.get("tool_calls")),
        f"{name}_id": side.get("generation_id"),
        f"{name}_policy": side.get("policy"),
        f"{name}_score": side.get("score"),
    }


def _form(row: Row, chosen: str, rejected: str) -> tuple[str, str | None]:
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip() and "tool_calls" not in (row.get(name) or ""):
            return "empty", f"the {name} text is empty"
    same_turn = chosen.strip() == rejected.strip() and ("tool_calls" not in row["chosen"] or row["chosen"] == row["rejected"])
    if same_turn and row.get("rejected_prompt") in (None, row["prompt"]):
        return "identical_text", "both sides are the same"
    return "ok", None


def _pair_id(row: Row) -> str:
    """As in `pairs`: the content id of kind, prompt and both texts; of both prompts where there are two."""
    told = [row["method"], row["prompt"], row["chosen"], row["rejected"]]
    return digest(*told, row["rejected_prompt"]) if row.get("rejected_prompt") else digest(*told)


def contrasts(rows: Iterable[Row]) -> pl.DataFrame:
    """Rows of attempts as a frame, sorted by prompt and id, without repetitions."""
    unique = {row["contrast_id"]: row for row in rows}
    return frame(sorted(unique.values(), key=lambda row: (row["prompt_id"], row["contrast_id"])), CONTRASTS)


def of_synthesis(found: pl.DataFrame, synthesis_id: str) -> pl.DataFrame:
    """`contrasts` that name what was asked; it is part of their ids, so that no attempt hides behind the same one of another run.

    Raises:
        SchemaError: the frame lacks a column.
    """
    ids = [digest(synthesis_id, contrast_id) for contrast_id in check(found, "contrasts")["contrast_id"]]
    return found.with_columns(synthesis_id=pl.lit(synthesis_id), contrast_id=pl.Series(ids, dtype=pl.String))


def contrast_pairs(
    found: pl.DataFrame, *, policy: str | None = None, test_share: float = 0.1, splits: Mapping[str, str] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame, list[Funnel]]:
    """`pairs`, `joint_pairs` (those with two prompts) and a funnel for every method; pairs are of the attempts that passed alone.

    `kind` and `pair_policy` are the method's name. `policy` is the fingerprint of the model that the dataset is for. `splits`: that of a
    prompt, where it has one already. An attempt with the pair of another (the smaller id stays) is dropped as `duplicate_pair`.
    """
    rows = check(found, "contrasts").sort("contrast_id")
    repeated = (pl.col("state") == "ok") & ~pl.col("pair_id").is_first_distinct()
    rows = rows.with_columns(state=pl.when(repeated).then(pl.lit("duplicate_pair")).otherwise("state"))
    kept = rows.filter(pl.col("state") == "ok").sort("prompt_id", "pair_id")
    known = splits or {}
    of_each = [
        split or known.get(prompt_id) or split_of(prompt_id, test_share)
        for prompt_id, split in kept.select("prompt_id", "split").iter_rows()
    ]
    on_policy = pl.lit(None, dtype=pl.Boolean)
    if policy is not None:
        on_policy = ((pl.col("chosen_policy") == policy) & (pl.col("rejected_policy") == policy)).fill_null(False)
    made = kept.with_columns(
        kind="method",
        pair_policy="method",
        margin=pl.col("chosen_score") - pl.col("rejected_score"),
        on_policy=on_policy,
        split=pl.Series(of_each, dtype=pl.String),
    )
    one = made.filter(pl.col("rejected_prompt").is_null())
    two = made.filter(pl.col("rejected_prompt").is_not_null())
    return _cast(one, PAIRS, "pairs"), _cast(two, JOINT_PAIRS, "joint_pairs"), _funnels(rows)


def _cast(rows: pl.DataFrame, schema: Mapping[str, pl.DataType], name: str) -> pl.DataFrame:
    if rows.is_empty():
        return empty(schema)
    return check(rows.select([pl.col(column).cast(dtype) for column, dtype in schema.items()]), name)


def _funnels(rows: pl.DataFrame) -> list[Funnel]:
    counts: dict[str, dict[str, int]] = {}
    for method, state, n in rows.group_by("method", "state").len().sort("method", "state").iter_rows():
        counts.setdefault(method, {})[state] = n
    return [
        Funnel(stage="contrast", unit=f"{method} attempts", n_in=sum(states.values()), n_kept=states.pop("ok", 0), dropped=states)
        for method, states in counts.items()
    ]


def with_system(messages: Sequence[Mapping[str, Any]], text: str) -> list[Row]:
    """Turns under a system message with the text: after what the system message says, where there is one.

    >>> with_system([{"role": "user", "content": "Hi"}], "Be brief.")[0]
    {'role': 'system', 'content': 'Be brief.'}
    """
    first = messages[0]
    if first["role"] == "system" and isinstance(first["content"], str):
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *map(dict, messages[1:])]
    return [{"role": "system", "content": text}, *map(dict, messages)]


def last_user_turn_with(messages: str, addition: str) -> str | None:
    """JSON messages with a paragraph added to the last turn; null when that is no user's plain text.

    >>> last_user_turn_with('[{"role":"user","content":"Hi"}]', "Be brief.")
    '[{"role":"user","content":"Hi\\\\n\\\\nBe brief."}]'
    """
    turns = orjson.loads(messages)
    last = turns[-1]
    if last.get("role") != "user" or not isinstance(last.get("content"), str):
        return None
    return as_json([*turns[:-1], {**last, "content": f"{last['content']}\n\n{addition}"}])
