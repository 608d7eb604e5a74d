"""The SQLite files beside the lake that several threads and processes write: the call ledger and the vector cache.

WAL with `synchronous=NORMAL`: what a transaction has kept survives `kill -9`; a power cut may take the last moments, and never more.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.errors import StorageError

CHUNK = 500  # keys in one statement; SQLite allows 32,766 parameters


def connect(path: Path) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time; it waits a minute for another's write."""
    db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    return db


def migrate(db: sqlite3.Connection, path: Path, *, what: str, schema: str, version: int) -> None:
    """Make the tables of a new file.

    Raises:
        StorageError: the file is of a later format.
    """
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found > version:
        raise StorageError(f"{what} {path}: format {found} is later than this program's {version}; use the newer program")
    if found < version:
        with transaction(db):
            for statement in schema.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={version}")


def select_many(db: sqlite3.Connection, table: str, keys: Sequence[str]) -> dict[str, bytes]:
    """Column `value` by column `key`, of the keys that are there."""
    found: dict[str, bytes] = {}
    for chunk in chunks(keys):
        found.update(db.execute(f"SELECT key, value FROM {table} WHERE key IN ({marks(chunk)})", chunk).fetchall())
    return found


def chunks(keys: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), CHUNK):
        yield list(keys[start : start + CHUNK])


def marks(chunk: Sequence[str]) -> str:
    return ",".join("?" * len(chunk))


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    try:
        db.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def typed(what: str, path: Path) -> Iterator[None]:
    """What SQLite and the file system raise, as one line that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        said = str(error)
        if "full" in said or "No space" in said:
            advice = "free some space and run again: what was kept until now stays"
        elif "locked" in said:
            advice = "another process has written for over a minute; stop it or wait for it"
        elif "not a database" in said or "malformed" in said:
            advice = f"it is not a {what} or is damaged; move it away to begin a new one"
        else:
            advice = "check that its directory exists and can be written"
        raise StorageError(f"{what} {path}: {said}; {advice}") from error
