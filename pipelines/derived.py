"""What a run takes over from the published version that it starts from. Flows `select` and `contrast`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from storage import Release

NO_FACTS = pl.DataFrame(schema={"prompt_id": pl.String})
"""No rows of a fact table, as `storage.publish` takes it."""


def inherited_facts(parents: Iterable[Release]) -> dict[str, pl.DataFrame | str]:
    """Which facts are the parents', as `storage.publish` takes them: the child has those of its own prompts."""
    found: dict[str, pl.DataFrame | str] = {}
    for parent in parents:
        chosen: Mapping[str, Any] = parent.manifest.get("facts") or {}
        for table, rows in chosen.items():
            own = rows if isinstance(rows, str) else pl.DataFrame(rows, infer_schema_length=None) if rows else NO_FACTS
            found[table] = _both(found.get(table), own)
    return found


def _both(one: pl.DataFrame | str | None, other: pl.DataFrame | str) -> pl.DataFrame | str:
    """What names the facts of both; the name of a column names those of every row that has it. Every flow names all of its tables: one
    that a parent does not name would come whole by itself, and here only as the other parent names it.
    """
    if isinstance(one, pl.DataFrame) and isinstance(other, pl.DataFrame):
        return pl.concat([each for each in (one, other) if each.height] or [NO_FACTS], how="diagonal_relaxed").unique()
    return one if isinstance(one, str) else other


def parents_told(parents: tuple[Release, ...]) -> dict[str, Any]:
    """What a manifest says of the versions that a run started from."""
    told = [{"ref": parent.ref, "digest": parent.digest, "facts_digest": parent.facts_digest} for parent in parents]
    return {"parents": told} if told else {}
