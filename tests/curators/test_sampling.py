"""Prompts of every sort become rows; samples become rows, failed ones too."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from curators.engines.base import Completion, Reply, Request, Sampling
from curators.engines.fake import FakeEngine
from curators.errors import EngineBusy
from curators.sampling import MAX_PROMPT_CHARS, gather_all, make_prompt, prompt_rows, sample, sample_prompt
from curators.schema import PROMPTS, check, frame

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]
CALL = [{"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]
THREE_TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": None, "tool_calls": CALL, "reasoning_content": "look it up"},
    {"role": "tool", "tool_call_id": "1", "content": "in the drawer"},
]


def test_a_prompt_keeps_turns_tools_and_template_arguments() -> None:
    row = make_prompt(THREE_TURNS, tools=TOOLS, chat_template_kwargs={"enable_thinking": False}, meta={"level": 3})
    assert row["state"] == "ok"
    assert orjson.loads(row["messages"]) == THREE_TURNS
    assert orjson.loads(row["tools"]) == TOOLS
    assert row["meta"] == '{"level":3}'
    assert (
        row["prompt_id"]
        == make_prompt(
            [dict(reversed(turn.items())) for turn in THREE_TURNS], tools=TOOLS, chat_template_kwargs={"enable_thinking": False}
        )["prompt_id"]
    )
    assert row["prompt_id"] != make_prompt(THREE_TURNS)["prompt_id"]


@pytest.mark.parametrize(
    ("messages", "state", "reason"),
    [
        ([], "empty", "there are no turns"),
        ("  \n", "empty", "the last turn (user) has no text"),
        ([{"role": "user", "content": [{"type": "text", "text": ""}]}], "empty", "the last turn (user) has no text"),
        (7, "wrong_type", "messages is int, must be a list of turns or a string"),
        (["hi"], "wrong_type", "turn 1: is str, must be an object"),
        ([{"role": "user", "content": 3}], "wrong_type", "turn 1: content is int, must be a string or a list of parts with a type"),
        ([{"role": "user"}], "wrong_type", "turn 1: has neither content nor tool_calls"),
        (
            [*THREE_TURNS, {"role": "assistant", "content": "There."}],
            "wrong_type",
            "the last turn is the assistant's: there is nothing to answer",
        ),
        ("x" * (2 << 20), "too_long", f"2097182 characters; at most {MAX_PROMPT_CHARS}"),
    ],
)
def test_a_bad_prompt_is_a_row_with_a_reason(messages: Any, state: str, reason: str) -> None:
    row = make_prompt(messages)
    assert (row["state"], row["reason"]) == (state, reason)
    check(frame([row], PROMPTS), "prompts")


def test_text_that_is_no_unicode_is_a_row() -> None:
    row = make_prompt("half a pair \ud83d")
    assert row["state"] == "wrong_type"
    assert make_prompt("fine", reference="\ud83d")["state"] == "wrong_type"
    check(frame([row], PROMPTS), "prompts")


def test_every_line_of_a_file_becomes_a_row_in_order() -> None:
    lines = [
        b'{"prompt": "Hi", "level": 1}',
        b"\xff\xfe",
        b"{",
        b"[1]",
        b'{"text": "Hi"}',
        b'{"prompt": "Hi"}',
        b'{"messages": "[{\\"role\\": \\"user\\", \\"content\\": \\"Ho\\"}]"}',
    ]
    rows = prompt_rows(lines, source="f")
    assert [row["state"] for row in rows] == ["ok", "not_utf8", "not_json", "wrong_type", "missing", "duplicate", "ok"]
    assert rows[5]["reason"] == "the same prompt as f:1"
    assert [row["source"] for row in rows] == [f"f:{i}" for i in range(1, 8)]
    # every row has an id of its own, but for the duplicate
    assert len({row["prompt_id"] for row in rows}) == 6
    check(frame(rows, PROMPTS), "prompts")


async def test_samples_are_one_request_and_one_row_each() -> None:
    engine = FakeEngine()
    prompt = make_prompt(THREE_TURNS, tools=TOOLS)
    rows = await sample_prompt(prompt, engine, n=4, sampling=Sampling(seed=7, stop=("###",)), logprobs=True)
    assert engine.calls == 1
    assert [row["sample_index"] for row in rows] == [0, 1, 2, 3]
    assert {row["state"] for row in rows} == {"ok"}
    assert rows[0]["sum_logprob"] == pytest.approx(sum(rows[0]["logprobs"]))
    assert orjson.loads(rows[0]["sampling"]) == {"max_tokens": 512, "stop": ["###"], "temperature": 1.0, "top_p": 1.0}
    again = await sample_prompt(prompt, FakeEngine(), n=4, sampling=Sampling(seed=7, stop=("###",)), logprobs=True)
    assert rows == again


async def test_two_equal_samples_are_two_facts() -> None:
    rows = await sample_prompt(make_prompt("Q"), FakeEngine(lambda request, _: "same"), n=3, sampling=Sampling())
    assert len({row["generation_id"] for row in rows}) == 3


async def test_another_seed_or_temperature_is_another_generation() -> None:
    engine = FakeEngine(lambda request, _: "same")
    settings = [Sampling(), Sampling(seed=1), Sampling(temperature=0.5)]
    ids = [(await sample_prompt(make_prompt("Q"), engine, n=1, sampling=one))[0]["generation_id"] for one in settings]
    assert len(set(ids)) == 3


async def test_what_arrived_has_a_state() -> None:
    said = [
        Completion(text="fine", finish_reason="stop"),
        Completion(text="cut of", finish_reason="length"),
        Completion(text="", finish_reason="length", reasoning="hm"),
        Completion(text=" ", finish_reason="stop"),
        Completion(text="", finish_reason="tool_calls", tool_calls=CALL),
    ]
    rows = await sample_prompt(make_prompt("Q"), FakeEngine(lambda request, i: said[i]), n=5, sampling=Sampling())
    assert [row["state"] for row in rows] == ["ok", "truncated", "empty", "empty", "ok"]
    assert rows[2]["reason"] == "cut off by max_tokens before any text"
    assert orjson.loads(rows[4]["tool_calls"]) == CALL


async def test_a_failed_request_gives_a_row_for_every_sample() -> None:
    engine = FakeEngine(lambda request, _: Reply(error="context_overflow", reason="9000 tokens of 8192"))
    rows = await sample_prompt(make_prompt("Q"), engine, n=3, sampling=Sampling())
    assert [(row["state"], row["reason"]) for row in rows] == [("context_overflow", "9000 tokens of 8192")] * 3
    assert len({row["generation_id"] for row in rows}) == 3


async def test_samples_that_the_engine_forgot_are_rows_too() -> None:
    engine = FakeEngine(lambda request, _: Reply(completions=(Completion(text="one"),)))
    rows = await sample_prompt(make_prompt("Q"), engine, n=2, sampling=Sampling())
    assert [row["state"] for row in rows] == ["ok", "transport_error"]


async def test_one_failed_sample_is_one_failure_row_and_its_siblings_keep_their_texts() -> None:
    class Partly(FakeEngine):
        async def complete(self, request: Request) -> Reply:
            arrived = (Completion(text="zero"), Completion(text="two", sample_index=2))
            return Reply(completions=arrived, error="transport_error", reason="HTTP 500")

    rows = await sample_prompt(make_prompt("Q"), Partly(), n=3, sampling=Sampling())
    assert [(row["sample_index"], row["state"], row.get("text")) for row in rows] == [
        (0, "ok", "zero"),
        (1, "transport_error", None),
        (2, "ok", "two"),
    ]
    assert rows[1]["reason"] == "HTTP 500"


async def test_a_frame_of_prompts_is_sampled_and_bad_ones_are_left_out() -> None:
    prompts = frame(prompt_rows([{"prompt": "Q"}, {"prompt": ""}, {"prompt": "R"}], source="f"), PROMPTS)
    generations = await sample(prompts, FakeEngine(), n=2, sampling=Sampling(), logprobs=True)
    check(generations, "generations")
    assert generations["prompt_id"].to_list() == [p for p in prompts.filter(state="ok")["prompt_id"] for _ in range(2)]


async def test_a_dead_endpoint_cancels_the_rest() -> None:
    finished: list[int] = []

    class Down(FakeEngine):
        async def complete(self, request: Request) -> Reply:
            raise EngineBusy("nobody answers")

    async def never() -> list[dict[str, Any]]:
        import asyncio

        try:
            await asyncio.Event().wait()
        finally:
            finished.append(1)
        return []

    with pytest.raises(EngineBusy, match="nobody answers"):
        await gather_all([never(), sample_prompt(make_prompt("Q"), Down(), n=1, sampling=Sampling())])
    assert finished == [1]


def test_tools_keep_the_order_in_which_they_came_and_any_order_is_the_same_prompt() -> None:
    """A chat template writes a tool's keys in their order; "function" before "type" would be another prompt than the user's."""
    given = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
    turned = [{"function": {"parameters": {"type": "object"}, "description": "adds", "name": "add"}, "type": "function"}]
    one, other = make_prompt("2 + 2?", tools=given), make_prompt("2 + 2?", tools=turned)
    assert [list(t) for t in orjson.loads(one["tools"])] == [["type", "function"]]
    assert list(orjson.loads(other["tools"])[0]["function"]) == ["parameters", "description", "name"]
    assert one["prompt_id"] == other["prompt_id"]
