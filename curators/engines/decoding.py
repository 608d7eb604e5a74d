"""The batcher: prompts in, samples and option log-likelihoods out, one forward pass at a time.

Samples of one prompt share a row (`rows`), and are one branch of it for as long as they are the same (`groups`); requests for the same
prompt that wait at the same time are merged. Each pass carries the newest token of every branch and, in the room that finished samples
have left, the prompts of the next ones: nothing waits for a batch to end. What was read before, for another prompt or as a sample, is
copied and not read again (`prefixes`).

Memory, that of kept prefixes included, is bounded by `cache_bytes`; the batch goes first. Where lengths were underestimated, the youngest
prompts are put back and started again later, which gives the same tokens because noise belongs to the sample (`draws`). Knows token
ids only: no text, no requests, no threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curators.engines.attention import RowPass, Segment
from curators.engines.draws import draw
from curators.engines.groups import Branch, Group, Sample, Scoring
from curators.engines.prefixes import PrefixCache, States
from curators.engines.rows import Row, RowCache

LANES = 4
"""Samples of one prompt that share a row; more samples take more rows."""

LEARNING_RATE = 1 / 32
"""How much one group counts in what is expected of the next."""

EXPECTED_TOKENS = 128
"""How long a sample is taken to become when rows are admitted; a longer one may push the youngest rows out."""


class Decoder:
    """Runs samples and scorings over one model, about `LANES * max_rows` different samples at a time: `max_rows` prompts or more, where
    samples are the same for long."""

    def __init__(
        self, model: Any, *, end_ids: Set[int], max_rows: int = 64, cache_bytes: int = 1 << 30, prefill_tokens: int = 2048
    ) -> None:
        self.model, self.end_ids = model, end_ids
        self.max_samples, self.prefill_tokens, self.cache_bytes = LANES * max_rows, prefill_tokens, cache_bytes
        self.cache = RowCache(lanes=LANES, device=model.device, dtype=model.dtype)
        self._forward([0], [0], [0], RowPass(self.cache, segments=[Segment(0, 1)]))  # shows what its layers keep of a token
        self.prefixes = PrefixCache(cell_bytes=self.cache.cell_bytes, max_bytes=cache_bytes)
        self._groups: list[Group] = []
        self._pending: dict[tuple[int, ...], deque[Sample]] = {}
        self._scorings: deque[Scoring] = deque()
        self._n_running = 0
        self._apart = 1.0  # the share of samples that get a lane of their own, as groups have shown it
        self.n_waiting = 0

    @property
    def idle(self) -> bool:
        return not (self._groups or self._pending or self._scorings)

    @property
    def max_cells(self) -> int:
        """Token places in the cache."""
        return self.cache_bytes // max(1, self.cache.cell_bytes)

    def submit(self, work: Sample | Scoring) -> None:
        """Queue a sample or a scoring. Its prompt must have at least one token and leave room in the model's context."""
        self.n_waiting += 1
        if isinstance(work, Scoring):
            self._scorings.append(work)
        else:
            self._pending.setdefault(work.prompt, deque()).append(work)

    def step(self) -> list[Sample | Scoring]:
        """One forward pass; returns what it finished. Cancelled work leaves without being returned."""
        columns = self._put_back_what_no_longer_fits()
        scorings = self._next_scorings()
        self._admit(self.prefill_tokens - sum(len(s.prompt) for s in scorings), columns)
        reading = [group for group in self._groups if group.unread]
        running = [(group, branch) for group in self._groups if not group.unread for branch in group.branches]
        steps = [(group.row, branch.lane, _place(group.row, branch)) for group, branch in running]
        segments, ids, positions, kept = self._layout(running, reading, scorings)
        if not ids:
            return []
        logits = self._forward(ids, positions, kept, RowPass(self.cache, steps=steps, segments=segments))
        self._keep_prompts(reading, scorings, segments)
        _score(scorings, logits[len(running) :])
        finished = self._extend(running, logits[: len(running)]) if running else []
        if self.idle:
            self.cache.clear()
            self.prefixes.limit(self.cache_bytes)
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

    def _admit(self, n_tokens: int, columns: int) -> None:
        """New groups beside rows of so many columns, until about `n_tokens` are to be read; their rows begin with what is kept of their
        prompts."""
        admitted: list[tuple[Group, list[tuple[States, int]]]] = []
        reading: set[tuple[int, ...]] = set()  # what is read in this pass is there for others in the next one
        lanes = max(sum(len(group.row.lanes) for group in self._groups), self._apart * self._n_running)
        while n_tokens > 0 and (samples := self._next_samples(reading, columns, lanes)):
            prompt = samples[0].prompt
            n_kept, pieces = self.prefixes.match(prompt[:-1])
            group = Group(prompt, Row(-1, len(prompt) - 1), len(prompt) - 1 - n_kept)
            group.join(samples)
            if group.unread:
                reading.add(prompt)
                n_tokens -= group.unread
            columns, lanes = max(columns, len(prompt)), lanes + self._apart * len(samples)
            self._groups.append(group)
            admitted.append((group, pieces))
        self._settle(columns)
        if admitted:
            self.cache.open([group.row for group, _ in admitted])
        for group, pieces in admitted:
            self.cache.load(group.row, pieces)

    def _next_samples(self, reading: Set[tuple[int, ...]], columns: int, lanes: float) -> list[Sample]:
        """Up to `LANES` waiting samples of one prompt that is not being read, if there is room beside that many columns and lanes."""
        while (prompt := next((prompt for prompt in self._pending if prompt not in reading), None)) is not None:
            waiting = self._pending[prompt]
            while waiting and waiting[0].cancelled:
                waiting.popleft()
                self.n_waiting -= 1
            if waiting:
                break
            del self._pending[prompt]
        else:
            return []
        longest = max(sample.max_tokens for sample in list(waiting)[:LANES])
        take = min(len(waiting), LANES, max(1, (self.max_cells - len(prompt)) // longest))
        if self._groups:
            columns = max(columns, len(prompt) + take * min(longest, EXPECTED_TOKENS))
            if lanes + take * self._apart > self.max_samples or (len(self._groups) + 1) * columns > self.max_cells:
                return []
        return self._take(prompt, take)

    def _take(self, prompt: tuple[int, ...], n: int) -> list[Sample]:
        waiting = self._pending[prompt]
        samples = [waiting.popleft() for _ in range(n)]
        if not waiting:
            del self._pending[prompt]
        self.n_waiting -= n
        self._n_running += n
        return samples

    def _settle(self, columns: int) -> None:
        """Groups get the first rows, so that attention reads no dead one, with so many columns."""
        n_rows = len(self._groups)
        taken = {group.row.index for group in self._groups}
        free = [i for i in range(n_rows) if i not in taken]
        for group in self._groups:
            if group.row.index >= n_rows:
                self.cache.move(group.row, free.pop())
        self.cache.reserve(n_rows, columns, max_cells=self.max_cells)
        self.prefixes.limit(max(0, self.cache_bytes - self.cache.n_bytes))
        for group in self._groups:
            if group.row.index < 0:
                group.row.index = free.pop()

    def _put_back_what_no_longer_fits(self) -> int:
        """Where memory does not allow one more token of every lane, the youngest groups go back to the queue; returns the columns that
        the others need."""
        while True:
            columns = max((group.row.columns_after_step() for group in self._groups), default=0)
            if len(self._groups) <= 1 or len(self._groups) * columns <= self.max_cells:
                return columns
            self._put_back(self._groups.pop())

    def _put_back(self, group: Group) -> None:
        samples = group.samples
        for sample in samples:
            sample.begin_again()
        self._pending = {group.prompt: deque([*samples, *self._pending.pop(group.prompt, ())]), **self._pending}
        self.n_waiting += len(samples)
        self._n_running -= len(samples)

    def _layout(
        self, running: list[tuple[Group, Branch]], reading: list[Group], scorings: list[Scoring]
    ) -> tuple[list[Segment], list[int], list[int], list[int]]:
        """The pass as flat lists: segments, token ids, positions, and the places whose logits are wanted (branches first)."""
        ids = [branch.tokens[-1] if branch.tokens else group.prompt[-1] for group, branch in running]
        positions = [len(group.prompt) - 1 + len(branch.tokens) for group, branch in running]
        kept = list(range(len(running)))
        segments = []
        for group in reading:
            end = len(group.prompt) - 1
            segments.append(Segment(len(ids), group.unread, end - group.unread, group.row))
            ids += group.prompt[end - group.unread : end]
            positions += range(end - group.unread, end)
        for scoring in scorings:
            n = len(scoring.prompt)
            cached, pieces = self.prefixes.match(scoring.prompt[:-1])
            branches = tuple(len(option) - 1 for option in scoring.options)
            segments.append(Segment(len(ids), n - cached, cached, past=_joined(pieces), branches=branches))
            ids += scoring.prompt[cached:]
            positions += range(cached, n)
            kept.append(len(ids) - 1)
            for option in scoring.options:
                kept += range(len(ids), len(ids) + len(option) - 1)
                ids += option[:-1]
                positions += range(n, n + len(option) - 1)
        return segments, ids, positions, kept

    def _forward(self, ids: list[int], positions: list[int], kept: list[int], row_pass: RowPass) -> Tensor:
        """The model over one flat list of tokens; logits [len(kept), vocabulary] in float32."""
        tokens, places, rows = (torch.tensor(values, device=self.cache.device) for values in (ids, positions, kept or [0]))
        logits: Tensor = self.model(
            input_ids=tokens[None], position_ids=places[None], use_cache=False, logits_to_keep=rows, row_pass=row_pass
        ).logits[0]
        return logits[: len(kept)].float()

    def _keep_prompts(self, reading: list[Group], scorings: list[Scoring], segments: list[Segment]) -> None:
        """What was read in this pass is there for the next ones."""
        for group in reading:
            group.unread = 0
            self._keep(group, (), ())
        for scoring, segment in zip(scorings, segments[len(reading) :], strict=True):
            self.prefixes.insert(scoring.prompt, partial(self._read, segment))

    def _read(self, segment: Segment, n: int) -> States | None:
        """What the segment read, without its prompt's first `n` tokens; null where it has not read all of that."""
        return self.cache.joined(segment.read, n - segment.cached) if n >= segment.cached else None

    def _keep(self, group: Group, tokens: Sequence[int], columns: Sequence[int]) -> None:
        ids = (*group.prompt[:-1], *group.prompt[-1:] * bool(columns), *tokens)
        places = [*range(group.row.prefix), *columns]
        self.prefixes.insert(ids, lambda n: self.cache.states(group.row, places[n:]))

    def _extend(self, running: list[tuple[Group, Branch]], logits: Tensor) -> list[Sample]:
        """The next token of every sample; returns those that are finished."""
        samples = [sample for _, branch in running for sample in branch.samples]
        tokens, logprobs = draw(
            logits,
            rows=np.repeat(np.arange(len(running)), [len(branch.samples) for _, branch in running]),
            keys=np.array([sample.key for sample in samples], dtype=np.uint64),
            positions=np.array([len(sample.tokens) for sample in samples], dtype=np.uint64),
            temperatures=np.array([sample.temperature for sample in samples], dtype=np.float32),
            top_ps=np.array([sample.top_p for sample in samples], dtype=np.float32),
        )
        drawn = zip(tokens, logprobs, strict=True)
        for group, branch in running:
            if branch.take(drawn, self.end_ids):
                self._go_on(group, branch)
        for group in self._groups:
            if not group.branches:
                self._apart += (group.row.most_lanes / min(LANES, group.n_samples) - self._apart) * LEARNING_RATE
        self._groups = [group for group in self._groups if group.branches]
        return [sample for sample in samples if sample.finish and not sample.cancelled]

    def _go_on(self, group: Group, branch: Branch) -> None:
        """Samples that differ part; those that are over leave, and waiting ones of the same prompt take their places.

        What they read is kept where text may go on from there: not after the model's own end.
        """
        over = [sample for sample in branch.samples if sample.over]
        if any(sample.tokens[-1] not in self.end_ids for sample in over):
            self._keep(group, over[0].tokens[:-1], branch.columns)
        group.part(branch, self.cache)
        self._n_running -= len(over)
        if over and (waiting := self._pending.get(group.prompt)):
            group.join(self._take(group.prompt, min(len(over), len(waiting))))
            self.cache.restart_lane(group.row, group.branches[-1].lane)


def _place(row: Row, branch: Branch) -> int:
    column = row.take_column()
    branch.columns.append(column)
    return column


def _joined(pieces: Sequence[tuple[States, int]]) -> States:
    """Pieces of states in order, as one; of each as many tokens as its number says."""
    parts = [[state[:, :, :n] for state in states] for states, n in pieces]
    return tuple(torch.cat(states, 2) for states in zip(*parts, strict=True))


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
