"""Who wins when nobody beats everybody: how cyclic a matrix of preferences is, mean wins, and the mixture that no one beats.

A preference matrix has P[i, j] = P(i beats j), P[j, i] = 1 - P[i, j], and 1/2 on its diagonal.

* `cyclic_share`: of the flow Y[i, j] = logit P[i, j], the share that no ratings explain, |Y - (s_i - s_j)|^2 / |Y|^2 with s the row means
  (the Hodge decomposition of Jiang et al. 2011, on a complete graph). 0: ratings say all; 1: pure cycles, as in rock-paper-scissors
* `mean_wins`: the mean of P[i, j] over the others (the reward of SPO, Swamy et al. 2024)
* `minimax_winner`: the mixture of players that wins at least half against every player (von Neumann's; a linear program)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.optimize import linprog

from curators.errors import SchemaError
from curators.statistics.intervals import Floats
from curators.statistics.ratings import read_contests

CLIP = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Minimax:
    """`mixture` by row; `value`: the least that it wins against any player minus 1/2, 0 but for rounding."""

    mixture: Floats
    value: float


def preferences(contests: pl.DataFrame) -> tuple[list[str], Floats]:
    """The players, sorted, and their matrix of mean wins from `contests` (as in `ratings`); NaN for two players that never met.

    >>> rows = [{"prompt_id": "p", "a": "x", "b": "y", "win": 1.0}, {"prompt_id": "q", "a": "y", "b": "x", "win": 0.5}]
    >>> preferences(pl.DataFrame(rows))[1].tolist()
    [[0.5, 0.75], [0.25, 0.5]]
    """
    given = read_contests(contests)
    wins = given.wins()
    games = wins + wins.T
    means = np.divide(wins, games, out=np.full_like(wins, np.nan), where=games > 0)
    np.fill_diagonal(means, 0.5)
    return given.players, means


def check_preferences(matrix: Floats) -> Floats:
    """The matrix, when it is one.

    Raises:
        SchemaError: it is not square, two players never met, or P[i, j] + P[j, i] is not 1.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise SchemaError(f"a preference matrix is square, this one is {matrix.shape}")
    if np.isnan(matrix).any():
        i, j = np.argwhere(np.isnan(matrix))[0]
        raise SchemaError(f"players {i} and {j} never met; the whole matrix is needed: judge all pairs, or use bradley_terry")
    if np.abs(matrix + matrix.T - 1).max() > 1e-6 or matrix.min() < 0 or matrix.max() > 1:
        raise SchemaError("P[i, j] + P[j, i] must be 1, both in 0..1, and the diagonal 1/2")
    return matrix


def cyclic_share(matrix: Floats) -> float | None:
    """0..1; null where every preference is 1/2, so that there is nothing to explain. Probabilities are clipped to 0.001 .. 0.999.

    >>> rock_paper_scissors = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    >>> cyclic_share(rock_paper_scissors)
    1.0
    """
    p = np.clip(check_preferences(matrix), CLIP, 1 - CLIP)
    flow = np.log(p / (1 - p))
    rating = flow.mean(axis=1)
    left = flow - (rating[:, None] - rating[None, :])
    total = float(np.square(flow).sum())
    return float(np.square(left).sum()) / total if total > 1e-12 else None


def cyclic_parts(pairs: pl.DataFrame) -> pl.DataFrame:
    """The same for many groups at once: `prompt_id`, `n` players, `left` and `total`, whose ratio is the group's `cyclic_share`.

    `pairs` has `prompt_id`, `a_id`, `b_id` and `p_a`. Groups of fewer than three, and those in which not every pair has a probability, are
    left out. With r_i the mean of row i of the flow f, what ratings explain is 2 n sum r_i^2, and the rest of sum f_ij^2 is left.

    >>> rows = [("p", "x", "y", 0.9), ("p", "y", "z", 0.9), ("p", "x", "z", 0.1)]
    >>> found = cyclic_parts(pl.DataFrame(rows, schema=["prompt_id", "a_id", "b_id", "p_a"], orient="row"))
    >>> round(found["left"].item() / found["total"].item(), 6)
    1.0
    """
    p = pl.col("p_a").clip(CLIP, 1 - CLIP)
    flow = pairs.drop_nulls("p_a").select("prompt_id", "a_id", "b_id", f=(p / (1 - p)).log())
    sides = pl.concat([flow.select("prompt_id", player="a_id", f="f"), flow.select("prompt_id", player="b_id", f=-pl.col("f"))])
    rated = sides.group_by("prompt_id", "player").agg(r=pl.col("f").sum(), met=pl.len())
    groups = rated.group_by("prompt_id").agg(n=pl.len(), least=pl.col("met").min(), squares=pl.col("r").pow(2).sum())
    totals = flow.group_by("prompt_id").agg(total=2 * pl.col("f").pow(2).sum())
    whole = groups.filter((pl.col("n") > 2) & (pl.col("least") == pl.col("n") - 1)).join(totals, on="prompt_id")
    explained = 2 * pl.col("squares") / pl.col("n")
    return whole.select("prompt_id", "n", left=(pl.col("total") - explained).clip(lower_bound=0), total="total").sort("prompt_id")


def mean_wins(matrix: Floats) -> Floats:
    """Mean win probability of each player against the others; 1/2 for one alone."""
    n = len(check_preferences(matrix))
    return np.asarray((matrix.sum(axis=1) - 0.5) / (n - 1)) if n > 1 else np.array([0.5])


def minimax_winner(matrix: Floats) -> Minimax:
    """The mixture x that makes min_j sum_i x_i (P[i, j] - 1/2) greatest.

    >>> found = minimax_winner(np.array([[0.5, 0.7, 0.4], [0.3, 0.5, 0.8], [0.6, 0.2, 0.5]]))
    >>> [round(share, 4) for share in found.mixture.tolist()]
    [0.5, 0.1667, 0.3333]
    """
    n = len(check_preferences(matrix))
    # unknown: the mixture and its value v; v <= sum_i x_i (P[i, j] - 1/2) for every j
    bound = np.hstack([-(matrix - 0.5).T, np.ones((n, 1))])
    total = np.append(np.ones(n), 0.0)[None, :]
    aim = np.append(np.zeros(n), -1.0)
    solved = linprog(aim, A_ub=bound, b_ub=np.zeros(n), A_eq=total, b_eq=[1.0], bounds=[(0, None)] * n + [(None, None)], method="highs")
    return Minimax(mixture=np.asarray(solved.x[:-1], dtype=np.float64), value=float(solved.x[-1]))
