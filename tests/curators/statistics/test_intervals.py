"""Intervals and tests against values worked by hand, and against the truth of simulated worlds."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from curators.statistics.intervals import (
    Z95,
    binomial,
    bootstrap_interval,
    cluster_bootstrap,
    cluster_ratio,
    cluster_se,
    clustered_share,
    mcnemar,
    resamples,
    share,
    wilson,
)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (52, 100, 0.4232, 0.6154), (0, 20, 0, 0.1611), (20, 20, 0.8389, 1)],
)
def test_wilson_intervals(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_flips_toward_the_first() -> None:
    """18 flips of 120 pairs, 14 toward the first; exact p = 2 * sum over k >= 14 of C(18, k) / 2^18."""
    flips = share(18, 120)
    assert (flips["share"], flips["low"], flips["high"]) == pytest.approx((0.15, 0.0971, 0.2247), abs=5e-4)
    assert binomial(14, 18) == pytest.approx(2 * sum(math.comb(18, k) for k in range(14, 19)) / 2**18)
    assert binomial(14, 18) == pytest.approx(0.03088, abs=1e-5)
    assert binomial(0, 0) == 1.0


def test_mcnemar_is_the_exact_test_of_the_discordant() -> None:
    assert mcnemar(15, 5) == pytest.approx(0.04139, abs=1e-5)
    assert mcnemar(5, 15) == mcnemar(15, 5)
    assert mcnemar(0, 0) == 1.0


def test_a_column_of_the_name_n_is_a_denominator_like_any_other() -> None:
    rows = pl.DataFrame({"prompt_id": ["p", "q"], "hits": [1, 3], "n": [2, 6]})
    assert (cluster_ratio(rows, "hits", "n").value, cluster_ratio(rows, "hits").value) == (0.5, 2.0)


def test_rows_of_one_cluster_say_as_much_as_one_row() -> None:
    found = clustered_share([30.0, 0.0], [60.0, 0.0])  # a cluster that nobody counted is none
    assert (found["n"], found["share"]) == (60, 0.5)
    assert (found["low"], found["high"]) == wilson(0.5, 1)


def both_orders() -> pl.DataFrame:
    """50 prompts with two identical rows each, 30 of them won."""
    return pl.DataFrame({"prompt_id": [f"p{i:02}" for i in range(50) for _ in "ab"], "won": [i < 30 for i in range(50) for _ in "ab"]})


def test_identical_rows_of_a_prompt_count_once() -> None:
    """Naive sqrt(.6*.4/100) = .04899; of the 50 prompts sqrt(.6*.4/50) = .06928. A resample's mean is Binomial(50, .6) / 50."""
    assert cluster_se([1.0] * 60 + [0.0] * 40, [1.0] * 100) == pytest.approx(0.04899, abs=1e-5)
    assert cluster_se([2.0] * 30 + [0.0] * 20, [2.0] * 50) == pytest.approx(0.06928, abs=1e-5)
    found = cluster_ratio(both_orders(), "won")
    cumulative = np.cumsum([math.comb(50, k) * 0.6**k * 0.4 ** (50 - k) for k in range(51)])
    low, high = (int(np.searchsorted(cumulative, q)) / 50 for q in (0.025, 0.975))
    assert (found.value, found.n, found.n_clusters) == (0.6, 100, 50)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.021)


def test_a_ratio_and_the_same_as_any_statistic_have_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    rows = pl.DataFrame({"prompt_id": rng.integers(40, size=300).astype(str), "hits": rng.random(300), "of": rng.random(300) + 1})
    top, under = rows["hits"].to_numpy(), rows["of"].to_numpy()
    ratio = cluster_ratio(rows, "hits", "of")
    general = cluster_bootstrap(rows["prompt_id"], lambda weights: float(weights @ top / (weights @ under)))
    assert (general.value, general.n_clusters) == (pytest.approx(ratio.value), ratio.n_clusters)
    assert (general.low, general.high) == pytest.approx((ratio.low, ratio.high), abs=1e-9)


def test_the_order_of_rows_does_not_matter() -> None:
    rows = both_orders().with_columns(won=pl.int_range(pl.len()).cast(pl.Float64).sqrt())
    assert cluster_ratio(rows.sample(fraction=1, shuffle=True, seed=1), "won") == cluster_ratio(rows, "won")
    assert cluster_ratio(rows, "won", seed=1) != cluster_ratio(rows, "won", seed=0)


def test_resamples_take_whole_clusters() -> None:
    clusters = pl.Series(["b", "a", "b", "c"])
    for weights in resamples(clusters, n_resamples=20):
        assert weights[0] == weights[2]
        assert weights[1] + weights[0] + weights[3] == 3


def test_what_cannot_be_known_is_null() -> None:
    none = cluster_ratio(both_orders().clear(), "won")
    assert (none.value, none.low, none.n) == (None, None, 0)
    one = cluster_ratio(both_orders().head(2), "won")
    assert (one.value, one.low, one.high) == (1.0, None, None)
    undefined = cluster_bootstrap(pl.Series(["p", "q"]), lambda weights: math.nan)
    assert (undefined.value, undefined.low) == (None, None)
    missing = cluster_ratio(both_orders().with_columns(won=pl.lit(None, dtype=pl.Boolean)), "won")
    assert (missing.value, missing.n) == (None, 0)


def test_resamples_without_a_value_are_left_out_and_counted() -> None:
    value = np.array([1.0, 3.0, math.nan])  # the statistic is not defined without the third cluster

    def statistic(weights: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        return float(weights[:2] @ value[:2]) if weights[2] else math.nan

    found = cluster_bootstrap(pl.Series(["p", "q", "r"]), statistic)
    assert found.value == 4
    assert found.n_undefined / 1000 == pytest.approx((2 / 3) ** 3, abs=0.06)
    assert found.low is not None


def test_twice_the_prompts_shrink_the_interval_by_the_root_of_two() -> None:
    sums, counts = np.array([2.0, -1.0, 0.0, 1.0]), np.full(4, 4.0)
    assert cluster_se(np.tile(sums, 2), np.tile(counts, 2)) == pytest.approx(cluster_se(sums, counts) / math.sqrt(2))


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    """Gain 0.1 with prompts that differ in difficulty, 4 samples each: 300 worlds; 95 % +- 3 standard errors is 0.912 to 0.988."""
    rng = np.random.default_rng(0)
    covered = 0
    for world in range(300):
        difficulty = rng.uniform(0, 0.9, size=100)
        sums = (rng.binomial(4, difficulty + 0.1) - rng.binomial(4, difficulty)).astype(float)
        low, high = bootstrap_interval(sums, np.full(100, 4.0), seed=world, n_resamples=400)
        covered += low <= 0.1 <= high
    assert 0.912 <= covered / 300 <= 0.988


def test_many_prompts_are_resampled_in_blocks() -> None:
    sums, counts = np.tile([1.0, 0.0], 2500), np.ones(5000)
    low, high = bootstrap_interval(sums, counts, seed=0, n_resamples=1000)
    assert (low, high) == pytest.approx((0.5 - Z95 * 0.00707, 0.5 + Z95 * 0.00707), abs=2e-3)


def test_clusters_that_are_all_alike_are_no_certainty() -> None:
    won = both_orders().with_columns(won=pl.lit(True))
    assert (cluster_ratio(won, "won").value, cluster_ratio(won, "won").low) == (1.0, None)
    assert cluster_bootstrap(won["prompt_id"], lambda weights: 1.0, n_resamples=50).high is None
