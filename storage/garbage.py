"""Give back the disk space of what no version needs any more."""

from __future__ import annotations

import shutil
import time
from typing import Any

from storage.errors import StorageError
from storage.lake import CATALOG, Lake, clear_errors, locked

DAY_S = 86_400


def gc(lake: Lake, *, dry_run: bool = True, min_age_days: float = 1.0) -> dict[str, Any]:
    """Drop snapshots that no version stands on, the files that only they used, and what killed writers left behind.

    Versions, their tags and their frozen copies stay. Returns `snapshots` (ids), `files` and `orphans` (paths), `drafts` (frozen copies and
    spill directories that were never finished) and `dry_run`. Snapshots that a dry run only names still hold their files: `files` is then
    what earlier runs have left to be deleted.

    Args:
        min_age_days: at least 1. Younger things may belong to a reader or writer at work.
    """
    if min_age_days < 1:
        raise StorageError(
            f"min_age_days is {min_age_days}, must be at least 1: younger files may belong to a writer that is still at work"
        )
    # Deleting orphans takes the files of a transaction that is still open (its commit then succeeds and its table cannot be read), and a
    # cleanup takes files from under readers. So: under the writer's lock, with an age, and never `cleanup_all`.
    with clear_errors(f"gc of the lake {lake.root}"), locked(lake.root), lake.connection() as con:
        age = f"older_than => now() - INTERVAL {int(min_age_days * DAY_S)} SECOND, dry_run => {str(dry_run).lower()}"
        # Snapshots cannot be protected, and expiry by age would drop those of versions: each one that goes is named.
        found = con.sql(
            f"SELECT snapshot_id FROM {CATALOG}.ducklake_snapshot WHERE snapshot_id NOT IN (SELECT snapshot_id FROM lake.releases)"
            f" AND snapshot_id < (SELECT max(snapshot_id) FROM {CATALOG}.ducklake_snapshot) AND snapshot_id > 0"
            f" AND snapshot_time::TIMESTAMPTZ < now() - INTERVAL {int(min_age_days * DAY_S)} SECOND ORDER BY 1"
        ).fetchall()
        snapshots = [int(row[0]) for row in found]
        if snapshots and not dry_run:
            con.sql(f"FROM ducklake_expire_snapshots('lake', versions => {snapshots})").fetchall()
        files = [str(row[0]) for row in con.sql(f"FROM ducklake_cleanup_old_files('lake', {age})").fetchall()]
        orphans = [str(row[0]) for row in con.sql(f"FROM ducklake_delete_orphaned_files('lake', {age})").fetchall()]
        drafts = _drafts(lake, min_age_days * DAY_S, dry_run=dry_run)
    return {"dry_run": dry_run, "snapshots": snapshots, "files": sorted(files), "orphans": sorted(orphans), "drafts": drafts}


def _drafts(lake: Lake, min_age_s: float, *, dry_run: bool) -> list[str]:
    """Directories that a killed process left: `frozen/<name>/.v3.<id>` and `tmp/<id>`."""
    paths = [*(lake.root / "frozen").glob("*/.v*"), *(lake.root / "tmp").glob("*")]
    old = sorted(path for path in paths if time.time() - path.stat().st_mtime > min_age_s)
    if not dry_run:
        for path in old:
            shutil.rmtree(path)
    return [str(path.relative_to(lake.root)) for path in old]
