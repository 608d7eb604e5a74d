"""What a selector is given and what it gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curators.pairs import unit_hash
from curators.statistics.intervals import Floats, Ints

Vectors = npt.NDArray[np.float32]
BLOCK = 16_384
"""Rows that are worked on at once, where all at once would take too much memory."""
SAME = 1e-6  # of the largest value: differences below it are rounding of 32 bits


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Usable rows, sorted by id: a place is an id's rank, so that ties go to the smaller place and the order of rows does not matter.

    `vectors` is rows × dimensions, `scores` one number a row; null where the selector does not ask for them.
    """

    ids: pl.Series
    vectors: Vectors | None = None
    scores: Floats | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def draws(self, *purpose: object) -> Floats:
        """A number in [0, 1) a row, from its id and the purpose alone."""
        return np.array([unit_hash(*purpose, each) for each in self.ids], dtype=np.float64)

    def take(self, places: Ints) -> Pool:
        """The rows at those places, which must ascend."""
        vectors = None if self.vectors is None else self.vectors[places]
        return Pool(ids=self.ids[places], vectors=vectors, scores=None if self.scores is None else self.scores[places])


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Places in the order of selection, at most the budget; `scores` one a row of the pool, NaN where the selector gives none.

    `dropped` names the places that were turned down for another reason than the budget. With `degenerate`, the order is that of ids (or
    scores), because the selector had nothing to go by, for that reason.
    """

    order: Ints
    scores: Floats
    dropped: Mapping[str, Ints] = field(default_factory=dict)
    degenerate: str | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)


def ranked(scores: Floats, k: int, *, keys: Floats | None = None, **rest: Any) -> Ranking:
    """The `k` largest scores, ties by place; with `keys` the smallest keys, while `scores` are what is reported."""
    order = np.argsort(-scores if keys is None else keys, kind="stable")[:k]
    return Ranking(order=order.astype(np.int64), scores=scores, **rest)


def blocks(vectors: Vectors, size: int = BLOCK) -> Iterator[tuple[slice, Vectors]]:
    """The rows, so many at once: a memory-mapped file is never read whole."""
    for begin in range(0, len(vectors), size):
        yield slice(begin, begin + size), vectors[begin : begin + size]


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays one, and is like nothing.

    >>> unit(np.array([[3, 4], [0, 0]], dtype=np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    out = np.empty(vectors.shape, dtype=np.float32)
    for place, rows in blocks(vectors):
        wide = rows.astype(np.float64)
        length = np.linalg.norm(wide, axis=1, keepdims=True)
        out[place] = wide / np.where(length > 0, length, 1)
    return out


def finite_rows(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which rows hold nothing but finite numbers."""
    return np.concatenate([np.zeros(0, dtype=bool), *(np.isfinite(rows).all(axis=1) for _, rows in blocks(vectors))])


def all_the_same(vectors: Vectors) -> bool:
    """Whether no row differs from the first by more than rounding."""
    first = vectors[0]
    bound = SAME * float(np.abs(first).max(initial=0.0))
    return all(float(np.abs(rows - first).max(initial=0.0)) <= bound for _, rows in blocks(vectors))
