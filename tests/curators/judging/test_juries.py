"""Panels by hand, against their analytic accuracy, and against their best member."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from curators.errors import ConfigError, VerdictError
from curators.judging.juries import JuryConfig, Method, not_of_its_own, panel
from curators.judging.jury_report import panel_report
from curators.schema import GENERATIONS, VERDICTS, check, frame

METHODS: tuple[Method, ...] = ("majority", "mean_logit", "weighted", "naive_bayes", "dawid_skene")


def verdict(i: int, judge: str, side: str, p: float | None = None, reason: str | None = None) -> dict[str, Any]:
    pair = {"prompt_id": f"p{i:04}", "a_id": f"{i:04}a", "b_id": f"{i:04}b", "n_judgments": 2, "n_ok": 2}
    return {**pair, "judge": judge, "verdict": side, "p_a": p, "reason": reason}


def said(votes: dict[str, str], **config: Any) -> dict[str, Any]:
    """The panel's verdict of one pair."""
    rows = [verdict(0, judge, side, {"a": 0.9, "b": 0.1, "tie": 0.5}.get(side)) for judge, side in votes.items()]
    return panel(frame(rows, VERDICTS), JuryConfig(**config)).row(0, named=True)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ("aab", "a"),
        ("abb", "b"),
        ("att", "tie"),
        ("abt", "inconsistent"),
        ("aat", "a"),
        ("ttt", "tie"),
        (["a", "b", "inconsistent"], "inconsistent"),
        (["a", "a", "unscored"], "a"),
        (["a", "unscored", "inconsistent"], "unscored"),
        (["inconsistent", "inconsistent", "inconsistent"], "unscored"),
    ],
)
def test_majorities(votes: Any, expected: str) -> None:
    full = {"a": "a", "b": "b", "t": "tie"}
    found = said({f"j{i}": full.get(side, side) for i, side in enumerate(votes)})
    assert found["verdict"] == expected
    assert (found["p_a"] is None) == (expected == "unscored")


def test_a_missed_quorum_says_what_became_of_each_member() -> None:
    rows = [verdict(0, "j1", "a"), verdict(0, "j2", "unscored", reason="truncated: cut off"), verdict(0, "j3", "inconsistent")]
    found = panel(frame(rows, VERDICTS)).row(0, named=True)
    assert found["reason"] == "2 of 3 votes are needed, there are 1: j2 unscored (truncated: cut off); j3 inconsistent"
    assert panel(frame(rows, VERDICTS), JuryConfig(quorum=1))["verdict"].to_list() == ["a"]


def test_mean_logit_by_hand() -> None:
    """Logits of .9, .8, .3: 2.1972, 1.3863, -.8473; their mean .9121 is p = .7134."""
    rows = [verdict(0, f"j{i}", "a" if p > 0.5 else "b", p) for i, p in enumerate((0.9, 0.8, 0.3))]
    found = panel(frame(rows, VERDICTS), JuryConfig(method="mean_logit")).row(0, named=True)
    assert (found["p_a"], found["margin"], found["verdict"]) == (pytest.approx(0.7134, abs=5e-5), pytest.approx(0.4268, abs=1e-4), "a")
    assert found["p_se"] == pytest.approx(np.std([0.9, 0.8, 0.3], ddof=1) / math.sqrt(3))
    level = [verdict(0, "j0", "a", 0.8), verdict(0, "j1", "b", 0.2)]
    assert panel(frame(level, VERDICTS), JuryConfig(method="mean_logit"))["verdict"].to_list() == ["inconsistent"]


def test_a_bound_is_met_by_what_differs_from_it_by_rounding_alone() -> None:
    rows = [verdict(0, f"j{i}", "b", 0.3) for i in range(2)]
    found = panel(frame(rows, VERDICTS), JuryConfig(method="mean_logit", indifference=0.2)).row(0, named=True)
    assert found["p_a"] > 0.5 - 0.2
    assert found["verdict"] == "b"


