"""The call ledger: every answer that was paid for, on disk, under one key, for any number of processes on one machine.

SQLite in WAL mode with `synchronous=NORMAL`: an answer that `write` has returned from survives `kill -9` (a power cut may take
the last moments, and never more than those). One row is one sample; what did not become an answer is not kept as one, but what it
cost is counted.

So that two processes do not both pay for the same answer, a key is claimed before it is sent. A claim holds as long as its owner
lives, and the kernel says so: each open ledger holds an `flock` on a file of its own, which is gone with the process however it
ends. Whoever finds a claim of a dead owner takes it over; whoever finds one of a living owner asks again later.

The protocol is declared by its user, `curators.engines.cached.Ledger`; keys and values are opaque here. For a team on several
machines, PostgreSQL would take this file's place; `flock` is for a local disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.sqlite import chunks, connect, marks, migrate, select_many, transaction, typed

WHAT = "call ledger"
FORMAT = 1  # PRAGMA user_version
SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT NOT NULL,           -- of one sample
    value BLOB NOT NULL,         -- the answer, opaque here
    run_id TEXT,
    engine TEXT NOT NULL,        -- spec
    fingerprint TEXT NOT NULL,
    request_key TEXT NOT NULL,   -- what the call was for
    sent INTEGER NOT NULL,       -- HTTP requests, retries included; 0 for the further samples of one request
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost_usd REAL,               -- null: no price
    latency_s REAL NOT NULL,     -- of the whole request
    created_at REAL NOT NULL     -- Unix time
);
CREATE UNIQUE INDEX IF NOT EXISTS calls_key ON calls (key);
CREATE INDEX IF NOT EXISTS calls_run ON calls (run_id);
CREATE TABLE IF NOT EXISTS failures (
    run_id TEXT, engine TEXT NOT NULL, fingerprint TEXT NOT NULL, request_key TEXT NOT NULL, error TEXT NOT NULL, reason TEXT,
    sent INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL, latency_s REAL NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS failures_run ON failures (run_id);
CREATE TABLE IF NOT EXISTS hits (run_id TEXT, engine TEXT NOT NULL, n INTEGER NOT NULL, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
"""
INSERT_CALL = """INSERT OR IGNORE INTO calls VALUES (:key, :value, :run_id, :engine, :fingerprint, :request_key, :sent, :prompt_tokens,
    :completion_tokens, :cost_usd, :latency_s, :created_at)
    """
INSERT_FAILURE = """INSERT INTO failures VALUES (:run_id, :engine, :fingerprint, :request_key, :error, :reason, :sent, :prompt_tokens,
    :completion_tokens, :cost_usd, :latency_s, :created_at)
    """

Row = Mapping[str, Any]


