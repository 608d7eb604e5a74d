"""Further votes only while they can change a pair's verdict."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curators.engines.base import Reply, Request
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import load_rubric
from curators.judging.verdicts import VerdictConfig, verdicts
from curators.judging.votes import outcome, posterior, settled
from curators.sampling import make_prompt
from curators.schema import JUDGMENTS, frame

PROMPT = make_prompt("Name a sea animal.")
PAIR = [{"generation_id": name, "text": text, "tool_calls": None, "state": "ok"} for name, text in (("a", "whale"), ("b", "squid"))]
CONFIG = VerdictConfig()


def judgment(first: str, vote: int, p_first: float | None) -> dict[str, Any]:
    shown = [first, "b" if first == "a" else "a"]
    state = "ok" if p_first is not None else "parse_error"
    columns = {"judge": "j", "protocol": "pairwise", "channel": "text", "prompt_id": "p", "attempt": 0}
    return columns | {"generation_ids": shown, "vote": vote, "p_first": p_first, "state": state, "judgment_id": f"{first}{vote}"}


@pytest.mark.parametrize(("k", "n", "p"), [(2, 2, 0.9244), (1, 2, 0.5), (3, 4, 0.8395), (7, 8, 0.9866), (0, 0, 0.5)])
def test_posterior_of_jeffreys_prior(k: float, n: int, p: float) -> None:
    """1 - I(1/2; k + 1/2, n - k + 1/2), the regularised incomplete beta function."""
    assert posterior(k, n) == pytest.approx(p, abs=5e-5)
    assert posterior(k, n) + posterior(n - k, n) == pytest.approx(1)


@pytest.mark.parametrize(("ab", "ba"), list(product((0.0, 0.25, 0.45, 0.5, 0.55, 0.6, 1.0), repeat=2)))
def test_the_outcome_is_what_verdicts_say(ab: float, ba: float) -> None:
    rows = [judgment("a", 0, ab), judgment("b", 0, 1 - ba)]
    assert outcome(ab, ba, CONFIG) == verdicts(frame(rows, JUDGMENTS))["verdict"].item()


@given(
    ab=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4),
    ba=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4),
    left=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_a_pair_settled_by_what_is_left_never_changes(ab: list[float], ba: list[float], left: int, seed: int) -> None:
    if not settled(ab, ba, left=left, config=CONFIG, confidence=1.0):
        return
    draw = random.Random(seed)
    now = outcome(sum(ab) / len(ab), sum(ba) / len(ba), CONFIG)
    more = [[*side, *(draw.choice([0.0, 0.5, 1.0]) for _ in range(left))] for side in (ab, ba)]
    then = outcome(*(sum(side) / len(side) for side in more), CONFIG)
    assert {now, then} == {then}


async def asked(answers: dict[str, list[str]], **options: Any) -> tuple[list[dict[str, Any]], int]:
    """Judgments of a pair by a judge that gives these verdicts, by the answer shown first, vote by vote."""

    def judge(request: Request, sample_index: int) -> str:
        said = answers[str(request.messages[-1]["content"]).split("<answer_A>")[1].split("\n")[2]]
        return f"Verdict: {said[sample_index]}"

    engine = FakeEngine(judge)
    config = JudgeConfig(temperature=0.7, channel="text", **options)
    return await judge_group(PROMPT, PAIR, engine, rubric=load_rubric("pairwise"), config=config), engine.calls


@pytest.mark.parametrize(
    ("whale", "squid", "calls", "verdict"),
    [
        ("AAAAA", "BBBBB", 4, "a"),  # both orders name the whale twice
        ("AAAAA", "ABBBB", 6, "a"),  # 1 of 2 and 3 of 4 leave doubt, 5 of 6 do not
        ("AAAAA", "AAAAA", 8, "inconsistent"),  # the first shown wins; one more in each order could not change that
        (["tie"] * 5, ["tie"] * 5, 10, "tie"),
    ],
)
async def test_votes_are_added_while_the_pair_is_open(whale: Any, squid: Any, calls: int, verdict: str) -> None:
    rows, n = await asked({"whale": list(whale), "squid": list(squid)}, max_votes=5)
    assert n == calls == len(rows)
    found = verdicts(frame(rows, JUDGMENTS)).row(0, named=True)
    assert found["verdict"] == verdict
    assert sorted({row["vote"] for row in rows}) == list(range(calls // 2))


async def test_who_is_content_with_less_pays_for_fewer_votes() -> None:
    _, n = await asked({"whale": list("AAAAA"), "squid": list("BBBBB")}, max_votes=5, stop_at=0.9)
    assert n == 2
    with pytest.raises(ConfigError, match=r"stop_at is 0\.5; it is a probability above 1/2"):
        JudgeConfig(stop_at=0.5)


async def test_a_vote_that_cannot_be_read_leaves_the_pair_open() -> None:
    rows, n = await asked({"whale": ["?", "A", "A"], "squid": ["B", "B", "B"]}, max_votes=3, repairs=0)
    assert n == 4
    assert [row["state"] for row in rows].count("parse_error") == 1
    assert verdicts(frame(rows, JUDGMENTS))["verdict"].item() == "a"


async def test_a_further_vote_that_failed_has_its_tokens() -> None:
    class Failing(FakeEngine):
        async def complete(self, request: Request) -> Reply:
            if request.first_sample:
                return Reply(error="refused", reason="policy", prompt_tokens=7, completion_tokens=1)
            return await super().complete(request)

    config = JudgeConfig(temperature=0.7, channel="text", max_votes=2)
    rows = await judge_group(PROMPT, PAIR, Failing(lambda request, _: "Verdict: A"), rubric=load_rubric("pairwise"), config=config)
    assert [(row["state"], row["prompt_tokens"], row["completion_tokens"]) for row in rows if row["vote"]] == [("refused", 7, 1)] * 2


async def test_a_fixed_number_of_votes_is_always_asked_for() -> None:
    rows, _ = await asked({"whale": list("AAA"), "squid": list("BBB")}, votes=3)
    assert len(rows) == 6
    found = verdicts(frame(rows, JUDGMENTS)).row(0, named=True)
    assert found["confidence"] == pytest.approx(posterior(6, 6))


def test_fewer_votes_at_most_than_at_least_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_votes is 2, fewer than votes, 3"):
        JudgeConfig(votes=3, max_votes=2, temperature=1.0)
    with pytest.raises(ConfigError, match="5 votes at temperature 0 are one vote"):
        JudgeConfig(max_votes=5)


def test_confidence_is_of_the_preferred_side_and_null_without_a_verdict() -> None:
    rows = [judgment("a", 0, 0.0), judgment("b", 0, 1.0)]
    found = verdicts(frame(rows, JUDGMENTS)).row(0, named=True)
    assert (found["verdict"], found["confidence"]) == ("b", pytest.approx(posterior(2, 2)))
    soft = frame([judgment("a", 0, 0.9), judgment("b", 0, 0.2)], JUDGMENTS).with_columns(channel=pl.lit("options"))
    found = verdicts(soft).row(0, named=True)
    assert found["confidence"] == found["p_a"]
    unread = verdicts(frame([judgment("a", 0, None), judgment("b", 0, 1.0)], JUDGMENTS)).row(0, named=True)
    assert (unread["verdict"], unread["confidence"]) == ("unscored", None)
