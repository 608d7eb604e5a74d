"""The simulated judge says what its formula says, through every protocol and channel, and the same each time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from curators.engines.base import Request
from curators.engines.simulated import SimulatedJudge, Traits, planted_quality, planted_text, shown_texts
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import load_rubric
from curators.judging.verdicts import verdicts
from curators.sampling import gather_all, make_prompt
from curators.schema import JUDGMENTS, frame


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


async def judged(engine: SimulatedJudge, rubric: str, pairs: Sequence[tuple[str, ...]], **config: Any) -> pl.DataFrame:
    async def one(i: int, texts: tuple[str, ...]) -> list[dict[str, Any]]:
        group = [{"generation_id": f"{i}{'abc'[k]}", "text": text, "state": "ok"} for k, text in enumerate(texts)]
        return await judge_group(make_prompt(f"Q{i}"), group, engine, rubric=load_rubric(rubric), config=JudgeConfig(**config))

    rows = await gather_all(one(i, texts) for i, texts in enumerate(pairs))
    return frame([row for group in rows for row in group], JUDGMENTS)


async def test_both_orders_by_options_follow_the_formula() -> None:
    """logit P(first) = 2 * (q1 - q2) + 0.7 + 0.5 * (l1 - l2) / 100: a has q .5 and 300 characters, b q .1 and 100."""
    engine = SimulatedJudge(Traits(skill=2, position=0.7, length=0.5))
    texts = (planted_text(0.5, 300), planted_text(0.1, 100))
    judgments = await judged(engine, "pairwise-letter", [texts])
    assert judgments.sort("order")["p_first"].to_list() == pytest.approx([logistic(0.8 + 0.7 + 1.0), logistic(-0.8 + 0.7 - 1.0)])
    row = verdicts(judgments).row(0, named=True)
    assert (row["p_a"], row["position_effect"]) == pytest.approx((logistic(1.8), 0.7))
    assert engine.p_first(*texts, position=False) == pytest.approx(logistic(1.8))
    assert 0 < engine.p_first(planted_text(0, 90_000), "b") < 1


async def test_text_replies_are_draws_from_the_same_probability() -> None:
    engine = SimulatedJudge(Traits(skill=1, position=0.4), options=False)
    pairs = [(planted_text(0.3), planted_text(-0.3) + str(i)) for i in range(1500)]
    judgments = await judged(engine, "pairwise", pairs)
    first = {order: (judgments.filter(order=order)["label"] == "first").mean() for order in (0, 1)}
    assert first[0] == pytest.approx(logistic(0.6 + 0.4), abs=0.035)  # three standard errors
    assert first[1] == pytest.approx(logistic(-0.6 + 0.4), abs=0.04)


async def test_taste_stays_over_orders_and_noise_does_not() -> None:
    pairs = [(planted_text(0.0, 30 + i), planted_text(0.0, 31 + i)) for i in range(300)]
    tasteful = verdicts(await judged(SimulatedJudge(Traits(taste=1.0)), "pairwise-letter", pairs))
    logits = (tasteful["p_a"] / (1 - tasteful["p_a"])).log()
    assert tasteful["position_effect"].abs().max() == pytest.approx(0, abs=1e-9)
    assert logits.std() == pytest.approx(math.sqrt(2), rel=0.15)  # the difference of two tastes
    noisy = verdicts(await judged(SimulatedJudge(Traits(noise=1.0)), "pairwise-letter", pairs))
    assert noisy["position_effect"].std() == pytest.approx(math.sqrt(0.5), rel=0.15)
    other = verdicts(await judged(SimulatedJudge(Traits(taste=1.0), seed=1), "pairwise-letter", pairs))
    correlation = pl.DataFrame({"one": tasteful["p_a"], "other": other["p_a"]}).select(pl.corr("one", "other")).item()
    assert abs(correlation) < 0.2


async def test_scores_one_at_a_time_and_in_a_list() -> None:
    texts = tuple(planted_text(q, 40) for q in (-1.5, 0.0, 1.5))
    engine = SimulatedJudge(Traits(spread=0.3))
    alone = await judged(engine, "pointwise", [texts])
    listed = await judged(engine, "listwise", [texts])
    assert alone.filter(state="ok").height == 3
    by_id = {row["generation_ids"][0]: row["scores"][0] for row in alone.iter_rows(named=True)}
    assert by_id["0a"] < by_id["0b"] < by_id["0c"]
    assert listed["scores"][0].to_list() == sorted(listed["scores"][0].to_list())


async def test_unreadable_replies_are_counted_as_such_and_the_same_request_has_the_same_answer() -> None:
    pairs = [(planted_text(0.3), planted_text(-0.3) + str(i)) for i in range(400)]
    engine = SimulatedJudge(Traits(unreadable=0.25, noise=1), options=False)
    judgments = await judged(engine, "pairwise", pairs, repairs=0)
    assert (judgments["state"] == "parse_error").mean() == pytest.approx(0.25, abs=0.05)
    assert judgments.equals(await judged(SimulatedJudge(engine.traits, options=False), "pairwise", pairs, repairs=0))
    assert engine.fingerprint != SimulatedJudge(engine.traits, seed=1).fingerprint != SimulatedJudge().fingerprint


async def test_a_request_without_texts_has_no_answer() -> None:
    reply = await SimulatedJudge().complete(Request(key="k", messages=[{"role": "user", "content": "hello"}]))
    assert (reply.error, reply.completions) == ("unsupported", ())
    assert shown_texts(Request(key="k", messages=[{"role": "user", "content": "<<A:1>>\nx\n<</A:1>>\n<<B:1>>\ny\n\nz\n<</B:1>>"}])) == [
        "x",
        "y\n\nz",
    ]
    assert planted_quality("no number") == 0
