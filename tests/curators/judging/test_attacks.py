"""The attack suite: what each attack writes, that judges with known weaknesses are found out, and that sound ones are not accused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple

import polars as pl
import pytest

from curators.engines.base import Completion, Engine, Request
from curators.engines.fake import FakeEngine, open_fake
from curators.engines.simulated import SimulatedJudge, Traits, shown_texts
from curators.errors import ConfigError
from curators.importing import import_facts
from curators.judging.attacks import ATTACKS, KINDS, Item, attack_judge, attack_rows, choose_attacks, fooled, items_of_gold, judged_attacks
from curators.judging.attacks.audit import NO_ATTACK, SHOWN
from curators.judging.defences import empty_reason, injection_signs
from curators.judging.gold import gold_pairs
from curators.judging.parsing import parse_pairwise
from curators.judging.protocol import JudgeConfig
from curators.judging.replies import read_json
from curators.judging.rubric import load_rubric
from curators.sampling import make_prompt
from curators.schema import JUDGMENTS, frame
from curators.statistics.intervals import wilson

LINES = (resources.files("curators.judging.attacks") / "items.jsonl").read_text(encoding="utf-8").splitlines()
ROWS = [json.loads(line) for line in LINES]
ITEMS = [Item(prompt=make_prompt(row["prompt"]), better=row["chosen"], worse=row["rejected"]) for row in ROWS]
RIGHT = [row["chosen"] for row in ROWS]
PAIRWISE, POINTWISE = load_rubric("pairwise"), load_rubric("pointwise")
ONE_EACH = ("dont_know", "thought_process", "own_opener", "verdict_b", "rating_5", "combined", "forged_marks", "repeated_list", "plea")
SURE = Traits(skill=1.0, spread=0.3)


class Line(NamedTuple):
    number: int
    row: dict[str, Any] | None
    state: str = "ok"
    reason: str | None = None


def truth(text: str) -> float:
    """30 for a text that holds an item's right answer, sentences in any order and decoration aside; else 0."""
    return 30.0 if any(right in text for right in RIGHT) else 0.0


async def rows_of(
    engine: Engine, *names: str, rubric: Any = PAIRWISE, items: list[Item] = ITEMS, seed: int = 0
) -> dict[str, dict[str, Any]]:
    config = JudgeConfig(secret=b"lake")
    shown, judgments = await attack_judge(items, choose_attacks(names), engine, rubric=rubric, config=config, seed=seed)
    judged = judged_attacks(shown, judgments, scale=rubric.scale)
    return {row["attack"]: row for row in attack_rows(judged, by_scores=rubric.protocol != "pairwise")}


def obedient(request: Request, sample: int) -> str:
    """Judges by the truth unless a text tells it what to do."""
    texts = shown_texts(request)
    told = [i for i, text in enumerate(texts) if "the better one and" in text or "[selected]" in text]
    quoted = [letter for letter in "AB" for text in texts if f"Verdict: {letter}" in text]
    if len(texts) == 1:
        return f"Score: {5 if told else 4 if truth(texts[0]) else 1}"
    if quoted:
        return f"Verdict: {quoted[0]}"
    winner = told[0] if told else max(range(2), key=lambda i: truth(texts[i]))
    return f"Verdict: {'AB'[winner]}"


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_pure_and_change_the_answer_as_their_kind_says(name: str) -> None:
    attack = ATTACKS[name]
    for item in ITEMS[:10]:
        text = attack(item.question, item.worse, seed=3)
        assert text == attack(item.question, item.worse, seed=3)
        assert text not in ("", item.worse)
        if KINDS[attack.kind].replaces:
            assert item.worse not in text
        else:
            assert set(item.worse.split()) <= set(text.replace("*", "").split())


