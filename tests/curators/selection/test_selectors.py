"""One signature: the same for any order of rows, a reason for every row, and bad input with a defined outcome."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest

from curators.errors import ConfigError, SchemaError
from curators.pairs import unit_hash
from curators.selection.config import SelectConfig
from curators.selection.controls import slice_density
from curators.selection.ladders import SHARES, ladder
from curators.selection.pool import Pool, Ranking, ranked
from curators.selection.quotas import shares
from curators.selection.selectors import SELECTORS, Selection, select

N = 240
OPTIONS: dict[str, dict[str, Any]] = {
    "stratified": {"stratum": "task"},
    "margin": {"direction": "largest"},
    "difficulty": {"direction": "middle"},
    "log_det": {"quality": 0.5},
}


def world(n: int = N, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows with ids in no order, tied scores, two tasks; embeddings in three clusters, with copies."""
    rng = np.random.default_rng(seed)
    rows = pl.DataFrame(
        {
            "pair_id": [f"p{each:05d}" for each in rng.permutation(n)],
            "margin": rng.integers(0, 9, n) / 4,
            "difficulty": rng.integers(0, 9, n) / 4,
            "score": rng.integers(0, 9, n) / 4,
            "task": ["sums" if each < n // 3 else "proofs" for each in range(n)],
        }
    )
    vectors = (3 * np.eye(6)[rng.integers(3, size=n)] + rng.standard_normal((n, 6))).astype(np.float32)
    vectors[10:15] = vectors[0]
    return rows, vectors


def run(name: str, rows: pl.DataFrame, vectors: np.ndarray | None, budget: int | float = 40, **options: Any) -> Selection:
    config = SelectConfig(selector=name, n_init=1, **(OPTIONS.get(name, {}) | options))
    found = select(rows, vectors, budget=budget, config=config)
    assert found.funnel.n_in == rows.height
    assert found.funnel.n_kept == len(found.ids) == len(set(found.ids))
    assert (found.reason is None) == (found.state == "ok")
    in_rank_order = found.rows.filter(pl.col("rank").is_not_null()).sort("rank")
    assert in_rank_order["id"].to_list() == found.ids
    assert found.rows.filter(pl.col("state") == "kept").height == len(found.ids)
    return found


@pytest.mark.parametrize("name", SELECTORS)
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    rows, vectors = world()
    found = run(name, rows, vectors)
    assert (found.state, len(found.ids)) == ("ok", 40)
    mixed = np.random.default_rng(1).permutation(N)
    again = run(name, rows[mixed.tolist()], vectors[mixed])
    assert again.ids == found.ids
    assert again.rows.equals(found.rows)
    assert dict(again.diagnostics) == dict(found.diagnostics)


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "stratified"])
def test_a_smaller_budget_is_the_beginning_of_a_larger_one(name: str) -> None:
    rows, vectors = world()
    assert run(name, rows, vectors, 15).ids == run(name, rows, vectors, 60).ids[:15]


@pytest.mark.parametrize("name", SELECTORS)
def test_fewer_rows_than_the_budget_says_so(name: str) -> None:
    rows, vectors = world()
    found = run(name, rows[:30], vectors[:30], 100)
    assert found.state == "short"
    assert "of the 100 rows asked for" in str(found.reason)
    assert found.budget == 100
    if name != "deita":
        assert len(found.ids) == 30


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_no_row_one_and_two(name: str, n: int) -> None:
    rows, vectors = world()
    found = run(name, rows[:n], vectors[:n], 1)
    assert len(found.ids) == min(n, 1)
    assert found.state == ("short" if n == 0 else found.state)


@pytest.mark.parametrize("name", [name for name, selector in SELECTORS.items() if selector.spread])
def test_embeddings_that_are_all_the_same_are_degenerate(name: str) -> None:
    rows, vectors = world()
    found = run(name, rows, np.broadcast_to(vectors[0], vectors.shape).astype(np.float32), quality=0.0)
    assert (found.state, found.reason) == ("degenerate", "all embeddings are the same")
    assert found.ids == rows["pair_id"].sort().to_list()[:40]


def test_score_first_keeps_one_of_equal_embeddings() -> None:
    rows, vectors = world()
    found = run("deita", rows, np.broadcast_to(vectors[0], vectors.shape).astype(np.float32))
    best = rows.filter(pl.col("score") == rows["score"].max())["pair_id"].min()
    assert (found.state, found.ids) == ("short", [best])
    assert found.funnel.dropped == {"too_similar": N - 1}


@pytest.mark.parametrize("name", [name for name, selector in SELECTORS.items() if selector.vectors])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_without_a_finite_embedding_are_left_out_with_a_reason(name: str, bad: float) -> None:
    rows, vectors = world()
    vectors[7, 3] = bad
    found = run(name, rows, vectors)
    assert found.state == "ok"
    state = found.rows.filter(pl.col("id") == rows["pair_id"][7])
    assert state.select("rank", "score", "state").row(0) == (None, None, "not_finite_embedding")


