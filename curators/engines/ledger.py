"""What the engines need of a call ledger, and how its reads and writes are gathered.

Lookups of one turn of the event loop go to the ledger together. Writes go in transactions, one at a time, in a thread of their
own: what comes while one commits waits for the next. So fifty thousand calls cost hundreds of transactions, and whoever waits for
a commit waits for milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

GATHER_S = 0.002  # how long a write waits for company
LOOKUP_CHUNK = 256  # keys of one turn of the loop, about 2 ms

T = TypeVar("T")
Written = tuple[dict[str, bytes], set[str]]
"""What `Ledger.write` says of claimed keys: the answers that are there by now, and the keys that are the caller's to ask for."""


class Ledger(Protocol):
    """What `CachedEngine` needs of a ledger (`storage.calls` has one). Methods may block; `write` is called from a thread of its own."""

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]: ...

    def write(
        self,
        *,
        answers: Sequence[Mapping[str, Any]] = (),
        failures: Sequence[Mapping[str, Any]] = (),
        hits: Sequence[Mapping[str, Any]] = (),
        release: Sequence[str] = (),
        claim: Sequence[str] = (),
    ) -> tuple[dict[str, bytes], set[str]]: ...


class Lookups:
    """Gathers the keys of one turn of the event loop into few reads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._keys: list[str] = []
        self._waiters: list[tuple[asyncio.Future[dict[str, bytes]], list[str]]] = []
        self._scheduled = False

    async def get(self, keys: list[str]) -> dict[str, bytes]:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[dict[str, bytes]] = loop.create_future()
        self._waiters.append((waiter, keys))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._read)
        return await waiter

    def _read(self) -> None:
        taken, n = 0, 0
        while taken < len(self._waiters) and n < LOOKUP_CHUNK:
            n += len(self._waiters[taken][1])
            taken += 1
        batch, self._waiters = self._waiters[:taken], self._waiters[taken:]
        self._scheduled = bool(self._waiters)
        if self._scheduled:
            # Replies and timers have their turn between two reads.
            asyncio.get_running_loop().call_soon(self._read)
        try:
            found = self._ledger.get_many([key for _, keys in batch for key in keys])
        except Exception as error:
            for waiter, _ in batch:
                if not waiter.done():
                    waiter.set_exception(error)
            return
        for waiter, keys in batch:
            if not waiter.done():
                waiter.set_result({key: found[key] for key in keys if key in found})


class Writes:
    """Gathers writes into transactions, one at a time, in a thread of its own."""

    def __init__(self, ledger: Ledger, hits: Callable[[], list[dict[str, Any]]]) -> None:
        self._ledger = ledger
        self._hits = hits
        self._thread: ThreadPoolExecutor | None = None
        self._batch: dict[str, list[Any]] = {}
        self._future: asyncio.Future[Written] | None = None
        self._running: asyncio.Future[Written] | None = None

    def submit(self, **lists: Sequence[Any]) -> asyncio.Future[Written]:
        """Add to the next transaction; the future is done after its commit and is shared by all that went with it."""
        loop = asyncio.get_running_loop()
        for name, items in lists.items():
            self._batch.setdefault(name, []).extend(items)
        if self._future is None:
            self._future = loop.create_future()
            if self._running is None:
                loop.call_later(GATHER_S, self._commit)
        return self._future

    async def aclose(self) -> None:
        while pending := self._future or self._running:
            await asyncio.wait([pending])
        if hits := self._hits():
            self._ledger.write(hits=hits)
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _commit(self) -> None:
        assert self._future is not None
        batch, self._batch = self._batch, {}
        self._running, self._future = self._future, None
        if hits := self._hits():
            batch["hits"] = hits
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="call-ledger")
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._thread, partial(self._ledger.write, **batch)).add_done_callback(self._committed)

    def _committed(self, done: asyncio.Future[Written]) -> None:
        running, self._running = self._running, None
        if running is not None and not running.done():
            if done.cancelled():
                running.cancel()
            elif error := done.exception():
                running.set_exception(error)
                running.exception()  # a release has nobody who asks
            else:
                running.set_result(done.result())
        if self._future is not None:
            self._commit()


async def finished(future: asyncio.Future[T]) -> T:
    """Wait for a shared future and, when cancelled meanwhile, until it is done all the same: a commit takes milliseconds."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done():
            await asyncio.wait([future])
        raise