def test_injections_carry_a_sign_and_harmless_changes_none() -> None:
    found = {name: injection_signs(attack("What is 2 + 2?", "It is 5.")) for name, attack in ATTACKS.items()}
    unseen = {n for n, attack in ATTACKS.items() if attack.kind in ("verdict", "instruction", "fence") and not found[n]}
    assert unseen == {"transcript"}  # a phrase list does not see these: docs/judging.md says so
    assert not any(found[n] for n, attack in ATTACKS.items() if attack.kind in ("control", "verbosity", "formatting"))


def test_all_master_keys_of_the_paper_are_gated_and_an_opener_of_our_own_is_not() -> None:
    keys = {name: attack("What is 2 + 2?", "5") for name, attack in ATTACKS.items() if attack.kind == "master key"}
    assert {name for name, text in keys.items() if not empty_reason(text)} == {"own_opener"}


def test_choosing_by_name_or_kind_keeps_the_controls() -> None:
    assert {attack.kind for attack in choose_attacks(["master key"])} == {"control", "master key"}
    assert [attack.name for attack in choose_attacks(["plea"]) if attack.kind != "control"] == ["plea"]
    assert len(choose_attacks()) == len(ATTACKS)
    with pytest.raises(ConfigError, match=r"\['plee'\] are not known; there are"):
        choose_attacks(["plee"])


async def test_a_judge_that_compares_with_the_truth_is_fooled_by_nothing() -> None:
    rows = await rows_of(SimulatedJudge(SURE, quality=truth), *ONE_EACH, items=ITEMS[:73])
    assert {name: row["status"] for name, row in rows.items() if row["status"] != "caught"} == {
        **dict.fromkeys((NO_ATTACK, "opening", "closing", "newline")), "own_opener": "not decided"
    }  # fmt: skip
    assert "with none it takes 381 items" in rows["own_opener"]["why"]
    assert rows["thought_process"]["why"] == "stopped before any call, on every item"
    assert all(row["wins"]["hits"] == 0 for row in rows.values())


async def test_a_judge_that_obeys_is_found_out() -> None:
    names = ("structured", "verdict_a", "combined", "forged_marks", "brackets_b", "citation")
    rows = await rows_of(FakeEngine(obedient, fingerprint="obedient"), *names, items=ITEMS[:73])
    assert fooled(list(rows.values())) == ["structured", "verdict_a", "combined", "forged_marks"]
    assert rows["combined"]["flips"]["hits"] == 73
    assert (rows["combined"]["flagged"], rows["none"]["flagged"]) == (73, 0)
    assert (rows["structured"]["repeated"], rows["combined"]["repeated"]) == (73, 1)  # one text for all prompts is seen without a judge
    assert rows["combined"]["shift"]["value"] == 1.0
    assert rows["verdict_a"]["held"] == {"orders disagree": 73}  # both orders keep the label, and P moves by a half all the same
    assert rows["verdict_a"]["shift"]["value"] == 0.5


@pytest.mark.slow
async def test_the_whole_suite_tells_the_judge_that_obeys_from_the_one_that_knows() -> None:
    rows = await rows_of(FakeEngine(obedient, fingerprint="obedient"))
    assert fooled(list(rows.values())) == [
        "structured", "verdict_a", "verdict_b", "plain_order", "ignore_above", "to_the_judge", "system_turn", "fake_completion", "combined",
        "forged_marks",
    ]  # fmt: skip
    rows = await rows_of(SimulatedJudge(SURE, quality=truth))
    assert [name for name, row in rows.items() if row["status"] not in ("caught", None)] == ["own_opener"]


async def test_by_scores_the_same_judges_are_told_apart() -> None:
    names, items = ("structured", "combined", "score_5"), ITEMS[:73]
    rows = await rows_of(FakeEngine(obedient, fingerprint="obedient"), *names, rubric=POINTWISE, items=items)
    assert fooled(list(rows.values())) == ["structured", "combined"]
    assert rows["combined"]["shift"]["value"] == 1.0  # from 1 to 5 on the scale of 4
    assert rows["score_5"]["status"] == "caught"
    sound = await rows_of(SimulatedJudge(SURE, quality=truth), *names, rubric=POINTWISE, items=items)
    assert {sound[name]["status"] for name in names} == {"caught"}


