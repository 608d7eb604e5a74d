"""Log-determinant selection: the greedy maximum of log det of the kept rows' kernel, which is the entropy of a Gaussian with that kernel.

The most probable set of a determinantal point process is sought by the same greedy (Chen et al. 2018, arXiv 1709.05135). The kernel is
linear, K_ij = q_i cos(i, j) q_j + ridge [i = j], so that what a row still adds is kept up in the space of the embeddings (rows × dimensions
a step) and not over pairs of rows; the gains are the same. Without a ridge no more rows than dimensions add anything.
"""

from __future__ import annotations

import numpy as np

from curators.selection.config import SelectConfig
from curators.selection.pool import Pool, Ranking, unit
from curators.statistics.intervals import Floats, Ints

NOTHING = 1e-10  # a gain below it is rounding


def log_det(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    """Greedy by conditional variance. A score is that variance when the row was kept; rows that would add none are `adds_nothing`."""
    assert pool.vectors is not None
    features = unit(pool.vectors).astype(np.float64)
    if pool.scores is not None:
        # The highest score is 1: a common factor of all weights changes no order, and exp must not overflow.
        features *= np.exp(config.quality * (pool.scores - pool.scores.max()))[:, None]
    order, gains = greedy_map(features, k, ridge=config.ridge)
    scores = np.full(len(pool), np.nan)
    scores[order] = gains
    rest = np.setdiff1d(np.arange(len(pool)), order)
    dropped = {"adds_nothing": rest} if len(order) < k else {}
    return Ranking(order=order, scores=scores, dropped=dropped, diagnostics={"log_det": float(np.log(gains).sum())})


def greedy_map(features: Floats, k: int, *, ridge: float = 0.0) -> tuple[Ints, Floats]:
    """Places in order with the gain of each, for the kernel `features @ features.T + ridge * I`; it ends where nothing is gained.

    The product of the gains is the determinant of the kept rows' kernel.

    >>> order, gains = greedy_map(np.array([[2.0, 0], [1, 0], [1, 1]]), 3)
    >>> order.tolist(), gains.tolist()
    ([0, 2], [4.0, 1.0])
    """
    left = np.eye(features.shape[1])  # what of each direction the kept rows leave open
    gain = np.square(features).sum(axis=1) + ridge
    order: list[int] = []
    gains: list[float] = []
    for _ in range(min(k, len(features))):
        place = int(np.argmax(gain))
        if gain[place] < NOTHING:
            break
        order.append(place)
        gains.append(float(gain[place]))
        taken = left @ features[place] / np.sqrt(gain[place])
        left -= np.outer(taken, taken)
        gain -= np.square(features @ taken)
        gain[place] = -np.inf
    return np.array(order, dtype=np.int64), np.array(gains)
