"""Which two answers make a pair: published rules with their known results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curators.contrast.candidates import contrast_pairs
from curators.contrast.rules import RULES, RuleConfig, choose, rule_pairs
from curators.errors import ConfigError
from curators.sampling import make_prompt
from tests.curators.contrast.conftest import answered, said

LETTERS = "abcdefghij"


def chosen(scores: list[float], texts: list[str] | None = None, **config: Any) -> list[tuple[int, int, str]]:
    found = choose(texts or list(LETTERS[: len(scores)]), scores, config=RuleConfig(**config))
    return [(choice.chosen, choice.rejected, choice.state) for choice in found]


def test_max_min_takes_the_earlier_of_equal_scores() -> None:
    assert chosen([0.3, 0.9, 0.9, 0.1]) == [(1, 3, "ok")]


def test_max_second_of_a_tie_is_no_pair() -> None:
    assert chosen([0.3, 0.9, 0.9, 0.1], rule="max_second") == [(1, 2, "tie")]
    assert chosen([0.3, 0.9, 0.8, 0.1], rule="max_second") == [(1, 2, "ok")]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_equal_scores_one_answer_and_equal_texts_are_no_pair(rule: Any) -> None:
    assert {state for *_, state in chosen([0.5, 0.5, 0.5], rule=rule)} == {"tie"}
    assert chosen([0.5], rule=rule) == []
    assert {state for *_, state in chosen([0.5, 0.1], ["4", " 4 "], rule=rule, low=None)} <= {"identical_text", "tie"}


def test_length_penalty() -> None:
    # adjusted: 1.0 - 100 * .001 = .90 and .95 - 10 * .001 = .94
    assert chosen([1.0, 0.95], ["a" * 100, "b" * 10], rule="max_min_len", length_penalty=0.001) == [(1, 0, "ok")]


def test_nearest_to_mean_plus_deviations() -> None:
    # mean 6, population sd 3.87298335 (sample sd 4.08248290 would not matter here)
    scores = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 15]
    assert np.std(scores) == pytest.approx(3.87298335)
    nearest = [scores[chosen(scores, rule="sigma", high=None, low=a)[0][1]] for a in (-2, -1, 0, 1)]
    assert nearest == [1, 2, 6, 9]
    assert chosen(scores, rule="sigma", high=2, low=-2) == [(9, 0, "ok")]


def test_best_of_all_against_the_worst_of_all_drawn_is_max_min() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.normal(size=8).tolist()
        assert chosen(scores, rule="best_of_all_vs_min_of_m", m=8) == chosen(scores)
    worst = [chosen(scores, rule="best_of_all_vs_min_of_m", m=2, seed=seed)[0][1] for seed in range(40)]
    assert len(set(worst)) > 3  # other seeds draw others


def test_max_random_draws_among_all_that_are_worse_and_never_a_tie() -> None:
    drawn = {chosen([0.9, 0.9, 0.5, 0.1, 0.2], rule="max_random", seed=seed)[0] for seed in range(60)}
    assert drawn == {(0, 2, "ok"), (0, 3, "ok"), (0, 4, "ok")}


def test_first_two_are_oriented_by_score() -> None:
    assert chosen([0.1, 0.5, 0.9], rule="first_two") == [(1, 0, "ok")]


def test_margin_takes_every_wide_pair_the_widest_first_up_to_the_cap() -> None:
    found = chosen([3.0, 2.0, 0.0], rule="margin", min_margin=1.0, max_pairs_per_prompt=2)
    assert found == [(0, 2, "ok"), (1, 2, "ok"), (0, 1, "over_cap")]
    assert chosen([1.0, 0.9], rule="margin", min_margin=0.5) == [(0, 0, "tie")]


def test_winrate_is_the_mean_probability_to_beat_the_others() -> None:
    wins = [[None, 0.8, 0.6], [0.2, None, 0.3], [0.4, 0.7, None]]  # means .7, .25, .55
    found = choose(["a", "b", "c"], [0.0, 0.0, 0.0], config=RuleConfig(rule="winrate"), wins=wins)
    assert [(choice.chosen, choice.rejected) for choice in found] == [(0, 1)]


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=7, unique=True), st.randoms(use_true_random=False), st.sampled_from(sorted(RULES))
)
def test_the_order_of_candidates_never_changes_the_chosen_text(scores: list[int], rng: Any, rule: Any) -> None:
    if rule == "first_two":
        return
    texts = [f"answer {score}" for score in scores]
    order = list(range(len(scores)))
    rng.shuffle(order)
    config = RuleConfig(rule=rule, seed=3)
    one = choose(texts, [float(score) for score in scores], keys=texts, config=config)[0]
    mixed = [texts[i] for i in order]
    other = choose(mixed, [float(scores[i]) for i in order], keys=mixed, config=config)[0]
    assert texts[one.chosen] == mixed[other.chosen]
    if one.state == "ok":
        assert scores[one.chosen] > scores[one.rejected]


def test_rows_become_pairs_with_their_raw_scores_in_any_order() -> None:
    first, second, third = make_prompt("1?"), make_prompt("2?"), make_prompt("3?")
    rows = answered([(first, ["a", "b", "c"]), (second, ["d", "e"]), (third, ["f", "g"])], [0.1, 0.9, 0.5, 0.3, 0.3, None, 0.4])
    found = rule_pairs(rows)
    assert rule_pairs(rows.sample(fraction=1.0, shuffle=True, seed=2)).equals(found)
    states = dict(found.select("prompt_id", "state").iter_rows())
    assert [states[prompt["prompt_id"]] for prompt in (first, second, third)] == ["ok", "tie", "too_few_scored"]
    pairs, _, funnels = contrast_pairs(found)
    row = pairs.row(0, named=True)
    assert (said(row["chosen"]), said(row["rejected"]), row["chosen_score"], row["rejected_score"]) == ("b", "a", 0.9, 0.1)
    assert (row["margin"], row["kind"]) == (pytest.approx(0.8), "max_min")
    assert (funnels[0].n_in, funnels[0].n_kept) == (3, 1)


def test_scores_that_are_no_numbers_take_no_part() -> None:
    rows = answered([(make_prompt("?"), ["a", "b", "c"])], [float("nan"), 0.9, 0.1])
    row = rule_pairs(rows).row(0, named=True)
    assert (row["state"], said(row["chosen"]), said(row["rejected"])) == ("ok", "b", "c")
    assert '"n_scored":2' in row["checks"]
    with pytest.raises(ConfigError, match="finite scores"):
        choose(["a", "b"], [float("nan"), 1.0])


def test_unknown_rules_and_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="allowed are"):
        RuleConfig(rule="best")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be ≥ 1"):
        RuleConfig(m=0)
