"""The filter by hand, and against the accuracy that simulated judges must have by analysis."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest

from curators.errors import ConfigError
from curators.judging.consistency import ConsistencyConfig, consistency_report, mark_consistent
from curators.schema import VERDICTS, frame


def verdict(i: int, judge: str, side: str, confidence: float | None = 0.9) -> dict[str, Any]:
    p = {"a": confidence, "b": 1 - (confidence or 0), "tie": 0.5}.get(side)
    pair = {"prompt_id": f"p{i:04}", "a_id": f"{i:04}a", "b_id": f"{i:04}b", "n_judgments": 2, "n_ok": 2}
    return {**pair, "judge": judge, "verdict": side, "p_a": p, "confidence": confidence if side in "ab" else None}


def test_reasons_by_hand() -> None:
    told = ["aaa", "aab", "abb", ["a", "inconsistent", "unscored"], ["a", "b", "tie"], ["tie"] * 3, ["unscored"] * 3]
    rows = [verdict(i, f"j{j}", side) for i, votes in enumerate(told) for j, side in enumerate(votes)]
    marked = mark_consistent(frame(rows, VERDICTS), ConsistencyConfig(min_agree=2))
    reasons = [None, None, None, "too few judges agree", "judges disagree", "no judge decides", "no judge decides"]
    assert marked["reason"].to_list() == reasons
    assert marked["keep"].to_list() == [reason is None for reason in reasons]
    assert marked["side"].to_list() == ["a", "a", "b", "a", None, None, None]
    assert marked.select("n_votes", "n_agree", "n_against").rows()[:4] == [(3, 3, 0), (3, 2, 1), (3, 2, 1), (1, 1, 0)]
    strict = mark_consistent(frame(rows, VERDICTS), ConsistencyConfig(min_agree=3))
    assert strict["reason"].to_list()[:3] == [None, "judges disagree", "judges disagree"]


def test_confidence_is_the_mean_of_those_who_agree() -> None:
    rows = [
        verdict(0, "j0", "a", 0.9),
        verdict(0, "j1", "a", 0.7),
        verdict(0, "j2", "b", 1.0),
        *[verdict(1, f"j{j}", "a", None) for j in range(3)],
    ]
    marked = mark_consistent(frame(rows, VERDICTS), ConsistencyConfig(min_confidence=0.8))
    assert marked["confidence"].to_list() == [pytest.approx(0.8), None]
    assert (
        mark_consistent(frame(rows, VERDICTS), ConsistencyConfig(min_confidence=0.85))["reason"].to_list() == ["not confident enough"] * 2
    )
    assert mark_consistent(frame(rows, VERDICTS))["keep"].to_list() == [True, True]
    first = marked.row(0, named=True)
    assert (first["p_low"], first["p_high"], first["p_mean"]) == pytest.approx((0.0, 0.9, (0.9 + 0.7 + 0.0) / 3))


def simulated(accuracies: list[float], n: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=n)
    sides = [np.where(rng.random(n) < accuracy, truth, 1 - truth) for accuracy in accuracies]
    rows = [verdict(i, f"j{j}", "ab"[side[i]]) for j, side in enumerate(sides) for i in range(n)]
    return frame(rows, VERDICTS), frame([verdict(i, "gold", "ab"[truth[i]]) for i in range(n)], VERDICTS)


def analytic(accuracies: list[float], m: int) -> tuple[float, float]:
    """The share kept and its accuracy, over all ways in which independent judges can be right or wrong."""
    right_kept = kept = 0.0
    for right in product([True, False], repeat=len(accuracies)):
        p = float(np.prod([a if r else 1 - a for a, r in zip(accuracies, right, strict=True)]))
        n_right, n_wrong = sum(right), len(right) - sum(right)
        if max(n_right, n_wrong) >= m and n_right != n_wrong:
            kept += p
            right_kept += p * (n_right > n_wrong)
    return kept, right_kept / kept


@pytest.mark.parametrize("m", [3, 4, 5])
def test_the_kept_are_as_right_as_analysis_says(m: int) -> None:
    accuracies = [0.65, 0.7, 0.75, 0.8, 0.9]
    verdicts, gold = simulated(accuracies, 3000)
    marked = mark_consistent(verdicts, ConsistencyConfig(min_agree=m))
    report = consistency_report(verdicts, marked, gold)
    share, accuracy = analytic(accuracies, m)
    assert report.kept.value == pytest.approx(share, abs=0.03)
    assert report.accuracy_after.value == pytest.approx(accuracy, abs=0.02)
    assert report.n == report.n_kept + sum(report.reasons.values())
    if m > 3:
        assert (report.accuracy_after.value or 0) > (report.accuracy_before.value or 1) > np.mean(accuracies)
        assert report.helps


def test_judges_worse_than_chance_are_shown_for_what_they_are() -> None:
    verdicts, gold = simulated([0.4] * 5, 2000)
    report = consistency_report(verdicts, mark_consistent(verdicts, ConsistencyConfig(min_agree=5)), gold)
    assert (report.accuracy_after.value or 1) < (report.accuracy_before.value or 0)
    assert not report.helps
    # two of five agree by chance of errors alone: alpha about (2 * .4 - 1)^2 = .04
    assert report.alpha.coefficient.value == pytest.approx(0.04, abs=0.03)


def test_without_gold_there_is_no_accuracy() -> None:
    verdicts, _ = simulated([0.8, 0.8, 0.8], 50)
    report = consistency_report(verdicts, mark_consistent(verdicts))
    assert (report.accuracy_after.value, report.accuracy_before.value) == (None, None)
    assert report.fleiss.coefficient.n == 50


def test_the_audit_is_a_seeded_sample_of_the_dropped_whatever_the_order_of_rows() -> None:
    verdicts, _ = simulated([0.7] * 3, 300)
    config = ConsistencyConfig(min_agree=3, audit=15)
    marked = mark_consistent(verdicts, config)
    assert marked["audit"].sum() == 15
    assert not marked.filter("keep")["audit"].any()
    assert mark_consistent(verdicts.sample(fraction=1, shuffle=True, seed=2), config).equals(marked)
    other = mark_consistent(verdicts, ConsistencyConfig(min_agree=3, audit=15, seed=1))
    assert other["audit"].to_list() != marked["audit"].to_list()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"min_confidence 0\.5 to 1"):
        ConsistencyConfig(min_confidence=0.2)
