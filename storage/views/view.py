"""What a training format is, as data: which rows, which columns, and which facts it needs.

A view is SQL over the frozen copy of a version (`storage.views.source`), in two parts, so that a million rows are sorted, told apart and
counted by short keys, and their texts are read only once the rows are known:

* `keys`: one row for every unit that could become a row, with `row_id` (unique text, the order of the rows), `split`, `source_id` (the pair
  or prompt that an error names), `prompt_hash`, and `drop`: why it does not become one, or null.
* `rows`: the columns of the view beside `row_id`, `split` and `source_id`, for the keys that are not dropped. Messages, tools and template
  arguments are JSON text here; `storage.views.rows` gives them their form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb

Kind = Literal[
    "messages",
    "message_lists",
    "json",
    "text",
    "texts",
    "number",
    "numbers",
    "number_lists",
    "integer",
    "integers",
    "flag",
    "flags",
]
"""What a column holds. `messages`: a list of chat turns; `message_lists`: a list of those."""

Presence = Literal["always", "any", "all"]
"""When a column is there: always, where any row has a value, or only where every row has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column. `side` says whether messages are the prompt or an answer to it."""

    kind: Kind
    meaning: str
    present: Presence = "always"
    side: Literal["prompt", "answer"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What a view's `prepare` leaves: `notes` for handoff.json, counts of units that are not rows, `{unit: {fate: n}}`, and columns whose
    names the facts decide (attributes); they stand before tools and template arguments."""

    notes: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)


def nothing(connection: duckdb.DuckDBPyConnection) -> Prepared:
    """The `prepare` of a view that needs none."""
    return Prepared()


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A training format. `prepare` may make temporary tables for the SQL and raises `ViewError` when the version cannot give the view.
    `more` says which columns it adds."""

    row: str
    trainers: str
    unit: str
    columns: Mapping[str, Column]
    needs: Mapping[str, tuple[str, ...]]
    keys: str
    rows: str
    more: str | None = None
    prepare: Callable[[duckdb.DuckDBPyConnection], Prepared] = nothing


PROMPT = Column(kind="messages", side="prompt", meaning="the turns before the answer")
TOOLS = Column(kind="json", present="any", meaning="the tools that the prompt offers; null where it offers none")
TEMPLATE_KWARGS = Column(
    kind="json", present="any", meaning="arguments of the chat template; {} where there are none, as TRL unpacks the value of every row"
)
CONTEXT = {"tools": TOOLS, "chat_template_kwargs": TEMPLATE_KWARGS}
"""The columns that every view of messages ends with."""

KEPT = "kept"

NO_PAIR = """WHEN kind = 'step' THEN 'step_pair' WHEN rejected_prompt IS NOT NULL THEN 'two_prompts'
    WHEN open_turn(prompt) THEN 'prompt_ends_with_assistant'"""
"""SQL: why a row of `pairs` is not two whole answers to one prompt, as the clauses of a CASE."""
