"""Judgments → verdicts: hand-computed values, and what must never become a label."""

from __future__ import annotations

import math
import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import VerdictError
from curators.judging.presentations import IDENTICAL
from curators.judging.verdicts import VerdictConfig, group_scores, verdicts
from curators.schema import GENERATIONS, JUDGMENTS, check, frame


def judgment(first: str, second: str, p_first: float | None, **columns: Any) -> dict[str, Any]:
    return {
        "judgment_id": f"{first}{second}{columns}",
        "prompt_id": "p",
        "protocol": "pairwise",
        "judge": "j",
        "generation_ids": [first, second],
        "vote": 0,
        "attempt": 0,
        "channel": "options",
        "p_first": p_first,
        "state": "ok" if p_first is not None else "parse_error",
        "reason": None if p_first is not None else "no line",
        **columns,
    }


def scored(protocol: str, ids: list[str], scores: list[float] | None, **columns: Any) -> dict[str, Any]:
    row = judgment(ids[0], ids[-1], None, protocol=protocol, generation_ids=ids, channel="text", judgment_id=f"{ids}{columns}")
    return row | ({"scores": scores, "state": "ok", "reason": None} if scores else {}) | columns


def read(rows: list[dict[str, Any]], **config: Any) -> list[dict[str, Any]]:
    return verdicts(frame(rows, JUDGMENTS), VerdictConfig(**config)).to_dicts()


def test_both_orders_are_combined_in_logits() -> None:
    # a = P(A | A first) = .90, b = P(A | B first) = .35: logits 2.19722 and -.61904, mean .78909, sigma .68764; beta 1.40813
    (row,) = read([judgment("a", "b", 0.90), judgment("b", "a", 1 - 0.35)])
    assert row["p_a"] == pytest.approx(0.68764, abs=5e-6)
    assert row["position_effect"] == pytest.approx(1.40813, abs=5e-6)
    assert row["verdict"] == "inconsistent"
    assert row["margin"] == pytest.approx(2 * 0.18764, abs=1e-5)


def test_hard_labels_are_averaged() -> None:
    rows = [judgment("a", "b", 0.90, channel="text"), judgment("b", "a", 1 - 0.35, channel="text")]
    assert read(rows)[0]["p_a"] == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("first", "second", "verdict", "p_a"),
    [
        (1.0, 0.0, "a", 1.0),  # A both times
        (0.0, 1.0, "b", 0.0),
        (1.0, 1.0, "inconsistent", 0.5),  # the first shown both times: not a tie
        (0.0, 0.0, "inconsistent", 0.5),
        (0.5, 0.5, "tie", 0.5),
        (1.0, 0.5, "a", 0.75),  # A, then a tie
    ],
)
def test_labels_of_two_orders(first: float, second: float, verdict: str, p_a: float) -> None:
    (row,) = read([judgment("a", "b", first, channel="text"), judgment("b", "a", second, channel="text")])
    assert (row["verdict"], row["p_a"]) == (verdict, pytest.approx(p_a))


def test_a_missing_order_is_unscored_with_the_reason_and_never_half() -> None:
    (row,) = read([judgment("a", "b", 1.0), judgment("b", "a", None)])
    assert (row["verdict"], row["p_a"], row["margin"]) == ("unscored", None, None)
    assert row["reason"] == "parse_error: no line"
    assert (row["n_judgments"], row["n_ok"]) == (2, 1)
    assert read([judgment("a", "b", 1.0)])[0]["reason"] == "one presentation order was never asked"


def test_one_order_is_enough_when_named_or_recorded() -> None:
    assert read([judgment("a", "b", 1.0)], both_orders=False)[0]["verdict"] == "a"
    (row,) = read([judgment("b", "a", 1.0, channel="recorded")])
    assert (row["verdict"], row["p_a"], row["position_effect"]) == ("b", 0.0, None)


def test_a_repaired_reply_counts_once() -> None:
    rows = [
        judgment("a", "b", None, attempt=0),
        judgment("a", "b", 1.0, attempt=1, channel="text"),
        judgment("b", "a", 0.0, channel="text"),
    ]
    (row,) = read(rows)
    assert (row["verdict"], row["p_a"], row["n_judgments"], row["n_ok"]) == ("a", 1.0, 3, 2)