def test_too_many_unusable_rows_are_refused() -> None:
    """1 % of 240 rows are two."""
    rows, vectors = world()
    vectors[:3] = np.nan
    found = run("k_center", rows, vectors)
    assert (found.state, found.ids) == ("refused", [])
    assert "3 of 240 rows" in str(found.reason)
    assert found.funnel.dropped == {"not_finite_embedding": 3, "refused": 237}
    assert run("k_center", rows, vectors, max_unusable=0.02).state == "ok"
    assert run("random", rows, vectors).state == "ok"  # it does not look at embeddings


def test_scores_that_are_missing_are_no_scores() -> None:
    rows, _ = world()
    rows = rows.with_columns(margin=pl.when(pl.col("pair_id") != "p00003").then("margin"))
    found = run("margin", rows, None, N)
    assert found.rows.filter(pl.col("id") == "p00003")["state"].item() == "not_finite_score"
    assert "p00003" not in found.ids


@pytest.mark.parametrize(("direction", "expected"), [("largest", ["e", "d"]), ("smallest", ["a", "b"]), ("middle", ["c", "b"])])
def test_directions(direction: str, expected: list[str]) -> None:
    rows = pl.DataFrame({"pair_id": list("edcba"), "margin": [9.0, 4.0, 3.0, 2.0, 1.0]})
    assert run("margin", rows, None, 2, direction=direction).ids == expected


def test_margin_has_no_default_direction() -> None:
    rows, _ = world()
    with pytest.raises(ConfigError, match="needs a `direction`"):
        select(rows, budget=3, config=SelectConfig(selector="margin"))


def test_random_is_a_hash_of_id_and_seed() -> None:
    rows, _ = world()
    found = run("random", rows, None, 10, seed=3)
    assert found.ids == sorted(rows["pair_id"], key=lambda each: unit_hash("random", 3, each))[:10]
    assert run("random", rows, None, 10, seed=4).ids != found.ids


def test_density_draws_the_rare_place_as_often_as_the_crowd() -> None:
    """90 copies of one place and 10 of another: both groups weigh 100; 10 drawn without replacement hold 4.43 of the rare ones."""
    vectors = np.zeros((100, 4), dtype=np.float32)
    vectors[90:] = 50
    assert slice_density(vectors, 0)[[0, 99]] == pytest.approx([0.9, 0.1])
    rows = pl.DataFrame({"pair_id": [f"{i:03d}" for i in range(100)]})
    drawn = [sum(int(each) >= 90 for each in run("density", rows, vectors, 10, seed=seed).ids) for seed in range(150)]
    assert np.mean(drawn) == pytest.approx(4.43, abs=0.4)


def test_labels_are_no_input() -> None:
    rows, vectors = world()
    assert run("isa", rows, vectors).ids == run("isa", rows.with_columns(margin=-pl.col("margin")), vectors).ids


def test_k_center_covers_every_cluster_before_it_takes_a_second_of_one() -> None:
    rng = np.random.default_rng(0)
    cluster = rng.integers(12, size=N)
    vectors = (20 * rng.standard_normal((12, 6))[cluster] + 0.1 * rng.standard_normal((N, 6))).astype(np.float32)
    rows = pl.DataFrame({"pair_id": [f"{i:03d}" for i in range(N)]})
    for name in ("k_center", "facility_location"):
        assert len({cluster[int(each)] for each in run(name, rows, vectors, 12).ids}) >= 11 + (name == "k_center")


def test_log_det_weighs_by_quality_and_stops_where_nothing_is_added() -> None:
    rows, vectors = world()
    plain = run("log_det", rows, vectors, quality=0.0)
    weighed = run("log_det", rows, vectors, quality=3.0)
    score = dict(rows.select("pair_id", "score").iter_rows())
    assert np.mean([score[each] for each in weighed.ids]) > np.mean([score[each] for each in plain.ids]) + 0.3
    found = run("log_det", rows, vectors, quality=0.0, ridge=0.0)
    assert (found.state, len(found.ids)) == ("short", 6)  # the dimensions
    assert found.funnel.dropped == {"adds_nothing": N - 6}


@pytest.mark.parametrize("name", ["random", "k_center", "isa", "deita"])
def test_quotas_hold_within_a_row_for_any_selector(name: str) -> None:
    rows, vectors = world()
    found = run(name, rows, vectors, 50, stratum="task", max_similarity=1.0)
    task = dict(rows.select("pair_id", "task").iter_rows())
    n = sum(task[each] == "sums" for each in found.ids)
    assert abs(n - 50 * 80 / 240) <= 1
    half = [task[each] for each in found.ids[:25]].count("sums")
    assert abs(half - 25 * 80 / 240) <= 1.5  # a beginning is in proportion too
    even = run(name, rows, vectors, 50, stratum="task", quotas={"sums": 1, "proofs": 1}, max_similarity=1.0)
    assert [task[each] for each in even.ids].count("sums") == 25


