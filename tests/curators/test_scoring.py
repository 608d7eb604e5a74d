from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import polars as pl
import pytest

from curators.engines import open_engine
from curators.engines.base import Completion, Reply, Request
from curators.engines.cached import CachedEngine
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError
from curators.judging.health import judge_health
from curators.judging.verdicts import gold_verdicts, group_scores, verdicts
from curators.sampling import Row, prompt_of
from curators.schema import GENERATIONS, JUDGMENTS, check, frame
from curators.scoring import prove_scorer, read_scores, score_group
from storage.calls import CallLedger

PROMPT = prompt_of({"prompt": [{"role": "system", "content": "Count."}, {"role": "user", "content": "1 + 1?"}], "reference": "2"})
STEER2 = {"helpfulness": 0.65, "correctness": 0.80, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.40}


class Scoring(FakeEngine):
    """A reward model that says what `of` makes of an answer."""

    def __init__(self, of: Any) -> None:
        super().__init__(lambda request, i: self._said(of(request.messages[-1]["content"])), spec="fake:reward", fingerprint="rm-1")
        self.asked: list[Request] = []

    @staticmethod
    def _said(found: Any) -> Completion | Reply:
        return found if isinstance(found, Reply) else Completion(text="", scores=found if isinstance(found, dict) else {"score": found})

    async def complete(self, request: Request) -> Reply:
        self.asked.append(request)
        return await super().complete(request)


def generation(text: str | None, state: str = "ok", **columns: Any) -> Row:
    return {"generation_id": f"g-{text}", "prompt_id": PROMPT["prompt_id"], "text": text, "state": state, **columns}


def rows(engine: Any, *generations: Row, **options: Any) -> list[Row]:
    found = asyncio.run(score_group(PROMPT, generations, engine, **options))
    check(frame([dict(row) for row in found], JUDGMENTS), "judgments")
    return found


def test_every_answer_has_one_row_with_its_score() -> None:
    engine = Scoring(len)
    one, two = rows(engine, generation("four"), generation("seven!!"))
    assert (one["scores"], two["scores"]) == ([4.0], [7.0])
    assert {(r["protocol"], r["channel"], r["judge"], r["state"], r["attributes"]) for r in (one, two)} == {
        ("reward", "reward", "rm-1", "ok", None)
    }
    assert one["generation_ids"] == ["g-four"]
    (first, _) = engine.asked
    assert [m["role"] for m in first.messages] == ["system", "user", "assistant"]
    assert first.key == "reward/g-four"


def test_tools_reasoning_and_calls_reach_the_model() -> None:
    engine, call = Scoring(lambda text: 1.0), [{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]
    tools = [{"type": "function", "function": {"name": "add"}}]
    prompt = PROMPT | {"tools": json.dumps(tools), "chat_template_kwargs": '{"enable_thinking": false}'}
    answer = generation("", reasoning="so", tool_calls=json.dumps(call))
    asyncio.run(score_group(prompt, [answer], engine))
    (asked,) = engine.asked
    assert asked.messages[-1] == {"role": "assistant", "content": "", "reasoning_content": "so", "tool_calls": call}
    assert (asked.tools, asked.chat_template_kwargs) == (tools, {"enable_thinking": False})


def test_only_answers_are_scored() -> None:
    given = [generation("ok"), generation(" "), generation("", "empty"), generation("cut", "truncated"), generation(None, "refused")]
    found = {row["generation_ids"][0]: (row["state"], row["reason"]) for row in map(with_reason, rows(Scoring(len), *given))}
    assert found == {"g-ok": ("ok", None), "g- ": ("gated", "empty answer"), "g-": ("gated", "empty answer")}
    assert {row["generation_ids"][0] for row in rows(Scoring(len), *given, use_truncated=True)} == {"g-ok", "g- ", "g-", "g-cut"}


def with_reason(row: Row) -> Row:
    return {"reason": None} | row


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        (math.nan, "refused", "no finite number from score"),
        (-math.inf, "refused", "no finite number from score"),
        ({"score": None}, "refused", "no finite number from score"),
        ({}, "refused", "no finite number from the model"),
        (Reply(error="context_overflow", reason="too long"), "context_overflow", "too long"),
        (Reply(error="budget_skipped"), "budget_skipped", "budget_skipped"),
        (Reply(), "transport_error", "the engine gave no score"),
    ],
)
def test_a_failed_score_is_unscored_with_its_reason(said: Any, state: str, reason: str) -> None:
    engine = Scoring(lambda text: said if text == "bad" else 1.0)
    found = rows(engine, generation("bad"), generation("good"))
    assert [(row["state"], row.get("reason"), row.get("scores")) for row in found] == [(state, reason, None), ("ok", None, [1.0])]
    (verdict,) = verdicts(frame([dict(row) for row in found], JUDGMENTS)).iter_rows(named=True)
    assert (verdict["verdict"], verdict["reason"], verdict["scores_delta"]) == ("unscored", f"{state}: {reason}", None)