def test_votes_give_a_standard_error() -> None:
    rows = [judgment("a", "b", p, vote=v, channel="text") for v, p in enumerate((1.0, 1.0, 0.0))]
    rows += [judgment("b", "a", p, vote=v, channel="text") for v, p in enumerate((0.0, 0.0, 0.0))]
    (row,) = read(rows)
    # sides 2/3 and 1: mean 5/6; sample variance of (1, 1, 0) is 1/3, over 3 votes 1/9; sqrt(1/9 + 0) / 2 = 1/6
    assert row["p_a"] == pytest.approx(5 / 6)
    assert row["p_se"] == pytest.approx(1 / 6)
    assert read([judgment("a", "b", 1.0), judgment("b", "a", 0.0)])[0]["p_se"] is None


def test_identical_texts_are_a_tie_and_other_gated_pairs_are_unscored() -> None:
    identical = judgment("a", "b", None, state="gated", reason=IDENTICAL)
    empty = judgment("a", "c", None, state="gated", reason="empty answer")
    rows = read([identical, empty])
    assert [(row["verdict"], row["p_a"], row["reason"]) for row in rows] == [
        ("tie", 0.5, IDENTICAL),
        ("unscored", None, "gated: empty answer"),
    ]


def test_scores_become_differences_and_state_no_probability() -> None:
    rows = [scored("verifier", ["a"], [1.0]), scored("verifier", ["b"], [0.0]), scored("verifier", ["c"], None)]
    found = {(row["a_id"], row["b_id"]): row for row in read(rows)}
    assert (found["a", "b"]["verdict"], found["a", "b"]["scores_delta"], found["a", "b"]["p_a"]) == ("a", 1.0, None)
    assert (found["a", "c"]["verdict"], found["a", "c"]["reason"]) == ("unscored", "parse_error: no line")


def test_score_differences_within_the_margin_are_ties() -> None:
    rows = [scored("listwise", ["b", "a", "c"], [3.0, 4.0, 5.0])]
    assert [(r["a_id"], r["b_id"], r["verdict"]) for r in read(rows, min_delta=1.0)] == [
        ("a", "b", "tie"),
        ("a", "c", "tie"),
        ("b", "c", "b"),
    ]


def test_a_sum_that_differs_in_its_last_bit_is_a_tie_and_not_a_label() -> None:
    # the same five scores of both, in another order: plain sums differ by 4e-16
    given = {"a": [4.0, 13 / 3, 5 / 3, 14 / 3, 2.0], "b": [13 / 3, 4.0, 14 / 3, 5 / 3, 2.0]}
    rows = [scored("pointwise", [name], [score], vote=vote) for name, scores in given.items() for vote, score in enumerate(scores)]
    found = verdicts(frame(rows, JUDGMENTS))
    assert found.select("verdict", "scores_delta").row(0) == ("tie", 0.0)


def test_a_difference_of_rounding_alone_is_below_the_margin() -> None:
    rows = [scored("pointwise", ["a"], [0.1 + 0.2]), scored("pointwise", ["b"], [0.2])]
    assert verdicts(frame(rows, JUDGMENTS), VerdictConfig(min_delta=0.1))["verdict"].to_list() == ["tie"]


def test_votes_and_lists_may_come_in_any_order_to_the_last_bit_and_reason() -> None:
    rng = random.Random(0)
    rows = [judgment(*ids, rng.choice([0, 0.25, 0.5, 0.75, 1]), channel="text", vote=vote) for ids in ("ab", "ba") for vote in range(7)]
    lists = [scored("listwise", ["x", "y", "z"], None, judge="k", vote=vote, reason=f"no line {vote}") for vote in range(5)]
    lists += [scored("listwise", ["x", "y"], [rng.random(), rng.random()], judge="k", vote=vote) for vote in range(5, 12)]
    expected = verdicts(frame(rows + lists, JUDGMENTS))
    assert expected.filter(pl.col("judge") == "k", pl.col("verdict") == "unscored")["reason"].unique().to_list() == [
        "parse_error: no line 0"
    ]
    for _ in range(20):
        shuffled = rng.sample(rows + lists, len(rows + lists))
        assert verdicts(frame(shuffled, JUDGMENTS)).equals(expected)


def test_lists_compare_only_what_they_showed_together() -> None:
    rows = [scored("listwise", ["a", "b"], [4.0, 2.0], vote=0), scored("listwise", ["c", "d"], [1.0, 5.0], vote=1)]
    assert [(r["a_id"], r["b_id"], r["scores_delta"]) for r in read(rows)] == [("a", "b", 2.0), ("c", "d", -4.0)]


