"""The OpenAI chat-completions format: what is sent, what comes back, and what a server will not take.

Servers that call themselves compatible differ in the optional fields they know. `Dialect` begins with the belief that all are known and
forgets one when the server turns it down (HTTP 4xx naming it) or leaves it unanswered (no log-probs in the reply, one choice where four
were asked for). What is lost is lost for the life of the engine, and logged once.

Deliberately not here: streaming (a curator wants whole replies) and the legacy completions format.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from curators.engines.base import Capability, Completion, Request

logger = logging.getLogger(__name__)

TOP_LOGPROBS = 20  # the most that OpenAI and, by default, vLLM give

CAPABILITY: Mapping[str, Capability] = {
    "n": "n",
    "seed": "seed",
    "stop": "stop",
    "logprobs": "logprobs",
    "top_logprobs": "options",
    "return_token_ids": "token_ids",
    "response_format": "json_schema",
    "tools": "tools",
    "continue_final_message": "prefix",
    "add_generation_prompt": "prefix",
}
"""The optional fields and what is lost with each."""

NEEDED = {"tools", "top_logprobs", "continue_final_message", "add_generation_prompt"}
"""Without these a request is not the same request. Once one was taken, a complaint about it is about one request's value."""

SHORT_NAMES = {"n", "seed", "stop", "tools", "logprobs"}  # plain words: only a quoted mention counts

OVERFLOW = re.compile(
    r"context_length_exceeded|context (?:length|window|size)|maximum (?:context|model) length|max_model_len|prompt is too long"
    r"|longer than the model|reduce the length",
    re.IGNORECASE,
)


