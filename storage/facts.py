"""Which facts a version is made of.

Facts of other runs on the same prompts lie in the same tables: last night's samples, an earlier rubric's judgments. A version names its
own by a few columns that they share, such as policy, sampling and seed, and its frozen copy, its digest and its views hold those alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import polars as pl

from storage.columns import identifier, literal
from storage.errors import StorageError

FACTS: Mapping[str, str] = MappingProxyType(
    {
        "prompts": "prompt_id",
        "generations": "generation_id",
        "judgments": "judgment_id",
        "rationales": "rationale_id",
        "nodes": "node_id",
        "contrasts": "contrast_id",
    }
)
"""The fact tables and the column that identifies a row of each; every fact has the `prompt_id` that it is about."""

ABOUT: Mapping[str, str] = MappingProxyType({"rationales": "pair_id"})
"""What else a fact may be about than a prompt: a version holds it only with that."""

Own = Mapping[str, pl.DataFrame | str]
"""By fact table, what a version's own facts have: the values in a frame of columns, or, where it is the name of a column (a tree's id),
one that some pair of the version has in it."""

Chosen = Mapping[str, Sequence[Mapping[str, Any]] | str]
"""The same as a manifest keeps it; a table that is not named comes whole."""

MOST = 1000  # different combinations of those values


def fact_key(table: str) -> str:
    """The id column of a fact table.

    Raises:
        StorageError: there is no such table.
    """
    if table not in FACTS:
        raise StorageError(f"there is no fact table {table}; allowed are {', '.join(FACTS)}")
    return FACTS[table]


def chosen(facts: Own) -> Chosen:
    """The different rows of each frame of columns, in an order of their own; the name of a column stays one.

    >>> chosen({"generations": pl.DataFrame({"policy": ["b", "a", "b"], "seed": [1, None, 1]})})
    {'generations': [{'policy': 'a', 'seed': None}, {'policy': 'b', 'seed': 1}]}

    Raises:
        StorageError: no such fact table, or too many combinations to name.
    """
    found: dict[str, list[dict[str, Any]] | str] = {}
    for table, frame in facts.items():
        fact_key(table)
        if isinstance(frame, str):
            found[table] = frame
            continue
        rows = frame.unique().sort(frame.columns).to_dicts()
        if len(rows) > MOST:
            raise StorageError(f"{table}: {len(rows)} combinations of {frame.columns}, at most {MOST}; name the facts by fewer columns")
        found[table] = rows
    return found


def facts_query(table: str, *, pairs: str, which: Chosen, at: str = "", about: str | None = None) -> str:
    """SQL of a version's rows of one fact table, ordered by id. `pairs` is the table of its pairs, `at` a snapshot clause.

    `about`: the column that a fact shares with the pairs that it belongs to, where it is not that of `ABOUT`.
    """
    rows = which.get(table)
    if isinstance(rows, str):
        column = identifier(rows)
        # Qualified: a column that the pairs lack would otherwise be taken for the facts' own, and every fact would do.
        ours = f"{column} IN (SELECT pair.{column} FROM (FROM {pairs}) AS pair)"
    else:
        ours = "true" if rows is None else " OR ".join(map(_equal, rows)) or "false"
    about = about or ABOUT.get(table, "prompt_id")
    return f"FROM lake.{table} {at} WHERE {about} IN (SELECT {about} FROM {pairs}) AND ({ours}) ORDER BY {fact_key(table)}"


def _equal(row: Mapping[str, Any]) -> str:
    given = {name: "NULL" if value is None else literal(value) for name, value in row.items()}
    return " AND ".join(f"{identifier(name)} IS NOT DISTINCT FROM {value}" for name, value in given.items())
