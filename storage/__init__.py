"""Names into frames and back: the lake, its dataset versions, and what a training job receives."""

from __future__ import annotations

from storage.facts import FACTS
from storage.frozen import scan
from storage.garbage import gc
from storage.handoff import load
from storage.history import Difference, diff, lineage, read_at, verify
from storage.lake import Lake, open_lake
from storage.publishing import publish
from storage.query import query
from storage.versions import Release, find_by_commit, list_datasets, log, resolve, tag

__all__ = [
    "FACTS",
    "Difference",
    "Lake",
    "Release",
    "diff",
    "find_by_commit",
    "gc",
    "lineage",
    "list_datasets",
    "load",
    "log",
    "open_lake",
    "publish",
    "query",
    "read_at",
    "resolve",
    "scan",
    "tag",
    "verify",
]