class MalformedReply(Exception):
    """A body that is not a chat completion; a transport failure, whatever its status says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatReply:
    """A parsed body. Choices are in the server's order of index; tokens are 0 and `usage_given` false where it reports none;
    `has_logprobs`: it gave any.
    """

    completions: tuple[Completion, ...]
    prompt_tokens: int
    completion_tokens: int
    usage_given: bool
    has_logprobs: bool
    model: str | None


def wire_seed(request: Request, sample_index: int) -> int:
    """The seed sent for one sample, or for the first of several.

    A base from the request's seed and attempt, plus the sample index: vLLM gives the i-th choice the seed `seed + i`, so a sample
    that is asked for alone has the seed that it would have had among its siblings. 31 bits, because some servers take no more.

    >>> a = wire_seed(Request(key="k", messages=[]), 0)
    >>> wire_seed(Request(key="k", messages=[]), 3) - a
    3
    """
    s = request.sampling
    base = hashlib.blake2b(f"{s.seed}/{request.attempt}".encode(), digest_size=4).digest()
    return (int.from_bytes(base, "big") >> 2) + sample_index


class Dialect:
    """What one server takes.

    `lacks` are the optional fields that it does not; `proven` ones came in a request that was answered, and `kept` ones showed in a reply.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.lacks: set[str] = set()
        self.proven: set[str] = set()
        self.kept: set[str] = set()
        self.max_tokens_field = "max_tokens"

    @property
    def lost(self) -> frozenset[Capability]:
        return frozenset(CAPABILITY[field] for field in self.lacks if field in CAPABILITY) | (
            {"options"} if "logprobs" in self.lacks else set()
        )

    def lose(self, field: str, why: str) -> None:
        """Remember that the server does not take a field; says so once."""
        if field in self.lacks:
            return
        self.lacks.add(field)
        logger.warning("%s does not take %r (%s); going on without it", self._name, field, why[:200])

    def missing_for(self, request: Request) -> str | None:
        """What the request cannot do without and the server does not have; null when it can be sent."""
        if request.options and {"logprobs", "top_logprobs"} & self.lacks:
            return "log-probabilities of options (top_logprobs)"
        if request.prefix is not None and {"continue_final_message", "add_generation_prompt"} & self.lacks:
            return "continuing a given prefix (continue_final_message)"
        if request.tools and "tools" in self.lacks:
            return "tools"
        return None

    def body(self, model: str, request: Request, *, n: int) -> dict[str, Any]:
        """The body of one HTTP request for the first `n` samples of a request."""
        s = request.sampling
        messages: list[Any] = list(request.messages)
        if request.prefix is not None:
            messages.append({"role": "assistant", "content": request.prefix})
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            self.max_tokens_field: 1 if request.options else s.max_tokens,
            "temperature": s.temperature,
            "top_p": s.top_p,
        }
        body |= {field: value for field, value in self._optional(request, n).items() if field not in self.lacks}
        if s.temperature == 1.0 and "temperature" in self.lacks:
            del body["temperature"]
        if s.top_p == 1.0 and "top_p" in self.lacks:
            del body["top_p"]
        return body

    @staticmethod
    def _optional(request: Request, n: int) -> dict[str, Any]:
        fields: dict[str, Any] = {"seed": wire_seed(request, request.first_sample)}
        if n > 1:
            fields["n"] = n
        if request.sampling.stop:
            fields["stop"] = list(request.sampling.stop)
        if request.logprobs or request.options:
            fields["logprobs"] = True
        if request.options:
            fields["top_logprobs"] = TOP_LOGPROBS
        elif request.logprobs:
            fields["return_token_ids"] = True
        if request.json_schema is not None:
            fields["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": request.json_schema, "strict": True},
            }
        if request.tools:
            fields["tools"] = list(request.tools)
        if request.chat_template_kwargs:
            fields["chat_template_kwargs"] = dict(request.chat_template_kwargs)
        if request.prefix is not None:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        return fields

    def droppable(self, body: Mapping[str, Any]) -> list[str]:
        """The fields of a body without which it still asks for the same thing, or for less in a way that the reply shows."""
        fields = [field for field in CAPABILITY if field in body and not (field in NEEDED and field in self.proven)]
        return fields + [field for field in ("top_p", "temperature") if body.get(field) == 1.0]

    def blame(self, body: Mapping[str, Any], text: str) -> str | None:
        """The field that an error message names, if it names one that can go; `max_tokens` is renamed."""
        if self.max_tokens_field == "max_tokens" and "max_completion_tokens" in text:
            self.max_tokens_field = "max_completion_tokens"
            return "max_tokens"
        param = error_param(text)
        named = [f for f in self.droppable(body) if f == param] or [f for f in self.droppable(body) if _mentions(text, f)]
        return named[0] if named else None

    def note_silence(self, request: Request, reply: ChatReply) -> None:
        """Servers that ignore a field are found out by what the reply lacks."""
        done = [c for c in reply.completions if c.text]
        if not done:
            return
        if request.logprobs and not request.options and all(c.logprobs is None for c in done):
            self.lose("logprobs", "its reply has none")
        if request.logprobs and not request.options and all(c.token_ids is None for c in done):
            self.lose("return_token_ids", "its reply has none")
        if request.json_schema is not None and "response_format" not in self.kept:
            whole = [c.text for c in done if c.finish_reason == "stop"]
            if whole and all(map(_is_json, whole)):
                self.kept.add("response_format")
            elif whole:
                self.lose("response_format", "its reply is not JSON")


def _mentions(text: str, field: str) -> bool:
    quoted = re.search(rf"[\"'`]{field}[\"'`]", text)
    return bool(quoted or (field not in SHORT_NAMES and re.search(rf"(?<!\w){field}(?!\w)", text)))


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def error_param(text: str) -> str | None:
    """`param` of an OpenAI error body, null where there is none."""
    try:
        error = orjson.loads(text).get("error")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    param = error.get("param") if isinstance(error, dict) else None
    return param if isinstance(param, str) else None


