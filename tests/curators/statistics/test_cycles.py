"""Cycles, mean wins and minimax mixtures, by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import SchemaError
from curators.statistics.cycles import cyclic_parts, cyclic_share, mean_wins, minimax_winner, preferences
from curators.statistics.ratings import bradley_terry

MIXED = np.array([[0.5, 0.7, 0.4], [0.3, 0.5, 0.8], [0.6, 0.2, 0.5]])
ROCK_PAPER_SCISSORS = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])


def by_ratings(theta: list[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return 1 / (1 + np.exp(np.array(theta)[None, :] - np.array(theta)[:, None]))


def test_a_matrix_that_ratings_cannot_tell() -> None:
    """Mean wins (.7 + .4) / 2, (.3 + .8) / 2, (.6 + .2) / 2; the mixture solves .2 y = .1 z, -.2 x + .3 z = 0, x + y + z = 1."""
    assert mean_wins(MIXED) == pytest.approx([0.55, 0.55, 0.40])
    found = minimax_winner(MIXED)
    assert found.mixture == pytest.approx([1 / 2, 1 / 6, 1 / 3])
    assert found.value == pytest.approx(0, abs=1e-9)
    assert cyclic_share(MIXED) == pytest.approx(0.8279, abs=5e-5)
    rows = [(f"m{i}", f"m{j}", MIXED[i, j], f"{i}{j}") for i in range(3) for j in range(i + 1, 3)]
    ratings = bradley_terry(pl.DataFrame(rows, schema=["a", "b", "win", "prompt_id"], orient="row"), n_resamples=0).table.sort("player")
    assert ratings["theta"].to_list()[:2] == pytest.approx([0.13516, 0.13516], abs=5e-6)


def test_rock_paper_scissors_is_all_cycle() -> None:
    assert cyclic_share(ROCK_PAPER_SCISSORS) == pytest.approx(1)
    assert minimax_winner(ROCK_PAPER_SCISSORS).mixture == pytest.approx([1 / 3] * 3)
    rows = [(f"m{i}", f"m{j}", ROCK_PAPER_SCISSORS[i, j], "p") for i in range(3) for j in range(i + 1, 3)]
    ratings = bradley_terry(pl.DataFrame(rows, schema=["a", "b", "win", "prompt_id"], orient="row"), n_resamples=0)
    assert ratings.table["theta"].to_list() == pytest.approx([0] * 3, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6, unique=True))
def test_what_ratings_made_has_no_cycles_and_the_best_wins(theta: list[float]) -> None:
    matrix = by_ratings(theta)
    if np.abs(matrix - 0.5).max() > 0.01:
        assert cyclic_share(matrix) == pytest.approx(0, abs=1e-9)
    won = float(matrix[int(np.argmax(theta))] @ minimax_winner(matrix).mixture)
    assert won == pytest.approx(0.5, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_no_player_beats_the_mixture_and_renaming_only_renames(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)), 1)
    matrix = upper + np.tril(1 - upper.T, -1) + np.eye(n) / 2
    found = minimax_winner(matrix)
    assert (found.mixture @ matrix).min() >= 0.5 - 1e-7
    assert found.value == pytest.approx(0, abs=1e-7)  # antisymmetric: the other side's game has the same value
    order = rng.permutation(n)
    assert cyclic_share(matrix[np.ix_(order, order)]) == pytest.approx(cyclic_share(matrix))


def test_contests_become_a_matrix() -> None:
    rows = [("x", "y", 1.0), ("y", "x", 0.5), ("z", "x", 1.0)]
    data = pl.DataFrame(rows, schema=["a", "b", "win"], orient="row").with_columns(prompt_id=pl.lit("p"))
    players, matrix = preferences(data)
    assert players == ["x", "y", "z"]
    assert matrix[0].tolist() == [0.5, 0.75, 0.0]
    assert np.isnan(matrix[1, 2])
    with pytest.raises(SchemaError, match="players 1 and 2 never met"):
        minimax_winner(matrix)


def test_refusals_and_nothing_to_explain() -> None:
    assert cyclic_share(np.full((3, 3), 0.5)) is None
    assert mean_wins(np.array([[0.5]])).tolist() == [0.5]
    with pytest.raises(SchemaError, match="must be 1"):
        cyclic_share(np.array([[0.5, 0.7], [0.7, 0.5]]))
    with pytest.raises(SchemaError, match="square"):
        mean_wins(np.zeros((2, 3)))


def test_many_groups_at_once_are_each_group_alone() -> None:
    draw = np.random.default_rng(5)
    rows, alone = [], {}
    for prompt in range(20):
        n = 3 + prompt % 4
        p = np.full((n, n), 0.5)
        for i in range(n):
            for j in range(i + 1, n):
                p[i, j] = draw.uniform()
                p[j, i] = 1 - p[i, j]
                rows.append((f"p{prompt:02d}", f"{i}", f"{j}", p[i, j]))
        alone[f"p{prompt:02d}"] = cyclic_share(p)
    schema = ["prompt_id", "a_id", "b_id", "p_a"]
    found = cyclic_parts(pl.DataFrame(rows, schema=schema, orient="row").sample(fraction=1, shuffle=True, seed=1))
    assert dict(found.select("prompt_id", pl.col("left") / pl.col("total")).iter_rows()) == pytest.approx(alone)


def test_groups_that_are_not_whole_are_left_out() -> None:
    rows = [("two", "x", "y", 0.9), ("gap", "x", "y", 0.9), ("gap", "y", "z", 0.9), ("gap", "x", "z", None)]
    assert cyclic_parts(pl.DataFrame(rows, schema=["prompt_id", "a_id", "b_id", "p_a"], orient="row")).is_empty()
