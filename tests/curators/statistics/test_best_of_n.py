from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curators.errors import ConfigError
from curators.statistics.best_of_n import best_of_n, kl_bound, over_optimisation, rank_weights

POOLS = st.lists(st.tuples(st.integers(0, 4), st.integers(-5, 5)), min_size=1, max_size=7)


def test_known_values() -> None:
    """By proxy from the worst: gold 1, 2, 3, 0. Best of 2: the ranks have 0, 1/6, 2/6, 3/6, so 2/6 + 6/6 = 4/3; of 3: 0, 0, 1/4, 3/4."""
    proxy, gold = [0.1, 0.9, 0.5, 0.3], [1, 0, 3, 2]
    assert [best_of_n(proxy, gold, n) for n in (1, 2, 3, 4)] == pytest.approx([1.5, 4 / 3, 0.75, 0.0])
    assert [kl_bound(n) for n in (1, 8, 16)] == pytest.approx([0.0, 1.20444, 1.83509], abs=1e-5)


@given(POOLS, st.data())
def test_it_is_the_mean_over_all_draws_where_ties_are_drawn_from(pool: list[tuple[int, int]], data: st.DataObject) -> None:
    """Every subset of n answers alike; among the best of a subset each alike."""
    n = data.draw(st.integers(1, len(pool)))
    proxy, gold = zip(*pool, strict=True)
    best = []
    for drawn in itertools.combinations(range(len(pool)), n):
        top = max(proxy[i] for i in drawn)
        tied = [gold[i] for i in drawn if proxy[i] == top]
        best.append(sum(tied) / len(tied))
    assert best_of_n(proxy, gold, n) == pytest.approx(sum(best) / len(best), abs=1e-9)


def test_it_is_what_a_simulation_of_best_of_n_finds() -> None:
    rng = np.random.default_rng(1)
    gold = rng.normal(size=40)
    proxy = gold + rng.standard_t(2, size=40)
    for n in (2, 8, 32):
        drawn = np.array([rng.choice(40, size=n, replace=False) for _ in range(20_000)])
        picked = gold[drawn[np.arange(len(drawn)), proxy[drawn].argmax(axis=1)]]
        assert best_of_n(proxy, gold, n) == pytest.approx(picked.mean(), abs=4 * picked.std() / math.sqrt(len(picked)) + 1e-9)


def test_weights_of_a_large_pool_sum_to_one() -> None:
    for n in (1, 7, 500, 3000):
        weights = rank_weights(3000, n)
        assert weights.sum() == pytest.approx(1, abs=1e-9)
        assert (np.diff(weights) >= -1e-15).all()


@given(POOLS, st.randoms(use_true_random=False))
def test_neither_order_nor_a_monotone_change_of_the_proxy_matters(pool: list[tuple[int, int]], random: object) -> None:
    shuffled = list(pool)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for n in range(1, len(pool) + 1):
        one = best_of_n([p for p, _ in pool], [g for _, g in pool], n)
        other = best_of_n([math.exp(p) - 3 for p, _ in shuffled], [g for _, g in shuffled], n)
        assert one == pytest.approx(other, abs=1e-9)


def world(n_prompts: int, n: int, *, seed: int, heavy: bool) -> pl.DataFrame:
    """Gold is normal; the proxy adds noise, normal or, in rare bursts, far beyond all gold (one answer in 25)."""
    rng = np.random.default_rng(seed)
    gold = rng.normal(size=(n_prompts, n))
    burst = rng.random((n_prompts, n)) < 0.04
    noise = np.where(burst, 10 * np.abs(rng.normal(size=gold.shape)), 0.0) if heavy else rng.normal(size=gold.shape)
    prompts = np.repeat([f"p{i:04}" for i in range(n_prompts)], n)
    return pl.DataFrame({"prompt_id": prompts, "proxy": (gold + noise).ravel(), "gold": gold.ravel()})


def test_the_turning_point_is_found_where_noise_is_heavy_and_none_where_it_is_light() -> None:
    """The truth is that of a hundred times as many answers."""
    grid = (1, 2, 4, 8, 16, 32)
    truth = over_optimisation(world(3000, 64, seed=2, heavy=True), grid=grid, n_resamples=0)
    found = over_optimisation(world(200, 64, seed=3, heavy=True), grid=grid, n_resamples=200)
    assert truth.turning_point.value in grid[1:-1]
    assert found.turning_point.value is not None
    assert abs(grid.index(int(found.turning_point.value)) - grid.index(int(truth.turning_point.value or 0))) <= 1
    assert found.lost.low is not None
    assert found.lost.low > 0
    assert found.curve["proxy"].is_sorted()
    inside = (found.curve["gold_low"] < found.curve["gold"]) & (found.curve["gold"] < found.curve["gold_high"])
    assert inside.all()
    light = over_optimisation(world(200, 64, seed=3, heavy=False), grid=grid, n_resamples=200)
    assert light.turning_point.value == 32
    assert light.lost.value == 0
    assert light.curve["gold"].is_sorted()


def test_what_is_unscored_is_left_out_and_counted() -> None:
    answers = world(3, 8, seed=1, heavy=False)
    alone = over_optimisation(answers.filter(pl.col("prompt_id") != "p0002"), grid=(1, 4))
    broken = answers.with_row_index("i").with_columns(
        proxy=pl.when((pl.col("prompt_id") == "p0002") & (pl.col("i") % 8 < 3)).then(math.nan).otherwise("proxy"),
        gold=pl.when((pl.col("prompt_id") == "p0002") & (pl.col("i") % 8 > 5)).then(None).otherwise("gold"),
    )
    found = over_optimisation(broken.sample(fraction=1.0, shuffle=True, seed=4), grid=(4, 1))
    assert (found.n_prompts, found.n_short, found.n_unscored) == (2, 1, 5)
    assert found.curve["gold"].to_list() == pytest.approx(alone.curve["gold"].to_list())
    with pytest.raises(ConfigError, match="best of 9: no prompt has as many scored answers; the most are 8"):
        over_optimisation(answers, grid=(9,))


@pytest.mark.parametrize("n", [0, 3])
def test_n_is_within_the_pool(n: int) -> None:
    with pytest.raises(ConfigError, match=f"best of {n} from 2 answers"):
        best_of_n([1, 2], [1, 2], n)
