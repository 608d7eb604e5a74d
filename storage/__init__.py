"""Names into frames and back: the lake, its dataset versions, and what a training job receives.

A name is imported from its module when it is first asked for: DuckDB, polars and pyarrow take half a second, for which help need not wait.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage.facts import FACTS
    from storage.frozen import scan
    from storage.garbage import gc
    from storage.handoff import load
    from storage.history import Difference, diff, lineage, read_at, verify
    from storage.lake import Lake, open_lake
    from storage.publishing import Preview, preview, publish
    from storage.sql import query
    from storage.versions import Release, find_by_commit, list_datasets, log, resolve, tag

__all__ = [
    "FACTS",
    "Difference",
    "Lake",
    "Preview",
    "Release",
    "diff",
    "find_by_commit",
    "gc",
    "lineage",
    "list_datasets",
    "load",
    "log",
    "open_lake",
    "preview",
    "publish",
    "query",
    "read_at",
    "resolve",
    "scan",
    "tag",
    "verify",
]

_MODULES = {
    "facts": ("FACTS",),
    "frozen": ("scan",),
    "garbage": ("gc",),
    "handoff": ("load",),
    "history": ("Difference", "diff", "lineage", "read_at", "verify"),
    "lake": ("Lake", "open_lake"),
    "publishing": ("Preview", "preview", "publish"),
    "sql": ("query",),
    "versions": ("Release", "find_by_commit", "list_datasets", "log", "resolve", "tag"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
