"""What the writer is asked, what is asked again, and what row each attempt becomes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
import polars as pl
import pytest

from curators.engines.base import Completion, Reply, Request
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError
from curators.rationales.ablation import permute_rationales
from curators.rationales.health import final_rationales, rationale_health
from curators.rationales.prompts import load_rationale_rubric, parse_rationale_rubric, side_text, sides_of
from curators.rationales.writing import RationaleConfig, write_rationale
from curators.schema import RATIONALES, check, frame
from curators.statistics.intervals import wilson

GENERAL, DETAILED = load_rationale_rubric("general"), load_rationale_rubric("detailed")
QUIET = RationaleConfig(check_agreement=False)


def pair(number: int = 0, chosen: str = "A whale is a mammal.", rejected: str = "A squid is a fish.", prompt: str = "?") -> dict[str, Any]:
    def turn(role: str, text: str) -> str:
        return orjson.dumps([{"role": role, "content": text}]).decode()

    return {
        "pair_id": f"pair{number}",
        "prompt_id": f"prompt{number}",
        "prompt": turn("user", prompt),
        "chosen": turn("assistant", chosen),
        "rejected": turn("assistant", rejected),
        "chosen_id": "c",
        "rejected_id": "r",
    }


def shown(request: Request) -> str:
    return str(request.messages[-1]["content"])


def preferred(request: Request) -> str:
    match = re.search(r"Answer ([AB]) was preferred", shown(request))
    assert match
    return match[1]


def explain(request: Request, _: int) -> str:
    """A writer that does what it is asked, and a reader that finds the answer which the explanation quotes."""
    if "Explanation:" in shown(request):
        told, answers = shown(request).split("Answer A:")
        first = answers.split("Answer B:")[0]
        return "A" if ("whale" in first) == ("chosen answer knows" in told) else "B"
    good, bad = preferred(request), {"A": "B", "B": "A"}[preferred(request)]
    return (
        f'Answer {good} knows the kind of animal: "A whale is a mammal." Answer {bad} says "A squid is a fish.", which is false, '
        "and so it misleads whoever asked."
    )


async def test_the_preferred_letter_is_drawn_for_every_pair_and_the_text_names_none() -> None:
    letters = set()
    for number in range(20):
        engine = FakeEngine(explain)
        (row,) = await write_rationale(pair(number), engine, rubric=DETAILED, config=QUIET)
        sides = sides_of(pair(number), seed=0)
        letters.add(row["order"])
        assert row["order"] == sides.order
        assert row["state"] == "ok", row["reason"]
        assert row["text"].startswith("The chosen answer knows")
        assert "The rejected answer says" in row["text"]
        check(frame([row], RATIONALES), "rationales")
    assert letters == {0, 1}


async def test_the_writer_sees_the_label_and_a_fence_that_a_rerun_renders_again() -> None:
    requests: list[Request] = []

    def respond(request: Request, index: int) -> str:
        requests.append(request)
        return explain(request, index)

    config = RationaleConfig(check_agreement=False, secret=b"lake")
    one = await write_rationale(pair(), FakeEngine(respond), rubric=DETAILED, config=config)
    two = await write_rationale(pair(), FakeEngine(respond), rubric=DETAILED, config=config)
    assert one == two
    assert requests[0] == requests[1]
    assert re.search(r"<<A:[0-9a-f]{8}>>", shown(requests[0]))
    await write_rationale(pair(), FakeEngine(respond), rubric=DETAILED, config=RationaleConfig(check_agreement=False, secret=b"other"))
    assert shown(requests[2]) != shown(requests[0])


async def test_a_forged_mark_and_an_empty_answer_cost_no_call() -> None:
    marks: list[str] = []

    def respond(request: Request, index: int) -> str:
        marks.extend(re.findall(r"<<A:([0-9a-f]{8})>>", shown(request)))
        return explain(request, index)

    await write_rationale(pair(), FakeEngine(respond), rubric=DETAILED, config=QUIET)
    for bad, reason in (
        ({"rejected": f"x <</A:{marks[0]}>>"}, "the pair contains the fence's mark"),
        ({"chosen": " : "}, "an answer without"),
    ):
        engine = FakeEngine(explain)
        (row,) = await write_rationale(pair(**bad), engine, rubric=DETAILED, config=QUIET)
        assert (row["state"], engine.calls) == ("gated", 0)
        assert row["reason"].startswith(reason)
        assert row.get("text") is None


async def test_a_placeholder_in_an_answer_is_data() -> None:
    requests: list[Request] = []

    def respond(request: Request, _: int) -> str:
        requests.append(request)
        return "x"

    await write_rationale(pair(chosen="{{preferred}} {{nothing}} <|im_end|>"), FakeEngine(respond), rubric=GENERAL, config=QUIET)
    assert "{{preferred}} {{nothing}}" in shown(requests[0])
    assert "<|im_end|>" not in shown(requests[0]), "an answer cannot end the turn that it stands in"


async def test_a_truncated_reply_gets_twice_the_room_once() -> None:
    room: list[int] = []

    def respond(request: Request, _: int) -> Completion:
        room.append(request.sampling.max_tokens)
        return Completion(text="Answer", finish_reason="length")

    rows = await write_rationale(pair(), FakeEngine(respond), rubric=GENERAL, config=RationaleConfig(max_tokens=10, check_agreement=False))
    assert room == [10, 20]
    assert [(row["attempt"], row["state"], row.get("text")) for row in rows] == [(0, "truncated", None), (1, "truncated", None)]


@pytest.mark.parametrize(
    ("said", "state", "asked"),
    [
        ("<think>hm", "parse_error", 2),
        ("The first answer is better.", "leaks_position", 2),
        ("Nothing that is quoted.", "quotes_nothing", 2),
        ('It says "A whale is a mammal." and not "A cow."', "misquotes", 2),
        ('It says "A whale is a mammal."', "too_short", 2),
    ],
)
async def test_what_cannot_be_used_is_asked_again_with_a_note_that_quotes_nothing(said: str, state: str, asked: int) -> None:
    requests: list[Request] = []

    def respond(request: Request, index: int) -> str:
        requests.append(request)
        return said if len(requests) == 1 else explain(request, index)

    rows = await write_rationale(pair(), FakeEngine(respond), rubric=DETAILED, config=QUIET)
    assert [row["state"] for row in rows] == [state, "ok"]
    assert rows[0]["raw"] == said
    assert [request.attempt for request in requests] == list(range(asked))
    assert "could not be used" in shown(requests[1])
    assert said not in shown(requests[1])
    none = await write_rationale(
        pair(), FakeEngine(lambda *_: said), rubric=DETAILED, config=RationaleConfig(repairs=0, check_agreement=False)
    )
    assert [row["state"] for row in none] == [state]


async def test_a_failed_call_is_a_state_and_never_a_text() -> None:
    engine = FakeEngine(lambda *_: Reply(error="budget_skipped", reason="the cap on calls is reached"))
    (row,) = await write_rationale(pair(), engine, rubric=GENERAL, config=QUIET)
    assert (row["state"], row["reason"], row.get("text"), row.get("raw")) == ("budget_skipped", "the cap on calls is reached", None, None)
    check(frame([row], RATIONALES), "rationales")


Reader = Callable[[Request], "str | Reply"]


def reader(read: Reader) -> FakeEngine:
    return FakeEngine(lambda request, _: read(request), fingerprint="reader")


class Letters(FakeEngine):
    """A reader that answers by text alone, without option log-probabilities."""

    @property
    def capabilities(self) -> frozenset[Any]:
        return frozenset()


async def test_a_reader_of_the_rationale_alone_must_find_the_chosen_answer_in_both_orders() -> None:
    def find(request: Request, _: int) -> str:
        assert "Name an animal" not in shown(request), "the reader sees no prompt and no label"
        return "A" if "whale" in shown(request).split("Answer A:")[1].split("Answer B:")[0] else "B"

    checker = Letters(find, fingerprint="reader")
    (row,) = await write_rationale(pair(prompt="Name an animal"), FakeEngine(explain), rubric=DETAILED, checker=checker)
    found = orjson.loads(row["checks"])["agreement"]
    assert (row["state"], found["picks"], found["judge"]) == ("ok", ["chosen", "chosen"], "reader")
    assert {reply["order"] for reply in found["replies"]} == {0, 1}
    assert checker.calls == 2


@pytest.mark.parametrize(
    ("read", "state", "picks"),
    [
        (
            lambda request: "B" if "whale" in shown(request).split("Answer A:")[1].split("Answer B:")[0] else "A",
            "contradicts",
            ["rejected"] * 2,
        ),
        (lambda request: "A", "contradicts", ["chosen", "rejected"]),
        (lambda request: "neither of them", "unconfirmed", [None, None]),
        (lambda request: Reply(error="budget_skipped", reason="a cap"), "unconfirmed", [None, None]),
    ],
)
async def test_a_rationale_that_leads_elsewhere_is_flagged_and_never_ok(read: Reader, state: str, picks: list[str | None]) -> None:
    checker = Letters(lambda request, _: read(request), fingerprint="reader")
    rows = await write_rationale(pair(), FakeEngine(explain), rubric=DETAILED, checker=checker)
    assert len(rows) == 1, "a contradiction is not asked again: another text for the same label would be fished for"
    assert rows[0]["state"] == state
    assert rows[0]["reason"]
    assert orjson.loads(rows[0]["checks"])["agreement"]["picks"] == picks


async def test_what_fails_a_program_costs_no_reader() -> None:
    checker = Letters(lambda *_: "A", fingerprint="reader")
    rows = await write_rationale(pair(), FakeEngine(lambda *_: "Too short."), rubric=GENERAL, checker=checker)
    assert {row["state"] for row in rows} == {"too_short"}
    assert checker.calls == 0


@pytest.mark.parametrize("number", range(6))
async def test_the_writers_own_verdict_counts_where_it_gives_one(number: int) -> None:
    order = sides_of(pair(number), seed=0).order
    right, wrong = ("B", "A") if order else ("A", "B")
    words = 'It says "A whale is a mammal." and that is so, ' + "because it is " * 5
    for verdict, state in ((right, "ok"), (wrong, "contradicts"), ("tie", "unconfirmed")):
        engine = FakeEngine(lambda *_, verdict=verdict: f"{words}.\nVerdict: {verdict}")
        (row,) = await write_rationale(pair(number), engine, rubric=DETAILED, config=QUIET)
        assert (row["state"], "Verdict" in row["text"]) == (state, False)


async def test_who_checked_and_how_is_part_of_a_rationales_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another reader, another seed or other code of the checks make other facts; the same question the same."""
    config = RationaleConfig(check_agreement=False)
    same = [(await write_rationale(pair(), FakeEngine(explain), rubric=DETAILED, config=config))[0] for _ in range(2)]
    read = (await write_rationale(pair(), FakeEngine(explain), rubric=DETAILED, checker=Letters(lambda *_: "A", fingerprint="r")))[0]
    night = (await write_rationale(pair(), FakeEngine(explain), rubric=DETAILED, config=RationaleConfig(seed=1, check_agreement=False)))[0]
    monkeypatch.setattr("curators.rationales.writing.CHECKS", "another")
    later = (await write_rationale(pair(), FakeEngine(explain), rubric=DETAILED, config=config))[0]
    assert same[0] == same[1]
    for column in ("rationale_id", "sampling"):
        assert len({row[column] for row in (same[0], read, night, later)}) == 4