def error_message(raw: bytes, limit: int = 300) -> str:
    """What an error body says, in one line, for a reason that a person reads.

    >>> error_message(b'{"error": {"message": "no such model"}}')
    'no such model'
    """
    text = raw[:20_000].decode("utf-8", "replace")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    line = " ".join((value if isinstance(value, str) else orjson.dumps(value).decode()).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def parse_reply(raw: bytes, request: Request) -> ChatReply:
    """Read a body with status 200.

    Raises:
        MalformedReply: not JSON, no choices, or a choice that was broken off by the server (`abort`).
    """
    try:
        value = orjson.loads(raw)
        choices = sorted(value["choices"], key=lambda c: c.get("index") or 0)
        completions = tuple(_completion(choice, request, request.first_sample + i) for i, choice in enumerate(choices))
        usage = value.get("usage") or {}
        prompt_tokens, completion_tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise MalformedReply(f"the reply is not a chat completion: {error_message(raw, 120)!r}") from error
    if not completions:
        raise MalformedReply("the reply has no choices")
    if len(completions) == 1 and usage and completions[0].n_tokens is None:
        completions = (replace(completions[0], n_tokens=completion_tokens),)
    model = value.get("model")
    return ChatReply(
        completions=completions,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        usage_given=bool(usage),
        has_logprobs=any((c.get("logprobs") or {}).get("content") for c in choices),
        model=model if isinstance(model, str) else None,
    )


def _completion(choice: Mapping[str, Any], request: Request, sample_index: int) -> Completion:
    message = choice["message"]
    finish = choice.get("finish_reason")
    if finish in ("abort", "error"):
        raise ValueError(f"finish_reason {finish!r}")
    text, cut = cut_at_stop(_content(message.get("content")), request.sampling.stop)
    entries = (choice.get("logprobs") or {}).get("content") or None
    token_ids = choice.get("token_ids")
    counted = token_ids if token_ids is not None else entries
    return Completion(
        text="" if request.options else text,
        sample_index=sample_index,
        finish_reason="stop" if cut else finish,
        reasoning=message.get("reasoning_content") or message.get("reasoning") or None,
        tool_calls=message.get("tool_calls") or None,
        token_ids=token_ids if request.logprobs else None,
        logprobs=[float(e["logprob"]) for e in entries] if entries and request.logprobs else None,
        option_logprobs=option_logprobs(entries, request.options) if request.options else None,
        n_tokens=len(counted) if counted is not None else None,
    )


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return "" if content is None else str(content)


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the earliest stop string, and whether there was one (`transformers serve` leaves it in).

    >>> cut_at_stop("one STOP two", ("STOP",))
    ('one ', True)
    """
    ends = [i for s in stop if s and (i := text.find(s)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def option_logprobs(entries: Sequence[Mapping[str, Any]] | None, options: Sequence[str]) -> dict[str, float] | None:
    """Log-probabilities of options from the alternatives of the first token; null when no option is among them.

    Tokens that differ from an option only by leading or trailing blanks (` A`, `▁A`) count for it, and their masses add up. An
    option that is not among the alternatives gets the largest value that it can have: that of the least likely alternative, or
    what mass is left.

    >>> top = [{"token": t, "logprob": math.log(p)} for t, p in (("A", 0.5), (" A", 0.25), ("x", 0.2))]
    >>> found = option_logprobs([{"token": "A", "logprob": -0.7, "top_logprobs": top}], ("A", "B"))
    >>> {k: round(math.exp(v), 3) for k, v in found.items()}
    {'A': 0.75, 'B': 0.05}
    """
    top = (entries[0].get("top_logprobs") or []) if entries else []
    alternatives = [(str(t["token"]), max(-100.0, float(t["logprob"]))) for t in top]
    masses = {o: math.fsum(math.exp(p) for token, p in alternatives if o in (token, token.strip(" \n▁"))) for o in options}
    if not any(masses.values()):
        return None
    left = max(1.0 - math.fsum(math.exp(p) for _, p in alternatives), 1e-12)
    bound = min(min(p for _, p in alternatives), math.log(left))
    return {o: math.log(mass) if mass else bound for o, mass in masses.items()}
