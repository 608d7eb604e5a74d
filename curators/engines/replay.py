"""`replay:FILE`: completions that were recorded before, of this or another program.

The file is JSONL, gzipped where its name ends in `.gz`. A line is one sample or one reply:

    {"key": "judge/item-7/0/0", "text": "… Verdict: A"}
    {"key": "sample/p1", "sample_index": 2, "text": "…", "finish_reason": "stop", "logprobs": [-0.1, …], "token_ids": [5, …]}
    {"key": "sample/p1", "completions": [{"text": "first"}, {"text": "second"}]}
    {"key": "judge/item-9/1/0", "error": "refused", "reason": "content policy"}
    {"key": "reward/<generation_id>", "text": "", "scores": {"score": 1.25}}

A request is matched by its `key`, attempt and sample indices, and by nothing else: what was asked then is taken to be what is
asked now. `sample_index` and `attempt` are 0 where absent; `completions` begin at `sample_index`. A key that is not there is an
error and not an empty answer; a further attempt that was never recorded is a reply without an answer.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import orjson

from curators.engines.base import Capability, Completion, ErrorKind, Reply, Request
from curators.errors import ConfigError, EngineError

COMPLETION_FIELDS = frozenset(f.name for f in fields(Completion))
LINE_FIELDS = COMPLETION_FIELDS | {"key", "attempt", "completions", "error", "reason"}


class ReplayEngine:
    """See the module. Its fingerprint is the digest of the file's text, so an edited recording is another engine."""

    cacheable = False
    """Not for the ledger: two requests with the same messages and other keys are two recordings."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        text = _read(self._path)
        self._digest = hashlib.blake2b(text, digest_size=8).hexdigest()
        self._samples: dict[tuple[str, int], dict[int, Completion]] = {}
        self._errors: dict[tuple[str, int], Reply] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                self._take(line, number)
        if not self._samples and not self._errors:
            raise ConfigError(f"engine: replay:{self._path} holds no line; each is an object with `key` and `text`")

    @property
    def spec(self) -> str:
        return f"replay:{self._path}"

    @property
    def fingerprint(self) -> str:
        return f"replay:{self._path.name}#{self._digest}"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What every recording can do, and log-probabilities, token ids, options and scores where any line has them."""
        every = [c for samples in self._samples.values() for c in samples.values()]
        found: set[Capability] = {"n", "seed"}
        found |= {"logprobs"} if any(c.logprobs is not None for c in every) else set()
        found |= {"token_ids"} if any(c.token_ids is not None for c in every) else set()
        found |= {"options"} if any(c.option_logprobs is not None for c in every) else set()
        found |= {"scores"} if any(c.scores is not None for c in every) else set()
        return frozenset(found)

    async def complete(self, request: Request) -> Reply:
        """See `Engine`.

        Raises:
            EngineError: the key is not in the file, or not for all samples.
        """
        where = (request.key, request.attempt)
        if recorded := self._errors.get(where):
            return recorded
        samples = self._samples.get(where)
        if samples is None:
            if request.attempt and any(key == request.key for key, _ in self._samples):
                return Reply(error="unsupported", reason=f"{self.spec}: no attempt {request.attempt} of {request.key!r} is recorded")
            raise EngineError(f"{self.spec}: no line has the key {request.key!r}; the nearest are {self._nearest(request.key)}")
        asked = range(request.first_sample, request.first_sample + request.n)
        if missing := [i for i in asked if i not in samples]:
            raise EngineError(f"{self.spec}: {request.key!r} is recorded for the samples {sorted(samples)}, not for {missing}")
        completions = tuple(samples[i] for i in asked)
        if request.options and any(c.option_logprobs is None for c in completions):
            return Reply(error="unsupported", reason=f"{self.spec}: {request.key!r} has no recorded log-probabilities of options")
        return Reply(completions=completions, completion_tokens=sum(c.n_tokens or 0 for c in completions), model=self.fingerprint)

    async def aclose(self) -> None:
        return None

    def _nearest(self, key: str) -> list[str]:
        keys = list(dict.fromkeys(k for k, _ in [*self._samples, *self._errors]))
        return difflib.get_close_matches(key, keys[:5000], n=3, cutoff=0.0)

    def _take(self, line: bytes, number: int) -> None:
        where = f"engine: replay:{self._path}, line {number}"
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{where} is not JSON: {error}") from error
        if not isinstance(value, dict) or not isinstance(value.get("key"), str):
            raise ConfigError(f"{where} has no `key`; a line is an object with `key` and `text`, `completions` or `error`")
        if unknown := sorted(set(value) - LINE_FIELDS):
            raise ConfigError(f"{where} has the unknown fields {unknown}; allowed are {sorted(LINE_FIELDS)}")
        at = (value["key"], int(value.get("attempt") or 0))
        if "error" in value:
            if value["error"] not in get_args(ErrorKind):
                raise ConfigError(f"{where}: error is {value['error']!r}; allowed are {list(get_args(ErrorKind))}")
            self._errors[at] = Reply(error=value["error"], reason=value.get("reason"))
            return
        first = int(value.get("sample_index") or 0)
        given = value.get("completions")
        rows = [value] if given is None else [{**row, "sample_index": first + i} for i, row in enumerate(given)]
        samples = self._samples.setdefault(at, {})
        for row in rows:
            completion = _completion(row, where)
            if completion.sample_index in samples:
                raise ConfigError(f"{where}: sample {completion.sample_index} of {value['key']!r} is there already")
            samples[completion.sample_index] = completion


def _completion(row: Mapping[str, Any], where: str) -> Completion:
    if not isinstance(row.get("text"), str):
        raise ConfigError(f"{where}: `text` is {row.get('text')!r}; a recorded completion has a text")
    return Completion(**{name: value for name, value in row.items() if name in COMPLETION_FIELDS and value is not None})


def _read(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"engine: replay:{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"engine: replay:{path} cannot be read: {error}") from error
