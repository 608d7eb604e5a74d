"""Which endpoint takes the next request, and how many it is given at once.

One pool stands before all endpoints of an engine. A request waits for a slot, goes to the endpoint with the fewest requests in flight,
and reports what became of it. Three things decide how many slots an endpoint has:

* its limit, which begins at the engine's bound. A refusal (HTTP 429) lowers it to the number that the endpoint is still serving, which is
  what it can hold; quiet time and successes raise it by a twentieth a round (additive increase, multiplicative decrease in the manner of
  TCP: Chiu and Jain 1989);
* a pause: after a refusal with nothing in flight, nothing is sent until `Retry-After` has passed;
* a strike: a connection that cannot be made. The endpoint is then tried by one request at a time, 1, 2, 4 … 60 s apart. When every endpoint
  has `max_attempts` strikes, all that wait get `EngineBusy`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import Literal

from curators.errors import EngineBusy

Outcome = Literal["answered", "refused", "failed", "unreachable", "abandoned"]
"""What became of a request. `failed`: no usable reply; `abandoned`: cancelled by the caller, which says nothing about the endpoint."""

GROWTH = 0.05  # of the limit, a round of successes
QUIET_S = 5.0  # without a refusal before the limit grows again; doubles with each refused probe up to a minute


class Endpoint:
    """One base URL and what is known about it."""

    __slots__ = ("in_flight", "last_refusal", "limit", "paused_until", "probing", "quiet_s", "reason", "strikes", "successes", "url")

    def __init__(self, url: str, limit: int) -> None:
        self.url = url
        self.limit = float(limit)
        self.in_flight = 0
        self.strikes = 0
        self.probing = False
        self.paused_until = 0.0
        self.last_refusal = -math.inf
        self.quiet_s = QUIET_S
        self.successes = 0
        self.reason = ""

    def ready(self, now: float) -> bool:
        if now < self.paused_until:
            return False
        return not self.probing if self.strikes else self.in_flight < int(self.limit)


class EndpointPool:
    """Slots over several endpoints, first come first served; a retry goes before what has not been sent yet."""

    def __init__(self, urls: Sequence[str], *, max_concurrency: int, max_attempts: int, backoff_s: tuple[float, float]) -> None:
        self.endpoints = [Endpoint(url, max_concurrency) for url in urls]
        self._bound = max_concurrency
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[Endpoint]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, *, retry: bool = False) -> Endpoint:
        """Wait for a slot.

        Raises:
            EngineBusy: no endpoint can be reached, and the last attempt has been made.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting and (endpoint := self._pick(loop.time())):
            return self._take(endpoint)
        waiter: asyncio.Future[Endpoint] = loop.create_future()
        if retry:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        self._dispatch()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result(), "abandoned")
            raise

    def release(self, endpoint: Endpoint, outcome: Outcome, *, retry_after_s: float | None = None, reason: str = "") -> None:
        """Give the slot back and learn from what happened."""
        now = asyncio.get_running_loop().time()
        self._in_flight -= 1
        endpoint.in_flight -= 1
        endpoint.probing = False
        if outcome == "answered":
            self._answered(endpoint, now)
        elif outcome == "refused":
            self._refused(endpoint, now, retry_after_s)
        elif outcome == "unreachable":
            self._unreachable(endpoint, now, reason)
        elif outcome == "failed":
            endpoint.strikes = 0
        self._dispatch()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _answered(self, endpoint: Endpoint, now: float) -> None:
        endpoint.strikes = 0
        endpoint.paused_until = 0.0
        if endpoint.limit < self._bound and now - endpoint.last_refusal > endpoint.quiet_s:
            endpoint.successes += 1
            if endpoint.successes >= endpoint.limit:
                endpoint.limit = min(self._bound, endpoint.limit + max(1.0, GROWTH * endpoint.limit))
                endpoint.successes = 0

    def _refused(self, endpoint: Endpoint, now: float, retry_after_s: float | None) -> None:
        endpoint.strikes = 0
        if now - endpoint.last_refusal > endpoint.quiet_s:
            endpoint.quiet_s = min(60.0, endpoint.quiet_s * (2 if endpoint.last_refusal > -math.inf else 1))
        endpoint.last_refusal = now
        endpoint.successes = 0
        endpoint.limit = float(max(1, min(int(endpoint.limit), endpoint.in_flight)))
        if not endpoint.in_flight:
            endpoint.paused_until = now + (self._backoff_s[0] if retry_after_s is None else retry_after_s)

    def _unreachable(self, endpoint: Endpoint, now: float, reason: str) -> None:
        endpoint.reason = reason
        # Requests that were on their way together fail together: that is one strike, not sixty-four.
        if now >= endpoint.paused_until:
            endpoint.strikes += 1
            low, high = self._backoff_s
            endpoint.paused_until = now + min(high, low * 2 ** min(endpoint.strikes - 1, 16))
        if all(e.strikes >= self._max_attempts for e in self.endpoints):
            error = EngineBusy(f"{self.unreachable_reason()}; start the server or correct the engine's URL")
            while self._waiting:
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_exception(error)
            # The next request may try at once: a new run should not wait for a pause that an old one earned.
            for each in self.endpoints:
                each.paused_until = 0.0

    def unreachable_reason(self) -> str:
        return "; ".join(f"{e.url} cannot be reached ({e.reason}) in {e.strikes} attempts" for e in self.endpoints)

    @property
    def given_up(self) -> bool:
        return all(e.strikes >= self._max_attempts for e in self.endpoints)

    def _pick(self, now: float) -> Endpoint | None:
        if self._in_flight >= self._bound:
            return None
        # An endpoint that was down and may be tried again comes first, else nobody would find out that it is back.
        return min((e for e in self.endpoints if e.ready(now)), key=lambda e: (not e.strikes, e.in_flight), default=None)

    def _take(self, endpoint: Endpoint) -> Endpoint:
        self._in_flight += 1
        endpoint.in_flight += 1
        endpoint.probing = bool(endpoint.strikes)
        return endpoint

    def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            endpoint = self._pick(now)
            if endpoint is None:
                break
            self._waiting.popleft().set_result(self._take(endpoint))
        if self._waiting and (pauses := [e.paused_until for e in self.endpoints if e.paused_until > now]):
            if self._timer:
                self._timer.cancel()
            self._timer = loop.call_at(min(pauses) + 0.001, self._dispatch)
