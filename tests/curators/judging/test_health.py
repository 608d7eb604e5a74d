"""A judge's health: known intervals, planted biases that must be found again, and gold agreement counted by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from curators.engines.base import Request
from curators.engines.fake import FakeEngine
from curators.judging.health import health_rows, judge_health
from curators.judging.juries import panel
from curators.judging.protocol import judge_group
from curators.judging.rubric import load_rubric
from curators.judging.verdicts import gold_verdicts, verdicts
from curators.sampling import gather_all, make_prompt
from curators.schema import GENERATIONS, JUDGMENTS, frame
from curators.statistics.intervals import wilson


@pytest.mark.parametrize("bias", [-0.2, 0.0, 0.3])
async def test_a_planted_position_bias_is_measured(bias: float) -> None:
    """A judge that names the first shown with probability 1/2 + bias, whatever it says: found within 0.03 on 2,000 pairs."""
    rubric, rng = load_rubric("pairwise"), random.Random(7)
    engine = FakeEngine(lambda request, _: f"Verdict: {'A' if rng.random() < 0.5 + bias else 'B'}")

    async def one(i: int) -> list[dict[str, Any]]:
        prompt = make_prompt(f"Question {i}")
        group = [{"generation_id": f"{i}-{name}", "text": f"answer {name}", "state": "ok"} for name in "ab"]
        return await judge_group(prompt, group, engine, rubric=rubric)

    rows = [row for group in await gather_all(one(i) for i in range(2000)) for row in group]
    judgments = frame(rows, JUDGMENTS)
    health = judge_health(judgments, verdicts(judgments))
    assert health["first"]["n"] == 4000
    assert health["first"]["share"] - 0.5 == pytest.approx(bias, abs=0.03)
    # orders disagree when both name the first, or both the second
    assert health["inconsistent"]["share"] == pytest.approx((0.5 + bias) ** 2 + (0.5 - bias) ** 2, abs=0.04)


def pair(i: int, first: float, second: float) -> list[dict[str, Any]]:
    shared = {"prompt_id": f"p{i}", "protocol": "pairwise", "judge": "j", "channel": "text", "vote": 0, "attempt": 0, "state": "ok"}
    label = {1.0: "first", 0.0: "second", 0.5: "tie"}
    a, b = f"{i}a", f"{i}b"
    return [
        {**shared, "generation_ids": [a, b], "p_first": first, "label": label[first]},
        {**shared, "generation_ids": [b, a], "p_first": second, "label": label[second]},
    ]


def gold(i: int, a: float, b: float) -> list[dict[str, Any]]:
    shared = {"prompt_id": f"p{i}", "protocol": "verifier", "judge": "v", "channel": "verifier", "vote": 0, "attempt": 0, "state": "ok"}
    return [{**shared, "generation_ids": [f"{i}{side}"], "scores": [score]} for side, score in (("a", a), ("b", b))]


def test_agreement_counts_pairs_that_the_gold_decides() -> None:
    rows = [*pair(0, 1, 0), *pair(1, 0, 1), *pair(2, 1, 1), *pair(3, 1, 0), *pair(4, 0.5, 0.5)]
    truth = [*gold(0, 1, 0), *gold(1, 1, 0), *gold(2, 1, 0), *gold(3, 1, 1), *gold(4, 0, 1)]
    judgments = frame(rows, JUDGMENTS)
    health = judge_health(judgments, verdicts(judgments), gold=gold_verdicts(frame(truth, JUDGMENTS)))
    # pair 0 right, 1 wrong, 2 inconsistent and 4 a tie (misses), 3 not decidable
    assert health["n_decidable"] == 4
    assert (health["agreement"]["hits"], health["agreement"]["n"]) == (1, 4)
    assert (health["agreement_decided"]["hits"], health["agreement_decided"]["n"]) == (1, 2)
    assert (health["inconsistent"]["hits"], health["tie"]["hits"]) == (1, 1)


def test_unreadable_replies_count_against_the_judge_and_for_nothing_else() -> None:
    failed = [{**row, "state": "parse_error", "reason": "no line", "p_first": None, "label": None} for row in pair(1, 1, 0)]
    judgments = frame([*pair(0, 1, 0), *failed], JUDGMENTS)
    health = judge_health(judgments, verdicts(judgments))
    assert (health["ok"]["hits"], health["ok"]["n"]) == (2, 4)
    assert (health["unscored"]["hits"], health["unscored"]["n"]) == (1, 2)
    assert (health["first"]["hits"], health["first"]["n"]) == (1, 2)
    assert health["inconsistent"]["n"] == 1
    assert health["states"] == {"ok": 2, "parse_error": 2}


def test_replies_of_one_prompt_that_fail_together_count_once() -> None:
    """20 prompts with 2 pairs each, of which 5 fail as a whole: the interval is that of 15 of 20, not of 60 of 80."""
    rows = [row | {"prompt_id": f"p{i // 2}"} for i in range(40) for row in pair(i, 1, 0)]
    failed = {"state": "refused", "reason": "policy", "p_first": None, "label": None}
    judgments = frame([row | (failed if int(row["prompt_id"][1:]) < 5 else {}) for row in rows], JUDGMENTS)
    health = judge_health(judgments, verdicts(judgments))
    assert (health["ok"]["hits"], health["ok"]["n"], health["unscored"]["hits"], health["unscored"]["n"]) == (60, 80, 10, 40)
    assert (health["ok"]["low"], health["ok"]["high"]) == pytest.approx(wilson(15, 20))
    assert (health["unscored"]["low"], health["unscored"]["high"]) == pytest.approx(wilson(5, 20))


def test_members_who_disagree_favour_no_position() -> None:
    rows = [row | {"judge": judge} for i in range(8) for judge, p in (("j", 1), ("k", 0)) for row in pair(i, p, 1 - p)]
    judgments = frame(rows, JUDGMENTS)
    health = judge_health(judgments, panel(verdicts(judgments)))
    assert health["n_verdicts"]["inconsistent"] == 8
    assert (health["flips_to_first"]["n"], health["flips_to_first"]["p"]) == (0, 1.0)


def test_a_half_in_all_but_rounding_is_no_side() -> None:
    """P(first) = .03 in both orders: p is 1e-16 away from 1/2, which is not the side that the gold prefers."""
    rows = [row | {"channel": "options", "p_first": 0.03} for row in pair(0, 1, 1)]
    judgments = frame(rows, JUDGMENTS)
    assert 0 < abs(verdicts(judgments)["p_a"][0] - 0.5) < 1e-15
    for a, b in ((1, 0), (0, 1)):
        health = judge_health(judgments, verdicts(judgments), gold=gold_verdicts(frame(gold(0, a, b), JUDGMENTS)))
        assert (health["agreement"]["hits"], health["agreement"]["n"]) == (0, 1)


def test_length_preference_counts_verdicts_for_a_side() -> None:
    judgments = frame([*pair(0, 1, 0), *pair(1, 0, 1), *pair(2, 1, 1)], JUDGMENTS)
    texts = {"0a": "longer text", "0b": "short", "1a": "longer text", "1b": "short", "2a": "x", "2b": "yy"}
    rows: list[dict[str, Any]] = [
        {"generation_id": gid, "prompt_id": f"p{gid[0]}", "text": text, "state": "ok"} for gid, text in texts.items()
    ]
    health = judge_health(judgments, verdicts(judgments), frame(rows, GENERATIONS))
    assert (health["longer"]["hits"], health["longer"]["n"]) == (1, 2)


def test_the_table_leaves_out_what_was_not_measured() -> None:
    judgments = frame(pair(0, 1, 0), JUDGMENTS)
    measures = [row["measure"] for row in health_rows(judge_health(judgments, verdicts(judgments)))]
    assert "replies that could be read" in measures
    assert not any("gold" in measure or "labels together" in measure for measure in measures)


def test_no_judgments_have_no_shares() -> None:
    empty = frame([], JUDGMENTS)
    health = judge_health(empty, verdicts(empty))
    assert health["ok"]["share"] is None
    assert health["judge"] is None


async def test_a_judge_that_names_the_first_always_is_wholly_inconsistent() -> None:
    requests: list[Request] = []

    def says(request: Request, _: int) -> str:
        requests.append(request)
        return "Verdict: A"

    group = [{"generation_id": f"g{i}", "text": f"answer {i}", "state": "ok"} for i in range(4)]
    judgments = frame(await judge_group(make_prompt("Q"), group, FakeEngine(says), rubric=load_rubric("pairwise")), JUDGMENTS)
    health = judge_health(judgments, verdicts(judgments))
    assert len(requests) == 12
    assert (health["first"]["share"], health["inconsistent"]["share"]) == (1.0, 1.0)
    assert health["position_effect"] > 6


def test_calibration_needs_pairs_and_says_no_temperature_where_none_would_mend_it() -> None:
    few = [row for i in range(19) for row in pair(i, 1, 0)]
    truth = [row for i in range(40) for row in gold(i, 1, 0)]
    judgments = frame(few, JUDGMENTS)
    assert judge_health(judgments, verdicts(judgments), gold=gold_verdicts(frame(truth, JUDGMENTS)))["calibration"] is None
    guesses = frame([row for i in range(40) for row in pair(i, i % 2, 1 - i % 2)], JUDGMENTS)
    found = judge_health(guesses, verdicts(guesses), gold=gold_verdicts(frame(truth, JUDGMENTS)))["calibration"]
    assert (found["n"], found["temperature"]) == (40, None)  # right in half of what it is .92 sure of


def test_a_share_of_all_or_none_ends_exactly_there() -> None:
    rows = frame([row for i in range(6) for row in pair(i, 1, 0)], JUDGMENTS)
    health = judge_health(rows, verdicts(rows))
    assert (health["ok"]["high"], health["unscored"]["low"], health["tie"]["low"]) == (1.0, 0.0, 0.0)
