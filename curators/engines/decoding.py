"""The batcher: prompts in, samples and option log-likelihoods out, one forward pass at a time.

Samples of one prompt share a row (`rows`); requests for the same prompt that wait at the same time are merged. Each pass carries the newest
token of every running sample and, in the room that finished samples have left, the prompts of the next ones: nothing waits for a batch to
end. A prompt is read up to its last token but one; that last token is every sample's first input, so a sample may start at any time in
a row whose prompt has been read.

Memory is bounded by `cache_bytes`. Where lengths were underestimated, the youngest prompts are put back and started again later, which
gives the same tokens because noise belongs to the sample (`draws`). Knows token ids only: no text, no requests, no threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from curators.engines.draws import draw
from curators.engines.rows import Row, RowCache, RowPass, Segment

LANES = 4
"""Samples of one prompt that share a row; more samples take more rows, whose prefix is copied."""

EXPECTED_TOKENS = 128
"""How long a sample is taken to become when rows are admitted; a longer one may push the youngest rows out."""


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
    lane: int = -1
    columns: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Scoring:
    """Options to score after one prompt: log-likelihoods, natural logs, each summed over its option's tokens."""

    prompt: tuple[int, ...]
    options: Sequence[tuple[int, ...]]
    owner: Any = None
    logprobs: list[float] = field(default_factory=list)
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Group:
    """A prompt in the batch: its row and the samples in its lanes."""

    prompt: tuple[int, ...]
    row: Row
    samples: list[Sample | None]


