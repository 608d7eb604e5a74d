"""Caps on calls, tokens, money and time.

A call is reserved before it is sent, at what it can cost at most, and settled with what it did cost, so that calls in flight
never add up to more than the cap. When the next call would not fit even if everything in flight came out cheap, or the time is
over, the budget is exhausted: calls in flight finish, the rest are turned away, and the run ends with what there is. Replies from
the ledger are free.

Prompt tokens are not known before a server has counted them; they are reserved at one for every three bytes of the request's
JSON, above what English and code come to. A retry inside the HTTP engine is settled, not reserved: a cap on calls can be passed
by the retries of what was in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from curators.engines.base import Request, canonical
from curators.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """US dollars per million tokens."""

    prompt_usd: float
    completion_usd: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt_usd + completion_tokens * self.completion_usd) / 1e6


FREE = Price(prompt_usd=0.0, completion_usd=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """What something costs, or may cost."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(calls=self.calls + other.calls, tokens=self.tokens + other.tokens, usd=self.usd + other.usd)

    def __sub__(self, other: Spend) -> Spend:
        return Spend(calls=self.calls - other.calls, tokens=self.tokens - other.tokens, usd=self.usd - other.usd)


class Budget:
    """Shared by all engines of a run, in one event loop. Null: no cap.

    The time runs from the moment the budget is made.
    """

    def __init__(
        self,
        *,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        max_usd: float | None = None,
        max_seconds: float | None = None,
    ) -> None:
        caps = {"max_calls": max_calls, "max_tokens": max_tokens, "max_usd": max_usd, "max_seconds": max_seconds}
        for name, cap in caps.items():
            if cap is not None and cap <= 0:
                raise ConfigError(f"budget: {name} is {cap}; give a number above 0, or leave it out for no cap")
        self._max_calls, self._max_tokens, self._max_usd, self._max_seconds = max_calls, max_tokens, max_usd, max_seconds
        self._started = time.monotonic()
        self._reserved = Spend()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._exhausted: str | None = None
        self.spent = Spend()

    @property
    def exhausted(self) -> str | None:
        """Which cap ended the run (`calls`, `tokens`, `usd`, `seconds`), null while none has."""
        if self._exhausted is None and self._max_seconds is not None and time.monotonic() - self._started >= self._max_seconds:
            self._exhausted = "seconds"
        return self._exhausted

    def admit(self, spec: str, price: Price | None) -> None:
        """Check at the start that an engine's calls can be counted.

        Raises:
            ConfigError: there is a cap in dollars and the engine has no price.
        """
        if self._max_usd is not None and price is None:
            raise ConfigError(
                f"budget: a cap of {self._max_usd} USD, but {spec} has no price; "
                "set prompt_usd and completion_usd (per million tokens; 0 is allowed)"
            )

    def estimate(self, request: Request, *, price: Price | None) -> Spend:
        """The most that one call for a request may cost."""
        prompt = len(canonical([list(request.messages), request.tools, request.prefix])) // 3 + 8
        completion = request.n * (1 if request.options else request.sampling.max_tokens)
        return Spend(calls=1, tokens=prompt + completion, usd=(price or FREE).cost(prompt, completion))

    async def reserve(self, estimate: Spend) -> bool:
        """Wait until the estimate fits, first come first served; false when it never will, and then the budget is exhausted."""
        first = False
        while self.exhausted is None:
            if (first or not self._waiting) and self._over(self.spent + self._reserved + estimate) is None:
                self._reserved += estimate
                self._wake_next()
                return True
            if cap := self._over(self.spent + estimate):
                self._exhausted = cap
                break
            # What is in flight may come out cheaper than it was reserved at.
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if first:
                self._waiting.appendleft(waiter)
            else:
                self._waiting.append(waiter)
            await waiter
            first = True
        self._wake_next()
        return False

    def settle(self, estimate: Spend, actual: Spend) -> None:
        """Replace a reservation by what was really spent."""
        self._reserved -= estimate
        self.spent += actual
        self._wake_next()

    def _wake_next(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _over(self, spend: Spend) -> str | None:
        if self._max_calls is not None and spend.calls > self._max_calls:
            return "calls"
        if self._max_tokens is not None and spend.tokens > self._max_tokens:
            return "tokens"
        if self._max_usd is not None and spend.usd > self._max_usd * (1 + 1e-9):
            return "usd"
        return None
