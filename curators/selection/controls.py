"""Selectors that look at nothing, at density only, or at a score only: what the others must beat.

`density` (Sachdeva et al. 2024, arXiv 2402.09668) draws rows in inverse proportion to how crowded their place is. Crowding is counted, not
fitted: each of several random projections cuts space into slices of one width, and a row's density is the mean share of rows in its slice.
"""

from __future__ import annotations

import numpy as np

from curators.selection.config import Direction, SelectConfig
from curators.selection.pool import Pool, Ranking, Vectors, blocks, ranked
from curators.statistics.intervals import Floats

PROJECTIONS = 64
BUCKETS = 20_000
SLICES = 8  # of one standard deviation of the data along a projection; the paper tunes the width


def random(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    """The smallest hashes of id and seed: the control that belongs beside every selector. A score is the hash."""
    draws = pool.draws("random", config.seed)
    return ranked(draws, k, keys=draws)


def density(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    """Rows drawn without replacement with weight 1 / density, from the hash of id and seed. A score is the weight over the mean weight."""
    assert pool.vectors is not None
    weights = 1.0 / slice_density(pool.vectors, config.seed)
    weights /= weights.mean()
    # Exponential clocks of rate `weight`: the first k to ring are a weighted draw (Efraimidis & Spirakis 2006).
    clocks = -np.log1p(-pool.draws("density", config.seed)) / weights
    return ranked(weights, k, keys=clocks)


def slice_density(vectors: Vectors, seed: int) -> Floats:
    """The mean over projections of the share of rows in a row's slice, in (0, 1]."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((vectors.shape[1], PROJECTIONS)).astype(np.float32)
    along = np.concatenate([rows @ directions for _, rows in blocks(vectors)]).astype(np.float64)
    width = along.std(axis=0) / SLICES
    slices = np.floor(along / np.where(width > 0, width, 1) + rng.random(PROJECTIONS)).astype(np.int64) % BUCKETS
    shares = np.zeros(len(vectors))
    for column in slices.T:
        shares += np.bincount(column, minlength=BUCKETS)[column] / len(vectors)
    return np.asarray(shares / PROJECTIONS)


def by_score(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    """The scores' `largest`, `smallest` or `middle` (nearest the median rank), as the configuration says; published rules disagree."""
    assert pool.scores is not None
    assert config.direction is not None
    return ranked(pool.scores, k, keys=direction_keys(pool.scores, config.direction))


def direction_keys(scores: Floats, direction: Direction) -> Floats:
    """Numbers that ascend in the order of selection. Equal scores have equal keys.

    >>> direction_keys(np.array([1.0, 5, 2, 9, 3]), "middle").tolist()
    [2.0, 1.0, 1.0, 2.0, 0.0]
    """
    if direction != "middle":
        return scores if direction == "smallest" else -scores
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(sizes) - (sizes + 1) / 2.0
    return np.asarray(np.abs(mean_rank[group] - (len(scores) - 1) / 2.0))
