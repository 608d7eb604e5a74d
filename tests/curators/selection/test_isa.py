"""ISA against the oracles of its definition, a brute force, and what it must not depend on."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curators.selection.config import SelectConfig
from curators.selection.isa import REG, entropy_change, fit_density, min_max, rank_by_density
from curators.selection.pool import Pool
from curators.selection.selectors import Selection, select

ORDERS = ("signed", "abs", "normalized")


def pool(vectors: np.ndarray) -> Pool:
    return Pool(ids=pl.Series([f"{i:06d}" for i in range(len(vectors))]), vectors=vectors.astype(np.float32))


def isa(vectors: np.ndarray, budget: int, ids: list[str] | None = None, **options: Any) -> Selection:
    rows = pl.DataFrame({"pair_id": ids or [f"{i:06d}" for i in range(len(vectors))]})
    return select(rows, vectors.astype(np.float32), budget=budget, config=SelectConfig(selector="isa", **options))


def planted(seed: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """900 standard normal rows in four dimensions and 100 bad ones of another scale."""
    rng = np.random.default_rng(seed)
    return np.vstack([rng.standard_normal((900, 4)), scale * rng.standard_normal((100, 4))]), np.arange(1000) >= 900


@pytest.mark.parametrize(
    ("log_likelihood", "signed", "absolute", "normalized", "changes", "normalized_changes"),
    [
        # l' = 0, 1/4, 1/2, 1: D = -l' exp(l'); Z = 6.65102852, S = 3.86364882, H = log Z - S/Z
        (
            [-10.0, -8, -6, -2],
            [0, 1, 2, 3],
            [3, 2, 1, 0],
            [2, 1, 0, 3],
            [0, -0.32100635, -0.82436064, -2.71828183],
            [0.26573115, 0.29367019, 0.31153955, 0.23576188],
        ),
        # a half each of N(-1, 1) and N(1, 1) at -1, 0, 1.5, 4
        (
            np.log(0.5 * (stats.norm.pdf([-1, 0, 1.5, 4], -1) + stats.norm.pdf([-1, 0, 1.5, 4], 1))),
            [3, 2, 0, 1],
            [1, 0, 2, 3],
            [2, 0, 1, 3],
            [-2.64237455, -2.71828183, -2.41911610, 0],
            [0.30482933, 0.30374056, 0.30727991, 0.22722140],
        ),
    ],
)
def test_known_values(log_likelihood: Any, signed: Any, absolute: Any, normalized: Any, changes: Any, normalized_changes: Any) -> None:
    given_ = np.asarray(log_likelihood)
    scaled = min_max(given_)
    assert scaled is not None
    assert entropy_change(scaled) == pytest.approx(changes, abs=1e-7)
    assert entropy_change(scaled, normalized=True) == pytest.approx(normalized_changes, abs=1e-7)
    for order, expected in zip(ORDERS, (signed, absolute, normalized), strict=True):
        assert rank_by_density(given_, 4, order).order.tolist() == expected


def test_the_mixture_of_the_second_oracle() -> None:
    found = np.log(0.5 * (stats.norm.pdf([-1, 0, 1.5, 4], -1) + stats.norm.pdf([-1, 0, 1.5, 4], 1)))
    assert found == pytest.approx([-1.48515770, -1.41893853, -1.68849836, -6.11175031], abs=1e-8)
    assert rank_by_density(found, 2, "signed").diagnostics["entropy"] == pytest.approx(-7.77977248, abs=1e-7)


@pytest.mark.parametrize("normalized", [False, True])
def test_the_closed_form_is_the_entropy_without_the_row(normalized: bool) -> None:
    """The loop of the paper's step 6, over 200 rows of a fitted mixture."""
    rows = pool(np.random.default_rng(3).standard_normal((200, 3)))
    scaled = min_max(fit_density(rows, SelectConfig()).log_likelihood(rows.vectors))
    assert scaled is not None

    def entropy(left: np.ndarray) -> float:
        p = np.exp(left)
        q = p / p.sum() if normalized else p
        return -float(np.sum(q * np.log(q)))

    brute = [entropy(scaled) - entropy(np.delete(scaled, i)) for i in range(200)]
    assert np.abs(entropy_change(scaled, normalized=normalized) - brute).max() < 1e-12 * 200


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=2, max_size=60, unique=True))
def test_the_signed_order_is_that_of_the_likelihood_and_abs_its_reverse(values: list[float]) -> None:
    found = np.array(values)
    if min_max(found) is None:
        return
    assert rank_by_density(found, len(found), "signed").order.tolist() == np.argsort(found, kind="stable").tolist()
    assert rank_by_density(found, len(found), "abs").order.tolist() == np.argsort(found, kind="stable")[::-1].tolist()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100), st.floats(-100, 100))
def test_scale_and_offset_of_the_likelihood_change_nothing(scale: float, offset: float) -> None:
    found = np.random.default_rng(0).standard_normal(50)
    for order in ("signed", "abs", "normalized"):
        assert rank_by_density(found * scale + offset, 20, order).order.tolist() == rank_by_density(found, 20, order).order.tolist()


