"""Is a judge's 80 % right four times in five? How wrong its probabilities are, one number that mends them, and means corrected by a gold.

* `fit_temperature`: p' = s(logit p / T), T of greatest likelihood on gold (Guo et al. 2017); it keeps the order and never turns a label
* `expected_calibration_error` over equal-width bins, `brier`, `log_loss`: of P(event) against 0 or 1
* `rogan_gladen`: a share judged by an imperfect judge, corrected by its sensitivity and specificity on gold (Rogan & Gladen 1978; the
  variance with both estimated: Lee et al. 2025, arXiv:2511.21140)
* `prediction_powered_mean`: the judge's mean plus the mean error on gold (Angelopoulos et al. 2023)

The last two answer the same question; report the one with the narrower interval. Deliberately not here: calibration by more than a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from curators.errors import SchemaError
from curators.statistics.intervals import Z95, Estimate, Floats, wilson
from curators.statistics.logistic import log_loss

CLIP = 1e-6
_LOG_TEMPERATURE = (-4.0, 4.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How good probabilities are. `table` has a row a bin that holds any: `low`, `high` (the bin), `n`, `mean_p`, `share` (of events),
    `share_low`, `share_high` (Wilson). `ece` is the mean of |mean_p - share| over rows.
    """

    n: int
    brier: float
    log_loss: float
    ece: float
    table: pl.DataFrame


def calibration(p: Floats, happened: Floats, n_bins: int = 10) -> Calibration:
    """Measure probabilities against what happened (0 or 1, or a soft gold between them).

    >>> found = calibration(np.array([0.9, 0.8, 0.7, 0.6, 0.4]), np.array([1.0, 1.0, 0.0, 1.0, 0.0]))
    >>> round(found.brier, 3), round(found.log_loss, 5)
    (0.172, 0.51083)

    Raises:
        SchemaError: nothing to measure, or a number outside 0..1.
    """
    _check(p, happened)
    rows = pl.DataFrame({"p": p, "y": happened, "bin": np.minimum((p * n_bins).astype(np.int64), n_bins - 1)})
    table = rows.group_by("bin").agg(n=pl.len(), mean_p=pl.col("p").mean(), share=pl.col("y").mean(), hits=pl.col("y").sum()).sort("bin")
    bounds = [wilson(round(hits), n) for hits, n in table.select("hits", "n").iter_rows()]
    table = table.select(
        low=pl.col("bin") / n_bins,
        high=(pl.col("bin") + 1) / n_bins,
        n="n",
        mean_p="mean_p",
        share="share",
        share_low=pl.Series([low for low, _ in bounds], dtype=pl.Float64),
        share_high=pl.Series([high for _, high in bounds], dtype=pl.Float64),
    )
    ece = table.select(((pl.col("mean_p") - pl.col("share")).abs() * pl.col("n")).sum() / pl.col("n").sum()).item()
    return Calibration(n=len(p), brier=float(np.square(p - happened).mean()), log_loss=log_loss(p, happened), ece=float(ece), table=table)


def fit_temperature(p: Floats, happened: Floats) -> float:
    """T of greatest likelihood, within 0.018 .. 55; above 1 the probabilities were too bold.

    Raises:
        SchemaError: nothing to fit, or a number outside 0..1.
    """
    _check(p, happened)
    logits = logit(np.clip(p, CLIP, 1 - CLIP))

    def loss(log_temperature: float) -> float:
        return log_loss(expit(logits / math.exp(log_temperature)), happened)

    return float(math.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURE, method="bounded", options={"xatol": 1e-8}).x))


def at_temperature(p: Floats, temperature: float) -> Floats:
    """The probabilities at another temperature.

    >>> at_temperature(np.array([0.9, 0.5, 0.1]), 2.0).round(2).tolist()
    [0.75, 0.5, 0.25]
    """
    return np.asarray(expit(logit(np.clip(p, CLIP, 1 - CLIP)) / temperature), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """A judge on gold: `n_positive` gold positives of which it called `n_true_positive` so, and the same of negatives."""

    n_positive: int
    n_true_positive: int
    n_negative: int
    n_true_negative: int

    @property
    def sensitivity(self) -> float:
        return self.n_true_positive / self.n_positive

    @property
    def specificity(self) -> float:
        return self.n_true_negative / self.n_negative


def rogan_gladen(n_called: int, n: int, gold: Confusion) -> Estimate:
    """The true share of positives where the judge called `n_called` of `n` so, corrected and cut to 0..1.

    theta = (p + q0 - 1) / (q0 + q1 - 1), with sensitivity q1 and specificity q0; its variance
    [p(1-p)/n + (1-theta)^2 q0(1-q0)/m0 + theta^2 q1(1-q1)/m1] / (q0+q1-1)^2.

    >>> gold = Confusion(n_positive=100, n_true_positive=90, n_negative=100, n_true_negative=85)
    >>> round(rogan_gladen(700, 1000, gold).value, 5)
    0.73333

    Raises:
        SchemaError: there is no gold of one kind, nothing was judged, or the judge does no better than chance, q0 + q1 <= 1.
    """
    if not (n and gold.n_positive and gold.n_negative):
        raise SchemaError(f"a corrected share needs judged rows ({n}) and gold of both kinds ({gold.n_positive} and {gold.n_negative})")
    p, q1, q0 = n_called / n, gold.sensitivity, gold.specificity
    power = q0 + q1 - 1
    if power <= 0:
        raise SchemaError(f"sensitivity {q1:.3f} and specificity {q0:.3f} are no better than chance: such a judge corrects nothing")
    share = (p + q0 - 1) / power
    spread = p * (1 - p) / n + (1 - share) ** 2 * q0 * (1 - q0) / gold.n_negative + share**2 * q1 * (1 - q1) / gold.n_positive
    half = Z95 * math.sqrt(spread) / power
    value, low, high = (min(1.0, max(0.0, each)) for each in (share, share - half, share + half))
    return Estimate(value=value, low=low, high=high, n=n, n_clusters=n)


def prediction_powered_mean(judged: Floats, gold: Floats, judged_gold: Floats) -> Estimate:
    """mean(judged) + mean(gold - judged_gold): the judge's mean over rows without gold, corrected by its error on those with.

    >>> found = prediction_powered_mean(np.array([0.8, 0.6, 0.7, 0.9]), np.array([1.0, 0.0]), np.array([0.9, 0.3]))
    >>> round(found.value, 2)
    0.65

    Raises:
        SchemaError: fewer than two rows of either kind, or gold and judged gold differ in number.
    """
    if min(len(judged), len(gold)) < 2 or len(gold) != len(judged_gold):
        raise SchemaError(f"{len(judged)} judged rows, {len(gold)} gold and {len(judged_gold)} judged gold; at least two, gold in pairs")
    error = gold - judged_gold
    value = float(judged.mean() + error.mean())
    half = Z95 * math.sqrt(float(judged.var(ddof=1) / len(judged) + error.var(ddof=1) / len(error)))
    n = len(judged) + len(gold)
    return Estimate(value=value, low=value - half, high=value + half, n=n, n_clusters=n)


def _check(p: Floats, happened: Floats) -> None:
    if not len(p) or len(p) != len(happened):
        raise SchemaError(f"{len(p)} probabilities and {len(happened)} outcomes: the same number is needed, and at least one")
    for name, numbers in (("probability", p), ("outcome", happened)):
        if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.max() <= 1):
            raise SchemaError(f"every {name} must be in 0..1, these go from {numbers.min()} to {numbers.max()}")
