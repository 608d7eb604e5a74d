"""What the ledger keeps of an answer: one sample, its share of the tokens, and the row about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import orjson

from curators.engines.base import Completion, Reply

STORED = tuple(f.name for f in fields(Completion) if f.name != "sample_index")


@dataclass(frozen=True, slots=True)
class Known:
    """One sample with its share of what the request cost in tokens."""

    completion: Completion
    prompt_tokens: int
    completion_tokens: int
    model: str | None


def sent(reply: Reply) -> int:
    """Requests that a reply took, retries included; one where an engine does not count them, none where it was never sent."""
    return int(reply.extra.get("sent", 0 if reply.error in ("budget_skipped", "unsupported") else 1))


def share(reply: Reply, completions: Sequence[Completion]) -> dict[int, Known]:
    """Each sample with its tokens: its own count where it has one, else an equal share; the prompt goes with the first. The sums
    are exact.
    """
    left = reply.completion_tokens
    shared: dict[int, Known] = {}
    for position, c in enumerate(completions):
        rest = len(completions) - position
        tokens = left if rest == 1 else min(left, c.n_tokens if c.n_tokens is not None else left // rest)
        left -= tokens
        shared[c.sample_index] = Known(c, 0 if position else reply.prompt_tokens, tokens, reply.model)
    return shared


def encode(known: Known) -> bytes:
    """The ledger's value of one sample: JSON, without what is null and without the sample index, which is in the key."""
    given = {name: value for name in STORED if (value := getattr(known.completion, name)) is not None}
    return orjson.dumps(
        {"c": given, "u": [known.prompt_tokens, known.completion_tokens], "m": known.model}, option=orjson.OPT_SERIALIZE_NUMPY
    )


def decode(value: bytes, sample_index: int) -> Known:
    stored = orjson.loads(value)
    prompt_tokens, completion_tokens = stored["u"]
    return Known(Completion(sample_index=sample_index, **stored["c"]), prompt_tokens, completion_tokens, stored["m"])


def answer_rows(reply: Reply, known: Sequence[Known]) -> list[dict[str, Any]]:
    """Ledger rows, without what they are about. Requests and money of the whole request are with its first sample."""
    price = reply.cost_usd
    return [
        {
            "value": encode(k),
            "sent": 0 if position else sent(reply),
            "prompt_tokens": k.prompt_tokens,
            "completion_tokens": k.completion_tokens,
            "cost_usd": 0.0 if price is not None and position else price,
        }
        for position, k in enumerate(known)
    ]


def failure_row(reply: Reply, *, charged: bool) -> dict[str, Any]:
    """A row of what was spent without an answer; when some samples did arrive, their rows carry the cost."""
    return {
        "error": reply.error,
        "reason": reply.reason,
        "sent": sent(reply) if charged else 0,
        "prompt_tokens": reply.prompt_tokens if charged else 0,
        "completion_tokens": reply.completion_tokens if charged else 0,
        "cost_usd": reply.cost_usd if charged else None,
    }
