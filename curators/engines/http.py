"""`openai:MODEL@http://host:port/v1[,http://host2:port/v1 …]`: any server that speaks the OpenAI chat format.

An aiohttp session rather than the `openai` package: 0.2 ms of CPU a call against 1.9. `transport` gets a body there and a reply
back, `endpoints` says where it goes and how many are in flight, `dialect` knows the fields and which of them this server does not
take, `openai_format` reads what it says; here a request becomes a body, and what comes back a reply. Fields are sent in the hope
that they are known; one that is refused, or that the reply takes no notice of, is not sent again.

One request is one body, and a reply holds the samples that came with it: fewer than asked for where the server does not know `n`.
Asking for the rest is the caller's (`cached`), so that each reply is kept as it arrives.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from curators.engines.base import Capability, ErrorKind, Reply, Request, digest
from curators.engines.budget import Price
from curators.engines.dialect import Dialect
from curators.engines.model_card import ModelCard, fetch_model_card
from curators.engines.openai_format import OVERFLOW, ChatReply, error_message, parse_reply
from curators.engines.transport import Answer, HttpOptions, Transport
from curators.errors import ConfigError, EngineError

ALL: frozenset[Capability] = frozenset({"n", "seed", "logprobs", "token_ids", "options", "prefix", "tools", "json_schema", "stop"})
MAX_BLIND_PROBES = 3  # searches for a field that a server rejects without naming it


class HttpEngine:
    """See the module. Open it with `curators.engines.open_engine`; use it in one event loop."""

    def __init__(self, model: str, urls: Sequence[str], options: HttpOptions | None = None) -> None:
        self._model = model
        self._urls = tuple(checked_url(url) for url in urls)
        options = options or HttpOptions()
        self._options = options
        self._dialect = Dialect(self.spec)
        self._transport = Transport(self._urls, options)
        self._card: ModelCard | None = None
        self._card_lock = threading.Lock()
        self._blind_probes = 0
        self._ever_answered = False

    @property
    def spec(self) -> str:
        return f"openai:{self._model}@{','.join(self._urls)}"

    @property
    def fingerprint(self) -> str:
        """`openai:MODEL`, and a digest of what GET /models says of it, where it says something. Never the URL.

        The first use asks the server and blocks meanwhile.

        Raises:
            EngineBusy: no endpoint can be reached, or none can say now which model it serves.
            EngineError: the key is wrong, or the URL is not that of an API.
        """
        card = self.card
        return f"openai:{self._model}#{digest(card.identity, size=4)}" if card.identity else f"openai:{self._model}"

    @property
    def card(self) -> ModelCard:
        with self._card_lock:
            if self._card is None:
                self._card = fetch_model_card(self._model, self._urls, self._options)
            return self._card

    @property
    def capabilities(self) -> frozenset[Capability]:
        """All that has not turned out to be missing; `prefix` only where the server is known to continue one, once its card is known."""
        missing = self._dialect.lost
        if self._card is not None and not self._card.continues_prefix:
            missing |= {"prefix"}
        return ALL - (missing if self._options.share_requests else missing | {"n"})

    @property
    def price(self) -> Price | None:
        return self._options.price

    @property
    def max_concurrency(self) -> int:
        return self._options.max_concurrency

    async def complete(self, request: Request) -> Reply:
        """See `Engine`. `extra`: `sent` (HTTP requests, retries included), `usage_estimated` where the server counted no tokens."""
        if request.prefix is not None and not (await asyncio.to_thread(lambda: self.card)).continues_prefix:
            return Reply(error="unsupported", reason=f"{self.spec}: continuing a given prefix; only vLLM and SGLang are known to do it")
        n = request.n if self._options.share_requests else 1
        sent = 0
        while True:
            if lacking := self._dialect.missing_for(request):
                return Reply(error="unsupported", reason=f"{self.spec}: {lacking}", extra={"sent": sent})
            body = self._dialect.body(self._model, request, n=n)
            answer = await self._send(body, request)
            if answer.reply is not None:
                return self._answered(request, body, answer.reply, sent + answer.sent)
            known = answer.status and await self._downgraded(body, answer, request)
            sent += answer.sent
            # What cannot be asked in another way stays refused; so this ends, for there are only so many fields to lose.
            if not known or self._dialect.body(self._model, request, n=n) == body:
                advice = {"key": self._options.key_advice, "url": "ends where /chat/completions begins (…/v1)"}
                return failed(self.spec, answer, sent, advice=advice, ever_answered=self._ever_answered)

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _answered(self, request: Request, body: Mapping[str, Any], reply: ChatReply, sent: int) -> Reply:
        self._ever_answered = True
        self._dialect.proven.update(body)
        self._dialect.note_silence(request, reply)
        asked = body.get("n", 1)
        completions = reply.completions[:asked]
        if len(completions) < asked and len(completions) == 1:
            self._dialect.lose("n", f"asked for {asked} choices, its reply has one")
        error, reason = self._options_missing(request, reply) if request.options else (None, None)
        extra: dict[str, Any] = {"sent": sent}
        prompt_tokens, completion_tokens = reply.prompt_tokens, reply.completion_tokens
        if not reply.usage_given and error is None:
            extra["usage_estimated"] = True
            prompt_tokens = prompt_tokens or len(orjson.dumps(list(request.messages))) // 4
            completion_tokens = completion_tokens or sum(len(c.text) for c in completions) // 4
        return Reply(
            completions=() if error else completions,
            error=error,
            reason=reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=None if self.price is None else self.price.cost(prompt_tokens, completion_tokens),
            model=reply.model,
            extra=extra,
        )

    def _options_missing(self, request: Request, reply: ChatReply) -> tuple[ErrorKind, str] | tuple[None, None]:
        """Error and reason where the reply says nothing of the options."""
        if all(c.option_logprobs is not None for c in reply.completions):
            return None, None
        if not reply.has_logprobs:
            self._dialect.lose("top_logprobs", "its reply has none")
        return "unsupported", f"{self.spec}: none of the options {list(request.options)} is among the log-probabilities of its reply"

    async def _downgraded(self, body: dict[str, Any], answer: Answer[ChatReply], request: Request) -> bool:
        """Find the field that a 4xx is about; true when one is known by now, by this request or by another meanwhile."""
        if OVERFLOW.search(answer.text) or answer.status in (401, 404, 413):
            return False
        if any(f in self._dialect.lacks for f in body) or self._dialect.max_tokens_field not in body:
            return True
        if field_ := self._dialect.blame(body, answer.text):
            if field_ != "max_tokens":
                self._dialect.lose(field_, f"HTTP {answer.status}: {error_message(answer.text.encode())}")
            return True
        unproven = [f for f in self._dialect.droppable(body) if f not in self._dialect.proven]
        if not unproven or self._blind_probes >= MAX_BLIND_PROBES:
            return False
        self._blind_probes += 1
        for without in [*([f] for f in unproven), unproven]:
            trial = {k: v for k, v in body.items() if k not in without}
            found = await self._send(trial, request)
            answer.sent += found.sent
            if found.reply is not None:
                for f in without:
                    self._dialect.lose(f, f"HTTP {answer.status} with it, accepted without")
                self._blind_probes = 0
                return True
        return False

    async def _send(self, body: dict[str, Any], request: Request) -> Answer[ChatReply]:
        payload = orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)
        return await self._transport.exchange(payload, lambda raw: parse_reply(raw, request))


def failed(spec: str, answer: Answer[Any], sent: int, *, advice: Mapping[str, str], ever_answered: bool) -> Reply:
    """The reply where no answer came; `advice` says what to look at, the `key` or the `url`.

    Raises:
        EngineError: no request can succeed: the key is wrong (a 403 says so until the server has answered once), or the URL or model is.
    """
    extra = {"sent": sent}
    if not answer.status:
        return Reply(error="transport_error", reason=answer.text, extra=extra)
    said = f"HTTP {answer.status}: {error_message(answer.text.encode())}"
    if OVERFLOW.search(answer.text) or answer.status == 413:
        return Reply(error="context_overflow", reason=said, extra=extra)
    if answer.status == 401 or (answer.status == 403 and not ever_answered):
        raise EngineError(f"{spec}: {said}; {advice['key']}")
    if answer.status in (301, 302, 307, 308, 404, 405):
        raise EngineError(f"{spec}: {said}; check the model's name and that the URL {advice['url']}")
    return Reply(error="refused", reason=said, extra=extra)


def checked_url(url: str) -> str:
    """The URL of an endpoint without its last slash.

    Raises:
        ConfigError: it is none, or it carries a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"engine: {url!r} is not an endpoint; give http://host:port/v1")
    if parts.username or parts.password:
        raise ConfigError(f"engine: the URL of {parts.hostname} carries a user or password; name the key's variable in api_key_env")
    return url.rstrip("/")
