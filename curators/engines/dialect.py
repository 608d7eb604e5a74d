"""What a server that speaks the OpenAI chat-completions format is asked, and which fields it will not take.

Servers that call themselves compatible differ in the optional fields they know. `Dialect` begins with the belief that all are known and
forgets one when the server turns it down (HTTP 4xx naming it) or leaves it unanswered (no log-probs in the reply, one choice where four
were asked for). What is lost is lost for the life of the engine, and logged once.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from typing import Any

import orjson

from curators.engines.base import Capability, Request
from curators.engines.openai_format import ChatReply

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
