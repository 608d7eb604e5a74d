"""`fake:`: an engine without a model, for tests and dry runs.

It can do everything that an engine can, at once, and what it says depends only on the messages, the prefix, the seed, the attempt
and the sample index: words from a short list, as tokens with made-up ids and log-probabilities. `fake:judge` writes a verdict in
the shipped rubrics' grammar instead. In code, `FakeEngine(respond=…)` says whatever a test wants.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from curators.engines.base import Capability, Completion, Reply, Request, canonical, digest
from curators.engines.openai_format import cut_at_stop
from curators.errors import ConfigError

Respond = Callable[[Request, int], "str | Completion | Reply"]
"""What a fake says to a request for one sample index. A `Reply` stands for the whole request (an error, say)."""

WORDS = (
    "the",
    "sum",
    "of",
    "both",
    "is",
    "what",
    "each",
    "part",
    "gives",
    "when",
    "they",
    "are",
    "taken",
    "step",
    "by",
    "so",
    "it",
    "holds",
)
CAPABILITIES: frozenset[Capability] = frozenset({"n", "seed", "logprobs", "token_ids", "options", "prefix", "tools", "json_schema", "stop"})


class FakeEngine:
    """See the module. `fingerprint` distinguishes fakes that answer differently; `calls` counts the requests that were completed."""

    def __init__(self, respond: Respond | None = None, *, spec: str = "fake:", fingerprint: str | None = None) -> None:
        self._respond = respond or words
        self._spec = spec
        self._fingerprint = fingerprint or spec
        self.calls = 0

    @property
    def spec(self) -> str:
        return self._spec

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def capabilities(self) -> frozenset[Capability]:
        return CAPABILITIES if self._spec != "fake:reward" else frozenset({"n", "scores"})

    async def complete(self, request: Request) -> Reply:
        self.calls += 1
        completions = []
        for i in range(request.first_sample, request.first_sample + request.n):
            said = _options(request, i) if request.options else self._respond(request, i)
            if isinstance(said, Reply):
                return said
            completions.append(_completion(request, said, i))
        return Reply(
            completions=tuple(completions),
            prompt_tokens=len(_prompt_text(request).split()),
            completion_tokens=sum(c.n_tokens or 0 for c in completions),
            model=self._fingerprint,
        )

    async def aclose(self) -> None:
        return None


def open_fake(name: str) -> FakeEngine:
    """`""` gives words, `"judge"` verdicts, `"reward"` scores.

    Raises:
        ConfigError: another name.
    """
    if name not in RESPONDERS:
        raise ConfigError(f"engine: 'fake:{name}' is not one; there are {sorted('fake:' + n for n in RESPONDERS)}")
    return FakeEngine(RESPONDERS[name], spec=f"fake:{name}")


def words(request: Request, sample_index: int) -> str:
    """A sentence of 4 to 35 words; JSON by the request's schema where it has one."""
    if request.json_schema is not None:
        return _object(request, sample_index)
    length = 4 + _noise(request, sample_index, "length") % 32
    picked = [WORDS[_noise(request, sample_index, i) % len(WORDS)] for i in range(length)]
    return f"{' '.join(picked)} {_noise(request, sample_index, 'end') % 1000}."


def judge(request: Request, sample_index: int) -> str:
    """A verdict by the schema, else in whichever of the shipped rubrics' grammars the prompt asks for, else a bare letter."""
    if request.json_schema is not None:
        return _object(request, sample_index)
    text = _prompt_text(request)
    if "Rating:" in text:
        shown = max((int(i) for i in re.findall(r"<text (\d+)>", text)), default=2)
        return "\n\n".join(f"Rating: {1 + _noise(request, sample_index, i) % 5}\nRationale: by its merits" for i in range(shown))
    noise = _noise(request, sample_index, "verdict")
    if "Score:" in text:
        return f"Judged by its merits.\nScore: {1 + noise % 5}"
    return f"Judged by their merits.\nVerdict: {'AB'[noise % 2]}" if "Verdict:" in text else "AB"[noise % 2]


def reward(request: Request, sample_index: int) -> Completion:
    """A score from -2 to 2, by the messages alone."""
    return Completion(text="", scores={"score": _noise(request, sample_index, "score") % 4001 / 1000 - 2})


RESPONDERS: Mapping[str, Respond] = {"": words, "judge": judge, "reward": reward}


def _object(request: Request, sample_index: int) -> str:
    assert request.json_schema is not None
    return orjson.dumps(_instance(request.json_schema, _noise(request, sample_index, "json"))).decode()


def _prompt_text(request: Request) -> str:
    return "\n".join(str(m.get("content") or "") for m in request.messages)


def _noise(request: Request, sample_index: int, what: object) -> int:
    key = [list(request.messages), request.prefix, request.sampling.seed, request.attempt, sample_index, str(what)]
    return int.from_bytes(hashlib.blake2b(canonical(key), digest_size=6).digest(), "big")


def _completion(request: Request, said: str | Completion, sample_index: int) -> Completion:
    if isinstance(said, Completion):
        return replace(said, sample_index=sample_index)
    text, stopped = cut_at_stop(said, request.sampling.stop)
    tokens = re.findall(r"\s*\S+|\s+$", text)
    finish = "stop"
    if not stopped and len(tokens) + 1 > request.sampling.max_tokens:
        tokens = tokens[: request.sampling.max_tokens]
        text, finish = "".join(tokens), "length"
    pieces = tokens if finish == "length" else [*tokens, "<end>"]
    ids = [int(digest(piece, size=2), 16) for piece in pieces]
    return Completion(
        text=text,
        sample_index=sample_index,
        finish_reason=finish,
        token_ids=ids if request.logprobs else None,
        logprobs=[-(0.1 + i % 50 / 25) for i in ids] if request.logprobs else None,
        n_tokens=len(pieces),
        ended=finish == "stop" and not stopped,
    )


def _options(request: Request, sample_index: int) -> Completion:
    weights = {o: 1.0 + _noise(request, sample_index, ["option", o]) % 100 for o in request.options}
    total = sum(weights.values()) / 0.95
    logprobs = {o: math.log(w / total) for o, w in weights.items()}
    return Completion(text="", sample_index=sample_index, finish_reason="stop", option_logprobs=logprobs, n_tokens=1)


def _instance(schema: Mapping[str, Any], noise: int) -> Any:
    """A value that a JSON schema allows, for the keywords that rubrics use: enum, const, anyOf, type, properties, items, minimum,
    maximum, minItems.
    """
    if "const" in schema:
        return schema["const"]
    if options := schema.get("enum"):
        return options[noise % len(options)]
    if choices := schema.get("anyOf"):
        return _instance(choices[noise % len(choices)], noise // len(choices))
    kind = schema.get("type", "string")
    if kind == "object":
        return {name: _instance(sub, noise // (i + 2)) for i, (name, sub) in enumerate(schema.get("properties", {}).items())}
    if kind == "array":
        length = int(schema.get("minItems", 1))
        return [_instance(schema.get("items", {}), noise // (i + 2)) for i in range(length)]
    if kind in ("integer", "number"):
        low = int(schema.get("minimum", 0))
        return low + noise % (int(schema.get("maximum", low + 9)) - low + 1)
    return {"boolean": noise % 2 == 0, "null": None}.get(kind, WORDS[noise % len(WORDS)])
