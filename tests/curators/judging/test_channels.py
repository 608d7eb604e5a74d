"""The ladder of channels: taken by what the engine can do, recorded, and never weaker than asked for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from curators.engines.base import Reply, Request
from curators.engines.fake import FakeEngine, open_fake
from curators.errors import ConfigError
from curators.judging.channels import LADDER, channels, shown_capabilities
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import load_rubric, parse_rubric
from curators.sampling import make_prompt

PAIRWISE, LETTER, POINTWISE = (load_rubric(name) for name in ("pairwise", "pairwise-letter", "pointwise"))
FOREIGN = parse_rubric("---\nname: foreign\nprotocol: pairwise\n---\n# user\n{{prompt}}{{first}}{{second}}")
PROMPT = make_prompt("Name a sea animal.")
PAIR = [{"generation_id": name, "text": text, "tool_calls": None, "state": "ok"} for name, text in (("a", "whale"), ("b", "squid"))]


@pytest.mark.parametrize(
    ("rubric", "able", "ladder"),
    [
        (PAIRWISE, {"options", "json_schema"}, ("json", "text")),
        (PAIRWISE, {"options"}, ("text",)),
        (LETTER, {"options"}, ("options", "text")),
        (LETTER, set(), ("text",)),
        (FOREIGN, {"options", "json_schema"}, ("text",)),
    ],
)
def test_the_strongest_that_rubric_and_engine_allow(rubric: Any, able: set[str], ladder: tuple[str, ...]) -> None:
    assert channels(rubric, able) == ladder
    assert [rung for rung in LADDER if rung in ladder] == list(ladder)


def test_nothing_weaker_than_asked_for() -> None:
    assert channels(PAIRWISE, {"json_schema"}, min_channel="json") == ("json",)
    with pytest.raises(ConfigError, match=r"cannot be asked by min_channel json or better .*json: the engine does not do it"):
        channels(PAIRWISE, set(), min_channel="json")
    with pytest.raises(ConfigError, match="channel text is weaker than min_channel json"):
        channels(PAIRWISE, {"json_schema"}, channel="text", min_channel="json")
    with pytest.raises(ConfigError, match="channel json needs a section `# reply`"):
        channels(FOREIGN, {"json_schema"}, channel="json")


def says(reply: str, seen: list[Request] | None = None) -> FakeEngine:
    def respond(request: Request, _: int) -> str:
        if seen is not None:
            seen.append(request)
        return reply

    return FakeEngine(respond)


async def test_json_is_asked_for_by_schema_and_read_from_the_object() -> None:
    seen: list[Request] = []
    rows = await judge_group(PROMPT, PAIR, says('{"reason": "B is a fish", "verdict": "A"}', seen), rubric=PAIRWISE)
    assert {(row["channel"], row["label"], row["state"]) for row in rows} == {("json", "first", "ok")}
    assert all(request.json_schema and "Verdict:" not in str(request.messages) for request in seen)


async def test_strict_text_in_reply_to_json_counts_as_text_and_only_where_text_is_enough() -> None:
    rows = await judge_group(PROMPT, PAIR, says("Good.\nVerdict: A"), rubric=PAIRWISE)
    assert {(row["channel"], row["label"]) for row in rows} == {("text", "first")}
    for config in (JudgeConfig(min_channel="json", repairs=0), JudgeConfig(channel="json", repairs=0)):
        rows = await judge_group(PROMPT, PAIR, says("Good.\nVerdict: A"), rubric=PAIRWISE, config=config)
        assert {(row["channel"], row["state"], row["label"]) for row in rows} == {("json", "parse_error", None)}


async def test_a_verdict_that_contradicts_itself_is_not_saved_by_another_channel() -> None:
    config = JudgeConfig(repairs=0)
    rows = await judge_group(PROMPT, PAIR, says('{"verdict": "B"} and so\nVerdict: A\n{"verdict": "A"}'), rubric=PAIRWISE, config=config)
    assert {(row["state"], row["label"]) for row in rows} == {("ambiguous", None)}


async def test_a_re_ask_states_the_form_that_was_asked_for() -> None:
    seen: list[Request] = []
    await judge_group(PROMPT, PAIR, says("?", seen), rubric=POINTWISE, config=JudgeConfig(repairs=1))
    again = [str(request.messages[-1]["content"]) for request in seen if request.attempt]
    assert again
    assert all(text.endswith('"score": a whole number from 1 to 5)') for text in again)


class NoOptions(FakeEngine):
    """A server that says it gives log-probabilities and then does not."""

    async def complete(self, request: Request) -> Reply:
        return Reply(error="unsupported", reason="no logprobs") if request.options else await super().complete(request)


async def test_an_engine_that_turns_out_not_to_give_options_is_asked_by_the_next_channel() -> None:
    rows = await judge_group(PROMPT, PAIR, NoOptions(lambda *_: '{"reason": "", "verdict": "A"}'), rubric=LETTER)
    assert {(row["channel"], row["state"]) for row in rows} == {("json", "ok")}
    config = JudgeConfig(min_channel="options")
    rows = await judge_group(PROMPT, PAIR, NoOptions(lambda *_: "A"), rubric=LETTER, config=config)
    assert {(row["channel"], row["state"], row.get("label")) for row in rows} == {("options", "unsupported", None)}


@pytest.mark.parametrize(
    ("reply", "believed"), [('{"sky": "blue"}', True), ('Here: {"sky": "blue"}', False), ('{"sky": "green"}', False), ("", False)]
)
async def test_a_schema_is_believed_when_it_was_held_to(reply: str, believed: bool) -> None:
    engine = says(reply)
    assert ("json_schema" in await shown_capabilities(PAIRWISE, engine)) is believed
    assert engine.calls == 1


async def test_nothing_is_asked_where_it_decides_nothing() -> None:
    engine = says("x")
    for rubric, channel in ((FOREIGN, "auto"), (LETTER, "auto"), (PAIRWISE, "text")):
        assert await shown_capabilities(rubric, engine, channel=channel) == engine.capabilities  # type: ignore[arg-type]
    assert engine.calls == 0


async def test_what_was_shown_decides_the_channel() -> None:
    engine = says("Verdict: A")
    able = await shown_capabilities(PAIRWISE, engine)
    rows = await judge_group(PROMPT, PAIR, engine, rubric=PAIRWISE, config=JudgeConfig(capabilities=able))
    assert {(row["channel"], orjson.loads(row["sampling"])["channel"]) for row in rows} == {("text", "text")}


async def test_the_fake_judge_holds_to_a_schema() -> None:
    judge = open_fake("judge")
    assert "json_schema" in await shown_capabilities(PAIRWISE, judge)
    rows = await judge_group(PROMPT, PAIR, judge, rubric=PAIRWISE)
    assert {(row["channel"], row["state"]) for row in rows} == {("json", "ok")}
