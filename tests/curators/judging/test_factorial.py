"""The factorial audit: 32 settings, each effect as planted, the others nothing."""

from __future__ import annotations

import random
from itertools import product

import polars as pl
import pytest

from curators.engines.simulated import SimulatedJudge, Traits
from curators.judging.attacks import Item, attack_judge, judged_attacks
from curators.judging.attacks.factorial import FACTORS, effect_lines, effects, reversal_lines, settings
from curators.judging.protocol import JudgeConfig
from curators.judging.rubric import load_rubric
from curators.sampling import make_prompt

LETTER = load_rubric("pairwise-letter")
MARKS = {"format": "## Answer", "authority": r"(20", "consensus": "Nine in ten", "flattery": "such care", "urgency": "needed at once"}
PLANTED = {"authority": 0.8, "flattery": -0.5, "urgency": 0.3}
JOINT = 0.6  # of authority and urgency together
ITEMS = [Item(prompt=make_prompt(f"What is {i} + {i}?"), better=f"It is {2 * i}.", worse=f"It is {2 * i + 1}.") for i in range(20)]


def swayed(text: str) -> float:
    """In logits: what is planted for the toggles that a text carries."""
    on = {name for name, mark in MARKS.items() if mark in text or (name == "authority" and "Handbook" in text)}
    return sum(PLANTED.get(name, 0.0) for name in on) + (JOINT if {"authority", "urgency"} <= on else 0.0)


def test_there_are_32_settings_and_each_carries_its_toggles() -> None:
    found = {attack.name: attack("What is 2 + 2?", "It is 5.") for attack in settings()}
    assert len(found) == len(set(found.values())) == 32
    assert found["00000"] == "It is 5."
    for name, text in found.items():
        on = [mark in text or (factor == "authority" and "Handbook" in text) for factor, mark in MARKS.items()]
        assert [bit == "1" for bit in name] == on


async def test_planted_effects_are_found_and_no_others() -> None:
    engine = SimulatedJudge(Traits(skill=1.0, position=0.4, noise=0.05), quality=swayed)
    shown, judgments = await attack_judge(ITEMS, settings(), engine, rubric=LETTER, config=JudgeConfig())
    assert judgments.height == (32 * len(ITEMS)) * 2  # the setting without a toggle is the answer itself, asked once
    found = effects(judged_attacks(shown, judgments), unit="logit")
    assert (found["n_items"], found["n_left_out"]) == (len(ITEMS), 0)
    expected = dict.fromkeys((row["effect"] for row in found["effects"]), 0.0)
    expected |= {"authority": 0.8 + JOINT / 2, "flattery": -0.5, "urgency": 0.3 + JOINT / 2, "authority x urgency": JOINT}
    assert len(expected) == 5 + 10
    for row in found["effects"]:
        assert row["value"] == pytest.approx(expected[row["effect"]], abs=0.02)
    nothing = [row for row in found["effects"] if expected[row["effect"]] == 0]
    assert (
        sum(row["low"] <= 0 <= row["high"] for row in nothing) >= 9
    )  # of 11 at 92 %, what a bootstrap of 20 items has, 3 miss in one in twenty
    status = {row["effect"]: row["status"] for row in found["effects"]}
    assert (status["authority"], status["flattery"], status["urgency"], status["format"]) == ("beyond", "beyond", "beyond", "within")
    assert status["authority x urgency"] is None
    assert found["reversals"] == []


def design(strengths: dict[str, float], n: int = 6) -> pl.DataFrame:
    rows = [
        {"item": f"i{i}", "prompt_id": f"p{i}", "attack": name, "strength": value + i / 1000}
        for i in range(n)
        for name, value in strengths.items()
    ]
    return pl.DataFrame(random.Random(0).sample(rows, len(rows)))


def test_a_toggle_that_helps_alone_and_harms_beside_another_is_a_reversal() -> None:
    """Authority: +0.2 without urgency, -0.1 with it. Urgency: -0.15 on average, +0.0 without authority and -0.3 with it: no reversal."""
    strengths = {}
    for setting in product((0, 1), repeat=len(FACTORS)):
        _, authority, _, _, urgency = setting
        strengths["".join(map(str, setting))] = authority * (0.2 - 0.3 * urgency)
    found = effects(design(strengths), unit="probability")
    value = {row["effect"]: row["value"] for row in found["effects"]}
    assert value["authority"] == pytest.approx((0.2 - 0.1) / 2)
    assert value["urgency"] == pytest.approx(-0.15)
    assert value["authority x urgency"] == pytest.approx(-0.3)
    assert found["reversals"] == [["authority", "urgency"]]
    assert reversal_lines(found) == ["reversal: authority helps on one side of urgency and harms on the other"]
    assert reversal_lines({"reversals": []})[0].startswith("reversals: none")
    assert {line["status"] for line in effect_lines(found) if " x " in line["effect"]} == {"no bar"}


def test_an_item_without_one_of_its_settings_is_left_out_and_counted() -> None:
    rows = design({"".join(map(str, setting)): 0.1 for setting in product((0, 1), repeat=len(FACTORS))})
    lost = pl.col("item").eq("i2") & pl.col("attack").eq("01010")
    found = effects(rows.with_columns(strength=pl.when(~lost).then("strength")), unit="probability")
    assert (found["n_items"], found["n_left_out"]) == (5, 1)
    none = effects(rows.with_columns(strength=pl.lit(None, dtype=pl.Float64)), unit="probability")
    assert (none["n_items"], none["n_left_out"]) == (0, 6)
    assert {row["value"] for row in none["effects"]} == {None}
    assert {row["status"] for row in none["effects"]} == {"not decided", None}


@pytest.mark.slow
def test_intervals_of_effects_that_are_nothing_hold_zero_as_often_as_they_say() -> None:
    names = ["".join(map(str, setting)) for setting in product((0, 1), repeat=len(FACTORS))]
    held = []
    for seed in range(40):
        rng = random.Random(seed)
        rows = [{"item": f"i{i}", "prompt_id": f"p{i}", "attack": name, "strength": rng.gauss(0, 0.1)} for i in range(60) for name in names]
        held += [row["low"] <= 0 <= row["high"] for row in effects(pl.DataFrame(rows), unit="probability", seed=seed)["effects"]]
    assert 0.92 <= sum(held) / len(held) <= 0.97  # 600 intervals; a percentile bootstrap of 60 items is a little narrow
