"""How much data is enough: the plateau law a - b exp(-c n), its uncertainty, and a size, or why there is none.

The law and the recommendation are those of ISA's paper (arXiv 2411.10545, eq. for R(x)): a is the plateau, a - b the value without data,
and ln(20)/c is where 95 % of the way is gone. The paper fixes a at the best value seen and fits c alone; here all three are fitted, with a
between the best mean and three ranges above it. Uncertainty: the residual bootstrap (Efron 1979), residuals widened for the three
parameters. Many curves do not hold such a fit, and a size from one of them is worse than none.

| state | the curve |
|---|---|
| `too_few_sizes` | has fewer than five different sizes |
| `no_gain` | is not higher at its best than at the smallest size |
| `not_monotone` | falls from one size to the next by more than its noise allows (unknown noise: a tenth of its range) |
| `poor_fit` | has an R² below 0.9 |
| `no_plateau` | is still rising: the plateau is at the upper bound, or beyond the sizes tried |
| `too_coarse` | is flat from the smallest size on: the size is less than half of that |
| `too_uncertain` | gives sizes whose 95 % interval spans more than a factor of ten |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curators.errors import ConfigError
from curators.statistics.intervals import Estimate, Floats

MIN_SIZES = 5
MIN_R2 = 0.9
MOST_RANGES = 3.0  # of the values seen: how far the plateau may lie above the best mean
MOST_SPREAD = 10.0  # of the recommended size's interval, high over low
UNKNOWN_NOISE = 0.1  # of the range, as a fall that may be noise
RATES = (1e-2, 1e4)  # searched, for the largest size as unit
GRID, REFINEMENTS = 64, 4
AT_ONCE = 50  # resamples fitted at once


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """`plateau` a, `gain` b, `rate` c per unit of size, and `size`, where `tolerance` of the gain is left; each with a 95 % interval.

    `recommended` is `size` where the state is `ok`, else null, and `reason` says why. `r2` is that of the fit.
    """

    plateau: Estimate
    gain: Estimate
    rate: Estimate
    size: Estimate
    r2: float | None
    tolerance: float
    recommended: float | None
    state: str
    reason: str | None

    def predict(self, sizes: Sequence[float] | Floats) -> Floats:
        """The fitted values at those sizes.

        Raises:
            ConfigError: nothing was fitted.
        """
        if self.plateau.value is None or self.gain.value is None or self.rate.value is None:
            raise ConfigError(f"learning curve: nothing was fitted: {self.reason}")
        return plateau_law(np.asarray(sizes, dtype=np.float64), self.plateau.value, self.gain.value, self.rate.value)


def plateau_law(size: Floats, plateau: float, gain: float, rate: float) -> Floats:
    """plateau - gain * exp(-rate * size).

    >>> plateau_law(np.array([10.0, 25, 50]), 27.4849, 27.4849 - 7.6038, 0.055).round(2).tolist()
    [16.01, 22.46, 26.21]
    """
    return np.asarray(plateau - gain * np.exp(-rate * size))


def fit_learning_curve(
    sizes: Sequence[float],
    values: Sequence[float],
    *,
    noise: float | None = None,
    tolerance: float = 0.05,
    n_resamples: int = 200,
    seed: int = 0,
) -> LearningCurve:
    """Fit the plateau law.

    Args:
        sizes: rows, or a share of them; repeated where several runs (seeds) were made of a size. Size 0 is the untrained model.
        values: higher is better; one that is not finite (a run that failed) does not count.
        noise: standard deviation of a value, where known; it decides which fall is one.
        tolerance: the share of the gain that may be missed.

    >>> n = np.array([0.0, 5, 10, 25, 50, 100])
    >>> found = fit_learning_curve(n, plateau_law(n, 0.8, 0.3, 0.06))
    >>> found.state, round(found.recommended, 1)
    ('ok', 49.9)

    Raises:
        ConfigError: sizes and values are not as many, a size is negative, or the tolerance is not between 0 and 1.
    """
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or (x < 0).any() or not 0 < tolerance < 1:
        raise ConfigError(f"learning curve: {x.shape} sizes ≥ 0, {y.shape} values, tolerance {tolerance} in (0, 1): as many of each")
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    steps, place = np.unique(x, return_inverse=True)
    means = np.bincount(place, y) / np.maximum(np.bincount(place), 1)
    if len(steps) < MIN_SIZES:
        return _unfitted("too_few_sizes", f"{len(steps)} different sizes; the fit needs {MIN_SIZES}", len(x), tolerance)
    if means.max() <= means[0]:
        return _unfitted("no_gain", "no size is better than the smallest", len(x), tolerance)
    (fitted,) = _fit(x, y[None, :])
    residuals = y - plateau_law(x, *fitted)
    r2 = 1.0 - float(np.square(residuals).sum() / np.square(y - y.mean()).sum())
    draws = _bootstrap(x, fitted, residuals, n_resamples, seed)
    named = dict(zip(("plateau", "gain", "rate"), _estimates(fitted, draws, len(x), len(steps)), strict=True))
    sizes_drawn = math.log(1 / tolerance) / draws[:, 2:]
    (size,) = _estimates([math.log(1 / tolerance) / fitted[2]], sizes_drawn, len(x), len(steps))
    state, reason = _state(steps, means, r2, named["plateau"], size, noise)
    recommended = size.value if state == "ok" else None
    return LearningCurve(**named, size=size, r2=r2, tolerance=tolerance, recommended=recommended, state=state, reason=reason)


def _fit(x: Floats, y: Floats) -> Floats:
    """Plateau, gain and rate by least squares, one row a row of `y`.

    For a given rate the law is linear in the other two (variable projection, Golub & Pereyra 1973), so that the rate alone is searched, on
    a logarithmic grid that is refined around its best point: no start to choose, and no local minimum missed.
    """
    scale = float(x.max())
    steps, place = np.unique(x, return_inverse=True)
    means = np.stack([np.bincount(place, row, len(steps)) / np.bincount(place) for row in y])
    low, high = means.max(axis=1), means.max(axis=1) + MOST_RANGES * np.ptp(means, axis=1)
    rates = np.broadcast_to(np.geomspace(*RATES, GRID), (len(y), GRID))
    for _ in range(REFINEMENTS):
        plateau, gain, error = _linear(x / scale, y, rates, low, high)
        best = np.argmin(error, axis=1)
        rows = np.arange(len(y))
        left, right = rates[rows, np.maximum(best - 1, 0)], rates[rows, np.minimum(best + 1, rates.shape[1] - 1)]
        found = np.stack([plateau[rows, best], gain[rows, best], rates[rows, best] / scale], axis=1)
        rates = np.geomspace(left, right, GRID, axis=1)
    return np.asarray(found)


def _linear(u: Floats, y: Floats, rates: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
    """The best plateau within its bounds, gain ≥ 0, and squared error, of every rate: rows of `y` × rates."""
    decay = np.exp(-rates[:, :, None] * u)
    mean, level = decay.mean(axis=2), y.mean(axis=1)[:, None]
    centred = decay - mean[:, :, None]
    slope = -(centred * y[:, None, :]).sum(axis=2) / np.maximum(np.square(centred).sum(axis=2), 1e-300)
    plateau = np.clip(level + slope * mean, low[:, None], high[:, None])
    gain = np.maximum((decay * (plateau[:, :, None] - y[:, None, :])).sum(axis=2) / np.maximum(np.square(decay).sum(axis=2), 1e-300), 0.0)
    error = np.square(y[:, None, :] - plateau[:, :, None] + gain[:, :, None] * decay).sum(axis=2)
    return plateau, gain, error


def _bootstrap(x: Floats, fitted: Floats, residuals: Floats, n_resamples: int, seed: int) -> Floats:
    """Parameters of the fits to resampled residuals, one row each."""
    rng = np.random.default_rng(seed)
    centred = (residuals - residuals.mean()) * math.sqrt(len(x) / (len(x) - 3))
    drawn = plateau_law(x, *fitted) + rng.choice(centred, (n_resamples, len(x)))
    return np.concatenate([np.zeros((0, 3)), *(_fit(x, drawn[begin : begin + AT_ONCE]) for begin in range(0, n_resamples, AT_ONCE))])


def _estimates(values: Sequence[float] | Floats, draws: Floats, n: int, n_sizes: int) -> list[Estimate]:
    if len(draws) < 2:
        return [Estimate(value=float(value), low=None, high=None, n=n, n_clusters=n_sizes) for value in values]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return [Estimate(value=float(value), low=float(low[i]), high=float(high[i]), n=n, n_clusters=n_sizes) for i, value in enumerate(values)]


def _state(steps: Floats, means: Floats, r2: float, plateau: Estimate, size: Estimate, noise: float | None) -> tuple[str, str | None]:
    spread = float(means.max() - means.min())
    fall = float(max(0.0, (means[:-1] - means[1:]).max()))
    # Two values with that deviation differ by more in one of twenty cases.
    allowed = UNKNOWN_NOISE * spread if noise is None else 1.96 * math.sqrt(2.0) * noise
    assert plateau.value is not None
    assert size.value is not None
    if fall > allowed:
        return "not_monotone", f"it falls by {fall:.4g} from one size to the next, where noise allows {allowed:.4g}"
    if r2 < MIN_R2:
        return "poor_fit", f"R² is {r2:.3f}, at least {MIN_R2} is needed"
    if plateau.value > means.max() + 0.99 * MOST_RANGES * spread or size.value > steps.max():
        return "no_plateau", f"it is still rising at the largest size, {steps.max():.6g}; the fit puts the size at {size.value:.4g}"
    smallest = float(steps[steps > 0][0])
    if size.value < smallest / 2:
        return "too_coarse", f"it is flat from the smallest size on, {smallest:.6g}; where it rises, between none and that, was not tried"
    if size.low is not None and size.high is not None and size.high > MOST_SPREAD * size.low:
        return "too_uncertain", f"the size is between {size.low:.4g} and {size.high:.4g}"
    return "ok", None


def _unfitted(state: str, reason: str, n: int, tolerance: float) -> LearningCurve:
    nothing: Any = Estimate(value=None, low=None, high=None, n=n, n_clusters=0)
    return LearningCurve(
        plateau=nothing,
        gain=nothing,
        rate=nothing,
        size=nothing,
        r2=None,
        tolerance=tolerance,
        recommended=None,
        state=state,
        reason=reason,
    )