class CallLedger:
    """An open ledger; safe to use from several threads. `owner` names it among the processes that share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = uuid.uuid4().hex
        self._owners = path.with_name(path.name + ".owners")
        with typed(WHAT, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._owners.mkdir(exist_ok=True)
            self._lock_fd = _lock_new(self._owners / self.owner)
            self._writer = connect(path)
            migrate(self._writer, path, what=WHAT, schema=SCHEMA, version=FORMAT)
            self._reader = connect(path)
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._closed = False
        _OPEN.add(self)

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The answers that are there, by key."""
        with self._read_lock, typed(WHAT, self.path):
            return select_many(self._reader, "calls", keys)

    def write(
        self,
        *,
        answers: Sequence[Row] = (),
        failures: Sequence[Row] = (),
        hits: Sequence[Row] = (),
        release: Sequence[str] = (),
        claim: Sequence[str] = (),
    ) -> tuple[dict[str, bytes], set[str]]:
        """One transaction: keep answers and drop their claims, count failures and hits, release claims, claim keys.

        `answers` have the columns of the table `calls`, `failures` those of `failures`, `hits` `run_id`, `engine` and `n`; all
        without `created_at`.

        Returns:
            Of the keys in `claim`: the answers that are there by now, and the keys that are the caller's to ask for. The rest are
            being asked for by somebody who is alive.
        Raises:
            StorageError: a full disk, a file that is no ledger, a lock that was not to be had within a minute. Nothing of the
            batch is kept then.
        """
        now = time.time()
        with self._write_lock, typed(WHAT, self.path), transaction(self._writer) as db:
            if answers:
                db.executemany(INSERT_CALL, [{**row, "created_at": now} for row in answers])
            if failures:
                db.executemany(INSERT_FAILURE, [{**row, "created_at": now} for row in failures])
            if hits:
                db.executemany("INSERT INTO hits VALUES (:run_id, :engine, :n, :created_at)", [{**row, "created_at": now} for row in hits])
            if done := [(row["key"], self.owner) for row in answers] + [(key, self.owner) for key in release]:
                db.executemany("DELETE FROM claims WHERE key = ? AND owner = ?", done)
            return self._claim(db, claim) if claim else ({}, set())

    def summary(self, *, run_id: str | None = None, since: float | None = None, engine: str | None = None) -> dict[str, Any]:
        """What calls came to: of one run, since a Unix time, of one engine's spec, or all.

        Returns:
            `samples` answered and kept, `hits` (samples that cost nothing because they were there), `requests` sent (retries
            included), `failures` (requests without an answer), `prompt_tokens`, `completion_tokens`, `usd` (null when any had no
            price).
        """
        where, args = _where(run_id=run_id, since=since, engine=engine)
        total = (
            "COUNT(*), TOTAL(sent), TOTAL(prompt_tokens), TOTAL(completion_tokens), TOTAL(cost_usd), TOTAL(cost_usd IS NULL AND sent > 0)"
        )
        with self._read_lock, typed(WHAT, self.path):
            calls = self._reader.execute(f"SELECT {total} FROM calls{where}", args).fetchone()
            failed = self._reader.execute(f"SELECT {total} FROM failures{where}", args).fetchone()
            hits = self._reader.execute(f"SELECT TOTAL(n) FROM hits{where}", args).fetchone()
        return {
            "samples": int(calls[0]),
            "hits": int(hits[0]),
            "requests": int(calls[1] + failed[1]),
            "failures": int(failed[0]),
            "prompt_tokens": int(calls[2] + failed[2]),
            "completion_tokens": int(calls[3] + failed[3]),
            "usd": None if calls[5] or failed[5] else float(calls[4] + failed[4]),
        }

    def close(self) -> None:
        """Drop what is still claimed and close the file; closing twice does nothing."""
        with self._write_lock, self._read_lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("DELETE FROM claims WHERE owner = ?", (self.owner,))
            self._reader.close()
            self._writer.close()
            (self._owners / self.owner).unlink(missing_ok=True)
            self._drop_lock()
            _OPEN.discard(self)

    def __enter__(self) -> CallLedger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _drop_lock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _claim(self, db: sqlite3.Connection, keys: Sequence[str]) -> tuple[dict[str, bytes], set[str]]:
        found = select_many(db, "calls", keys)
        wanted = [key for key in keys if key not in found]
        held: dict[str, str] = {}
        for chunk in chunks(wanted):
            held.update(db.execute(f"SELECT key, owner FROM claims WHERE key IN ({marks(chunk)})", chunk).fetchall())
        dead = {owner for owner in set(held.values()) if owner != self.owner and not _alive(self._owners / owner)}
        for owner in dead:
            db.execute("DELETE FROM claims WHERE owner = ?", (owner,))
        granted = {key for key in wanted if held.get(key) is None or held[key] in dead}
        db.executemany("INSERT INTO claims VALUES (?, ?)", [(key, self.owner) for key in granted])
        return found, granted


def open_ledger(path: str | Path) -> CallLedger:
    """Open a ledger's file, or make it.

    Raises:
        StorageError: the file is not a ledger, is of a later format, or cannot be written.
    """
    return CallLedger(Path(path))


_OPEN: weakref.WeakSet[CallLedger] = weakref.WeakSet()


def _after_fork() -> None:
    # A child inherits the lock's descriptor and would keep its parent's claims alive after the parent is gone.
    for ledger in list(_OPEN):
        ledger._drop_lock()


os.register_at_fork(after_in_child=_after_fork)


def _where(*, run_id: str | None, since: float | None, engine: str | None) -> tuple[str, list[Any]]:
    terms = [("run_id = ?", run_id), ("created_at >= ?", since), ("engine = ?", engine)]
    used = [(term, value) for term, value in terms if value is not None]
    return (" WHERE " + " AND ".join(term for term, _ in used) if used else ""), [value for _, value in used]


def _lock_new(path: Path) -> int:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _alive(path: Path) -> bool:
    """Whether the owner of a lock file still holds it; the file of a dead one is removed."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two that look at the same moment do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    path.unlink(missing_ok=True)
    return False