def simulated(accuracies: list[float], *, n: int = 4000, seed: int = 0, undecided: float = 0.0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Judges that err independently, and the gold."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=n)
    rows = []
    for j, accuracy in enumerate(accuracies):
        side = np.where(rng.random(n) < accuracy, truth, 1 - truth)
        none = rng.random(n) < undecided
        rows += [
            verdict(i, f"j{j}", "inconsistent" if none[i] else "ab"[side[i]], None if none[i] else 0.9 - 0.8 * side[i]) for i in range(n)
        ]
    return frame(rows, VERDICTS), frame([verdict(i, "gold", "ab"[truth[i]]) for i in range(n)], VERDICTS)


def accuracy(found: pl.DataFrame, gold: pl.DataFrame) -> float:
    joined = found.join(gold, on=["prompt_id", "a_id", "b_id"], suffix="_gold")
    return float((joined["verdict"] == joined["verdict_gold"]).mean() or 0)


def test_three_equal_judges_are_as_right_as_condorcet_says() -> None:
    """p^3 + 3 p^2 (1 - p) of p = .7 is .784; standard error .0065."""
    verdicts, gold = simulated([0.7, 0.7, 0.7])
    for method in METHODS:
        assert accuracy(panel(verdicts, JuryConfig(method=method, indifference=0.0), gold=gold), gold) == pytest.approx(0.784, abs=0.02)


def test_weights_find_the_good_judge_and_a_majority_buries_it() -> None:
    """.9, .6, .6: the majority is right in .9 * (1 - .16) + .1 * .36 = .792; log odds 2.2 > .41 + .41, so that the weighted panel follows
    the best: .9. The same without gold, by agreement alone."""
    verdicts, gold = simulated([0.9, 0.6, 0.6])
    found = {method: panel(verdicts, JuryConfig(method=method, indifference=0.0), gold=gold) for method in METHODS}
    assert accuracy(found["majority"], gold) == pytest.approx(0.792, abs=0.02)
    for method in ("weighted", "naive_bayes", "dawid_skene"):
        assert accuracy(found[method], gold) == pytest.approx(0.9, abs=0.02)
    bayes = found["naive_bayes"].filter(pl.col("verdict") == "a")["p_a"]
    assert bayes.min() > 0.5
    # all three agree: odds 9 * 1.5 * 1.5
    assert bayes.max() == pytest.approx(20.25 / 21.25, abs=0.01)


def test_the_report_says_whether_the_panel_beats_its_best_member() -> None:
    verdicts, gold = simulated([0.9, 0.6, 0.6], n=1500)
    report = panel_report(verdicts, gold)
    members = {row["judge"]: row for row in report.members.iter_rows(named=True)}
    assert report.best == "j0"
    assert not report.beats_best
    assert report.only_best_right > report.only_panel_right
    assert report.p_better < 0.01
    assert members["j0"]["low"] < 0.9 < members["j0"]["high"]
    assert members["j0"]["worth"] > 0.1 > members["j1"]["worth"]
    equal, gold = simulated([0.75] * 5, n=1500)
    better = panel_report(equal, gold)
    assert better.beats_best
    assert better.members.filter(judge="panel")["accuracy"].item() == pytest.approx(0.8965, abs=0.03)  # of five, three or more right


@pytest.mark.parametrize("method", ["weighted", "naive_bayes"])
def test_a_calibrated_panel_follows_its_good_judge_on_unseen_prompts_too(method: Method) -> None:
    verdicts, gold = simulated([0.9, 0.6, 0.6], n=1000)
    found = panel_report(verdicts, gold, JuryConfig(method=method, indifference=0.0))
    row = found.members.filter(judge="panel").row(0, named=True)
    assert (row["decided"], row["accuracy"]) == (1000, pytest.approx(0.9, abs=0.03))
    assert found.members.filter(judge="j0")["worth"].item() > 0.1


def test_a_calibrated_panel_is_not_measured_on_what_calibrated_it() -> None:
    """Five judges that guess: weights learnt and measured on the same few pairs find something in nothing, on others they do not."""
    config = JuryConfig(method="weighted", indifference=0.0)
    same, other = [], []
    for seed in range(9):
        verdicts, gold = simulated([0.5] * 5, n=60, seed=seed)
        told = panel(verdicts, config, gold=gold).filter(pl.col("verdict") != "unscored")
        same += [accuracy(told, gold)] * (told.height > 0)
        other.append(panel_report(verdicts, gold, config).members.filter(judge="panel")["accuracy"].item())
    assert np.mean(same) > 0.55
    assert np.mean(other) == pytest.approx(0.5, abs=0.07)  # 480 pairs: three standard errors
    with pytest.raises(VerdictError, match="none of them is among"):
        panel_report(verdicts, gold.with_columns(a_id=pl.lit("other")))


def test_votes_without_weight_are_no_tie() -> None:
    """Judges that are wrong on gold, and a third judge that never votes: nothing can be said, and nothing is."""
    verdicts, gold = simulated([0.1, 0.2], n=60)
    for method in ("weighted", "naive_bayes"):
        found = panel(verdicts, JuryConfig(method=method), gold=gold)  # type: ignore[arg-type]
        assert found["verdict"].unique().to_list() == ["unscored"]
        assert found["reason"].unique().to_list() == ["no judge who votes is right more often than wrong on gold"]
        assert found["p_a"].null_count() == 60
    silent = pl.concat([verdicts, frame([verdict(i, "j2", "unscored", reason="no reply") for i in range(60)], VERDICTS)])
    assert panel(silent, JuryConfig(method="dawid_skene"))["reason"].unique().to_list() == ["three judges who vote are needed"]


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_does_not_matter_and_swapping_the_sides_swaps_the_verdict(method: Method) -> None:
    verdicts, gold = simulated([0.9, 0.7, 0.6], n=60, undecided=0.2)
    config = JuryConfig(method=method)
    first = panel(verdicts, config, gold=gold)
    check(first, "verdicts")
    shuffled = panel(verdicts.sample(fraction=1, shuffle=True, seed=1), config, gold=gold.reverse())
    assert shuffled["verdict"].to_list() == first["verdict"].to_list()
    assert shuffled["p_a"].to_list() == pytest.approx(first["p_a"].to_list())
    other = pl.col("verdict").replace({"a": "b", "b": "a"})
    turned = panel(verdicts.with_columns(verdict=other, p_a=1 - pl.col("p_a")), config, gold=gold.with_columns(verdict=other))
    assert turned["verdict"].to_list() == first.with_columns(other)["verdict"].to_list()
    assert turned["p_a"].to_list() == pytest.approx((1 - first["p_a"]).to_list(), abs=1e-6)


def test_a_judge_does_not_judge_its_own_texts() -> None:
    verdicts = frame([verdict(0, "j0", "a", 0.9), verdict(0, "j1", "b", 0.2), verdict(1, "j0", "a", 0.9), verdict(1, "j1", "b")], VERDICTS)
    rows: list[dict[str, object]] = [
        {"generation_id": f"000{i}{s}", "policy": "j0" if (i, s) == (0, "b") else "p"} for i in (0, 1) for s in "ab"
    ]
    found = not_of_its_own(verdicts, frame(rows, GENERATIONS))
    assert found["verdict"].to_list() == ["unscored", "b", "a", "b"]
    assert found.row(0, named=True)["p_a"] is None
    assert found["reason"].to_list() == ["the judge wrote one of the texts", None, None, None]
    assert panel(found)["verdict"].to_list() == ["unscored", "inconsistent"]


def test_refusals() -> None:
    two = frame([verdict(0, "j0", "a"), verdict(0, "j1", "b")], VERDICTS)
    with pytest.raises(ConfigError, match="needs at least 3 judges"):
        panel(two, JuryConfig(method="dawid_skene"))
    with pytest.raises(ConfigError, match="calibrated on gold"):
        panel(two, JuryConfig(method="weighted"))
    with pytest.raises(ConfigError, match="quorum of 3 votes of 2"):
        panel(two, JuryConfig(quorum=3))
    with pytest.raises(VerdictError, match="two verdicts about"):
        panel(pl.concat([two, two]))
