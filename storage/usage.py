"""The call ledger as a reader sees it: the answers that are there, and what earlier calls took. Nothing is written, no claim is made."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.calls import WHAT
from storage.sqlite import marks, select_many, typed

RECENT = 20_000
BACK = 1_000_000  # rows from the end that are looked through for an engine's calls
COLUMNS = (
    "run_id",
    "fingerprint",
    "request_key",
    "sent",
    "prompt_tokens",
    "completion_tokens",
    "latency_s",
    "created_at",
)


class LedgerReader:
    """An open ledger, or none where there is no file. It can be read while others write, and answers as `curators.engines.ledger` asks."""

    def __init__(self, path: Path | None) -> None:
        self.path = path or Path()
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        if path is not None and path.exists():
            with typed(WHAT, path):
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60, check_same_thread=False)
                self._db.execute("SELECT 1 FROM calls LIMIT 1")

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The answers that are there, by key."""
        if self._db is None:
            return {}
        with self._lock, typed(WHAT, self.path):
            return select_many(self._db, "calls", keys)

    def write(self, **lists: Sequence[Any]) -> tuple[dict[str, bytes], set[str]]:
        raise AssertionError("a reader of the ledger writes nothing")

    def recent(self, fingerprints: Sequence[str], *, most: int = RECENT) -> list[Mapping[str, Any]]:
        """The newest samples of these engines: `COLUMNS` of the table `calls`.

        `sent` is 0 for the further samples of one request; the first one has the tokens of the prompt.
        """
        if self._db is None or not fingerprints:
            return []
        sql = (
            f"SELECT {', '.join(COLUMNS)} FROM calls WHERE fingerprint IN ({marks(list(fingerprints))})"
            f" AND rowid > (SELECT coalesce(max(rowid), 0) FROM calls) - {BACK} ORDER BY rowid DESC LIMIT {most}"
        )
        with self._lock, typed(WHAT, self.path):
            return [dict(zip(COLUMNS, row, strict=True)) for row in self._db.execute(sql, list(fingerprints))]

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def __enter__(self) -> LedgerReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