def test_heads_are_summed_by_their_weights_and_kept() -> None:
    """HelpSteer2's 70B weights: .65*4 + .8*4 + .45*4 + .55*2 - .4*3 = 7.5 and .65*3 + .8*4 + .45*4 + .55 - .4 = 7.1."""
    values = {"A": (4, 4, 4, 2, 3), "B": (3, 4, 4, 1, 1)}
    engine = Scoring(lambda text: dict(zip(STEER2, map(float, values[text]), strict=True)))
    a, b = rows(engine, generation("A"), generation("B"), weights=STEER2)
    assert [a["scores"][0], b["scores"][0]] == pytest.approx([7.5, 7.1])
    assert json.loads(a["attributes"]) == dict(zip(STEER2, values["A"], strict=True))
    assert json.loads(a["sampling"])["weights"] == STEER2
    again = rows(engine, generation("A"), weights={"correctness": 1.0})
    assert again[0]["scores"] == [4.0]
    assert again[0]["judgment_id"] != a["judgment_id"]


def test_the_score_recomputed_in_sql_is_the_stored_one() -> None:
    import duckdb

    engine = Scoring(lambda text: {"a": len(text) / 7, "b": 1 / len(text)})
    judged = frame([dict(row) for row in rows(engine, *map(generation, ("x", "yy", "zzz")), weights={"a": 0.3, "b": -2.0})], JUDGMENTS)
    assert judged.height == 3
    query = "SELECT max(abs(0.3 * (attributes->>'a')::DOUBLE - 2 * (attributes->>'b')::DOUBLE - scores[1])) FROM judged"
    (difference,) = duckdb.sql(query).fetchone()  # type: ignore[misc]
    assert difference == pytest.approx(0, abs=1e-12)


def test_weights_and_heads_must_fit() -> None:
    two = {"a": 1.0, "b": 2.0}
    with pytest.raises(ConfigError, match=r"has 2 heads \['a', 'b'\]; give each one that counts a weight"):
        read_scores(two, {}, "rm:x")
    with pytest.raises(ConfigError, match=r"rm:x has no head \['c'\]; its heads are \['a', 'b'\]"):
        read_scores(two, {"a": 1.0, "c": 1.0}, "rm:x")
    assert read_scores(two, {"b": 0.5}, "rm:x")["scores"] == [1.0]


def test_an_engine_that_writes_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="reward: fake:judge writes text and gives no scores; give rm:PATH"):
        rows(open_engine("fake:judge"), generation("a"))


def test_the_same_answer_is_paid_once_whatever_its_seed(tmp_path: Any) -> None:
    engine = Scoring(len)
    with CallLedger(tmp_path / "calls.sqlite") as ledger:
        first = rows(CachedEngine(engine, ledger, run_id="a"), generation("same"))
        second = rows(CachedEngine(engine, ledger, run_id="b"), generation("same"))
    assert engine.calls == 1
    assert first == second


def test_a_replay_scores_what_was_recorded(tmp_path: Any) -> None:
    lines = [{"key": "reward/g-a", "text": "", "scores": {"score": 2.5}}, {"key": "reward/g-b", "error": "refused", "reason": "no"}]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    a, b = rows(open_engine(f"replay:{tmp_path / 'scores.jsonl'}"), generation("a"), generation("b"))
    assert (a["scores"], b["state"], b["reason"]) == ([2.5], "refused", "no")


def test_its_health_is_agreement_ties_and_what_it_could_not_score() -> None:
    """Six pairs of four answers; lengths 1, 2, 2 score, the fourth fails: of three scored pairs one ties. Gold: only `ccc` right."""
    generations = [generation(text) for text in ("a", "bb", "cc", "dddd")]
    engine = Scoring(lambda text: math.nan if text == "dddd" else len(text))
    judged = frame([dict(row) for row in rows(engine, *generations)], JUDGMENTS)
    gold = frame([gold_row(g, float(g["text"] == "cc")) for g in generations], JUDGMENTS)
    found = verdicts(judged)
    health = judge_health(judged, found, generations=frame(generations, GENERATIONS), gold=gold_verdicts(gold))
    assert health["by_model"]
    assert (health["ok"]["hits"], health["ok"]["n"]) == (3, 4)
    assert (health["unscored"]["hits"], health["unscored"]["n"]) == (3, 6)
    assert (health["tie"]["hits"], health["tie"]["n"]) == (1, 3)
    assert (health["agreement"]["hits"], health["agreement"]["n"]) == (1, 2)
    assert (health["agreement_decided"]["hits"], health["agreement_decided"]["n"]) == (1, 1)
    scored = group_scores(found, frame(generations, GENERATIONS), judged)
    assert dict(scored.select("generation_id", "score").iter_rows()) == {"g-a": 1.0, "g-bb": 2.0, "g-cc": 2.0, "g-dddd": None}
    assert scored.filter(pl.col("score").is_null())["n_scored"].to_list() == [0]


def gold_row(generation: Row, score: float) -> Row:
    shown = {"generation_ids": [generation["generation_id"]], "prompt_id": generation["prompt_id"], "order": 0, "vote": 0, "attempt": 0}
    return shown | {"protocol": "verifier", "judge": "verifier:v", "channel": "verifier", "state": "ok", "scores": [score]}


def test_a_model_that_cannot_score_shows_it_before_anything_is_sampled() -> None:
    asyncio.run(prove_scorer(Scoring(len)))
    with pytest.raises(ConfigError, match="has no head"):
        asyncio.run(prove_scorer(Scoring(len), {"quality": 1.0}))
    with pytest.raises(ConfigError, match="writes text"):
        asyncio.run(prove_scorer(open_engine("fake:")))
