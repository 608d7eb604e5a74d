"""What choosing the best of n answers by a score does to what the score stands for: over-optimisation, and where it begins.

From one pool of N answers of a prompt, each with a proxy p (a reward model's score) and a gold g (what is wanted), the expected gold of the
best of n answers by proxy is, without bias and without drawing anything (i the rank by proxy, from the worst):

    E_n[g] = sum over i = n .. N of C(i - 1, n - 1) / C(N, n) * g_(i)

(Nakano et al. 2021, arXiv 2112.09332, appendix I; used for this question by Gao et al. 2022, arXiv 2210.10760, and Coste et al. 2023,
arXiv 2310.02743). Answers that tie by proxy count alike, as if one of them were drawn. How far best-of-n is from the policy:

    KL <= log n - (n - 1) / n

A proxy that is gold with noise lifts gold for every n if the noise is light-tailed; with heavy tails the best by proxy is in the end the
luckiest and not the best, and gold falls from some n on. Deliberately not here: policies trained against the proxy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import gammaln

from curators.errors import ConfigError
from curators.statistics.intervals import Estimate, Floats, cluster_bootstrap

GRID = (1, 2, 4, 8, 16, 32)


def rank_weights(pool: int, n: int) -> Floats:
    """The probability of each rank, the worst first, to be the best of `n` answers drawn from `pool` without replacement.

    >>> rank_weights(4, 2).round(4).tolist()
    [0.0, 0.1667, 0.3333, 0.5]
    """
    ranks = np.arange(n, pool + 1)
    tail = np.exp(_log_choose(ranks - 1, n - 1) - _log_choose(np.array(pool), n))
    return np.concatenate([np.zeros(n - 1), tail])


def best_of_n(proxy: Sequence[float] | Floats, gold: Sequence[float] | Floats, n: int) -> float:
    """The expected gold of the best of `n` answers by proxy, from all answers of one prompt; of a proxy itself with `gold=proxy`.

    >>> [round(best_of_n([0.1, 0.9, 0.5, 0.3], [1, 0, 3, 2], n), 6) for n in (1, 2, 3, 4)]
    [1.5, 1.333333, 0.75, 0.0]

    Raises:
        ConfigError: there are fewer answers than `n`, or `n` is below 1.
    """
    values, golds = np.asarray(proxy, dtype=float), np.asarray(gold, dtype=float)
    if not 1 <= n <= len(values):
        raise ConfigError(f"best of {n} from {len(values)} answers: n is from 1 to the number of answers")
    return float(rank_weights(len(values), n) @ _ranked(values, golds))


def _ranked(proxy: Floats, gold: Floats) -> Floats:
    """Gold from the worst by proxy to the best; what ties by proxy has its mean."""
    _, rank = np.unique(proxy, return_inverse=True)
    return np.asarray((np.bincount(rank, gold) / np.bincount(rank))[np.sort(rank)])


def kl_bound(n: int) -> float:
    """The most that best-of-n can be away from its policy, in nats.

    >>> round(kl_bound(4), 5), round(kl_bound(64), 5)
    (0.63629, 3.17451)
    """
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True, kw_only=True)
class OverOptimisation:
    """`curve`, one row an n: `n`, `kl`, `proxy`, `gold` and their intervals (`proxy_low` …), means over prompts, intervals over prompts.

    `turning_point` is the n of the grid with the highest gold, the smallest of several; its interval comes from resampled prompts, and one
    that reaches the end of the grid says that no turning point was shown. `lost` is the gold there minus the gold at the largest n.
    `n_prompts` count; `n_short` prompts had fewer scored answers than the largest n and are left out, and so are `n_unscored` answers
    without proxy or gold.
    """

    curve: pl.DataFrame
    turning_point: Estimate
    lost: Estimate
    n_prompts: int
    n_short: int
    n_unscored: int


def over_optimisation(answers: pl.DataFrame, *, grid: Sequence[int] = GRID, n_resamples: int = 1000, seed: int = 0) -> OverOptimisation:
    """Proxy and gold of the best of n by proxy, for every n of the grid.

    Args:
        answers: `prompt_id`, `proxy`, `gold` (higher is better), one row an answer; null or not finite: unscored.

    Raises:
        ConfigError: no prompt has as many scored answers as the largest n.
    """
    grid = sorted(set(grid))
    numbers = answers.select("prompt_id", pl.col("proxy", "gold").cast(pl.Float64))
    scored = numbers.filter(pl.col("proxy").is_finite() & pl.col("gold").is_finite())
    pools = scored.group_by("prompt_id").agg("proxy", "gold").sort("prompt_id")
    kept = pools.filter(pl.col("proxy").list.len() >= grid[-1])
    if not kept.height:
        most = max(pools["proxy"].list.len(), default=0)
        raise ConfigError(f"best of {grid[-1]}: no prompt has as many scored answers; the most are {most}")
    weights = {size: np.array([rank_weights(size, n) for n in grid]) for size in kept["proxy"].list.len().unique()}
    pairs = [(np.array(proxy), np.array(gold)) for proxy, gold in kept.select("proxy", "gold").iter_rows()]
    proxies = np.array([weights[len(p)] @ np.sort(p) for p, _ in pairs])
    golds = np.array([weights[len(p)] @ _ranked(p, g) for p, g in pairs])

    def estimate(values: Floats) -> Estimate:
        return cluster_bootstrap(kept["prompt_id"], lambda w: float(w @ values / w.sum()), n_resamples=n_resamples, seed=seed)

    rows = [
        {"n": n, "kl": kl_bound(n)} | _columns("proxy", estimate(proxies[:, i])) | _columns("gold", estimate(golds[:, i]))
        for i, n in enumerate(grid)
    ]
    turn = cluster_bootstrap(kept["prompt_id"], lambda w: float(grid[int(np.argmax(w @ golds))]), n_resamples=n_resamples, seed=seed)
    highest = int(np.argmax(golds.mean(axis=0)))
    return OverOptimisation(
        curve=pl.DataFrame(rows),
        turning_point=turn,
        lost=estimate(golds[:, highest] - golds[:, -1]),
        n_prompts=kept.height,
        n_short=numbers["prompt_id"].n_unique() - kept.height,
        n_unscored=numbers.height - scored.height,
    )


def _columns(name: str, found: Estimate) -> dict[str, float | None]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _log_choose(n: np.ndarray, k: int) -> Floats:
    return np.asarray(gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0))
