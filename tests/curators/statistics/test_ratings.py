"""Ratings against values worked by hand, against each other, and under what must change nothing."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import SchemaError
from curators.schema import VERDICTS, frame
from curators.statistics.ratings import Ratings, bradley_terry, verdict_contests
from curators.statistics.ties import tie_ratings


def contests(results: dict[tuple[str, str], list[float]]) -> pl.DataFrame:
    rows = [(a, b, win) for (a, b), wins in results.items() for win in wins]
    return pl.DataFrame(rows, schema=["a", "b", "win"], orient="row").with_columns(prompt_id=pl.int_range(pl.len()).cast(pl.String))


def hard(n_won: int, n_lost: int) -> list[float]:
    return [1.0] * n_won + [0.0] * n_lost


def thetas(found: Ratings) -> dict[str, float]:
    return dict(found.table.sort("player").select("player", "theta").iter_rows())


def test_three_players_by_hand() -> None:
    """A:B 6-2, B:C 5-3, A:C 7-1; at the greatest likelihood expected wins are the observed 13, 7, 4."""
    found = bradley_terry(contests({("A", "B"): hard(6, 2), ("B", "C"): hard(5, 3), ("A", "C"): hard(7, 1)}), n_resamples=100)
    assert list(thetas(found).values()) == pytest.approx([0.99564, -0.20300, -0.79264], abs=5e-6)
    assert found.probability("A", "B") == pytest.approx(0.76828, abs=5e-6)
    assert found.probability("B", "C") == pytest.approx(0.64328, abs=5e-6)
    assert found.probability("A", "C") == pytest.approx(0.85672, abs=5e-6)
    expected = [8 * sum(found.probability(one, other) for other in "ABC" if other != one) for one in "ABC"]
    assert expected == pytest.approx([13, 7, 4])
    assert found.difference_se("A", "B") == pytest.approx(0.69606, abs=5e-6)
    assert found.log_likelihood == pytest.approx(-12.82982, abs=5e-6)
    assert (found.pseudo_wins, found.table["player"].to_list(), found.table["n"].to_list()) == (0, ["A", "B", "C"], [16, 16, 16])
    assert (found.table["low"] < found.table["theta"]).all()
    assert (found.table["theta"] < found.table["high"]).all()


def test_two_players() -> None:
    """3-1: the difference is ln 3, 400 / ln 10 * ln 3 = 190.85 Elo points."""
    found = bradley_terry(contests({("A", "B"): hard(3, 1)}), n_resamples=0)
    assert thetas(found)["A"] - thetas(found)["B"] == pytest.approx(math.log(3))
    assert found.table["elo"][0] - found.table["elo"][1] == pytest.approx(190.85, abs=5e-3)


def test_a_player_that_never_lost_gets_pseudo_wins_and_the_result_says_so() -> None:
    """4-0 with half a win both ways: ln(4.5 / 0.5) = ln 9."""
    found = bradley_terry(contests({("A", "B"): hard(4, 0)}), n_resamples=50)
    assert thetas(found)["A"] - thetas(found)["B"] == pytest.approx(math.log(9))
    assert (found.pseudo_wins, found.n_pseudo) == (0.5, 50)
    assert found.table["low"].to_list() == [None, None]  # all resamples are alike, which is no certainty


def test_players_that_never_met_are_of_other_components() -> None:
    found = bradley_terry(contests({("A", "B"): hard(3, 1), ("C", "D"): hard(1, 2)}), n_resamples=100)
    by_player = {row["player"]: row for row in found.table.iter_rows(named=True)}
    assert by_player["A"]["component"] == by_player["B"]["component"] != by_player["C"]["component"] == by_player["D"]["component"]
    assert by_player["A"]["theta"] == pytest.approx(math.log(3) / 2)
    assert by_player["D"]["theta"] == pytest.approx(math.log(2) / 2)
    assert found.pseudo_wins == 0


def test_a_chain_of_players_is_fitted_to_the_end() -> None:
    """Each beats the next three times in five: every gap is ln 1.5, where MM alone takes thousands of steps."""
    chain = {(f"{i:03}", f"{i + 1:03}"): hard(3, 2) for i in range(60)}
    gaps = np.diff(list(thetas(bradley_terry(contests(chain), n_resamples=0)).values()))
    assert gaps == pytest.approx(np.full(60, -math.log(1.5)), abs=1e-8)


def random_contests(seed: int, n: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    players = np.array([rng.choice(4, 2, replace=False) for _ in range(n)])
    columns = {"a": [f"m{i}" for i in players[:, 0]], "b": [f"m{i}" for i in players[:, 1]], "win": rng.random(n).round(3)}
    return pl.DataFrame({**columns, "prompt_id": rng.integers(20, size=n).astype(str)})


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_what_changes_nothing(seed: int) -> None:
    given_rows = random_contests(seed)
    first = bradley_terry(given_rows, n_resamples=10)
    shuffled = bradley_terry(given_rows.sample(fraction=1, shuffle=True, seed=1), n_resamples=10)
    for column in ("theta", "se", "low", "high"):
        assert shuffled.table[column].to_list() == pytest.approx(first.table[column].to_list())
    relabelled = given_rows.select("prompt_id", a="b", b="a", win=1 - pl.col("win"))
    assert thetas(bradley_terry(relabelled, n_resamples=0)) == pytest.approx(thetas(first))


def test_a_soft_win_may_be_split() -> None:
    soft = bradley_terry(contests({("A", "B"): [0.7] * 10, ("B", "C"): [0.4] * 10, ("A", "C"): [0.5] * 10}), n_resamples=0)
    whole = bradley_terry(contests({("A", "B"): hard(7, 3), ("B", "C"): hard(4, 6), ("A", "C"): hard(5, 5)}), n_resamples=0)
    assert thetas(soft) == pytest.approx(thetas(whole))


def test_identical_orders_of_a_prompt_do_not_shrink_the_interval() -> None:
    once = random_contests(3, 120)
    twice = pl.concat([once, once])
    one, two = (bradley_terry(rows, n_resamples=100).table for rows in (once, twice))
    assert two["low"].to_list() == pytest.approx(one["low"].to_list())
    assert two["se"].to_list() == pytest.approx((one["se"] / math.sqrt(2)).to_list())


def verdict(i: int, side: str, p: float | None) -> dict[str, Any]:
    return {"prompt_id": f"p{i}", "a_id": f"{i}a", "b_id": f"{i}b", "judge": "j", "p_a": p, "verdict": side, "n_judgments": 2, "n_ok": 2}


def test_verdicts_become_contests_of_policies() -> None:
    rows = [
        verdict(0, "a", 0.9),
        verdict(1, "inconsistent", 0.55),
        verdict(2, "unscored", None),
        verdict(3, "b", None),
        verdict(4, "tie", 0.5),
    ]
    players = pl.DataFrame({"generation_id": [f"{i}{s}" for i in range(5) for s in "ab"], "player": ["new", "old"] * 5})
    soft = verdict_contests(frame(rows, VERDICTS), players).sort("prompt_id")
    assert soft["win"].to_list() == [0.9, 0.55, None, 0.0, 0.5]
    assert verdict_contests(frame(rows, VERDICTS), players, soft=False).sort("prompt_id")["win"].to_list() == [1.0, None, None, 0.0, 0.5]
    assert bradley_terry(soft, n_resamples=0).n_left_out == 1


def test_refusals() -> None:
    with pytest.raises(SchemaError, match="none of 1 contests has a result"):
        bradley_terry(contests({("A", "A"): [1.0]}))
    with pytest.raises(SchemaError, match=r"goes from 0\.0 to 2\.0"):
        bradley_terry(contests({("A", "B"): [0.0, 2.0]}))
    with pytest.raises(SchemaError, match="hard results"):
        tie_ratings(contests({("A", "B"): [0.7, 0.5]}))
    with pytest.raises(SchemaError, match="none of 2 contests is a tie"):
        tie_ratings(contests({("A", "B"): [1.0, 0.0]}))


def test_ties_by_hand() -> None:
    """Won 5, lost 3, tied 2. Davidson: pi_A / pi_B = 5/3, nu = 2 / sqrt(15); Rao and Kupper: s(d - eta) = .5 and s(-d - eta) = .3, so
    d = eta = ln(7/3) / 2 = .42365."""
    rows = contests({("A", "B"): [*hard(5, 3), 0.5, 0.5]})
    davidson, rao_kupper = tie_ratings(rows), tie_ratings(rows, "rao_kupper")
    assert math.exp(davidson.theta["A"] - davidson.theta["B"]) == pytest.approx(5 / 3, abs=1e-5)
    assert davidson.tie == pytest.approx(2 / math.sqrt(15), abs=1e-5)
    assert rao_kupper.theta["A"] - rao_kupper.theta["B"] == pytest.approx(0.42365, abs=1e-5)
    assert rao_kupper.tie == pytest.approx(0.42365, abs=1e-5)
    for found in (davidson, rao_kupper):
        assert found.probabilities("A", "B") == pytest.approx((0.5, 0.3, 0.2), abs=1e-5)
        assert found.probabilities("B", "A") == pytest.approx((0.3, 0.5, 0.2), abs=1e-5)
        assert found.log_likelihood == pytest.approx(5 * math.log(0.5) + 3 * math.log(0.3) + 2 * math.log(0.2), abs=1e-6)


@pytest.mark.parametrize("model", ["davidson", "rao_kupper"])
def test_planted_ties_are_found_again(model: Any) -> None:
    theta, tie, rng = np.array([0.8, 0.1, -0.2, -0.7]), 0.6, np.random.default_rng(4)
    rows = []
    for i, j in combinations(range(4), 2):
        d = theta[i] - theta[j]
        p = np.array([math.exp(d / 2), math.exp(-d / 2), tie]) if model == "davidson" else np.array([0.0, 0.0, 0.0])
        if model == "rao_kupper":
            p[:2] = 1 / (1 + math.exp(tie - d)), 1 / (1 + math.exp(tie + d))
            p[2] = 1 - p.sum()
        rows += [(f"m{i}", f"m{j}", win) for win in rng.choice([1.0, 0.0, 0.5], size=2000, p=p / p.sum())]
    data = pl.DataFrame(rows, schema=["a", "b", "win"], orient="row").with_columns(prompt_id=pl.lit("p"))
    found = tie_ratings(data, model)
    assert [found.theta[f"m{i}"] for i in range(4)] == pytest.approx(theta.tolist(), abs=0.1)
    assert found.tie == pytest.approx(tie, abs=0.06)
    assert found.pseudo_wins == 0
