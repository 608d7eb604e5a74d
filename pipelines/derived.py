"""What a run takes over from the published version that it starts from. Flows `select` and `contrast`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from storage import Release

NO_FACTS = pl.DataFrame(schema={"prompt_id": pl.String})
"""No rows of a fact table, as `storage.publish` takes it."""


def inherited_facts(parent: Release) -> dict[str, pl.DataFrame | str]:
    """Which facts are the parent's, as `storage.publish` takes them: the child has those of its own prompts."""
    chosen: Mapping[str, Any] = parent.manifest.get("facts") or {}
    return {
        table: rows if isinstance(rows, str) else pl.DataFrame(rows, infer_schema_length=None) if rows else NO_FACTS
        for table, rows in chosen.items()
    }


def parents_told(parents: tuple[Release, ...]) -> dict[str, Any]:
    """What a manifest says of the versions that a run started from."""
    told = [{"ref": parent.ref, "digest": parent.digest, "facts_digest": parent.facts_digest} for parent in parents]
    return {"parents": told} if told else {}
