"""A judge tried on labelled pairs: it sees no label, only those pairs, and its agreement is that with the labels."""

from __future__ import annotations

import asyncio
from typing import Any

import polars as pl
import pytest

from curators.engines.base import Reply, Request
from curators.engines.fake import FakeEngine, open_fake
from curators.errors import SchemaError
from curators.importing import import_facts
from curators.importing.facts import Imported
from curators.judging.gold import AT_ONCE, Gold, calls_needed, gold_pairs, try_judge
from curators.judging.health import judge_health
from curators.judging.protocol import JudgeConfig
from curators.judging.rubric import load_rubric
from curators.judging.verdicts import verdicts

PAIRWISE, POINTWISE, LISTWISE = (load_rubric(name) for name in ("pairwise", "pointwise", "listwise"))


class Row:
    """A row of a file, as storage reads it."""

    def __init__(self, number: int, row: dict[str, Any]) -> None:
        self.number, self.row, self.state, self.reason = number, row, "ok", None


def recorded(n: int) -> Imported:
    rows = [{"prompt": f"Question {i}", "chosen": f"right answer {i}", "rejected": f"wrong answer {i}"} for i in range(n)]
    return import_facts({"gold.jsonl": (Row(i, row) for i, row in enumerate(rows, 1))}, name="gold")


def gold(n: int = 6, **options: Any) -> Gold:
    found = recorded(n)
    return gold_pairs(found.prompts, found.generations, found.judgments, **options)


def sees_right(request: Request, _: int) -> str:
    first = str(request.messages[-1]["content"]).split("<answer_A>")[1].split("\n")[2]
    return f"Verdict: {'A' if first.startswith('right') else 'B'}"


async def test_a_judge_that_sees_what_the_gold_saw_agrees_wholly() -> None:
    trial = gold()
    judged = await try_judge(trial, FakeEngine(sees_right), rubric=PAIRWISE, config=JudgeConfig(channel="text"))
    health = judge_health(judged, verdicts(judged), trial.generations, gold=trial.truth)
    assert judged.height == calls_needed(trial, PAIRWISE, JudgeConfig()) == 12
    assert (health["agreement"]["hits"], health["agreement"]["n"], health["kappa"]["value"]) == (6, 6, 1.0)
    assert not judged["raw"].str.contains("gold").any()


async def test_a_judge_that_names_the_first_agrees_with_nobody() -> None:
    trial = gold()
    judged = await try_judge(trial, FakeEngine(lambda *_: "Verdict: A"), rubric=PAIRWISE, config=JudgeConfig(channel="text"))
    health = judge_health(judged, verdicts(judged), trial.generations, gold=trial.truth)
    assert health["inconsistent"]["share"] == 1.0
    assert health["agreement"]["hits"] == 0
    assert health["kappa"] == {"value": None, "low": None, "high": None, "n": 0}
    assert health["flips_to_first"]["hits"] == 6
    assert health["flips_to_first"]["p"] == pytest.approx(2 / 64)


@pytest.mark.parametrize(("rubric", "calls"), [(PAIRWISE, 12), (POINTWISE, 12), (LISTWISE, 6)])
async def test_the_calls_are_known_before_they_are_made(rubric: Any, calls: int) -> None:
    trial, engine = gold(), open_fake("judge")
    await try_judge(trial, engine, rubric=rubric, config=JudgeConfig())
    assert engine.calls == calls_needed(trial, rubric, JudgeConfig()) == calls


async def test_only_the_labelled_pairs_are_shown() -> None:
    """Two labelled pairs of one prompt have four answers, which make six pairs."""
    rows = [{"prompt": "Q", "chosen": f"right {i}", "rejected": f"wrong {i}"} for i in range(2)]
    found = import_facts({"gold.jsonl": (Row(i, row) for i, row in enumerate(rows, 1))}, name="gold")
    trial = gold_pairs(found.prompts, found.generations, found.judgments)
    judged = await try_judge(trial, FakeEngine(lambda *_: "Verdict: A"), rubric=PAIRWISE, config=JudgeConfig(channel="text"))
    assert judged.height == 4
    assert verdicts(judged).select("a_id", "b_id").sort("a_id").rows() == trial.pairs.select("a_id", "b_id").sort("a_id").rows()


def test_a_limit_draws_the_same_pairs_whatever_the_order_of_rows() -> None:
    facts, whole, some = recorded(30), gold(30), gold(30, limit=10)
    assert some.pairs.height == 10
    assert some.prompts.height == 10
    texts = whole.generations.sample(fraction=1, shuffle=True, seed=3)
    shuffled = gold_pairs(whole.prompts, texts, facts.judgments.sample(fraction=1, shuffle=True, seed=4), limit=10)
    assert shuffled.pairs.equals(some.pairs)
    assert not gold(30, limit=10, seed=1).pairs.equals(some.pairs)


def test_gold_that_decides_nothing_is_refused() -> None:
    rows = [{"prompt": "Q", "output_a": "x", "output_b": "y", "label": "tie"}]
    columns = {name: name for name in rows[0]}
    found = import_facts({"gold.jsonl": (Row(i, row) for i, row in enumerate(rows, 1))}, name="gold", columns=columns)
    with pytest.raises(SchemaError, match="none of the 1 recorded labels decides a pair"):
        gold_pairs(found.prompts, found.generations, found.judgments)


async def test_progress_counts_prompts() -> None:
    told: list[int] = []
    await try_judge(gold(), FakeEngine(sees_right), rubric=PAIRWISE, config=JudgeConfig(channel="text"), on_done=told.append)
    assert told == [1, 2, 3, 4, 5, 6]
    assert pl.Series(told).is_sorted()


async def test_requests_of_a_few_prompts_at_a_time_are_in_the_making() -> None:
    class Slow(FakeEngine):
        waiting = most = 0

        async def complete(self, request: Request) -> Reply:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            await asyncio.sleep(0.001)
            self.waiting -= 1
            return await super().complete(request)

    engine = Slow(sees_right)
    judged = await try_judge(gold(AT_ONCE + 50), engine, rubric=PAIRWISE)
    assert judged.height == engine.calls == 2 * (AT_ONCE + 50)
    assert engine.most == 2 * AT_ONCE
