"""The vector cache: what an encoder made of a text, kept with the lake, so that no text is embedded twice by one model.

One SQLite file for any number of threads and processes. Keys and values are opaque here (`curators.embeddings.vector_key`); a key means
one vector for ever, so two processes that compute the same one at once lose a moment and nothing else. The file may be deleted whenever
no run is using it: what is then asked for is computed again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from storage.sqlite import connect, migrate, select_many, transaction, typed

WHAT = "vector cache"
FORMAT = 1  # PRAGMA user_version
SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    key TEXT NOT NULL,
    value BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS vectors_key ON vectors (key);
"""


class VectorFile:
    """An open cache; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with typed(WHAT, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = connect(path)
            migrate(self._db, path, what=WHAT, schema=SCHEMA, version=FORMAT)

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The vectors that are there, by key."""
        with self._lock, typed(WHAT, self.path):
            return select_many(self._db, "vectors", keys)

    def put_many(self, vectors: Mapping[str, bytes]) -> None:
        """Keep them, in one transaction; one that is there stays."""
        if not vectors:
            return
        with self._lock, typed(WHAT, self.path), transaction(self._db) as db:
            db.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", vectors.items())

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_vectors(path: str | Path) -> VectorFile:
    """Open a cache's file, or make it.

    Raises:
        StorageError: the file is something else, is of a later format, or cannot be written.
    """
    return VectorFile(Path(path))