def kind_to_the_ignorant(request: Request, sample: int) -> str:
    """Scores by the truth, and an admission of ignorance like the truth."""
    (text,) = shown_texts(request)
    return f"Score: {5 if truth(text) or 'know' in text else 1}"


async def test_a_text_without_an_answer_that_scores_like_a_right_one_has_won() -> None:
    rows = await rows_of(FakeEngine(kind_to_the_ignorant, fingerprint="kind"), "dont_know", rubric=POINTWISE)
    assert (rows["dont_know"]["status"], rows["dont_know"]["wins"]["share"]) == ("not caught", 1.0)
    rows = await rows_of(FakeEngine(lambda request, i: "Score: 5", fingerprint="five"), "dont_know", "combined", rubric=POINTWISE)
    assert rows["dont_know"]["wins"]["share"] == 1.0
    assert rows["dont_know"]["status"] == "not decided"  # so does the worse answer: every text is at 5
    assert rows["combined"]["status"] == "not decided"  # the loser was at 5 without it


async def test_a_judge_that_always_names_the_first_holds_against_everything_and_gets_no_credit_for_it() -> None:
    rows = await rows_of(FakeEngine(lambda request, i: "Verdict: A", fingerprint="first"), "combined", "solution")
    assert rows["combined"]["held"] == {"orders disagree": len(ITEMS)}
    assert rows["combined"]["status"] == "not decided"
    assert rows["combined"]["why"].startswith("left alone the judge does not tell better answers from worse")
    assert rows["solution"]["status"] == "caught"  # by the gate, whatever the judge


async def test_a_judge_that_likes_length_falls_for_padding() -> None:
    engine = SimulatedJudge(Traits(skill=1.0, length=20.0), quality=truth)
    rows = await rows_of(engine, "padding", items=ITEMS[:40])
    assert fooled(list(rows.values())) == ["padding"]
    assert rows["padding"]["flips"]["share"] > rows["closing"]["flips"]["share"]


async def test_a_judge_by_chance_is_called_noisy_and_not_fooled_by_what_is_added() -> None:
    names = ("dont_know", "verdict_a", "combined", "padding", "markdown", "plea")
    rows = list((await rows_of(open_fake("judge"), *names)).values())
    added = [row for row in rows if row["status"] and not KINDS[row["kind"]].replaces]
    assert sum(row["status"] == "not decided" for row in added) >= len(added) - 1  # intervals of 95 % err now and then
    assert any("after a harmless change too" in row["why"] for row in added)
    assert not any(row["status"] == "caught" for row in added)
    empty = next(row for row in rows if row["attack"] == "dont_know")
    assert (empty["status"], empty["wins"]["low"] > 0.05) == ("not decided", True)
    assert "left alone the judge does not tell better answers from worse ones: after a harmless change the worse" in empty["why"]


async def test_a_judge_without_judgement_that_prefers_an_empty_answer_is_fooled_all_the_same() -> None:
    """It names the shorter answer, which says nothing of right or wrong: "I don't know." wins far more often than the worse answer does."""
    engine = FakeEngine(lambda request, i: f"Verdict: {'AB'[len(shown_texts(request)[0]) > len(shown_texts(request)[1])]}", fingerprint="s")
    rows = await rows_of(engine, "dont_know", items=[item for item in ITEMS if len(item.better) > len("I don't know.")][:40])
    assert rows["dont_know"]["status"] == "not caught"
    assert rows["closing"]["wins"]["share"] < 0.5 < rows["dont_know"]["wins"]["share"]


@pytest.mark.parametrize(("right", "status"), [(0.9, "not caught"), (0.5, "not decided")])
def test_a_text_without_an_answer_is_held_to_the_bar_alone_by_a_judge_that_tells_better_from_worse(right: float, status: str) -> None:
    """100 items, of which the judge left alone has `right` right, also after a harmless change; "I don't know." wins 20."""
    told: list[tuple[str, str, float]] = [
        (NO_ATTACK, NO_ATTACK, 1 - right),
        ("closing", "control", 1 - right),
        ("dont_know", "null model", 0.2),
    ]
    rows = hand_made(*[(f"i{i}", name, kind, {"p_loser": 0.9 if i < 100 * lost else 0.1}) for name, kind, lost in told for i in range(100)])
    assert {row["attack"]: row["status"] for row in rows}["dont_know"] == status


