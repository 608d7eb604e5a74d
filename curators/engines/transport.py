"""Getting one body to a server and a usable reply back: sessions, retries, backoff.

A request is sent again when its failure is one that passes: 408, 429, 5xx, a broken connection, a timeout, a body that is not a
chat completion. A 429 is not counted as a failure of the request: the endpoint's limit falls until it holds (`endpoints`). The
first retry after another failure comes at once (a tenth of the first backoff), because most such failures are of one request and
not of the server; later ones wait 1, 2, 4 … 60 s, each shortened at random by up to half so that they do not come back together.
`Retry-After` is honoured where it asks for longer.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import aiohttp

from curators.engines.budget import Price
from curators.engines.endpoints import Endpoint, EndpointPool, Outcome
from curators.engines.openai_format import MalformedReply, error_message
from curators.errors import ConfigError, EngineBusy, EngineError

logger = logging.getLogger(__name__)

SAY_S = 30.0  # between two words on what keeps requests waiting
PASSING = frozenset({408, 425, 429})  # and every 5xx but 501
MAX_REFUSALS = 100  # of one request: by then the endpoint's limit is 1, and it still turns this request away

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """How an endpoint is used. `api_key` is the secret itself: curators never read the environment; `api_key_env` only names it in errors.

    Prices are US dollars per million tokens, null: unknown. `backoff_s`: first and longest wait. Without `share_requests` every sample is a
    request of its own, for servers that balance load by request.
    """

    max_concurrency: int = 64
    timeout_s: float = 300.0
    max_attempts: int = 6
    backoff_s: tuple[float, float] = (1.0, 60.0)
    api_key: str | None = field(default=None, repr=False)
    api_key_env: str | None = None
    prompt_usd: float | None = None
    completion_usd: float | None = None
    share_requests: bool = True

    def __post_init__(self) -> None:
        if self.max_concurrency < 1 or self.max_attempts < 1 or self.timeout_s <= 0:
            raise ConfigError(
                f"engine options: max_concurrency={self.max_concurrency}, max_attempts={self.max_attempts}, timeout_s={self.timeout_s}; "
                "the first two are at least 1, the third above 0"
            )
        if not 0 < self.backoff_s[0] <= self.backoff_s[1]:
            raise ConfigError(f"engine options: backoff_s={self.backoff_s}; give (first, longest) in seconds, 0 < first <= longest")
        if (self.prompt_usd is None) != (self.completion_usd is None):
            raise ConfigError("engine options: prompt_usd and completion_usd go together; 0 is allowed, and neither means unknown")

    @property
    def price(self) -> Price | None:
        if self.prompt_usd is None or self.completion_usd is None:
            return None
        return Price(prompt_usd=self.prompt_usd, completion_usd=self.completion_usd)

    @property
    def key_advice(self) -> str:
        """What to do where a server wants another key."""
        return f"check the key in {self.api_key_env}" if self.api_key_env else "no key was given: set api_key_env"


@dataclass(kw_only=True, slots=True)
class Answer(Generic[T]):
    """What became of one body: a parsed reply; or a status that will not pass, with its text; or, with status 0, spent retries
    and the reason.

    `sent` counts HTTP requests that a server may have charged for.
    """

    reply: T | None = None
    status: int = 0
    text: str = ""
    sent: int = 0


@dataclass(kw_only=True, slots=True)
class Tried:
    """What one request came to: `status` 0 and no body where there was no reply."""

    outcome: Outcome
    status: int = 0
    raw: bytes = b""
    retry_after_s: float | None = None
    reason: str = ""


class Transport:
    """One aiohttp session over a pool of endpoints, opened on first use in the loop that uses it; bodies go to `path` below their URLs."""

    def __init__(self, urls: Sequence[str], options: HttpOptions, path: str = "/chat/completions") -> None:
        self._options, self._path = options, path
        self._pool = EndpointPool(
            urls, max_concurrency=options.max_concurrency, max_attempts=options.max_attempts, backoff_s=options.backoff_s
        )
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jitter = random.Random()
        self._said = time.monotonic()  # a first failure that passes at once is not worth a word

    async def aclose(self) -> None:
        self._pool.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def exchange(self, payload: bytes, parse: Callable[[bytes], T]) -> Answer[T]:
        """Send a body until something definite comes back or the attempts are spent. `parse` raises `MalformedReply`.

        Raises:
            EngineBusy: no endpoint can be reached.
        """
        failures = refusals = sent = 0
        reason = ""
        while failures < self._options.max_attempts and refusals < MAX_REFUSALS:
            endpoint = await self._pool.acquire(retry=failures + refusals > 0)
            tried = Tried(outcome="abandoned")
            try:
                tried = await self._try(endpoint, payload)
            finally:
                self._pool.release(endpoint, tried.outcome, retry_after_s=tried.retry_after_s, reason=tried.reason)
            sent += tried.outcome != "unreachable"
            if tried.status == 200:
                # Whoever waits for the slot is woken and sends before this reply is read: the server's slot is idle meanwhile.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                try:
                    return Answer(reply=parse(tried.raw), status=200, sent=sent)
                except MalformedReply as error:
                    tried = Tried(outcome="failed", reason=f"{endpoint.url}: {error}")
            elif tried.outcome == "answered":
                return Answer(status=tried.status, text=tried.raw[:20_000].decode("utf-8", "replace"), sent=sent)
            elif tried.outcome == "unreachable":
                if self._pool.given_up:
                    raise EngineBusy(f"{self._pool.unreachable_reason()}; start the server or correct the engine's URL")
                continue  # the pool paces it, and another endpoint may take it at once
            reason = tried.reason
            self._say(tried)
            failures, refusals = failures + (tried.outcome == "failed"), refusals + (tried.outcome == "refused")
            if failures < self._options.max_attempts:
                await asyncio.sleep(self._wait_s(tried.outcome, failures, refusals, tried.retry_after_s))
        return Answer(text=f"{reason} (gave up after {failures + refusals} attempts)", sent=sent)

    def _say(self, tried: Tried) -> None:
        """Now and then what keeps requests waiting: a bar that does not move should say why."""
        now = time.monotonic()
        if now - self._said >= SAY_S:
            self._said = now
            asked = "" if tried.retry_after_s is None else f" (it asks to wait {tried.retry_after_s:g} s)"
            logger.warning("%s%s; trying again", tried.reason, asked)

    async def _try(self, endpoint: Endpoint, payload: bytes) -> Tried:
        """One request to one endpoint."""
        try:
            status, raw, retry_after_s = await self._post(endpoint, payload)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Tried(outcome="unreachable", reason=str(getattr(error, "os_error", None) or error))
        except TimeoutError:
            return Tried(outcome="failed", reason=f"{endpoint.url}: no reply within {self._options.timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Tried(outcome="failed", reason=f"{endpoint.url}: {type(error).__name__}: {error}")
        if status == 200:
            return Tried(outcome="answered", status=200, raw=raw)
        refused = status == 429 or (status == 503 and retry_after_s is not None)
        return Tried(
            outcome="refused" if refused else "failed" if passes(status) else "answered",
            status=status,
            raw=raw,
            retry_after_s=retry_after_s,
            reason=f"HTTP {status} from {endpoint.url}: {error_message(raw)}",
        )

    def _wait_s(self, outcome: Outcome, failures: int, refusals: int, retry_after_s: float | None) -> float:
        low, high = self._options.backoff_s
        if outcome == "refused":
            wait = low * 2 ** min(refusals - 1, 5) if retry_after_s is None else 0.0
        else:
            wait = low / 10 if failures == 1 else low * 2 ** (failures - 2)
        wait = min(high, wait) * (0.5 + 0.5 * self._jitter.random())
        return max(wait, min(retry_after_s or 0.0, 10 * high))

    async def _post(self, endpoint: Endpoint, payload: bytes) -> tuple[int, bytes, float | None]:
        session = self._session or self._open_session()
        if asyncio.get_running_loop() is not self._loop:
            raise EngineError("an HTTP engine is used from a second event loop; open one engine for each loop")
        async with session.post(f"{endpoint.url}{self._path}", data=payload, allow_redirects=False) as response:
            raw = await response.read()
            if response.status == 200:
                return 200, raw, None
            return response.status, raw, parse_retry_after(response.headers.get("Retry-After"))

    def _open_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        headers = {"Content-Type": "application/json"}
        if self._options.api_key:
            headers["Authorization"] = f"Bearer {self._options.api_key}"
        self._loop = loop
        self._session = aiohttp.ClientSession(
            # The pool bounds the connections; keep-alive a little below the usual servers' 60 s.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
            timeout=aiohttp.ClientTimeout(total=self._options.timeout_s, sock_connect=min(15.0, self._options.timeout_s)),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self._session


def passes(status: int) -> bool:
    """Whether an HTTP status may be another one in a moment.

    >>> [passes(status) for status in (404, 429, 501, 503)]
    [False, True, False, True]
    """
    return status in PASSING or (status >= 500 and status != 501)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110: seconds or a date); null without one or when it cannot be read.

    >>> parse_retry_after("1.5")
    1.5
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
