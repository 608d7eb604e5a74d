"""Do raters say the same? Agreement beyond chance, with raw agreement and prevalence beside it, because kappa alone misleads.

Ratings come as a long frame with the columns `unit`, `rater` and `value`, one row a rating; a null value is a missing rating. All
coefficients are 1 - D_o / D_e, observed over expected disagreement, with a distance d between values (0 or 1; for numbers
(v - w)^2; ordinal by ranks):

* `cohen_kappa` (Cohen 1960; with squared distances 1968): two raters, chance from each rater's own values
* `fleiss_kappa` (Fleiss 1971): the same number of ratings for every unit, chance from all values together
* `krippendorff_alpha` (Krippendorff 2011): any number of raters, ratings may be missing; small samples are allowed for

Intervals are percentile bootstraps over units, or over a column that says which units hang together (`cluster`, the prompt). Where
all ratings are alike chance explains everything: the coefficient is not defined, and null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import polars as pl

from curators.errors import SchemaError
from curators.statistics.intervals import Estimate, Floats, cluster_bootstrap

Scale = Literal["nominal", "ordinal", "interval"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A coefficient with its interval, and what it must be read with.

    `raw` is the share of a unit's other ratings that equal a rating, in the mean over ratings. `prevalence` is the share of each
    value among the ratings that count. `n_left_out` units had too few ratings.
    """

    coefficient: Estimate
    raw: Estimate
    prevalence: Mapping[Any, float]
    n_raters: int
    n_left_out: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """`counts[u, v]`: how often unit u was given value v; the units and raters that count."""

    counts: Floats
    values: list[Any]
    clusters: pl.Series
    n_raters: int
    n_left_out: int


