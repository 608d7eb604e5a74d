"""A planted effect of length is found and taken out of the ratings; without overlap nothing is claimed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from curators.statistics.controlled import controlled_ratings, relative_difference
from curators.statistics.logistic import choose_penalty, fit_logistic, folds


def world(gamma: float, *, theta: tuple[float, ...] = (0.5, 0.0, -0.5), shift: float = 0.3, n: int = 6000, seed: int = 0) -> pl.DataFrame:
    """Contests of players that differ in worth; the worst one writes longest, by `shift` on average for each place."""
    rng = np.random.default_rng(seed)
    a = rng.integers(len(theta), size=n)
    b = (a + rng.integers(1, len(theta), size=n)) % len(theta)
    length = rng.normal(size=n) + shift * (a - b)
    worth = np.array(theta)
    p = 1 / (1 + np.exp(-(worth[a] - worth[b] + gamma * length)))
    names = np.array([f"m{i}" for i in range(len(theta))])
    won = (rng.random(n) < p).astype(float)
    return pl.DataFrame({"prompt_id": rng.integers(n // 3, size=n).astype(str), "a": names[a], "b": names[b], "win": won, "length": length})


def test_a_planted_length_effect_is_found_and_taken_out() -> None:
    """Raw, length hides that m0 is best: .5 - .8 * .3 = .26 of each step of .5 is left."""
    found = controlled_ratings(world(0.8), n_resamples=40)
    by_player = {row["player"]: row for row in found.table.iter_rows(named=True)}
    effect = found.effects.row(0, named=True)
    assert effect["gamma"] == pytest.approx(0.8, rel=0.1)
    assert effect["low"] < 0.8 < effect["high"]
    assert by_player["m0"]["controlled"] == pytest.approx(0.5, abs=0.08)
    assert by_player["m0"]["controlled_low"] < 0.5 < by_player["m0"]["controlled_high"]
    assert by_player["m0"]["theta"] < 0.35
    assert (found.reason, found.large_shift) == (None, False)


def test_no_effect_is_no_shift() -> None:
    found = controlled_ratings(world(0.0), n_resamples=40)
    effect = found.effects.row(0, named=True)
    assert effect["low"] < 0 < effect["high"]
    assert (found.table["win_rate"] - found.table["controlled_win_rate"]).abs().max() < 0.01


def test_without_overlap_only_the_raw_ratings_stand() -> None:
    found = controlled_ratings(world(0.5, theta=(0.5, -0.5), shift=-3.0), n_resamples=0)
    assert found.reason is not None
    assert "'m0' has more length in 100%" in found.reason
    assert found.table["controlled"].null_count() == 2
    assert found.table["theta"].null_count() == 0
    assert found.effects["gamma"].to_list() == [None]


def test_one_prompt_has_no_interval() -> None:
    found = controlled_ratings(world(0.8, n=300).with_columns(prompt_id=pl.lit("p")), n_resamples=5)
    assert found.reason is None
    assert found.effects.select("low", "high").row(0) == (None, None)
    assert found.table.select(pl.col("controlled_low", "controlled_high").null_count()).row(0) == (3, 3)


def test_a_large_shift_is_said() -> None:
    assert controlled_ratings(world(1.5, theta=(0.5, -0.5), shift=0.9), n_resamples=0).large_shift


def test_swapping_the_sides_changes_nothing() -> None:
    rows = world(0.8, n=600)
    swapped = rows.select("prompt_id", a="b", b="a", win=1 - pl.col("win"), length=-pl.col("length"))
    first, second = (controlled_ratings(r, n_resamples=0).table["controlled"].to_list() for r in (rows, swapped))
    assert second == pytest.approx(first)
    assert rows.select(relative_difference("length", "win")).height == 600


def test_the_regression_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 3))
    y = (rng.random(300) < 1 / (1 + np.exp(-x @ np.array([1.0, -0.5, 0.0])))).astype(float)
    theirs = LogisticRegression(C=1 / 2.5, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0]
    assert fit_logistic(x, y, penalty=2.5) == pytest.approx(theirs, abs=1e-5)
    weights = rng.integers(0, 3, size=300).astype(float)
    repeated = np.repeat(np.arange(300), weights.astype(int))
    assert fit_logistic(x, y, weight=weights) == pytest.approx(fit_logistic(x[repeated], y[repeated]), abs=1e-6)
    assert np.isfinite(fit_logistic(np.ones((5, 1)), np.ones(5))).all()


def test_folds_keep_prompts_whole_and_noise_is_shrunk_hardest() -> None:
    groups = pl.Series([f"p{i % 20}" for i in range(200)])
    fold = folds(groups)
    assert all(len(set(fold[(groups == name).to_numpy()])) == 1 for name in groups.unique())
    assert sorted(set(fold)) == [0, 1, 2, 3, 4]
    rng = np.random.default_rng(0)
    noise, y = rng.normal(size=(200, 1)), rng.integers(2, size=200).astype(float)
    signal = (2 * y - 1)[:, None] * 0.5 + rng.normal(size=(200, 1))

    def penalty(strength: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([strength])

    chosen = [choose_penalty(x, y, groups, penalty=penalty, grid=(0.1, 10, 1000)) for x in (noise, signal)]
    assert chosen[0] == 1000
    assert chosen[1] < 1000
