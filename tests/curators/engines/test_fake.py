"""The fake: the same for the same request, another for another, and in the grammar that a judge is asked for."""

from __future__ import annotations

import math

import orjson
import pytest

from curators.engines import Completion, Reply, Request, Sampling, open_engine
from curators.engines.fake import FakeEngine
from curators.judging.parsing import parse_listwise, parse_pairwise, parse_pointwise
from curators.judging.prompts import render
from curators.judging.rubric import load_rubric


def ask(text: str = "hello", **fields: object) -> Request:
    return Request(key="k", messages=[{"role": "user", "content": text}], **fields)


async def one(engine, request: Request) -> Completion:
    return (await engine.complete(request)).completions[0]


@pytest.mark.parametrize("other", [ask("hi"), ask(prefix="x"), ask(attempt=1), ask(first_sample=1), ask(sampling=Sampling(seed=1))])
async def test_what_decides_the_text(other):
    engine = open_engine("fake:")
    assert (await one(engine, ask())).text == (await one(open_engine("fake:"), ask())).text
    assert (await one(engine, ask())).text != (await one(engine, other)).text


async def test_json_by_schema_and_options():
    engine = open_engine("fake:")
    schema = {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["A", "B"]},
            "scores": {"type": "array", "minItems": 3, "items": {"type": "integer", "minimum": 1, "maximum": 5}},
            "sure": {"type": "boolean"},
        },
    }
    value = orjson.loads((await one(engine, ask(json_schema=schema))).text)
    assert value["verdict"] in "AB"
    assert len(value["scores"]) == 3
    assert all(1 <= s <= 5 for s in value["scores"])
    found = (await one(engine, ask(options=("A", "B", "tie")))).option_logprobs
    assert sum(map(math.exp, found.values())) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("rubric", "parse"), [("pairwise", parse_pairwise), ("pairwise-letter", parse_pairwise), ("pointwise", parse_pointwise)]
)
async def test_the_fake_judge_writes_what_the_shipped_rubrics_ask_for(rubric, parse):
    answers = ["one", "two"] if rubric != "pointwise" else ["one"]
    messages = render(load_rubric(rubric), prompt="p", answers=answers, fence_nonce="00")
    completion = await one(open_engine("fake:judge"), Request(key="k", messages=messages))
    assert parse(completion.text).state == "ok"


async def test_the_fake_judge_rates_a_list():
    messages = render(load_rubric("listwise"), prompt="p", answers=["a", "b", "c"], fence_nonce="00")
    completion = await one(open_engine("fake:judge"), Request(key="k", messages=messages))
    assert len(parse_listwise(completion.text, 3).scores) == 3


async def test_a_function_says_what_a_test_wants():
    engine = FakeEngine(lambda request, i: Reply(error="refused", reason="no") if i else f"to {request.key}")
    assert (await one(engine, ask())).text == "to k"
    assert (await engine.complete(ask(n=2))).error == "refused"
