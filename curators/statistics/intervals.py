"""How sure a number is: intervals of shares, of ratios and of any statistic, and exact tests of two kinds.

Rows of one prompt hang together (both orders, all samples), so that the unit of uncertainty is the prompt, the *cluster*: rows counted one
by one make intervals too narrow, by the root of two where every row stands twice. Shares of independent rows: E. B. Wilson, 1927. Clusters:
Liang & Zeger 1986, and the percentile bootstrap over whole clusters (Efron 1979); for language models Miller 2024 (arXiv:2411.00640).
Deliberately not here: bootstrap intervals corrected for bias, and corrections for many comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

Z95 = 1.959963984540054
_MOST_CELLS = 4_000_000  # of what a bootstrap draws at once
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its 95 % interval. `n` rows of `n_clusters` clusters count.

    `value` is null where it is not defined (nothing to count), `low` and `high` also where the clusters cannot say: there are fewer than
    two, or all resamples are alike (20 of 20 is not certain; `wilson` of the clusters then is the bound). `n_undefined` counts
    resamples in which the statistic is not defined; they are left out.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_clusters: int
    n_undefined: int = 0


def wilson(hits: float, n: float, z: float = Z95) -> tuple[float, float]:
    """The Wilson interval of a proportion; the whole of [0, 1] where there is nothing to count.

    >>> [round(bound, 4) for bound in wilson(8, 10) + wilson(0, 20)]
    [0.4902, 0.9433, 0.0, 0.1611]
    """
    if n == 0:
        return 0.0, 1.0
    p, weight = hits / n, z * z / n
    centre, half = p + weight / 2, z * math.sqrt(p * (1 - p) / n + weight / (4 * n))
    low, high = (centre - half) / (1 + weight), (centre + half) / (1 + weight)
    return 0.0 if hits <= 0 else low, 1.0 if hits >= n else high


def share(hits: int, n: int) -> dict[str, Any]:
    """A proportion with its count and interval; `share` is null where there is nothing to count.

    >>> share(3, 4)["share"], share(0, 0)["share"]
    (0.75, None)
    """
    low, high = wilson(hits, n)
    return {"n": n, "hits": hits, "share": hits / n if n else None, "low": low, "high": high}


def clustered_share(hits: Sequence[float] | Floats, counts: Sequence[float] | Floats) -> dict[str, Any]:
    """As `share`, for hits and counts by cluster: Wilson's interval of the effective sample size (Korn & Graubard 1998).

    n is divided by the design effect, the squared ratio of the clustered standard error to that of independent rows; where all or none hit,
    or there is one cluster, the clusters count. Never more than n, so that an interval is never narrower than that of independent rows.

    >>> alone, twice = share(60, 100), clustered_share([2.0] * 30 + [0.0] * 20, [2.0] * 50)
    >>> twice["low"] == share(30, 50)["low"] < alone["low"]
    True
    """
    won, asked = np.asarray(hits, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    found = share(int(won.sum()), int(asked.sum()))
    if not found["n"]:
        return found
    p, n = found["share"], found["n"]
    spread = cluster_se(won, asked) ** 2
    n_clusters = np.count_nonzero(asked)
    effective = float(n_clusters) if p in (0.0, 1.0) or n_clusters == 1 else min(n, p * (1 - p) / spread) if spread else n
    low, high = wilson(p * effective, effective)
    return found | {"low": low, "high": high}


def share_by(rows: pl.DataFrame, hit: pl.Expr, *, cluster: str = "prompt_id") -> dict[str, Any]:
    """The share of rows with a hit, with the interval of `clustered_share`.

    >>> rows = pl.DataFrame({"prompt_id": ["p", "p", "q"], "state": ["ok", "ok", "refused"]})
    >>> share_by(rows, pl.col("state") == "ok")["hits"]
    2
    """
    each = rows.group_by(cluster).agg(hits=hit.sum(), n=pl.len()).sort(cluster)
    return clustered_share(each["hits"].to_numpy(), each["n"].to_numpy())


def binomial(hits: int, n: int, p: float = 0.5) -> float:
    """The exact two-sided p-value of `hits` of `n` where `p` is expected; 1 where there is nothing to count.

    >>> round(binomial(14, 18), 5)
    0.03088
    """
    return float(stats.binomtest(hits, n, p).pvalue) if n else 1.0


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact p-value that two judges of the same items are equally often right, from the items that one alone has right (McNemar 1947).

    >>> round(mcnemar(15, 5), 5)
    0.04139
    """
    return binomial(only_first, only_first + only_second)


def cluster_se(sums: Sequence[float] | Floats, counts: Sequence[float] | Floats) -> float:
    """Standard error of `sum(sums) / sum(counts)`, one entry a cluster, when the values behind each sum hang together.

    50 prompts with two identical values each, 30 of them 1: as if there were 50 values, not 100, sqrt(0.6 * 0.4 / 50).

    >>> round(cluster_se([2.0] * 30 + [0.0] * 20, [2.0] * 50), 5)
    0.06928
    """
    totals, sizes = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    mean = totals.sum() / sizes.sum()
    return float(np.sqrt(np.square(totals - sizes * mean).sum()) / sizes.sum())