def test_two_rubrics_of_one_judge_are_refused() -> None:
    rows = [judgment("a", "b", 1.0, rubric_digest="1"), judgment("b", "a", 0.0, rubric_digest="2")]
    with pytest.raises(VerdictError, match="judge 'j' has judgments under 2 rubrics"):
        read(rows)


def test_a_pair_under_two_prompts_is_refused() -> None:
    with pytest.raises(VerdictError, match="a and b are judged under two prompts"):
        read([judgment("a", "b", 1.0), judgment("b", "a", 0.0, prompt_id="q")])


def test_no_judgments_give_no_verdicts() -> None:
    assert check(verdicts(frame([], JUDGMENTS)), "verdicts").height == 0


probabilities = st.floats(0, 1, allow_nan=False)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(probabilities, probabilities), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_rows_may_come_in_any_order(sides: list[tuple[float, float]], rng: random.Random) -> None:
    rows = [row for i, (x, y) in enumerate(sides) for row in (judgment("a", f"b{i}", x), judgment(f"b{i}", "a", y))]
    shuffled = rng.sample(rows, len(rows))
    assert read(rows) == read(shuffled)


@settings(deadline=None, max_examples=25)
@given(probabilities, probabilities)
def test_renaming_a_and_b_mirrors_the_probability(x: float, y: float) -> None:
    (row,) = read([judgment("a", "b", x), judgment("b", "a", y)])
    (mirrored,) = read([judgment("b", "a", x), judgment("a", "b", y)])
    assert row["p_a"] + mirrored["p_a"] == pytest.approx(1)
    assert row["position_effect"] == pytest.approx(mirrored["position_effect"])
    swap = {"a": "b", "b": "a"}
    # at the edge of the indifference zone rounding may decide one side only
    assert mirrored["verdict"] == swap.get(row["verdict"], row["verdict"]) or abs(abs(row["p_a"] - 0.5) - 0.1) < 1e-9


@settings(deadline=None, max_examples=25)
@given(st.floats(0.002, 0.998), st.floats(-3, 3))
def test_a_constant_position_bias_cancels(p: float, bias: float) -> None:
    logit = math.log(p / (1 - p))
    a, b = (1 / (1 + math.exp(-logit - side * bias)) for side in (1, -1))
    if min(a, b) > 0.0011 and max(a, b) < 0.9989:  # beyond, the clipping sets in
        (row,) = read([judgment("a", "b", a), judgment("b", "a", 1 - b)])
        assert row["p_a"] == pytest.approx(p, abs=1e-6)
        assert row["position_effect"] == pytest.approx(bias, abs=1e-6)


def generations(*ids: str) -> pl.DataFrame:
    return frame([{"generation_id": gid, "prompt_id": "p", "state": "ok"} for gid in ids], GENERATIONS)


def test_group_scores_are_mean_probabilities_of_winning() -> None:
    rows = [judgment("a", "b", 1.0, channel="text"), judgment("b", "a", 0.0, channel="text")]
    rows += [judgment("a", "c", 1.0, channel="text"), judgment("c", "a", 1.0, channel="text"), judgment("b", "c", None)]
    scores = group_scores(verdicts(frame(rows, JUDGMENTS)), generations("a", "b", "c", "d"))
    # a beats b (1) and is inconsistent against c (1/2); b lost once; b against c is unscored; d was not judged
    assert scores.select("generation_id", "score", "n_scored").rows() == [("a", 0.75, 2), ("b", 0.0, 1), ("c", 0.5, 1), ("d", None, 0)]


def test_group_scores_of_a_score_judge_are_means_over_votes() -> None:
    rows = [scored("pointwise", ["a"], [4.0], vote=0), scored("pointwise", ["a"], [5.0], vote=1), scored("pointwise", ["b"], None)]
    judgments = frame(rows, JUDGMENTS)
    scores = group_scores(verdicts(judgments), generations("a", "b"), judgments)
    assert scores.select("generation_id", "score").rows() == [("a", 4.5), ("b", None)]


def test_scores_about_generations_that_are_not_there_are_refused() -> None:
    found = verdicts(frame([judgment("a", "b", 1.0), judgment("b", "a", 0.0)], JUDGMENTS))
    with pytest.raises(VerdictError, match=r"judged generations \['b'\] are not among the 1"):
        group_scores(found, generations("a"))
