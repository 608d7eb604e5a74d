"""Calibration by hand, against the truth of simulated judges, and under bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from curators.errors import SchemaError
from curators.statistics.calibration import (
    Confusion,
    at_temperature,
    calibration,
    fit_temperature,
    prediction_powered_mean,
    rogan_gladen,
)


def test_scores_by_hand() -> None:
    """Brier (.01 + .04 + .49 + .16 + .16) / 5; log loss -(ln .9 + ln .8 + ln .3 + ln .6 + ln .6) / 5; one row a bin, so that the
    calibration error is (.1 + .2 + .7 + .4 + .4) / 5."""
    found = calibration(np.array([0.9, 0.8, 0.7, 0.6, 0.4]), np.array([1.0, 1.0, 0.0, 1.0, 0.0]))
    assert (found.brier, found.log_loss, found.ece) == pytest.approx((0.172, 0.51083, 0.36), abs=5e-6)
    assert (found.n, found.table.height) == (5, 5)


def test_the_calibration_error_of_two_bins() -> None:
    """Ten at .85 of which 6 happened, ten at .15 of which 2: (|.85 - .6| + |.15 - .2|) / 2 = .15."""
    p = np.repeat([0.85, 0.15], 10)
    happened = np.array([1.0] * 6 + [0.0] * 4 + [1.0] * 2 + [0.0] * 8)
    found = calibration(p, happened)
    assert found.ece == pytest.approx(0.15)
    assert found.table["n"].to_list() == [10, 10]
    assert found.table["share_low"][1] == pytest.approx(0.3127, abs=5e-4)  # Wilson of 6 in 10
    assert calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0])).ece == 0


def test_a_planted_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, size=20_000)
    happened = (rng.random(20_000) < expit(truth)).astype(float)
    bold = expit(truth * 3)
    temperature = fit_temperature(bold, happened)
    assert temperature == pytest.approx(3, rel=0.05)
    mended = at_temperature(bold, temperature)
    assert calibration(mended, happened).ece < 0.015 < 0.1 < calibration(bold, happened).ece
    assert (np.sign(mended - 0.5) == np.sign(bold - 0.5)).all()
    assert logit(at_temperature(np.array([0.8]), 2.0))[0] == pytest.approx(logit(0.8) / 2)


def test_a_corrected_share_beyond_one_is_one_with_its_interval() -> None:
    """(1 + .9 - 1) / .4 = 2.25, and its interval lies above 1 as a whole."""
    found = rogan_gladen(1000, 1000, Confusion(n_positive=100, n_true_positive=50, n_negative=100, n_true_negative=90))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_rogan_gladen_by_hand() -> None:
    """(.70 + .85 - 1) / (.85 + .90 - 1) = .55 / .75; variance (.21/1000 + (.2667)^2 * .1275/100 + (.7333)^2 * .09/100) / .5625."""
    found = rogan_gladen(700, 1000, Confusion(n_positive=100, n_true_positive=90, n_negative=100, n_true_negative=85))
    se = math.sqrt((0.21 / 1000 + (4 / 15) ** 2 * 0.1275 / 100 + (11 / 15) ** 2 * 0.09 / 100) / 0.5625)
    assert found.value == pytest.approx(0.73333, abs=5e-6)
    assert (found.low, found.high) == pytest.approx((11 / 15 - 1.96 * se, 11 / 15 + 1.96 * se), abs=1e-4)


def test_both_corrections_cover_the_truth_that_the_raw_share_misses() -> None:
    """200 worlds with true share .6, sensitivity .95 and specificity .6: the judge alone says .73. 95 % of 200 is 190 +- 9.2."""
    rng = np.random.default_rng(2)
    covered = np.zeros(2)
    raw = []
    for _ in range(200):
        truth = rng.random(2200) < 0.6
        called = np.where(truth, rng.random(2200) < 0.95, rng.random(2200) < 0.4)
        gold, rest = slice(0, 200), slice(200, None)
        confusion = Confusion(
            n_positive=int(truth[gold].sum()),
            n_true_positive=int((called & truth)[gold].sum()),
            n_negative=int((~truth)[gold].sum()),
            n_true_negative=int((~called & ~truth)[gold].sum()),
        )
        corrected = rogan_gladen(int(called[rest].sum()), 2000, confusion)
        powered = prediction_powered_mean(called[rest].astype(float), truth[gold].astype(float), called[gold].astype(float))
        covered += [(e.low or 0) <= 0.6 <= (e.high or 0) for e in (corrected, powered)]
        raw.append(called[rest].mean())
    assert np.mean(raw) == pytest.approx(0.73, abs=0.01)
    assert covered.min() >= 181


def test_refusals() -> None:
    chance = Confusion(n_positive=10, n_true_positive=4, n_negative=10, n_true_negative=6)
    with pytest.raises(SchemaError, match="no better than chance"):
        rogan_gladen(5, 10, chance)
    with pytest.raises(SchemaError, match="gold of both kinds"):
        rogan_gladen(5, 10, Confusion(n_positive=10, n_true_positive=4, n_negative=0, n_true_negative=0))
    with pytest.raises(SchemaError, match="at least one"):
        calibration(np.array([]), np.array([]))
    with pytest.raises(SchemaError, match=r"every probability must be in 0\.\.1"):
        fit_temperature(np.array([1.2]), np.array([1.0]))
    with pytest.raises(SchemaError, match="gold in pairs"):
        prediction_powered_mean(np.array([0.5, 0.5]), np.array([1.0]), np.array([1.0, 0.0]))
