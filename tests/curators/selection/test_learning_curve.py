"""The plateau law against the figures of ISA's tables, planted curves, and curves that must be refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from curators.errors import ConfigError
from curators.selection.learning_curve import fit_learning_curve, plateau_law

PERCENT = [0.0, 10, 25, 50, 75, 100]
# Table 2 of arXiv 2411.10545: win rates at checkpoints inside one epoch over all data.
HH = [18.2663, 78.7257, 81.3208, 81.5986, 83.1681, 82.7093]
OASST1 = [8.4452, 15.2327, 10.4157, 17.5105, 21.6901, 24.6601]
UFB = [7.6038, 17.1336, 23.7403, 23.9798, 27.4849, 26.8690]
# Table 3: r, a and b of R(x) = r - (r - a) exp(-b x), and the squared error of that law over all six points
LAWS = [
    (HH, (83.1681, 18.2663, 0.3), [79.94, 83.13, 83.17, 83.17, 83.17], 7.42, 0.9978),
    (OASST1, (24.6601, 8.4452, 0.02), [11.38, 14.83, 18.69, 21.04, 22.47], 40.89, 0.7933),
    (UFB, (27.4849, 7.6038, 0.055), [16.01, 22.46, 26.21, 27.16, 27.40], 8.28, 0.9712),
]


@pytest.mark.parametrize(("values", "law", "predicted", "error", "r2"), LAWS)
def test_the_papers_law_gives_the_papers_figures(
    values: list[float], law: tuple[float, float, float], predicted: list[float], error: float, r2: float
) -> None:
    plateau, start, rate = law
    found = plateau_law(np.array(PERCENT), plateau, plateau - start, rate)
    assert found[1:] == pytest.approx(predicted, abs=0.006)
    y = np.array(values)
    assert np.square(y - found).sum() == pytest.approx(error, abs=0.006)
    assert 1 - np.square(y - found).sum() / np.square(y - y.mean()).sum() == pytest.approx(r2, abs=1e-4)


@pytest.mark.parametrize(("values", "r2", "low", "high"), [(HH, 0.997, 8, 13), (UFB, 0.97, 40, 65)])
def test_curves_with_a_plateau_have_a_size(values: list[float], r2: float, low: float, high: float) -> None:
    """ln(20)/b of the paper's own b: 9.99 and 54.5 percent of the data."""
    found = fit_learning_curve(PERCENT, values)
    assert found.state == "ok", found.reason
    assert found.r2 is not None
    assert found.recommended is not None
    assert found.r2 >= r2
    assert low < found.recommended < high
    assert found.size.low is not None
    assert found.size.high is not None
    assert found.size.low < found.recommended < found.size.high
    assert found.plateau.value is not None
    assert found.plateau.value >= max(values) - 1e-9  # the bound


def test_a_curve_that_is_not_monotone_has_none() -> None:
    """OASST1: 15.23 at 10 % and 10.42 at 25 %."""
    found = fit_learning_curve(PERCENT, OASST1)
    assert (found.state, found.recommended) == ("not_monotone", None)
    assert "falls by 4.817" in str(found.reason)
    # with a judge as noisy as that, the fit itself refuses
    assert fit_learning_curve(PERCENT, OASST1, noise=4.0).state in ("poor_fit", "no_plateau")


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_planted_parameters_are_found_within_five_percent(noise: float) -> None:
    n = np.repeat([0.0, 100, 250, 500, 1000, 2500, 5000], 5)
    rng = np.random.default_rng(4)
    found = fit_learning_curve(list(n), list(plateau_law(n, 0.82, 0.41, 0.0021) + noise * rng.standard_normal(len(n))))
    for estimate, planted in ((found.plateau, 0.82), (found.gain, 0.41), (found.rate, 0.0021)):
        assert estimate.value == pytest.approx(planted, rel=0.05)
        if noise:
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low < planted * 1.02
            assert planted * 0.98 < estimate.high
    assert found.recommended == pytest.approx(math.log(20) / 0.0021, rel=0.05)
    assert found.predict([0.0]) == pytest.approx([0.41], rel=0.05)


def test_the_recommended_size_leaves_the_tolerated_share() -> None:
    n = np.array([0.0, 5, 10, 25, 50, 100])
    found = fit_learning_curve(n, plateau_law(n, 1.0, 0.5, 0.1), tolerance=0.01)
    assert found.recommended is not None
    assert 1.0 - found.predict([found.recommended])[0] == pytest.approx(0.005, rel=1e-3)


@pytest.mark.parametrize(
    ("sizes", "values", "state"),
    [
        ([1, 2, 3, 4], [0.1, 0.2, 0.25, 0.27], "too_few_sizes"),
        ([1, 1, 1, 1, 2, 3], [0.1, 0.2, 0.25, 0.27, 0.3, 0.3], "too_few_sizes"),
        ([1, 2, 3, 4, 5], [0.5, 0.4, 0.4, 0.3, 0.2], "no_gain"),
        ([1, 2, 3, 4, 5], [0.5] * 5, "no_gain"),
        ([0, 1, 2, 3, 4, 5], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], "no_plateau"),
        ([1, 2, 3, 4, 5, 6], [0.1, math.nan, 0.2, math.nan, 0.3, 0.3], "too_few_sizes"),
        ([], [], "too_few_sizes"),
    ],
)
def test_what_is_not_identified_says_so(sizes: list[float], values: list[float], state: str) -> None:
    found = fit_learning_curve(sizes, values)
    assert (found.state, found.recommended) == (state, None)
    assert found.reason


def test_sizes_that_all_lie_on_the_plateau_do_not_identify_one() -> None:
    """Any rate that is large enough fits as well."""
    found = fit_learning_curve([0, 50, 60, 70, 80, 90, 100], [0.2, *[0.8] * 6])
    assert (found.state, found.recommended) == ("too_coarse", None)


def test_a_wide_interval_is_no_recommendation() -> None:
    """Drawn from a plateau of 0.8, noise 0.02: the fit is good and the size may be 35 or 1000."""
    found = fit_learning_curve([5, 10, 20, 40, 70, 100], [0.607, 0.567, 0.698, 0.748, 0.782, 0.794], noise=0.02)
    assert (found.state, found.recommended) == ("too_uncertain", None)
    assert found.r2 is not None
    assert found.r2 > 0.9


def test_the_fit_is_that_of_a_general_optimiser() -> None:
    n = np.repeat([0.0, 1, 2, 4, 8, 16], 3)
    y = plateau_law(n, 0.9, 0.4, 0.3) + 0.01 * np.random.default_rng(1).standard_normal(len(n))
    found = fit_learning_curve(list(n), list(y), n_resamples=0)
    expected, *_ = curve_fit(plateau_law, n, y, p0=[1, 1, 1])
    assert [found.plateau.value, found.gain.value, found.rate.value] == pytest.approx(list(expected), rel=1e-4)
    assert found.size.low is None


def test_order_of_points_and_seed() -> None:
    one = fit_learning_curve(PERCENT, HH, seed=3)
    other = fit_learning_curve(PERCENT[::-1], HH[::-1], seed=3)
    assert (one.plateau, one.gain, one.rate, one.size) == (other.plateau, other.gain, other.rate, other.size)


def test_what_cannot_be_a_curve_is_refused() -> None:
    with pytest.raises(ConfigError, match="as many of each"):
        fit_learning_curve([1, 2], [0.1])
    with pytest.raises(ConfigError, match="nothing was fitted"):
        fit_learning_curve([1], [0.1]).predict([1])
