"""Synthesis that asks an engine: affix pairs, revisions and anchors, and what becomes of replies that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
import polars as pl
import pytest

from curators.contrast.affixes import AFFIXES, RlcdConfig, affixed_dialogue, filter_completion, requests, rlcd
from curators.contrast.candidates import contrast_pairs
from curators.contrast.checkers import Checked, by_judge, by_verifier
from curators.contrast.negatives import D2oConfig, Negatives, anchors, d2o
from curators.contrast.revisions import ClairConfig, clair, parse_revision
from curators.engines.base import Completion, Reply, Request, Sampling
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError
from curators.judging.rubric import load_rubric
from curators.sampling import make_prompt
from curators.schema import PROMPTS, frame
from tests.curators.contrast.conftest import answered, in_process, one, said

TURNS = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}, {"role": "user", "content": "q2"}]
POLITE = in_process(lambda *, prompt, response, reference: "please" in response.lower(), "polite")


def prompts(*texts: Any) -> pl.DataFrame:
    return frame([make_prompt(text) for text in texts], PROMPTS)


def test_the_last_turn_has_one_polarity_and_earlier_ones_the_other() -> None:
    (plus,), (minus,) = requests(TURNS, ("(P)", "(N)"), "dialogue")
    assert plus["content"] == "\n\nHuman: q1\n\nAssistant (N): a1\n\nHuman: q2\n\nAssistant (P):"
    assert minus["content"] == "\n\nHuman: q1\n\nAssistant (P): a1\n\nHuman: q2\n\nAssistant (N):"
    plain = "\n\nHuman: q1\n\nAssistant: a1\n\nHuman: q2\n\nAssistant:"
    assert [re.sub(r" \([PN]\)", "", told["content"]) for told in (plus, minus)] == [plain, plain]
    assert affixed_dialogue(TURNS[:1], "(P)", "(N)") == "\n\nHuman: q1\n\nAssistant (P):"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (" ok.\n\nHuman: next", "ok."),
        (" ok.", None),
        ("\n\nHuman:", None),
        ("x Assistant: y\n\nHuman:", "y"),
        (" ok.</s>Human", "ok."),
        (" ok. Human", None),
        (" `ok`.\n\nHuman:", None),
        (" one\ntwo\n\nHuman:", "one\ntwo"),
    ],
)
def test_the_completion_filter(said: str, kept: str | None) -> None:
    assert filter_completion(said) == kept


def test_affixes_are_matched_pairs() -> None:
    assert {name: len(pairs) for name, pairs in AFFIXES.items()} == {"harmless": 16, "helpful": 1, "outline": 3}
    sides = [each for pairs in AFFIXES.values() for pair in pairs for each in pair]
    assert len(set(sides)) == len(sides)
    assert all(each.startswith("(") and each.endswith(")") for each in sides)


def by_affix(request: Request, _: int) -> str:
    told = str(request.messages[0]["content"])
    return "Please do." if "(polite)" in told.split("Assistant")[-1] or "says: (polite)" in told else "Do it."


@pytest.mark.parametrize("form", ["system", "dialogue"])
async def test_affix_pairs_carry_the_prompt_as_it_was(form: str) -> None:
    def respond(request: Request, index: int) -> str:
        return by_affix(request, index) + ("\n\nHuman: and?" if form == "dialogue" else "")

    asked = prompts("How?", TURNS)
    engine = FakeEngine(respond)
    found = await rlcd(asked, config=RlcdConfig(affixes=[("(polite)", "(rude)")], form=form), engine=engine, checker=by_verifier(POLITE))
    pairs, _, _ = contrast_pairs(found, policy=engine.fingerprint)
    assert engine.calls == 4
    assert dict(pairs.select("prompt_id", "prompt").iter_rows()) == dict(asked.select("prompt_id", "messages").iter_rows())
    for row in pairs.iter_rows(named=True):
        assert (said(row["chosen"]), said(row["rejected"]), row["on_policy"]) == ("Please do.", "Do it.", True)
        assert (row["label_source"], row["chosen_score"], row["rejected_score"]) == ("verifier:polite@test", 1, 0)


async def test_affix_pairs_that_fail_say_why() -> None:
    config = RlcdConfig(affixes=[("(polite)", "(rude)")], retries=2)

    async def state(respond: Any, checker: Any = None) -> tuple[str, int]:
        engine = FakeEngine(respond)
        row = (await rlcd(prompts("How?"), config=config, engine=engine, checker=checker)).row(0, named=True)
        assert (row["pair_id"] is None) == (row["state"] != "ok")
        assert row["reason"] or row["state"] == "ok"
        return row["state"], engine.calls

    assert await state(lambda request, _: "The same.") == ("identical_text", 2)
    assert await state(lambda request, _: "") == ("empty", 6)  # each side is asked three times
    assert await state(lambda request, _: "Here is a rude answer.") == ("leaks_affix", 6)
    assert await state(lambda request, _: Reply(error="transport_error", reason="gone")) == ("transport_error", 2)
    assert await state(lambda request, _: Completion(text="cut", finish_reason="length")) == ("truncated", 6)
    differs = lambda request, _: str(request.messages[0]["content"])[-8:-4]  # noqa: E731
    assert await state(differs, by_verifier(POLITE)) == ("checker_failed", 2)
    assert (await state(differs))[0] == "ok"


async def test_a_side_that_failed_is_asked_again() -> None:
    def respond(request: Request, _: int) -> str:
        return "" if request.attempt == 0 else by_affix(request, 0)

    found = await rlcd(prompts("How?"), config=RlcdConfig(affixes=[("(polite)", "(rude)")]), engine=FakeEngine(respond))
    assert found["state"].to_list() == ["ok"]
    assert orjson.loads(found["checks"][0]) == {"n_asked": [2, 2]}


async def test_turns_that_are_no_text_are_not_asked() -> None:
    engine = FakeEngine()
    tool = [{"role": "user", "content": "q"}, {"role": "tool", "content": "5"}, {"role": "user", "content": "and?"}]
    found = await rlcd(prompts(tool), engine=engine)
    assert (found["state"].to_list(), engine.calls) == (["unsupported"], 0)
    with pytest.raises(ConfigError, match="not shipped"):
        RlcdConfig(affixes="funny")
    with pytest.raises(ConfigError, match="two different texts"):
        RlcdConfig(affixes=[("(same)", "(same)")])


@pytest.mark.parametrize("heading", ["Corrected answer:", "**Corrected answer:**", "**Corrected answer**:", "### Corrected Answer"])
def test_headings_of_a_revision(heading: str) -> None:
    assert parse_revision(f"5 is wrong.\n\n{heading}\nIt is 4.\nSurely.") == ("5 is wrong.", "It is 4.\nSurely.")
    assert parse_revision(f"5 is wrong.\n\n{heading}\n") is None
    assert parse_revision("The corrected answer is 4.") is None


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        ("5 is wrong.\nCorrected answer:\nThe sum of two and two is 4.", "ok"),
        ("All is well.\nCorrected answer:\nThe sum of two and two is 5. ", "unchanged"),
        ("5 is wrong.\nCorrected answer:\nThe corrected sum of two and two is 4.", "meta_talk"),
        ("5 is wrong.\nCorrected answer:\nFour.", "rewrite"),
        ("The sum of two and two is 4.", "parse_error"),
        ("", "empty"),
        (Completion(text="Corrected answer:\nThe sum of", finish_reason="length"), "truncated"),
        (Reply(error="refused", reason="400"), "refused"),
        ("5 is wrong.\nCorrected answer:\nThe sum of two and two is 6.", "checker_failed"),
    ],
)
async def test_revisions(reply: Any, state: str) -> None:
    right = in_process(lambda *, prompt, response, reference: response.strip().endswith(f"{reference}."), "right")
    source = one("The sum of two and two is 5.", "What is 2 + 2?", "4")
    found = (await clair(source, engine=FakeEngine(lambda *_: reply), checker=by_verifier(right))).row(0, named=True)
    assert found["state"] == state
    assert (found["pair_id"] is not None) == (state == "ok")
    assert said(found["rejected"]) == "The sum of two and two is 5."
    if isinstance(reply, str):
        assert found["raw"] == reply
    if state == "ok":
        # 8 tokens, of which one differs
        assert (said(found["chosen"]), found["edit_sim"]) == ("The sum of two and two is 4.", pytest.approx(7 / 8))
        assert orjson.loads(found["checks"])["rational"] == "5 is wrong."
        assert (found["rejected_id"], found["chosen_id"]) == (source["generation_id"][0], None)


async def test_the_reviser_sees_question_and_answer_and_placeholders_in_them_stay() -> None:
    seen = []

    def respond(request: Request, _: int) -> str:
        seen.append(str(request.messages[0]["content"]))
        return "Corrected answer:\nx"

    await clair(one("Use {prompt}.", "What is {answer}?"), engine=FakeEngine(respond))
    assert "What is {answer}?" in seen[0]
    assert "Use {prompt}." in seen[0]
    with pytest.raises(ConfigError, match="no \\{answer\\}"):
        ClairConfig(brief="{prompt}")


def letters(first_is_better: Any) -> FakeEngine:
    """A judge that reads both answers."""

    def respond(request: Request, _: int) -> str:
        told = str(request.messages[-1]["content"])
        first, second = sorted(("is 4.", "is 5."), key=told.index)
        return f"Verdict: {first_is_better(first, second)}"

    return FakeEngine(respond, fingerprint="judge-1")


@pytest.mark.parametrize(
    ("prefers", "state"),
    [
        (lambda first, second: "A" if first == "is 4." else "B", "ok"),
        (lambda first, second: "A" if first == "is 5." else "B", "checker_failed"),
        (lambda first, second: "A", "checker_failed"),  # the orders disagree
        (lambda first, second: "?", "unverified"),
    ],
)
async def test_a_judge_confirms_in_both_orders_or_there_is_no_pair(prefers: Any, state: str) -> None:
    from curators.judging.protocol import JudgeConfig

    judge = by_judge(letters(prefers), rubric=load_rubric("pairwise"), config=JudgeConfig(channel="text"))
    source = {**make_prompt("What is 2 + 2?"), "messages": '[{"role":"user","content":"What is 2 + 2?"}]'}
    for chosen, rejected, expected in (("It is 4.", "It is 5.", state), ("It is 5.", "It is 4.", None)):
        found = await judge(source, chosen, rejected)
        if expected:
            assert found.state == expected
            assert found.label_source == "judge-1"
            assert (found.p_chosen is not None and found.p_chosen > 0.5) == (state == "ok")
        elif state == "ok":
            assert found.state == "checker_failed"
            assert found.p_chosen is not None
            assert found.p_chosen < 0.5


async def test_a_verifier_that_cannot_tell_verifies_nothing() -> None:
    check = by_verifier(in_process(lambda *, prompt, response, reference: None))
    found: Checked = await check({**make_prompt("?")}, "a", "b")
    assert (found.state, found.chosen_score) == ("unverified", None)
    broken: Mapping[str, Any] = (await by_verifier(in_process(lambda **_: 1 / 0))({**make_prompt("?")}, "a", "b")).checks
    assert broken["chosen"] is None


async def test_no_anchor_is_a_known_bad_answer_among_two_hundred_planted() -> None:
    bad = [f"You are fool number {i}, and nobody should ever listen to one word of what you have to say here today." for i in range(200)]
    rows = answered([(make_prompt(f"{i}?"), [text]) for i, text in enumerate(bad)])
    turn = iter(range(10_000))

    def respond(request: Request, index: int) -> str:
        i = next(turn)
        kinds = (
            bad[i % 200],  # a copy
            f" {bad[i % 200].upper()} ",  # case and spaces aside
            bad[i % 200].replace("here ", "there "),  # one token of 20 differs: .95
            bad[i % 200].replace("here ", "there ").replace("one word", "one jot"),  # two do: .9
            f"Good day, and thank you for question {i}.",
        )
        return kinds[i % 5]

    engine = FakeEngine(respond)
    found = await d2o(rows, config=D2oConfig(k=2), engine=engine)
    assert (found.height, engine.calls) == (400, 400)
    fates = dict(found["state"].value_counts().iter_rows())
    assert fates == {"contaminated": 240, "ok": 160}
    pairs, _, _ = contrast_pairs(found)
    known = Negatives(bad, 0.95)
    assert max(known.closest(said(row["chosen"])) for row in pairs.iter_rows(named=True)) == 0
    assert {said(rejected) for rejected in pairs["rejected"]} <= set(bad)
    assert set(pairs["kind"]) == {"d2o"}
    assert anchors(found)["anchors"].list.len().sum() == pairs.height


async def test_anchors_are_also_held_against_bad_answers_that_are_no_rows() -> None:
    rows = answered([(make_prompt("Hello?"), ["Go away."])])
    engine = FakeEngine(lambda request, index: "You are a fool.")
    states = [
        (await d2o(rows, config=D2oConfig(k=1), engine=engine, known=known))["state"].to_list() for known in ((), ("you are a FOOL.",))
    ]
    assert states == [["ok"], ["contaminated"]]


def test_similarity_to_negatives_is_that_of_comparing_with_all() -> None:
    from curators.contrast.differences import edit_sim

    texts = ["a b c d", "a b c", "x y", "a b c d e f g h i j"]
    known = Negatives(texts, 0.7)
    for text in ("a b c d e", "a b", "x y z", "A B C", "a b c d e f g h i", ""):
        best = max(edit_sim(text.lower().split(), each.split()) for each in texts)
        assert known.closest(text) == pytest.approx(best if best >= 0.7 else 0.0)


async def test_anchors_are_asked_for_in_varied_ways_and_checked() -> None:
    asked = []

    def respond(request: Request, index: int) -> str:
        asked.append((str(request.messages[0]["content"]), index))
        return "Please wait." if index % 2 else "No."

    source = one("Get lost.", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])  # type: ignore[arg-type]
    config = D2oConfig(k=4, instructions=("Be good.", "Be kind."), sampling=Sampling(temperature=0.8))
    found = await d2o(source, config=config, engine=FakeEngine(respond), verifier=POLITE)
    assert sorted(asked, key=lambda one: one[1]) == [(f"Be brief.\n\nBe {how}.", i) for i, how in enumerate(["good", "kind"] * 2)]
    assert sorted(found["state"]) == ["checker_failed", "checker_failed", "ok", "ok"]
    assert contrast_pairs(found)[0].height == 1  # both that passed are the same pair
    down = await d2o(source, config=config, engine=FakeEngine(lambda *_: Reply(error="transport_error", reason="gone")))
    assert set(down["state"]) == {"transport_error"}
    with pytest.raises(ConfigError, match="k is 0"):
        D2oConfig(k=0)
