"""What a server that speaks the OpenAI chat-completions format says: replies, log-probabilities of options, errors.

What it is asked, and which fields it takes, is in `dialect`.

Deliberately not here: streaming (a curator wants whole replies) and the legacy completions format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from curators.engines.base import Completion, Request

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
        ended=_ended(choice, request, cut=cut),
    )


def _ended(choice: Mapping[str, Any], request: Request, *, cut: bool) -> bool | None:
    """Whether the model ended its turn: vLLM (`stop_reason`) and SGLang (`matched_stop`) name the stop string that did it."""
    if cut or choice.get("finish_reason") != "stop":
        return False
    named = [choice[field] for field in ("stop_reason", "matched_stop") if field in choice]
    if named:
        return not any(isinstance(value, str) for value in named)
    return None if request.sampling.stop else True


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
