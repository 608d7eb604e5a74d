"""What a run takes over from the published version that it starts from. Flows `select` and `contrast`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from storage import Release


def inherited_facts(parent: Release) -> dict[str, pl.DataFrame | str]:
    """Which facts are the parent's, as `storage.publish` takes them: the child has those of its own prompts."""
    chosen: Mapping[str, Any] = parent.manifest.get("facts") or {}
    none = pl.DataFrame(schema={"prompt_id": pl.String()})
    return {
        table: rows if isinstance(rows, str) else pl.DataFrame(rows, infer_schema_length=None) if rows else none
        for table, rows in chosen.items()
    }


def parents_told(parents: tuple[Release, ...]) -> dict[str, Any]:
    """What a manifest says of the versions that a run started from."""
    told = [{"ref": parent.ref, "digest": parent.digest, "facts_digest": parent.facts_digest} for parent in parents]
    return {"parents": told} if told else {}


def parent_frame(parent: Release, table: str, schema: Mapping[str, pl.DataType], prompt_ids: Sequence[str] | None = None) -> pl.DataFrame:
    """The version's rows of one table (`pairs` or a fact table), with nulls in the columns that it was published without.

    With `prompt_ids` those of these prompts alone.
    """
    file = parent.frozen / f"{table}.parquet"
    rows = pl.scan_parquet(file) if file.exists() else pl.LazyFrame(schema=dict(schema))
    found = (rows if prompt_ids is None else rows.filter(pl.col("prompt_id").is_in(prompt_ids))).collect()
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in schema.items() if name not in found.columns]
    return found.with_columns(missing)