def test_normalized_keeps_the_middle() -> None:
    """l' uniform on [0, 1]: S/Z = 1 / (e - 1) is 0.582, or 0.584 on this grid's sums; the best 1 % lie about it."""
    scaled = np.linspace(0, 1, 10_001)
    kept = scaled[rank_by_density(scaled, 100, "normalized").order]
    assert 0.575 < kept.min() < 0.582 < kept.max() < 0.592


def test_full_covariances_do_not_see_an_affine_map() -> None:
    rng = np.random.default_rng(1)
    rows = np.vstack([rng.standard_normal((300, 3)), 4 + 0.5 * rng.standard_normal((200, 3))])
    matrix = np.array([[1.0, 0.3, 0.0], [0.0, 0.8, 0.2], [0.1, 0.0, 1.2]])
    options: dict[str, Any] = {"covariance": "full", "dimensions": None, "n_init": 1}
    one = fit_density(pool(rows), SelectConfig(**options))
    other = fit_density(pool(rows @ matrix + 5), SelectConfig(**options))
    found = [density.log_likelihood(np.asarray(given_, dtype=np.float32)) for density, given_ in ((one, rows), (other, rows @ matrix + 5))]
    # The same up to a constant, the determinant's and the scale's; what is left comes from the regularisation.
    assert np.ptp(found[0] - found[1]) < 1e-2
    assert REG == 1e-6
    kept = [set(isa(given_, 25, **options).ids) for given_ in (rows, rows @ matrix + 5)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("scale", "order", "low", "high"), [(5, "signed", 0.9, 1), (5, "abs", 0, 0.02), (0.3, "signed", 0, 0), (0.3, "abs", 0.6, 0.85)]
)
def test_outliers_and_dense_noise_are_kept_by_opposite_orders(scale: float, order: str, low: float, high: float) -> None:
    """Published shares of bad rows among the kept: 96 % and 0 % far out, 0 % and 72 % in a dense spot; 10 % are bad."""
    shares = []
    for seed in range(2):
        rows, bad = planted(seed, scale)
        found = isa(rows, 100, order=order)
        shares.append(np.mean([bad[int(each)] for each in found.ids]))
        assert found.state == "ok"
    assert low <= np.mean(shares) <= high


def test_rare_rows_among_near_duplicates_are_found() -> None:
    """90 % near-duplicates of ten texts, 10 % that stand alone and farther out: signed finds those, random one in ten."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((10, 16))
    crowd = centres[rng.integers(10, size=900)] + 0.01 * rng.standard_normal((900, 16))
    rows = np.vstack([crowd, 1.5 * rng.standard_normal((100, 16))])
    found = isa(rows, 100, n_components=2)
    alone = np.mean([int(each) >= 900 for each in found.ids])
    assert alone >= 0.95
    by_chance = select(pl.DataFrame({"pair_id": [f"{i:06d}" for i in range(1000)]}), budget=100)
    assert np.mean([int(each) >= 900 for each in by_chance.ids]) < 0.25


def test_a_large_pool_is_fitted_on_a_sample_and_scored_whole() -> None:
    rows, _ = planted(0, 5)
    whole, part = isa(rows, 100), isa(rows, 100, fit_rows=500)
    assert (whole.diagnostics["n_fit"], part.diagnostics["n_fit"]) == (1000, 500)
    assert part.rows["score"].null_count() == 0
    assert len(set(whole.ids) & set(part.ids)) > 85


def test_reduction_and_covariance_follow_the_number_of_rows() -> None:
    rng = np.random.default_rng(0)
    told = fit_density(pool(rng.standard_normal((400, 50))), SelectConfig()).diagnostics
    assert (told["covariance"], told["dimensions"]) == ("full", 20)  # 400 / 20
    assert 0.4 < told["explained_variance"] < 0.8
    told = fit_density(pool(rng.standard_normal((400, 50))), SelectConfig(dimensions=None)).diagnostics
    assert (told["covariance"], told["dimensions"]) == ("diag", 50)  # fewer than 20 rows a dimension


def test_equal_likelihoods_are_degenerate_and_in_the_order_of_ids() -> None:
    ranking = rank_by_density(np.full(5, -3.0), 3, "signed")
    assert ranking.order.tolist() == [0, 1, 2]
    assert ranking.degenerate == "all rows have the same likelihood"
    assert np.isfinite(ranking.scores).all()


def test_fewer_rows_than_components_are_degenerate() -> None:
    found = isa(np.array([[0.0, 1], [2, 3]]), 2, n_components=3)
    assert (found.state, found.ids) == ("degenerate", ["000000", "000001"])
    assert "components" in str(found.reason)


def test_one_giant_cluster_of_copies_does_not_break_the_fit() -> None:
    rows = np.zeros((300, 8))
    rows[:5] = np.random.default_rng(0).standard_normal((5, 8))
    for order in ORDERS:
        found = isa(rows, 5, order=order)
        assert (found.state, len(found.ids)) == ("ok", 5)
        assert found.rows["score"].is_finite().all()


@pytest.mark.slow
def test_fifty_thousand_rows_take_less_than_a_minute() -> None:
    rows = np.random.default_rng(0).standard_normal((50_000, 384), dtype=np.float32) / np.sqrt(1 + np.arange(384) / 20)
    begin = time.perf_counter()
    assert len(isa(rows, 5000).ids) == 5000
    assert time.perf_counter() - begin < 60