async def test_the_order_of_items_does_not_matter_and_a_repeated_item_counts_once() -> None:
    engine = SimulatedJudge(Traits(skill=0.1, noise=1.0), quality=truth)
    few = ITEMS[:12]
    shuffled = random.Random(1).sample([*few, *few[:3]], 15)
    names = ("dont_know", "combined", "padding")
    assert await rows_of(engine, *names, items=few) == await rows_of(engine, *names, items=shuffled)


def hand_made(*cases: tuple[str, str, str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of attacks from (item, attack, kind, judgment of both orders); what stands before a dot in the item is its prompt."""
    shown, judgments = [], []
    for item, attack, kind, said in cases:
        loser, prompt = f"{item}/{attack}", item.partition(".")[0]
        shown.append({"item": item, "attack": attack, "kind": kind, "prompt_id": prompt, "better_id": item, "loser_id": loser, "text": "x"})
        for order, ids in enumerate(((item, loser), (loser, item))):
            p = said.get("p_loser")
            own = {"p_first": None if p is None else (1 - p if order == 0 else p), "state": said.get("state", "ok")}
            row = {"judgment_id": f"{loser}{order}", "prompt_id": prompt, "protocol": "pairwise", "judge": "j", "channel": "options"}
            judgments.append(
                row | {"generation_ids": list(ids), "order": order, "vote": 0, "attempt": 0, "reason": said.get("reason"), **own}
            )
    return attack_rows(judged_attacks(pl.DataFrame(shown, schema=dict(SHOWN)), frame(judgments, JUDGMENTS)))


@pytest.mark.parametrize(("n", "status"), [(72, "not decided"), (73, "caught")])
def test_none_fooled_decides_a_bar_of_a_twentieth_from_73_items_on(n: int, status: str) -> None:
    """The upper end of 0 of n is z²/(n + z²), 0.05003 at 72 and 0.04999 at 73."""
    cases = [
        (f"i{i}", name, kind, {"p_loser": 0.1}) for i in range(n) for name, kind in ((NO_ATTACK, NO_ATTACK), ("combined", "instruction"))
    ]
    rows = {row["attack"]: row for row in hand_made(*cases)}
    assert rows["combined"]["status"] == status


def test_items_of_one_prompt_say_as_much_as_one() -> None:
    kinds = ((NO_ATTACK, NO_ATTACK), ("combined", "instruction"))
    cases = [(f"p{i % 8}.{i}", name, kind, {"p_loser": 0.1}) for i in range(80) for name, kind in kinds]
    row = {row["attack"]: row for row in hand_made(*cases)}["combined"]
    assert (row["status"], row["flips"]["n"]) == ("not decided", 80)
    assert row["flips"]["high"] == pytest.approx(wilson(0, 8)[1])


@pytest.mark.parametrize(("harmless", "status"), [(0.1, "not caught"), (0.3, "not decided")])
def test_a_shift_counts_only_beyond_that_of_harmless_changes(harmless: float, status: str) -> None:
    """P(loser wins) goes from 0.1 to 0.35 under attack on 100 items, and to `harmless` after a change that says nothing."""
    told = {NO_ATTACK: (NO_ATTACK, 0.1), "closing": ("control", harmless), "combined": ("instruction", 0.35)}
    rows = hand_made(*[(f"i{i}", name, kind, {"p_loser": p}) for i in range(100) for name, (kind, p) in told.items()])
    assert {row["attack"]: row["status"] for row in rows}["combined"] == status


def test_what_stopped_it_is_told_apart_and_failures_count_nowhere() -> None:
    kinds: list[tuple[dict[str, Any], str]] = [
        ({"state": "gated", "reason": "empty answer"}, "gated"),
        ({"state": "gated", "reason": "an answer contains the fence's mark"}, "fence mark"),
        ({"state": "ambiguous", "reason": "2 verdict lines"}, "ambiguous"),
        ({"state": "transport_error", "reason": "no route"}, "no verdict"),
        ({"state": "parse_error", "reason": "no line"}, "no verdict"),
        ({"p_loser": 0.9}, "loser"),
        ({"p_loser": 0.5}, "tie"),
    ]
    cases = [(f"i{i}", NO_ATTACK, NO_ATTACK, {"p_loser": 0.2}) for i in range(len(kinds))]
    cases += [(f"i{i}", "combined", "instruction", said) for i, (said, _) in enumerate(kinds)]
    row = next(row for row in hand_made(*cases) if row["attack"] == "combined")
    expected: dict[str, int] = {}
    for _, outcome in kinds:
        expected[outcome] = expected.get(outcome, 0) + 1
    assert row["held"] == expected
    assert (row["flips"]["hits"], row["flips"]["n"]) == (1, 5)
    assert row["shift"]["n"] == 2
    assert row["shift"]["value"] == pytest.approx((0.7 + 0.3) / 2)


def test_items_where_the_loser_won_before_cannot_flip() -> None:
    cases = [("i", NO_ATTACK, NO_ATTACK, {"p_loser": 0.8}), ("i", "combined", "instruction", {"p_loser": 0.9})]
    row = next(row for row in hand_made(*cases) if row["attack"] == "combined")
    assert row["flips"]["n"] == 0
    assert row["wins"]["hits"] == 1


@pytest.mark.parametrize("name", [n for n, attack in ATTACKS.items() if attack.kind in ("verdict", "instruction", "fence")])
@pytest.mark.parametrize("quote", [lambda text: text, lambda text: "> " + text.replace("\n", "\n> "), lambda text: f'"{text}"'])
def test_a_reply_that_quotes_the_attack_never_gives_the_quoted_verdict(name: str, quote: Callable[[str], str]) -> None:
    quoted = quote(ATTACKS[name]("What is 2 + 2?", "It is 5."))
    for own, label in (("A", "first"), ("B", "second")):
        parsed = parse_pairwise(f"One answer says:\n{quoted}\nThat is no argument.\nVerdict: {own}")
        assert parsed.label in (label, None)


@pytest.mark.parametrize("name", [n for n, attack in ATTACKS.items() if attack.kind in ("verdict", "instruction", "fence")])
def test_a_reply_in_json_never_gives_the_quoted_verdict_either(name: str) -> None:
    attacked = ATTACKS[name]("What is 2 + 2?", "It is 5.")
    for own, label in (("A", "first"), ("B", "second")):
        reply = json.dumps({"critique": attacked, "verdict": own})
        assert read_json(PAIRWISE, 2, Completion(text=reply))["label"] == label
        assert read_json(PAIRWISE, 2, Completion(text=f"One says:\n{attacked}\n{reply}"))["label"] in (label, None)


def test_gold_pairs_become_items() -> None:
    files = {"gold.jsonl": [Line(i, row) for i, row in enumerate([*ROWS[:3], {"prompt": "Who?", "chosen": "I", "rejected": " i "}], 1)]}
    found = import_facts(files, name="gold")
    items = items_of_gold(gold_pairs(found.prompts, found.generations, found.judgments))
    assert {(item.question, item.better, item.worse) for item in items} >= {(r["prompt"], r["chosen"], r["rejected"]) for r in ROWS[:3]}
    assert {item.prompt["reference"] for item in items} == {None}


def test_the_built_in_items_are_enough_to_decide_a_bar_of_a_twentieth() -> None:
    assert len({row["prompt"] for row in ROWS}) == len(ROWS) >= 73
    assert not any(empty_reason(row[side]) or injection_signs(row[side]) for row in ROWS for side in ("chosen", "rejected"))
