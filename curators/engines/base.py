"""What an engine is: something that completes requests.

An engine is opened from a spec (`curators.engines.open_engine`) and used through one method. It never raises for a
request that fails: the reply then carries an error. It raises `EngineBusy` when the endpoint itself is down, and
`EngineError` when no request can ever succeed (a model that does not load, a replay miss).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson

Message = Mapping[str, Any]
"""One chat turn in the OpenAI form: `role`, `content`; where present `tool_calls`, `tool_call_id`, `reasoning_content`."""

Capability = Literal["n", "seed", "logprobs", "token_ids", "options", "prefix", "tools", "json_schema", "stop", "scores"]
"""What an engine may be able to do. `options`: log-probabilities of given option strings as the next text. `scores`: it is a reward model,
which writes nothing and gives numbers to a conversation that ends with the assistant's turn."""

ErrorKind = Literal["transport_error", "refused", "context_overflow", "budget_skipped", "unsupported"]
"""Why a request has no answer. `refused`: the server turned this one request down; `budget_skipped`: it was never sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to sample. `max_tokens` counts new tokens; `seed` and the sample index key the noise of one sample."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One call.

    `key` names what the call is for (`"sample/<prompt_id>"`, `"judge/<item>/<order>/<vote>"`): `replay:` matches on it, logs show it, and
    it is **not** part of the ledger's key. `prefix` is the beginning of the assistant's turn, to be continued. Samples have the indices
    `first_sample … first_sample + n - 1`. With `options` nothing is generated: the reply's one completion carries the log-probability
    of each option string as the next text (capability `options`). `attempt` > 0 is a re-ask and buys a new answer.
    """

    key: str
    messages: Sequence[Message]
    sampling: Sampling = Sampling()
    n: int = 1
    first_sample: int = 0
    prefix: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    options: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    logprobs: bool = False
    attempt: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sample. `text` is what the model wrote after the prefix, without stop string and special tokens.

    `token_ids` and `logprobs` are those really sampled (natural logs, one a token, the end-of-turn token included), null where the engine
    does not give them. `option_logprobs` has one entry an option; their mass may be below 1. `finish_reason` is `stop`, `length`,
    `tool_calls` … as the server said it. `ended`: the model ended its turn by itself, and no stop string or limit did; null where the
    engine does not say. `scores` are a reward model's, finite, one a head; its `text` is empty.
    """

    text: str
    sample_index: int = 0
    finish_reason: str | None = None
    reasoning: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    token_ids: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None
    option_logprobs: Mapping[str, float] | None = None
    n_tokens: int | None = None
    ended: bool | None = None
    scores: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The samples of a request that arrived, in order of index, and an error where others never will. Without an error it may hold
    fewer than were asked for, from the first on and at least one: an engine without the capability `n` gives one, and the rest is
    asked for again.

    Tokens are what the engine reports for the whole request (0 where it says nothing); `cost_usd` is null without a price.
    `cached` is true when nothing was sent.
    """

    completions: tuple[Completion, ...] = ()
    error: ErrorKind | None = None
    reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    cached: bool = False
    model: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def sample(self, index: int) -> Completion | None:
        """The sample with an index, null where it did not arrive."""
        return next((c for c in self.completions if c.sample_index == index), None)


class Engine(Protocol):
    """The one interface. `fingerprint` says exactly which model answers; see `curators.engines` for how each engine makes it."""

    @property
    def spec(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    async def complete(self, request: Request) -> Reply: ...

    async def aclose(self) -> None: ...


def as_json(value: object) -> str:
    """JSON text with keys in the order given, for what a model will read: chat templates write tools and arguments in that order.

    >>> as_json({"name": "add", "arguments": {"b": 1, "a": 2}})
    '{"name":"add","arguments":{"b":1,"a":2}}'
    """
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values have equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def digest(*parts: object, size: int = 16) -> str:
    """A content id: hex of blake2b over the canonical JSON of the parts, `2 * size` characters."""
    return hashlib.blake2b(canonical(parts), digest_size=size).hexdigest()


def call_key(fingerprint: str, request: Request, sample_index: int) -> str:
    """The ledger's key of one sample: everything that decides the answer, and nothing else."""
    s = request.sampling
    return digest(
        fingerprint,
        list(request.messages),
        request.prefix,
        request.tools,
        request.chat_template_kwargs,
        [s.temperature, s.top_p, s.max_tokens, list(s.stop), s.seed],
        list(request.options),
        request.json_schema,
        request.logprobs,
        sample_index,
        request.attempt,
    )