class Decoder:
    """Runs samples and scorings over one model. `max_rows` prompts at a time, at most `LANES * max_rows` samples."""

    def __init__(
        self, model: Any, *, end_ids: Set[int], max_rows: int = 64, cache_bytes: int = 1 << 30, prefill_tokens: int = 2048
    ) -> None:
        self.model, self.end_ids = model, end_ids
        self.max_samples, self.prefill_tokens, self.cache_bytes = LANES * max_rows, prefill_tokens, cache_bytes
        self.cache = RowCache(lanes=LANES, device=model.device, dtype=model.dtype)
        self._groups: list[_Group] = []
        self._by_prompt: dict[tuple[int, ...], _Group] = {}
        self._pending: dict[tuple[int, ...], deque[Sample]] = {}
        self._scorings: deque[Scoring] = deque()
        self._n_running = 0
        self.n_waiting = 0

    @property
    def idle(self) -> bool:
        return not (self._groups or self._pending or self._scorings)

    @property
    def max_cells(self) -> int:
        """Token places in the cache; before the model has run once its cell size is not known, and few are used."""
        return self.cache_bytes // self.cache.cell_bytes if self.cache.cell_bytes else 4096

    def submit(self, work: Sample | Scoring) -> None:
        """Queue a sample or a scoring. Its prompt must have at least one token and leave room in the model's context."""
        self.n_waiting += 1
        if isinstance(work, Scoring):
            self._scorings.append(work)
        else:
            self._pending.setdefault(work.prompt, deque()).append(work)

    def step(self) -> list[Sample | Scoring]:
        """One forward pass; returns what it finished. Cancelled work leaves without being returned."""
        self._put_back_what_no_longer_fits()
        scorings = self._next_scorings()
        admitted = self._admit(self.prefill_tokens - sum(len(s.prompt) for s in scorings))
        self._settle()
        running = [(group, sample) for group in self._groups if group not in admitted for sample in group.samples if sample]
        steps = [(group.row, sample.lane, _place(group.row, sample)) for group, sample in running]
        segments, ids, positions, kept = _layout([sample for _, sample in running], admitted, scorings)
        if not ids:
            return []
        logits = self._forward(ids, positions, kept, RowPass(self.cache, steps=steps, segments=segments))
        for group, source in admitted.items():
            if source is not None:
                self.cache.copy_prefix(source.row, group.row, len(group.prompt) - 1)
        _score(scorings, logits[len(running) :])
        finished = self._extend(running, logits[: len(running)]) if running else []
        if self.idle:
            self.cache.clear()
        return [*finished, *scorings]

    def _next_scorings(self) -> list[Scoring]:
        """As many as one pass shall read."""
        scorings: list[Scoring] = []
        n_tokens = 0
        while self._scorings and n_tokens < self.prefill_tokens:
            scoring = self._scorings.popleft()
            self.n_waiting -= 1
            if not scoring.cancelled:
                scorings.append(scoring)
                n_tokens += len(scoring.prompt) + sum(map(len, scoring.options))
        return scorings

    def _admit(self, n_tokens: int) -> dict[_Group, _Group | None]:
        """New groups, each with the group whose prefix it copies or null: until about `n_tokens` are to be read."""
        admitted: dict[_Group, _Group | None] = {}
        taken = {group.row.index for group in self._groups}
        while n_tokens > 0 and (samples := self._next_samples()):
            prompt = samples[0].prompt
            row = Row(next(i for i in range(len(taken) + 1) if i not in taken), len(prompt) - 1, running=len(samples))
            taken.add(row.index)
            for lane, sample in enumerate(samples):
                sample.lane = lane
            group = _Group(prompt, row, [*samples, *[None] * (LANES - len(samples))])
            source = self._by_prompt.setdefault(prompt, group)
            admitted[group] = None if source is group else source
            n_tokens -= len(prompt) if source is group else 0
            self._groups.append(group)
            self.cache.reserve(row.index + 1, row.columns_after_step(), max_cells=self.max_cells)
            self.cache.open(row)
        return admitted

    def _next_samples(self) -> list[Sample]:
        """Up to `LANES` waiting samples of one prompt, if there is room for them now."""
        self._drop_cancelled()
        if not self._pending:
            return []
        prompt, waiting = next(iter(self._pending.items()))
        longest = max(sample.max_tokens for sample in list(waiting)[:LANES])
        take = min(len(waiting), LANES, max(1, (self.max_cells - len(prompt)) // longest))
        if self._groups:
            columns = max(len(prompt) + take * min(longest, EXPECTED_TOKENS), *(group.row.columns_after_step() for group in self._groups))
            if self._n_running + take > self.max_samples or (len(self._groups) + 1) * columns > self.max_cells:
                return []
        return self._take(prompt, take)

    def _drop_cancelled(self) -> None:
        """Cancelled samples at the head of the queue leave it; later ones leave when they are reached."""
        while self._pending:
            prompt, waiting = next(iter(self._pending.items()))
            while waiting and waiting[0].cancelled:
                waiting.popleft()
                self.n_waiting -= 1
            if waiting:
                return
            del self._pending[prompt]

    def _take(self, prompt: tuple[int, ...], n: int) -> list[Sample]:
        waiting = self._pending[prompt]
        samples = [waiting.popleft() for _ in range(n)]
        if not waiting:
            del self._pending[prompt]
        self.n_waiting -= n
        self._n_running += n
        return samples

    def _settle(self) -> None:
        """The rows in use become the first ones, so that attention reads no dead row, and get columns for one more token of every lane."""
        taken = {group.row.index for group in self._groups}
        gaps = [i for i in range(len(self._groups)) if i not in taken]
        for group in self._groups:
            if group.row.index >= len(self._groups):
                self.cache.move(group.row, gaps.pop())
        columns = max((group.row.columns_after_step() for group in self._groups), default=0)
        self.cache.reserve(len(self._groups), columns, max_cells=self.max_cells)

    def _put_back_what_no_longer_fits(self) -> None:
        """Where memory does not allow one more token of every lane, the youngest groups go back to the queue."""
        while len(self._groups) > 1:
            columns = max(group.row.columns_after_step() for group in self._groups)
            if len(self._groups) * columns <= self.max_cells:
                return
            self._put_back(self._groups[-1])

    def _put_back(self, group: _Group) -> None:
        samples = [sample for sample in group.samples if sample]
        for sample in samples:
            sample.tokens, sample.logprobs, sample.columns = [], [], []
        self._pending = {group.prompt: deque([*samples, *self._pending.pop(group.prompt, ())]), **self._pending}
        self.n_waiting += len(samples)
        self._n_running -= len(samples)
        self._close(group)

    def _close(self, group: _Group) -> None:
        self._groups.remove(group)
        if self._by_prompt.get(group.prompt) is group:
            del self._by_prompt[group.prompt]

    def _forward(self, ids: list[int], positions: list[int], kept: list[int], row_pass: RowPass) -> Tensor:
        """The model over one flat list of tokens; logits [len(kept), vocabulary] in float32."""
        tokens, places, rows = (torch.tensor(values, device=self.cache.device) for values in (ids, positions, kept or [0]))
        logits: Tensor = self.model(
            input_ids=tokens[None], position_ids=places[None], use_cache=False, logits_to_keep=rows, row_pass=row_pass
        ).logits[0]
        return logits[: len(kept)].float()

    def _extend(self, running: list[tuple[_Group, Sample]], logits: Tensor) -> list[Sample]:
        samples = [sample for _, sample in running]
        tokens, logprobs = draw(
            logits,
            keys=np.array([sample.key for sample in samples], dtype=np.uint64),
            positions=np.array([len(sample.tokens) for sample in samples], dtype=np.uint64),
            temperatures=np.array([sample.temperature for sample in samples], dtype=np.float32),
            top_ps=np.array([sample.top_p for sample in samples], dtype=np.float32),
        )
        finished = []
        for (group, sample), token, logprob in zip(running, tokens, logprobs, strict=True):
            sample.tokens.append(token)
            sample.logprobs.append(logprob)
            if token in self.end_ids or (sample.stops and token in sample.stops.suspects and sample.stops.complete(sample.tokens)):
                sample.finish = "stop"
            elif len(sample.tokens) >= sample.max_tokens:
                sample.finish = "length"
            if sample.finish or sample.cancelled:
                self._leave(group, sample)
                if not sample.cancelled:
                    finished.append(sample)
        return finished

    def _leave(self, group: _Group, sample: Sample) -> None:
        """The sample's columns are free; its lane goes to the next sample of the same prompt, if one waits."""
        group.row.spare.extend(sample.columns)
        self._n_running -= 1
        heirs = self._take(group.prompt, 1) if group.prompt in self._pending else []
        group.samples[sample.lane] = heirs[0] if heirs else None
        if heirs:
            heirs[0].lane = sample.lane
            self.cache.restart_lane(group.row, sample.lane, len(group.prompt) - 1)
            return
        group.row.running -= 1
        if not group.row.running:
            self._close(group)


def _place(row: Row, sample: Sample) -> int:
    column = row.take_column()
    sample.columns.append(column)
    return column


def _layout(
    running: list[Sample], admitted: dict[_Group, _Group | None], scorings: list[Scoring]
) -> tuple[list[Segment], list[int], list[int], list[int]]:
    """The pass as flat lists: segments, token ids, positions, and the places whose logits are wanted (running samples first)."""
    ids = [sample.tokens[-1] if sample.tokens else sample.prompt[-1] for sample in running]
    positions = [len(sample.prompt) - 1 + len(sample.tokens) for sample in running]
    kept = list(range(len(running)))
    segments = []
    for group, source in admitted.items():
        if source is None and len(group.prompt) > 1:
            segments.append(Segment(len(ids), len(group.prompt) - 1, group.row))
            ids += group.prompt[:-1]
            positions += range(len(group.prompt) - 1)
    for scoring in scorings:
        n = len(scoring.prompt)
        segments.append(Segment(len(ids), n, branches=tuple(len(option) - 1 for option in scoring.options)))
        kept.append(len(ids) + n - 1)
        ids += scoring.prompt
        positions += range(n)
        for option in scoring.options:
            kept += range(len(ids), len(ids) + len(option) - 1)
            ids += option[:-1]
            positions += range(n, n + len(option) - 1)
    return segments, ids, positions, kept


def _score(scorings: list[Scoring], logits: Tensor) -> None:
    """Fill in the log-likelihoods: an option's first token is read after the prompt, each later one after the token before it."""
    begin = 0
    for scoring in scorings:
        after = begin + 1
        for option in scoring.options:
            rows = [begin, *range(after, after + len(option) - 1)]
            after += len(option) - 1
            own = logits[rows].log_softmax(-1).gather(1, torch.tensor(option, device=logits.device)[:, None])
            scoring.logprobs.append(float(own.double().sum()))
        begin = after
