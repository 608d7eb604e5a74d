"""Selectors that cover the pool: every row shall have a kept row near it.

`k_center` (Gonzalez 1985): again and again the row farthest from the kept ones; at most twice the best possible radius. It likes
outliers.
`facility_location` (Krause & Golovin 2014; as in apricot): greedy for f(S) = sum over rows y of max over x in S of similarity(x, y), at
least 1 - 1/e of the best. It likes the middle of crowds. The lazy greedy (Minoux 1978) gives the order of the plain one, ties included.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from curators.selection.config import SelectConfig
from curators.selection.pool import SAME, Pool, Ranking, Vectors, blocks, unit
from curators.statistics.intervals import Floats, Ints

DENSE_ROWS = 8192
"""All similarities are held up to so many rows (256 MB), beyond it those of `neighbours` rows each, and the others are 0."""
CELLS = 1 << 26  # similarities that are compared at once: 256 MB
DIGITS = 9  # of a gain: equal sums in another order of addition are ties
Similarities: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64] | sparse.csr_array


def k_center(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    """Farthest first by Euclidean distance, from the smallest id on. A score is the distance to those kept before."""
    assert pool.vectors is not None
    vectors = np.asarray(pool.vectors, dtype=np.float32)
    squares = np.concatenate([np.square(rows.astype(np.float64)).sum(axis=1) for _, rows in blocks(vectors)])
    rounding = SAME * float(squares.max())

    def distances(place: int) -> Floats:
        squared = squares + squares[place] - 2.0 * (vectors @ vectors[place])
        return np.sqrt(np.where(squared > rounding, squared, 0.0))

    order, found, radius = farthest_first(distances, len(pool), k)
    scores = np.full(len(pool), np.nan)
    scores[order] = found
    return Ranking(order=order, scores=scores, diagnostics={"radius": radius})


def farthest_first(distances: Callable[[int], Floats], n: int, k: int, first: int = 0) -> tuple[Ints, Floats, float]:
    """Places in order, the distance of each to those before (NaN: the first), and the largest distance that is left.

    >>> similar = np.array([[1, 0.8, 0.1, 0.2], [0.8, 1, 0.3, 0.2], [0.1, 0.3, 1, 0.6], [0.2, 0.2, 0.6, 1]])
    >>> order, found, radius = farthest_first(lambda i: 1 - similar[i], 4, 3)
    >>> order.tolist(), found.round(6).tolist(), round(radius, 6)
    ([0, 2, 3], [nan, 0.9, 0.4], 0.2)
    """
    order, found = [first], [np.nan]
    nearest = distances(first).copy()
    nearest[first] = -np.inf
    for _ in range(1, k):
        place = int(np.argmax(nearest))
        order.append(place)
        found.append(float(nearest[place]))
        np.minimum(nearest, distances(place), out=nearest)
        nearest[place] = -np.inf
    return np.array(order, dtype=np.int64), np.array(found), max(0.0, float(nearest.max(initial=0.0)))


def facility_location(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    """Greedy coverage by cosine, negative ones counted as 0. A score is what a row added to the covered similarity when it was kept."""
    assert pool.vectors is not None
    similar = similarities(pool.vectors, config.neighbours)
    order, gains = lazy_greedy(similar, k)
    scores = np.full(len(pool), np.nan)
    scores[order] = gains
    told = {"coverage": float(gains.sum()) / len(pool), "neighbours": None if isinstance(similar, np.ndarray) else config.neighbours}
    return Ranking(order=order, scores=scores, diagnostics=told)


def similarities(vectors: Vectors, neighbours: int, dense_rows: int = DENSE_ROWS) -> Similarities:
    """Row x holds the cosine of x with every y that it can stand for: all, or those that have it among their nearest neighbours."""
    rows = unit(vectors)
    n = len(rows)
    if n <= dense_rows:
        return np.maximum(rows @ rows.T, 0.0)
    cosine, place = nearest_neighbours(rows, min(neighbours, n))
    y = np.repeat(np.arange(n), place.shape[1])
    return sparse.csr_array((np.maximum(cosine, 0.0).ravel(), (place.ravel(), y)), shape=(n, n))


def nearest_neighbours(rows: Vectors, k: int) -> tuple[Vectors, Ints]:
    """Cosines and places of the k rows nearest to every row of length 1, itself included: all compared with all, on a GPU where one is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    every = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
    size = max(1, CELLS // len(rows))
    found = [(every[begin : begin + size] @ every.T).topk(k, sorted=False) for begin in range(0, len(rows), size)]
    values, places = (torch.cat([pair[i] for pair in found]).cpu().numpy() for i in (0, 1))
    return values, places


def lazy_greedy(similar: Similarities, k: int) -> tuple[Ints, Floats]:
    """Places in order with the gain of each. A gain never grows, so that only those at the top of a heap are computed again.

    >>> similar = np.array([[1, 0.8, 0.1, 0.2], [0.8, 1, 0.3, 0.2], [0.1, 0.3, 1, 0.6], [0.2, 0.2, 0.6, 1]])
    >>> order, gains = lazy_greedy(similar, 4)
    >>> order.tolist(), gains.round(6).tolist()
    ([1, 2, 3, 0], [2.3, 1.1, 0.4, 0.2])
    """
    n = similar.shape[0]
    covered = np.zeros(n)
    gain = _gains_of(similar, covered)
    heap = [(-gain(place), place, 0) for place in range(n)]
    heapq.heapify(heap)
    order: list[int] = []
    gains: list[float] = []
    while len(order) < min(k, n):
        _, place, computed = heapq.heappop(heap)
        found = gain(place)
        if computed < len(order) and heap and (-found, place) > heap[0][:2]:
            heapq.heappush(heap, (-found, place, len(order)))
            continue
        order.append(place)
        gains.append(found)
        _cover(similar, covered, place)
    return np.array(order, dtype=np.int64), np.array(gains)


def _gains_of(similar: Similarities, covered: Floats) -> Callable[[int], float]:
    if isinstance(similar, np.ndarray):
        return lambda place: round(float(np.maximum(similar[place] - covered, 0.0).sum()), DIGITS)
    starts, columns, values = similar.indptr, similar.indices, similar.data

    def gain(place: int) -> float:
        own = slice(starts[place], starts[place + 1])
        return round(float(np.maximum(values[own] - covered[columns[own]], 0.0).sum()), DIGITS)

    return gain


def _cover(similar: Similarities, covered: Floats, place: int) -> None:
    if isinstance(similar, np.ndarray):
        np.maximum(covered, similar[place], out=covered)
        return
    own = slice(similar.indptr[place], similar.indptr[place + 1])
    columns = similar.indices[own]
    covered[columns] = np.maximum(covered[columns], similar.data[own])
