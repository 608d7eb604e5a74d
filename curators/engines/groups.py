"""Samples and scorings, and the prompts in the batch with the samples that are drawn from them.

Samples of one prompt that have drawn the same tokens so far are one branch: one lane, one token in the forward pass, one row of logits,
from which each draws with its own noise. Where they draw different tokens they part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

from curators.engines.rows import Row, RowCache


class Stops(Protocol):
    """When text ends before the model ends it. Only tokens in `suspects` can complete a stop string, so only they are looked at."""

    @property
    def suspects(self) -> Set[int]: ...

    def complete(self, tokens: Sequence[int]) -> bool: ...


@dataclass(slots=True, eq=False)
class Sample:
    """One sample to draw, and what has been drawn. `key` (64 bits) decides its noise; `finish` is null while it runs.

    `owner` is the caller's own, to know its work again.
    """

    prompt: tuple[int, ...]
    key: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stops: Stops | None = None
    owner: Any = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None
    cancelled: bool = False

    @property
    def over(self) -> bool:
        return self.cancelled or self.finish is not None

    def take(self, token: int, logprob: float, end_ids: Set[int]) -> None:
        """The next token, and with it perhaps the end."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in end_ids or (self.stops and token in self.stops.suspects and self.stops.complete(self.tokens)):
            self.finish = "stop"
        elif len(self.tokens) >= self.max_tokens:
            self.finish = "length"

    def begin_again(self) -> None:
        self.tokens, self.logprobs = [], []


@dataclass(slots=True, eq=False)
class Scoring:
    """Options to score after one prompt: log-likelihoods, natural logs, each summed over its option's tokens."""

    prompt: tuple[int, ...]
    options: Sequence[tuple[int, ...]]
    owner: Any = None
    logprobs: list[float] = field(default_factory=list)
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class Branch:
    """Samples that have drawn the same tokens so far, and the columns of those tokens in their row."""

    lane: int
    samples: list[Sample]
    columns: list[int]

    @property
    def tokens(self) -> list[int]:
        return self.samples[0].tokens

    def take(self, drawn: Iterator[tuple[int, float]], end_ids: Set[int]) -> bool:
        """The next token of every sample; whether they no longer are all the same and running."""
        changed = False
        tokens = self.samples[0].tokens
        for sample in self.samples:
            token, logprob = next(drawn)
            sample.take(token, logprob, end_ids)
            changed = changed or token != tokens[-1] or sample.over
        return changed


@dataclass(slots=True, eq=False)
class Group:
    """A prompt in the batch: its row, and the branches of its samples. `unread` of its tokens, the last one aside, are still to be read;
    `n_samples` have ever been in it."""

    prompt: tuple[int, ...]
    row: Row
    unread: int
    branches: list[Branch] = field(default_factory=list)
    n_samples: int = 0

    @property
    def samples(self) -> list[Sample]:
        return [sample for branch in self.branches for sample in branch.samples]

    def join(self, samples: Sequence[Sample]) -> None:
        """Samples that begin: their first input is the prompt's last token, so they may at any time after the rest has been read."""
        self.branches.append(Branch(self.row.take_lane(), list(samples), []))
        self.n_samples += len(samples)

    def part(self, branch: Branch, cache: RowCache) -> None:
        """Samples whose last tokens differ go apart, and those that are over leave."""
        by_token: dict[int, list[Sample]] = {}
        for sample in branch.samples:
            if not sample.over:
                by_token.setdefault(sample.tokens[-1], []).append(sample)
        branch.samples, *others = by_token.values() or [[]]
        for samples in others:
            new = Branch(self.row.take_lane(), samples, list(branch.columns))
            self.row.share(new.columns)
            cache.part_lane(self.row, branch.lane, new.lane)
            self.branches.append(new)
        if not branch.samples:
            self.row.release(branch.columns)
            self.row.lanes.remove(branch.lane)
            self.branches.remove(branch)