def cohen_kappa(
    ratings: pl.DataFrame,
    *,
    weights: Literal["none", "quadratic"] = "none",
    cluster: str = "unit",
    n_resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Cohen's kappa of exactly two raters; units that only one rated are left out. `quadratic` needs numbers.

    >>> table = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    >>> rows = [(i, rater, value) for i, pair in enumerate(table) for rater, value in zip("ab", pair)]
    >>> found = cohen_kappa(pl.DataFrame(rows, schema=["unit", "rater", "value"], orient="row"))
    >>> round(found.raw.value, 2), round(found.coefficient.value, 2)
    (0.7, 0.4)

    Raises:
        SchemaError: there are not two raters, one rated a unit twice, or `quadratic` on values that are no numbers.
    """
    raters = ratings["rater"].unique().sort().to_list()
    if len(raters) != 2:
        raise SchemaError(f"Cohen's kappa is of two raters, there are {len(raters)}: {raters[:5]}; use krippendorff_alpha")
    table = _table(ratings, cluster, at_least=2)
    distance = _distance("interval" if weights == "quadratic" else "nominal", table.values)
    rows = _complete(ratings, 2).sort("unit", "rater")
    places = rows["value"].replace_strict(table.values, range(len(table.values)), return_dtype=pl.Int64).to_numpy()
    one, other, k = places[::2], places[1::2], len(table.values)

    def statistic(weight: Floats) -> float:
        joint = np.bincount(one * k + other, weights=weight, minlength=k * k).reshape(k, k) / weight.sum()
        return _beyond_chance((joint * distance).sum(), joint.sum(axis=1) @ distance @ joint.sum(axis=0))

    return _agreement(table, statistic, n_resamples, seed)


def fleiss_kappa(ratings: pl.DataFrame, *, cluster: str = "unit", n_resamples: int = 1000, seed: int = 0) -> Agreement:
    """Fleiss' kappa; every unit with fewer ratings than the one with most is left out.

    Raises:
        SchemaError: one rater rated a unit twice.
    """
    most = ratings.drop_nulls("value").group_by("unit").len()["len"].max()
    table = _table(ratings, cluster, at_least=max(2, most if isinstance(most, int) else 0))
    distance = _distance("nominal", table.values)

    def statistic(weight: Floats) -> float:
        share = weight @ table.counts / max(weight @ table.counts.sum(axis=1), 1)
        return _beyond_chance(_observed(table.counts, weight, distance), share @ distance @ share)

    return _agreement(table, statistic, n_resamples, seed)


def krippendorff_alpha(
    ratings: pl.DataFrame, *, scale: Scale = "nominal", cluster: str = "unit", n_resamples: int = 1000, seed: int = 0
) -> Agreement:
    """Krippendorff's alpha; units with fewer than two ratings are left out. `ordinal` and `interval` need numbers.

    >>> units = {"u1": "AAA", "u2": "ABA", "u3": "BB", "u4": "BBA"}
    >>> rows = [(unit, i, value) for unit, values in units.items() for i, value in enumerate(values)]
    >>> found = krippendorff_alpha(pl.DataFrame(rows, schema=["unit", "rater", "value"], orient="row"))
    >>> round(found.coefficient.value, 4), found.coefficient.n
    (0.3333, 4)

    Raises:
        SchemaError: one rater rated a unit twice, or the scale needs numbers and the values are none.
    """
    table = _table(ratings, cluster, at_least=2)
    fixed = _distance(scale, table.values)

    def statistic(weight: Floats) -> float:
        totals = weight @ table.counts
        distance = _ordinal(totals) if scale == "ordinal" else fixed
        n = totals.sum()
        return _beyond_chance(_observed(table.counts, weight, distance), totals @ distance @ totals / max(n * (n - 1), 1))

    return _agreement(table, statistic, n_resamples, seed)


def pairwise_kappas(ratings: pl.DataFrame, *, cluster: str = "unit", n_resamples: int = 1000, seed: int = 0) -> pl.DataFrame:
    """Cohen's kappa of every two raters: `rater`, `other`, `kappa`, `low`, `high`, `raw`, `n`, sorted."""
    schema = {name: pl.Float64() for name in ("kappa", "low", "high", "raw")}
    rows = []
    for rater, other in combinations(ratings["rater"].unique().sort().to_list(), 2):
        both = ratings.filter(pl.col("rater").is_in([rater, other]))
        found = cohen_kappa(both, cluster=cluster, n_resamples=n_resamples, seed=seed)
        kappa = found.coefficient
        rows.append((rater, other, kappa.value, kappa.low, kappa.high, found.raw.value, kappa.n))
    return pl.DataFrame(
        rows, schema={"rater": ratings.schema["rater"], "other": ratings.schema["rater"], **schema, "n": pl.Int64()}, orient="row"
    )


def _complete(ratings: pl.DataFrame, at_least: int) -> pl.DataFrame:
    return ratings.drop_nulls("value").filter(pl.len().over("unit") >= at_least)


def _table(ratings: pl.DataFrame, cluster: str, *, at_least: int) -> _Table:
    given = ratings.drop_nulls("value")
    if twice := given.filter(pl.struct("unit", "rater").is_duplicated()).select("unit", "rater").head(1).rows():
        raise SchemaError(f"rater {twice[0][1]!r} rated unit {twice[0][0]!r} more than once; combine the ratings first")
    rows = _complete(ratings, at_least)
    units = rows.group_by("unit").agg(cluster=pl.col(cluster).first()).sort("unit").with_row_index("at")
    values = rows["value"].unique().sort().to_list()
    counts = np.zeros((units.height, len(values)))
    at = rows.select("unit", "value").join(units.select("unit", "at"), on="unit")
    if values:
        columns = at["value"].replace_strict(values, range(len(values)), return_dtype=pl.Int64).to_numpy()
        np.add.at(counts, (at["at"].to_numpy(), columns), 1)
    left_out = ratings["unit"].n_unique() - units.height
    return _Table(counts=counts, values=values, clusters=units["cluster"], n_raters=rows["rater"].n_unique(), n_left_out=left_out)


def _distance(scale: Scale, values: list[Any]) -> Floats:
    if scale == "nominal":
        return 1 - np.eye(len(values))
    if any(isinstance(value, str) for value in values):
        raise SchemaError(f"scale {scale!r} needs numbers, the values are {values[:5]}; cast them, or use the nominal scale")
    numbers = np.array(values, dtype=np.float64)
    return np.square(numbers[:, None] - numbers[None, :])


def _ordinal(totals: Floats) -> Floats:
    """Squared distance in ranks: the ratings between two values, both ends by half."""
    middle = np.cumsum(totals) - totals / 2
    return np.square(middle[:, None] - middle[None, :])


def _observed(counts: Floats, weight: Floats, distance: Floats) -> float:
    """The mean distance of two ratings of one unit, each unit by its number of ratings."""
    given = counts.sum(axis=1)
    joint = (counts * (weight / np.maximum(given - 1, 1))[:, None]).T @ counts
    return float((joint * distance).sum() / max(weight @ given, 1))


def _beyond_chance(observed: float, expected: float) -> float:
    return 1 - float(observed) / float(expected) if expected > 0 else float("nan")


def _agreement(table: _Table, statistic: Callable[[Floats], float], n_resamples: int, seed: int) -> Agreement:
    same = 1 - np.eye(len(table.values))
    totals = table.counts.sum(axis=0)

    def raw(weight: Floats) -> float:
        return 1 - _observed(table.counts, weight, same)

    return Agreement(
        coefficient=cluster_bootstrap(table.clusters, statistic, n_resamples=n_resamples, seed=seed),
        raw=cluster_bootstrap(table.clusters, raw, n_resamples=n_resamples, seed=seed),
        prevalence={value: float(total / totals.sum()) for value, total in zip(table.values, totals, strict=True)},
        n_raters=table.n_raters,
        n_left_out=table.n_left_out,
    )