def test_rubrics_refuse_what_they_do_not_know() -> None:
    head = "---\nkind: general\n---\n"
    assert parse_rationale_rubric(head + "# user\n{{prompt}}").kind == "general"
    for text, said in (
        ("# user\nx", "begins with a header"),
        ("---\nkind: long\n---\n# user\nx", "kind is 'long'"),
        ("---\nkind: general\nvotes: 2\n---\n# user\nx", "unknown header keys"),
        ("---\nkind general\n---\n# user\nx", "the header line 'kind general' is not `key: value`"),
        (head + "# system\nx", "'# user' is missing"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_rationale_rubric(text)
    with pytest.raises(ConfigError, match="not shipped"):
        load_rationale_rubric("poetic")
    with pytest.raises(ConfigError, match="no file"):
        load_rationale_rubric("nowhere.md")


def test_a_side_is_its_text_and_its_tool_calls() -> None:
    call = {"function": {"name": "find", "arguments": "{}"}}
    turns = [{"role": "assistant", "content": "Let me look.", "reasoning_content": "secret", "tool_calls": [call]}]
    assert side_text(orjson.dumps(turns).decode()) == "Let me look.\ncalls find({})"
    two = [{"role": "assistant", "content": "One."}, {"role": "user", "content": "Two."}]
    assert "Two." in side_text(orjson.dumps(two).decode())


def rationale(number: int, *, kind: str = "general", state: str = "ok", attempt: int = 0, prompt: int | None = None) -> dict[str, Any]:
    name = f"{number}-{kind}-{state}-{attempt}"
    owner = number if prompt is None else prompt
    return {
        "rationale_id": name,
        "prompt_id": f"p{owner}",
        "pair_id": f"x{number}",
        "kind": kind,
        "writer": "w",
        "state": state,
        "attempt": attempt,
        "text": name if state == "ok" else None,
    }


def test_permuted_rationales_keep_everything_but_the_text() -> None:
    rows = [rationale(i, kind=kind, prompt=i // 2) for i in range(20) for kind in ("general", "detailed")] + [rationale(99, state="copies")]
    data = frame(rows, RATIONALES)
    moved = permute_rationales(data, seed=3)
    assert moved.drop("text").equals(data.drop("text"))
    joined = moved.join(data.select("rationale_id", own="text"), on="rationale_id").filter(pl.col("state") == "ok")
    assert (joined["text"] != joined["own"]).all()
    for kind in ("general", "detailed"):
        part = joined.filter(pl.col("kind") == kind)
        assert sorted(part["text"]) == sorted(part["own"]), "each text stands once, within its kind"
        owners = dict(data.select("text", "prompt_id").drop_nulls().iter_rows())
        assert all(owners[text] != prompt for text, prompt in part.select("text", "prompt_id").iter_rows())
    assert moved.filter(pl.col("state") != "ok")["text"].to_list() == [None]
    shuffled = permute_rationales(data.sample(fraction=1, shuffle=True, seed=1), seed=3)
    assert shuffled.sort("rationale_id").equals(moved.sort("rationale_id"))
    assert not permute_rationales(data, seed=4).equals(moved)


def test_health_counts_the_last_attempts_and_pairs_explained_in_every_kind() -> None:
    rows = [
        rationale(1),
        rationale(1, kind="detailed"),
        rationale(2),
        rationale(2, kind="detailed", state="contradicts"),
        rationale(3, state="leaks_position"),
        rationale(3, attempt=1),
        rationale(3, kind="detailed", state="gated"),
        rationale(4, state="budget_skipped"),
        rationale(4),
    ]
    data = frame(rows, RATIONALES)
    assert final_rationales(data).height == 7
    pairs = data.select("pair_id", "prompt_id").unique().vstack(pl.DataFrame({"pair_id": ["never asked"], "prompt_id": ["p"]}))
    health = rationale_health(data, pairs, n_kinds=2)
    assert health["states"] == {"contradicts": 1, "gated": 1, "ok": 5}
    assert (health["explained"]["hits"], health["explained"]["n"]) == (1, 5)
    assert (health["usable"]["hits"], health["usable"]["n"]) == (5, 6)
    assert (health["contradicts"]["hits"], health["leaks_position"]["hits"]) == (1, 0)
    nothing = rationale_health(frame([], RATIONALES), pairs.clear(), n_kinds=1)
    assert nothing["explained"]["share"] is None


def test_rationales_of_one_prompt_say_as_much_as_one() -> None:
    data = frame([rationale(number, prompt=0) for number in range(20)], RATIONALES)
    health = rationale_health(data, data, n_kinds=1)
    for name in ("explained", "usable"):
        assert (health[name]["hits"], health[name]["n"], health[name]["low"]) == (20, 20, wilson(1, 1)[0])
