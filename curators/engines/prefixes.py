"""Keys and values of token sequences that were read before, for the next prompt that begins with the same tokens.

A radix tree over token ids, as in SGLang (Zheng et al. 2024, RadixAttention): a run holds the tokens that no other run holds at their
place, and hangs on the run that it goes on from, wherever inside that the two part. Nothing is cut when a sequence parts inside a run.
What was used longest ago goes first, and nothing goes before what hangs on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

States = tuple[Tensor, ...]
"""Keys and values of some tokens in all layers: one tensor [buffers, heads, tokens, dim] for each shape that the model has."""

RUN_BYTES = 2048
"""What a run takes beside its keys and values: Python objects and tensor heads."""


@dataclass(slots=True, eq=False)
class Run:
    """Tokens in a row. `place` is where it hangs: how many of the parent's tokens come before it, and its own first token."""

    parent: Run | None
    place: tuple[int, int]
    ids: tuple[int, ...]
    states: States
    branches: dict[tuple[int, int], Run] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        return RUN_BYTES + sum(state.numel() * state.element_size() for state in self.states)


class PrefixCache:
    """Keys and values by the tokens that they were made of, in at most `max_bytes`; `n_bytes` are in use."""

    def __init__(self, *, cell_bytes: int, max_bytes: int) -> None:
        self.cell_bytes, self.max_bytes, self.n_bytes = cell_bytes, max_bytes, 0
        self._root = Run(None, (0, 0), (), ())
        self._runs: OrderedDict[Run, None] = OrderedDict()  # longest unused first; a run always comes before its parent

    def __len__(self) -> int:
        """The number of tokens that are kept."""
        return sum(len(run.ids) for run in self._runs)

    def match(self, ids: Sequence[int]) -> tuple[int, list[tuple[States, int]]]:
        """How many of the first ids are kept, and where: states in order, each with how many of its tokens are meant."""
        n, path = self._walk(tuple(ids))
        self._touch(path)
        return n, [(run.states, used) for run, used in path]

    def insert(self, ids: Sequence[int], states_from: Callable[[int], States | None]) -> None:
        """Keep what is not kept yet: `states_from(n)` gives the states of all ids but the first `n`; null where it cannot."""
        ids = tuple(ids)
        n, path = self._walk(ids)
        n_bytes = RUN_BYTES + (len(ids) - n) * self.cell_bytes
        if n == len(ids) or n_bytes > self.max_bytes or (states := states_from(n)) is None:
            self._touch(path)
            return
        parent, used = path[-1] if path else (self._root, 0)
        run = Run(parent, (used, ids[n]), ids[n:], states)
        parent.branches[run.place] = run
        self.n_bytes += run.n_bytes
        self._touch([*path, (run, len(run.ids))])
        self.limit(self.max_bytes)

    def limit(self, max_bytes: int) -> None:
        """From now on no more than that many bytes."""
        self.max_bytes = max_bytes
        while self.n_bytes > max_bytes:
            run, _ = self._runs.popitem(last=False)
            if run.parent is not None:
                del run.parent.branches[run.place]
            self.n_bytes -= run.n_bytes

    def _walk(self, ids: tuple[int, ...]) -> tuple[int, list[tuple[Run, int]]]:
        run, used, n = self._root, 0, 0
        path = []
        while n < len(ids) and (branch := run.branches.get((used, ids[n]))) is not None:
            run, own = branch, ids[n : n + len(branch.ids)]
            used = len(own) if own == run.ids else _common(run.ids, own)
            n += used
            path.append((run, used))
        return n, path

    def _touch(self, path: Sequence[tuple[Run, int]]) -> None:
        for run, _ in reversed(path):
            self._runs[run] = None
            self._runs.move_to_end(run)


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many of their first entries are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
