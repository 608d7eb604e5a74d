"""DEITA (arXiv 2312.15685): the best by score first, and no row that is too similar to one that is kept already.

The sequential definition: a row is compared with kept rows only. (The authors' batched code also compares with rows of the batch that were
turned down, which gives another set.) Their score of a conversation is the sum over turns of complexity times quality, each an expected
rating: `evol_score`, `expected_rating`; where a rating cannot be read they take 3, here there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curators.selection.config import SelectConfig
from curators.selection.pool import Pool, Ranking, Vectors, unit
from curators.statistics.intervals import Ints

WALKED = 256  # rows compared with the kept ones at once


def deita(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    """Down the scores, keeping what is not more similar than `max_similarity` (cosine) to a kept row. Scores are the given ones."""
    assert pool.vectors is not None
    assert pool.scores is not None
    walk = np.argsort(-pool.scores, kind="stable")
    order, turned_down = score_first(unit(pool.vectors), walk, k, config.max_similarity)
    return Ranking(
        order=order, scores=pool.scores, dropped={"too_similar": turned_down}, diagnostics={"walked": len(order) + len(turned_down)}
    )


def score_first(rows: Vectors, walk: Ints, k: int, max_similarity: float) -> tuple[Ints, Ints]:
    """Places kept, in order, and those turned down on the way. `rows` have length 1.

    >>> rows = np.array([[1, 0], [0.96, 0.28], [0, 1], [0.6, 0.8]], dtype=np.float32)
    >>> [score_first(rows, np.arange(4), 4, bound)[0].tolist() for bound in (0.9, 0.7)]
    [[0, 2, 3], [0, 2]]
    """
    kept = np.empty((min(k, len(walk)), rows.shape[1]), dtype=np.float32)
    order: list[int] = []
    turned_down: list[int] = []
    for begin in range(0, len(walk), WALKED):
        places = walk[begin : begin + WALKED]
        block, before = rows[places], len(order)
        nearest = (block @ kept[:before].T).max(axis=1, initial=-np.inf)
        for place, row, nearest_before in zip(places, block, nearest, strict=True):
            if len(order) == len(kept):
                return np.array(order, dtype=np.int64), np.array(turned_down, dtype=np.int64)
            if max(nearest_before, (kept[before : len(order)] @ row).max(initial=-np.inf)) > max_similarity:
                turned_down.append(int(place))
            else:
                kept[len(order)] = row
                order.append(int(place))
    return np.array(order, dtype=np.int64), np.array(turned_down, dtype=np.int64)


def expected_rating(logits: Sequence[float | None]) -> float | None:
    """The mean rating under the softmax of the logits of the labels 1, 2 …; null where one is missing or not finite.

    >>> expected_rating([0, 0, 0, 0, 0, 0]), round(expected_rating([0, 0, 0, 0, np.log(3), np.log(5)]), 6)
    (3.5, 4.583333)
    """
    given = np.array([np.nan if logit is None else logit for logit in logits], dtype=np.float64)
    if not len(given) or not np.isfinite(given).all():
        return None
    weights = np.exp(given - given.max())
    return float(weights @ np.arange(1, len(given) + 1) / weights.sum())


def evol_score(complexity: Sequence[float | None], quality: Sequence[float | None]) -> float | None:
    """Sum over turns of complexity times quality, so that long conversations score high; null where a turn has no rating.

    >>> evol_score([2.0, 3.0], [4.0, 1.5]), evol_score([2.0, None], [4.0, 1.5])
    (12.5, None)
    """
    turns = [(c, q) for c, q in zip(complexity, quality, strict=True) if c is not None and q is not None]
    return float(sum(c * q for c, q in turns)) if len(turns) == len(complexity) > 0 else None