def bootstrap_interval(sums: Floats, counts: Floats, *, seed: int, n_resamples: int = 1000) -> tuple[float, float]:
    """Percentile interval of `sum(sums) / sum(counts)` over resampled clusters, the same for the same seed and order of clusters."""
    rng = np.random.default_rng(seed)
    n = len(sums)
    block = max(1, _MOST_CELLS // n)
    ratios = []
    for begin in range(0, n_resamples, block):
        drawn = rng.integers(n, size=(min(block, n_resamples - begin), n))
        with np.errstate(invalid="ignore"):
            ratios.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.nanquantile(np.concatenate(ratios), [0.025, 0.975])
    return float(low), float(high)


def cluster_ratio(
    rows: pl.DataFrame, numerator: str | pl.Expr, denominator: str | pl.Expr | None = None, *, cluster: str = "prompt_id", seed: int = 0
) -> Estimate:
    """`sum(numerator) / sum(denominator)` over rows, with the bootstrap over clusters; by default the mean of a column.

    Rows with a null in either column do not count.

    >>> rows = pl.DataFrame({"prompt_id": ["p", "p", "q", "r"], "won": [True, True, False, None]})
    >>> found = cluster_ratio(rows, "won")
    >>> found.value, found.n, found.n_clusters
    (0.6666666666666666, 3, 2)
    """
    of = pl.lit(1.0) if denominator is None else pl_float(denominator)
    counted = rows.select(cluster=cluster, top=pl_float(numerator), under=of).drop_nulls(["top", "under"])
    each = counted.group_by("cluster").agg(pl.col("top", "under").sum()).sort("cluster")
    sums, counts = each["top"].to_numpy(), each["under"].to_numpy()
    value = float(sums.sum() / counts.sum()) if counts.sum() else None
    bounds = bootstrap_interval(sums, counts, seed=seed) if value is not None and each.height > 1 else (0.0, 0.0)
    return _estimate(value, bounds, n=counted.height, n_clusters=each.height)


def pl_float(column: str | pl.Expr) -> pl.Expr:
    """A column or expression as floats."""
    return (pl.col(column) if isinstance(column, str) else column).cast(pl.Float64)


def places(names: pl.Series) -> Ints:
    """The place of each row's name among the different names, sorted.

    >>> places(pl.Series(["q", "p", "q"])).tolist()
    [1, 0, 1]
    """
    return names.rank("dense").to_numpy().astype(np.int64) - 1


def resamples(clusters: pl.Series, *, n_resamples: int = 1000, seed: int = 0) -> Iterator[Floats]:
    """How often each row stands in each resample of whole clusters. The order of rows does not matter."""
    place = places(clusters)
    n, rng = int(place.max()) + 1, np.random.default_rng(seed)
    for _ in range(n_resamples):
        drawn = np.bincount(rng.integers(n, size=n), minlength=n)
        yield drawn[place].astype(np.float64)


def cluster_bootstrap(clusters: pl.Series, statistic: Callable[[Floats], float], *, n_resamples: int = 1000, seed: int = 0) -> Estimate:
    """Any statistic of weighted rows with its percentile interval over resampled clusters.

    `statistic` is given a weight for every row (how often it counts) and returns a number, NaN where it is not defined. Without
    resamples there is no interval.

    >>> import numpy as np
    >>> value = np.array([1.0, 2.0, 6.0])
    >>> found = cluster_bootstrap(pl.Series(["p", "q", "r"]), lambda weights: float(np.average(value, weights=weights)))
    >>> found.value, found.low, found.high
    (3.0, 1.0, 6.0)
    """
    n, n_clusters = len(clusters), clusters.n_unique()
    value = statistic(np.ones(n)) if n else math.nan
    if math.isnan(value) or n_clusters < 2 or not n_resamples:
        return _estimate(None if math.isnan(value) else value, (0.0, 0.0), n=n, n_clusters=n_clusters)
    found = np.array([statistic(weights) for weights in resamples(clusters, n_resamples=n_resamples, seed=seed)])
    undefined = int(np.isnan(found).sum())
    low, high = np.nanquantile(found, [0.025, 0.975]) if undefined < len(found) else (0.0, 0.0)
    return _estimate(value, (float(low), float(high)), n=n, n_clusters=n_clusters, n_undefined=undefined)


def _estimate(value: float | None, bounds: tuple[float, float], *, n: int, n_clusters: int, n_undefined: int = 0) -> Estimate:
    low, high = bounds if bounds[1] > bounds[0] else (None, None)
    return Estimate(value=value, low=low, high=high, n=n, n_clusters=n_clusters, n_undefined=n_undefined)