@pytest.mark.parametrize("k", range(0, 41, 5))
def test_shares_add_up_and_stay_within_a_row(k: int) -> None:
    sizes = {"a": 23, "b": 11, "c": 6}
    found = shares(k, sizes)
    assert sum(found.values()) == k
    assert all(abs(found[name] - k * size / 40) < 1 for name, size in sizes.items())


def test_a_full_stratum_leaves_its_rest_to_the_others() -> None:
    assert shares(10, {"a": 1, "b": 50, "c": 50}, {"a": 8, "b": 1, "c": 1}) == {"a": 1, "b": 5, "c": 4}
    assert shares(10, {"a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert shares(3, {"a": 5, "b": 5}, {"a": 1}) == {"a": 3, "b": 0}
    with pytest.raises(ConfigError, match=r"quotas for \['x'\]"):
        shares(3, {"a": 5}, {"x": 1})


def test_a_null_stratum_is_one() -> None:
    rows = pl.DataFrame({"pair_id": ["a", "b", "c", "d"], "task": ["x", None, "x", None]})
    assert run("stratified", rows, None, 2).diagnostics["quotas"] == {"": 1, "x": 1}


def last_ids(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    return ranked(np.arange(len(pool), dtype=np.float64), k)


def test_a_selector_of_ones_own() -> None:
    rows, _ = world()
    assert run(f"{__name__}:last_ids", rows, None, 3).ids == ["p00239", "p00238", "p00237"]
    for name, message in (("curators.selection:none", "has no function"), ("no_such_module:f", "cannot import")):
        with pytest.raises(ConfigError, match=message):
            select(rows, budget=3, config=SelectConfig(selector=name))


@pytest.mark.parametrize("name", ["random", "k_center", "deita", "log_det"])
def test_ladders_are_nested_and_end_with_everything(name: str) -> None:
    rows, vectors = world()
    vectors[5] = np.nan
    found = run(name, rows, vectors, 0.5, quality=0.0, ridge=0.0)
    rungs = ladder(found)
    usable = N if name == "random" else N - 1
    assert [len(rung.ids) for rung in rungs] == [max(1, int(share * usable + 0.5)) for share in SHARES]
    for small, large in pairwise(rungs):
        assert set(small.ids) < set(large.ids)
        assert list(large.ids[: len(small.ids)]) == list(small.ids)
    assert len(set(rungs[-1].ids)) == usable
    assert [rung.n_filled for rung in rungs] == [max(0, len(rung.ids) - len(found.ids)) for rung in rungs]


def test_ladders_refuse_what_is_none() -> None:
    rows, vectors = world()
    with pytest.raises(ConfigError, match="shares are"):
        ladder(run("random", rows, None), (0.0, 0.5))
    vectors[:50] = np.nan
    with pytest.raises(ConfigError, match="refused"):
        ladder(run("k_center", rows, vectors))


@pytest.mark.parametrize("budget", [0, -1, 0.0, 1.5, float("nan")])
def test_a_budget_that_is_none_is_refused(budget: float) -> None:
    with pytest.raises(ConfigError, match="budget is"):
        select(world()[0], budget=budget)


def test_what_does_not_fit_is_refused() -> None:
    rows, vectors = world()
    with pytest.raises(ConfigError, match="no selector 'best'"):
        select(rows, budget=1, config=SelectConfig(selector="best"))
    with pytest.raises(ConfigError, match="needs embeddings"):
        select(rows, budget=1, config=SelectConfig(selector="isa"))
    with pytest.raises(ConfigError, match="must be 240 rows"):
        select(rows, vectors[:5], budget=1, config=SelectConfig(selector="isa"))
    with pytest.raises(ConfigError, match="one number for each of 240 rows"):
        select(rows, vectors, scores=[1.0], budget=1, config=SelectConfig(selector="deita"))
    with pytest.raises(ConfigError, match="a column 'score'"):
        select(rows.drop("score"), vectors, budget=1, config=SelectConfig(selector="deita"))
    with pytest.raises(ConfigError, match="needs `stratum`"):
        select(rows, budget=1, config=SelectConfig(selector="stratified"))
    with pytest.raises(SchemaError, match="no column 'generation_id'"):
        select(rows, budget=1, config=SelectConfig(id="generation_id"))
    with pytest.raises(SchemaError, match="unique"):
        select(pl.concat([rows, rows]), budget=1)


@pytest.mark.parametrize(
    "options",
    [
        {"order": "descending"},
        {"direction": "up"},
        {"n_components": 0},
        {"ridge": -1.0},
        {"max_similarity": 2.0},
        {"quotas": {"a": 1}},
        {"dimensions": 0},
    ],
)
def test_a_configuration_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="select: "):
        SelectConfig(**options)
