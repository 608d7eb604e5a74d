"""An engine behind the call ledger: what is paid for is never paid twice.

Every sample has one key (`call_key`): fingerprint, messages or prefix, sampling parameters, seed, sample index, attempt. A
request of four samples of which three are known sends for the fourth alone, and an engine that does not take several samples at
once (no capability `n`) is asked for each by itself. Lookups of one turn of the event loop go to the
ledger together, and so do writes: a thread commits what has gathered while the last commit was made. A reply reaches its caller
after its commit, so `kill -9` loses what was in flight and nothing else. Identical requests at the same moment are one, in this
process by a shared future, between processes by the ledger's claims.

A reply without an error may hold fewer samples than were asked for, one at least: the rest is asked for again.

A reply that arrived complete is kept even when nobody can parse it: parsing is repeated from its text. A failure of any kind is
never kept as an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from curators.engines.answers import Known, answer_rows, decode, failure_row, sent, share
from curators.engines.base import Capability, Engine, Reply, Request, call_key
from curators.engines.budget import FREE, Budget, Price, Spend
from curators.engines.ledger import Ledger, Lookups, Writes, finished

ASK_AGAIN_S = 0.1  # for a key that another process has claimed
UNKNOWN_SLOTS = 64  # of an engine that does not say how many requests it takes at once


@dataclass(slots=True)
class Counts:
    """Of one engine: samples that were there, samples bought, requests sent (retries included), requests without an answer."""

    hits: int = 0
    samples: int = 0
    requests: int = 0
    failures: int = 0


Outcome = Known | Reply | BaseException
"""What a key came to: a sample, a reply with an error, or what the engine raised."""


@dataclass(kw_only=True, slots=True)
class Asking:
    """A request under way: the key of each sample, what became of it, the replies bought for it, and the keys claimed and not yet free."""

    request: Request
    keys: dict[int, str]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    bought: list[Reply] = field(default_factory=list)
    claimed: set[str] = field(default_factory=set)

    def missing(self, indices: Iterable[int]) -> dict[int, str]:
        return {i: self.keys[i] for i in indices if i not in self.outcomes}


class CachedEngine:
    """An `Engine` over another. `run_id` marks the rows of this run in the ledger; `counts` says what was sent and what was there."""

    def __init__(self, engine: Engine, ledger: Ledger, *, budget: Budget | None = None, run_id: str | None = None) -> None:
        self._engine = engine
        self._ledger = ledger
        self._budget = budget
        self._run_id = run_id
        self._price: Price | None = getattr(engine, "price", FREE)
        self._cacheable: bool = getattr(engine, "cacheable", True)
        if budget is not None:
            budget.admit(engine.spec, self._price)
        # With a budget, calls that wait for a slot can still be turned away; twice the slots leave room for those that wait for a retry.
        slots: int = getattr(engine, "max_concurrency", UNKNOWN_SLOTS)
        self._gate = asyncio.Semaphore(2 * slots)
        self._fingerprint: str | None = None
        self._naming = asyncio.Lock()
        self._flying: dict[str, asyncio.Future[Outcome]] = {}
        self._unrecorded_hits = 0
        self._lookups = Lookups(ledger)
        self._writes = Writes(ledger, self._take_hits)
        self.counts = Counts()

    @property
    def spec(self) -> str:
        return self._engine.spec

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self._engine.fingerprint
        return self._fingerprint

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._engine.capabilities

    async def complete(self, request: Request) -> Reply:
        """See `Engine`. `cached` is true when nothing was sent; tokens are those of the answers, whenever they were paid for."""
        if not self._cacheable:
            return await self._engine.complete(request)
        async with self._naming if self._fingerprint is None else nullcontext():
            if self._fingerprint is None:
                # It may hash gigabytes of weights or ask a server.
                await asyncio.to_thread(lambda: self.fingerprint)
        samples = range(request.first_sample, request.first_sample + request.n)
        asking = Asking(request=request, keys={i: call_key(self.fingerprint, request, i) for i in samples})
        while missing := asking.missing(samples):
            theirs = {i: self._flying[key] for i, key in missing.items() if key in self._flying}
            if mine := [i for i in missing if i not in theirs]:
                await self._lead(asking, mine)
            for i, future in theirs.items():
                # A cancelled leader leaves its key open, and the next turn finds somebody else for it.
                await asyncio.wait([future])
                if not future.cancelled():
                    asking.outcomes[i] = future.result()
                    self._hit(isinstance(asking.outcomes[i], Known))
        return _joined(asking.outcomes, asking.bought)

    async def aclose(self) -> None:
        """Commit what is left and close the engine; the ledger stays open, for it belongs to the caller."""
        await self._writes.aclose()
        await self._engine.aclose()

    async def _lead(self, asking: Asking, indices: Sequence[int]) -> None:
        """Find the samples or send for them, and let whoever waits for the same keys have them."""
        loop = asyncio.get_running_loop()
        futures: dict[int, asyncio.Future[Outcome]] = {i: loop.create_future() for i in indices}
        self._flying.update({asking.keys[i]: future for i, future in futures.items()})
        try:
            self._take(await self._lookups.get([asking.keys[i] for i in indices]), asking)
            while missing := asking.missing(indices):
                if self._budget is not None and self._budget.exhausted:
                    asking.outcomes.update(dict.fromkeys(missing, self._skipped()))
                    break
                found, granted = await self._claimed(list(missing.values()))
                asking.claimed |= granted
                self._take(found, asking)
                if granted:
                    await self._send_all(asking, [i for i, key in missing.items() if key in granted])
                elif asking.missing(indices):
                    await asyncio.sleep(ASK_AGAIN_S)
        finally:
            if asking.claimed:
                # At once and not with the next batch: a cancelled task may have no next turn.
                self._ledger.write(release=list(asking.claimed))
                asking.claimed.clear()
            for i, future in futures.items():
                del self._flying[asking.keys[i]]
                if i in asking.outcomes:
                    future.set_result(asking.outcomes[i])
                else:
                    future.cancel()

    def _take(self, found: Mapping[str, bytes], asking: Asking) -> None:
        hits = {i: decode(found[key], i) for i, key in asking.keys.items() if key in found}
        asking.outcomes.update(hits)
        self._hit(len(hits))

    def _hit(self, n: int) -> None:
        self.counts.hits += n
        self._unrecorded_hits += n

    async def _claimed(self, keys: list[str]) -> tuple[dict[str, bytes], set[str]]:
        future = self._writes.submit(claim=keys)
        try:
            found, granted = await finished(future)
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                self._ledger.write(release=[key for key in keys if key in future.result()[1]])
            raise
        return found, granted.intersection(keys)

    async def _send_all(self, asking: Asking, indices: Sequence[int]) -> None:
        """Send for samples, as few requests as the engine takes them in, all at once; each reply is kept as it arrives."""
        parts = stretches(indices) if "n" in self._engine.capabilities else [[i] for i in indices]
        # What one of them raises does not take back what the others bring: they are paid for.
        for done in await asyncio.gather(*[self._send(asking, part) for part in parts], return_exceptions=True):
            if done is not None:
                raise done

    async def _send(self, asking: Asking, indices: Sequence[int]) -> None:
        """Ask the engine for samples that stand side by side and keep them; their claims end with the same commit."""
        started = time.monotonic()
        request = asking.request
        if (indices[0], len(indices)) != (request.first_sample, request.n):
            request = replace(request, first_sample=indices[0], n=len(indices))
        try:
            reply = await self._buy(request)
        except Exception as error:
            asking.outcomes.update(dict.fromkeys(indices, error))
            return
        known = share(reply, [c for c in reply.completions if c.sample_index in indices])
        if not known and reply.error is None:
            reply = replace(reply, error="transport_error", reason=f"the engine gave none of the samples {list(indices)}")
        asking.bought.append(reply)
        self.counts.samples += len(known)
        self.counts.requests += sent(reply)
        self.counts.failures += reply.error is not None and sent(reply) > 0
        about = {
            "run_id": self._run_id,
            "engine": self.spec,
            "fingerprint": self.fingerprint,
            "request_key": request.key,
            "latency_s": time.monotonic() - started,
        }
        answers = [row | about | {"key": asking.keys[i]} for i, row in zip(known, answer_rows(reply, list(known.values())), strict=True)]
        failures = [about | failure_row(reply, charged=not answers)] if reply.error and sent(reply) else []
        lost = [asking.keys[i] for i in indices if i not in known]
        await finished(self._writes.submit(answers=answers, failures=failures, release=lost))
        asking.claimed.difference_update(asking.keys[i] for i in indices)
        asking.outcomes.update(known)
        if reply.error is not None:
            asking.outcomes.update(dict.fromkeys(set(indices).difference(known), reply))

    async def _buy(self, request: Request) -> Reply:
        if self._budget is None:
            return self._priced(await self._engine.complete(request))
        async with self._gate:
            estimate = self._budget.estimate(request, price=self._price)
            if not await self._budget.reserve(estimate):
                return self._skipped()
            actual = Spend(calls=1)
            try:
                reply = self._priced(await self._engine.complete(request))
                tokens = reply.prompt_tokens + reply.completion_tokens
                actual = Spend(calls=sent(reply), tokens=tokens, usd=reply.cost_usd or 0.0)
            finally:
                self._budget.settle(estimate, actual)
            return reply

    def _skipped(self) -> Reply:
        cap = self._budget.exhausted if self._budget else None
        return Reply(error="budget_skipped", reason=f"the run's cap on {cap} is reached")

    def _priced(self, reply: Reply) -> Reply:
        if reply.cost_usd is not None or self._price is None:
            return reply
        return replace(reply, cost_usd=self._price.cost(reply.prompt_tokens, reply.completion_tokens))

    def record_hits(self) -> None:
        """Write the hits that no transaction has taken along yet, so that a sum over the ledger has them."""
        if hits := self._take_hits():
            self._ledger.write(hits=hits)

    def _take_hits(self) -> list[dict[str, Any]]:
        n, self._unrecorded_hits = self._unrecorded_hits, 0
        return [{"run_id": self._run_id, "engine": self.spec, "n": n}] if n else []


def _joined(outcomes: Mapping[int, Outcome], bought: Sequence[Reply]) -> Reply:
    """The samples of one request as its reply, whatever way each came, and the first error among those that did not."""
    found = [outcomes[i] for i in sorted(outcomes)]
    for outcome in found:
        if isinstance(outcome, BaseException):
            raise outcome
    samples = [o for o in found if isinstance(o, Known)]
    failed = next((o for o in found if isinstance(o, Reply)), Reply())
    # What a reply without a sample took is in no sample's share.
    barren = [r for r in bought if not r.completions]
    costs = [r.cost_usd for r in bought if sent(r)]
    return Reply(
        completions=tuple(k.completion for k in samples),
        error=failed.error,
        reason=failed.reason,
        prompt_tokens=sum(k.prompt_tokens for k in samples) + sum(r.prompt_tokens for r in barren),
        completion_tokens=sum(k.completion_tokens for k in samples) + sum(r.completion_tokens for r in barren),
        cost_usd=None if None in costs else sum(c for c in costs if c is not None),
        cached=not bought and failed.error is None,
        model=next((k.model for k in samples if k.model), failed.model),
        extra={"sent": sum(map(sent, bought))},
    )


def stretches(indices: Sequence[int]) -> list[list[int]]:
    """Sorted indices as stretches without a gap: one request each.

    >>> stretches([0, 1, 3])
    [[0, 1], [3]]
    """
    runs: list[list[int]] = []
    for i in indices:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs
