"""Every gate passes and refuses at its bound, and says with which figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import Any

import polars as pl
import pytest

from curators.gates import GATES, Candidate, GateBounds, GateResult, check_gates, passed, refusal
from curators.judging.health import judge_health
from curators.judging.verdicts import gold_verdicts, verdicts
from curators.schema import JUDGMENTS, PAIRS, frame
from curators.statistics.intervals import share
from curators.stepsearch.health import search_health

OFF: dict[str, Any] = {field.name: None for field in fields(GateBounds)}


def pairs(*texts: tuple[str, str], on_policy: bool | None = True) -> pl.DataFrame:
    return frame([{"prompt": "q", "chosen": chosen, "rejected": rejected, "on_policy": on_policy} for chosen, rejected in texts], PAIRS)


def only(name: str, candidate: Candidate, bound: float) -> GateResult:
    (result,) = check_gates(candidate, GateBounds(**{**OFF, name: bound}))
    assert result.name == name
    return result


def health(p_first: list[tuple[float, float]], gold: list[tuple[float, float]] | None = None, channel: str = "options") -> dict[str, Any]:
    shared = {"judge": "j", "channel": channel, "vote": 0, "attempt": 0, "state": "ok", "protocol": "pairwise"}
    rows, truth = list[dict[str, Any]](), list[dict[str, Any]]()
    for i, sides in enumerate(p_first):
        for ids, p in zip(([f"{i}a", f"{i}b"], [f"{i}b", f"{i}a"]), sides, strict=True):
            label = "first" if p > 0.5 else "second"
            rows.append({**shared, "prompt_id": f"p{i}", "generation_ids": ids, "p_first": p, "label": label, "label_mass": 0.18})
    for i, scores in enumerate(gold or []):
        for side, score in zip("ab", scores, strict=True):
            row = {**shared, "prompt_id": f"p{i}", "judge": "v", "protocol": "verifier", "channel": "verifier"}
            truth.append({**row, "generation_ids": [f"{i}{side}"], "scores": [score]})
    judgments = frame(rows, JUDGMENTS)
    return judge_health(judgments, verdicts(judgments), gold=gold_verdicts(frame(truth, JUDGMENTS)) if gold else None)


def test_the_number_of_pairs() -> None:
    assert only("min_pairs", Candidate(pairs=pairs(("a", "b"))), 1).passed
    result = only("min_pairs", Candidate(pairs=pairs(("a", "b"))), 2)
    assert (result.passed, result.figure, result.detail) == (False, 1, "1 pairs; at least 2")


def test_repeated_pairs_are_counted_white_space_and_case_aside() -> None:
    candidate = Candidate(pairs=pairs(("a b", "c"), ("A  b", "C"), ("a b", "d"), ("e", "f")))
    assert only("max_duplicate_share", candidate, 0.25).passed
    result = only("max_duplicate_share", candidate, 0.2)
    assert not result.passed
    assert result.detail.startswith("1 of 4 pairs repeat another one (25.0%")


def test_length_counts_pairs_of_unequal_length() -> None:
    candidate = Candidate(pairs=pairs(("long", "s"), ("long", "s"), ("s", "long"), ("same", "size")))
    assert only("max_longer_chosen_share", candidate, 0.7).figure == pytest.approx(2 / 3)
    assert not only("max_longer_chosen_share", candidate, 0.6).passed


def test_on_policy_unknown_is_not_on_policy() -> None:
    both = pl.concat([pairs(("a", "b")), pairs(("c", "d"), on_policy=None)])
    assert only("min_on_policy_share", Candidate(pairs=both), 0.5).passed
    assert not only("min_on_policy_share", Candidate(pairs=both), 0.6).passed


def test_a_judge_that_names_the_first_always_is_refused_with_its_figures() -> None:
    """SmolLM2-135M as judge: the first shown in every presentation, so every pair changes its winner with the order."""
    candidate = Candidate(pairs=pairs(("a", "b")), health=health([(0.9, 0.8)] * 60))
    results = check_gates(candidate, GateBounds(max_judge_first_deviation=0.2))
    message = refusal(results)
    assert not passed(results)
    assert message is not None
    assert "60 of 60 pairs change their winner with the order shown (100.0%, 95% interval 94.0% to 100.0%); at most 50.0%" in message
    assert "120 of 120 presentations name the first shown (100.0%" in message
    assert message.startswith("refused by 2 of 5 gates")


def steps(*ends: tuple[bool, bool]) -> pl.DataFrame:
    """Pairs of steps, by whether chosen and rejected end the answer."""
    rows = pl.concat([pairs((f"a{i}", f"b{i}")) for i in range(len(ends))])
    return rows.with_columns(chosen_terminal=pl.Series([c for c, _ in ends]), rejected_terminal=pl.Series([r for _, r in ends]))


def test_steps_whose_better_side_is_the_one_that_ends_the_answer_teach_to_stop() -> None:
    candidate = Candidate(pairs=steps(*[(True, False)] * 3, (False, True), (True, True), (False, False)))
    result = only("max_ending_deviation", candidate, 0.2)
    assert (result.figure, result.passed) == (pytest.approx(0.25), False)
    assert "3 of 4 pairs of which one side ends the answer prefer that side (75.0%" in result.detail
    assert only("max_ending_deviation", candidate, 0.3).passed
    assert only("max_ending_deviation", Candidate(pairs=steps((True, True))), 0).detail == "not applicable: there is nothing to count"
    assert only("max_ending_deviation", Candidate(pairs=pairs(("a", "b"))), 0).detail == "not applicable: the pairs are no steps"


def test_searches_are_held_to_their_ends_and_their_grades() -> None:
    counts = Counter(trees=10, trees_finished=7, to_grade=20, graded=8, ungraded=12)
    candidate = Candidate(pairs=pairs(("a", "b")), search=search_health(counts, judge="verifier:v@1"))
    unfinished = only("max_unfinished_share", candidate, 0.2)
    assert (unfinished.figure, unfinished.passed) == (pytest.approx(0.3), False)
    assert "3 of 10 trees were ended before they were done" in unfinished.detail
    assert only("max_unfinished_share", candidate, 0.3).passed
    ungraded = only("max_unscored_share", candidate, 0.5)
    assert (ungraded.figure, ungraded.passed) == (pytest.approx(0.6), False)
    assert "12 of 20 answers could not be graded" in ungraded.detail
    assert only("max_unfinished_share", Candidate(pairs=pairs(("a", "b"))), 0).detail == "not applicable: nothing was searched"


def test_agreement_with_the_gold() -> None:
    # three pairs decided for a; the gold says a, a, b; a fourth is not decidable
    measured = health([(0.9, 0.1)] * 4, [(1, 0), (1, 0), (0, 1), (1, 1)])
    candidate = Candidate(pairs=pairs(("a", "b")), health=measured)
    result = only("min_judge_agreement", candidate, 0.7)
    assert not result.passed
    assert result.figure == pytest.approx(2 / 3)
    assert "2 of 3 pairs that the gold decides are judged as it does" in result.detail
    assert only("min_judge_agreement", candidate, 0.6).passed


def test_a_judge_that_could_judge_no_gold_pair_does_not_pass() -> None:
    nothing = {"agreement": share(0, 0), "protocol": "pairwise", "by_model": True}
    for name, candidate in (
        ("min_gold_agreement", Candidate(pairs=pairs(("a", "b")), trial=nothing)),
        ("min_judge_agreement", Candidate(pairs=pairs(("a", "b")), health=nothing)),
    ):
        result = only(name, candidate, 0.0)
        assert (result.passed, result.figure) == (False, None)
        assert "nothing shows that the judge agrees with it" in result.detail


@pytest.mark.parametrize("name", ["min_judge_agreement", "max_judge_inconsistent_share", "max_judge_first_deviation", "max_unscored_share"])
def test_a_gate_about_a_judge_says_where_there_is_none(name: str) -> None:
    result = only(name, Candidate(pairs=pairs(("a", "b"))), 0.5)
    assert (result.passed, result.figure) == (True, None)
    assert result.detail.startswith("not applicable: ")


def test_a_gold_that_is_not_there_is_said() -> None:
    candidate = Candidate(pairs=pairs(("a", "b")), health=health([(0.9, 0.1)]))
    assert only("min_judge_agreement", candidate, 0.9).detail == "not applicable: there is no gold to agree with"


def test_a_verifier_is_no_model_judge() -> None:
    row = {"judge": "v", "protocol": "verifier", "channel": "verifier", "generation_ids": ["a"], "scores": [1.0], "state": "ok"}
    rows = [row | {"vote": 0, "attempt": 0}]
    judgments = frame(rows, JUDGMENTS)
    measured = judge_health(judgments, verdicts(judgments))
    assert only("max_judge_inconsistent_share", Candidate(pairs=pairs(("a", "b")), health=measured), 0.5).figure is None


def test_bounds_and_gates_have_the_same_names_and_null_switches_off() -> None:
    assert {field.name for field in fields(GateBounds)} == set(GATES)
    assert check_gates(Candidate(pairs=pairs()), GateBounds(**OFF)) == []


def test_no_pairs_are_refused_by_their_number_and_break_no_other_gate() -> None:
    bounds = GateBounds(max_longer_chosen_share=0.5, min_on_policy_share=0.5)
    results = check_gates(Candidate(pairs=pairs()), bounds)
    assert [result.name for result in results if not result.passed] == ["min_pairs"]


def test_a_gold_that_decides_nothing_shows_nothing() -> None:
    """A verifier that raises on every row, or cannot tell two answers apart, proves no judge."""
    candidate = Candidate(pairs=pairs(("a", "b")), health=health([(0.9, 0.1)] * 3, [(1, 1), (0, 0), (1, 1)]))
    result = only("min_judge_agreement", candidate, 0.1)
    assert not result.passed
    assert "of the pairs that the gold decides none could be judged" in result.detail
