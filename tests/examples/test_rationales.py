"""Rationales of the embedded world: a program confirms that they name the first wrong step, and catches those that do not."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from curators.engines.base import Request
from curators.engines.fake import FakeEngine
from curators.rationales.prompts import load_rationale_rubric, sides_of
from curators.rationales.wording import answered, reworded
from curators.rationales.writing import RationaleConfig, write_rationale
from examples.arithmetic.critiques import critique
from examples.arithmetic.rationales import claims, confirms, template_rationale
from examples.arithmetic.world import Problem, corrupted_solution, first_wrong, problems
from pipelines.config_files import load_config

ROOT = Path(__file__).parents[2]
RUBRIC = load_rationale_rubric(str(ROOT / "examples" / "arithmetic" / "rationale.md"))
DETAILED = load_rationale_rubric("detailed")


def arithmetic_pairs(n: int) -> list[tuple[Problem, dict[str, Any]]]:
    """Gold solutions against ones with a single planted error."""
    rng, made = random.Random(0), []
    for number, problem in enumerate(problems(n, seed=5, split="demo")):
        texts = {"prompt": ("user", problem.text), "chosen": ("assistant", problem.solution)}
        texts["rejected"] = ("assistant", corrupted_solution(problem, rng))
        turns = {name: json.dumps([{"role": role, "content": text}]) for name, (role, text) in texts.items()}
        made.append((problem, {"pair_id": f"x{number}", "prompt_id": f"p{number}", **turns}))
    return made


async def test_the_template_names_the_first_wrong_step_of_200_pairs_and_passes_every_check() -> None:
    texts: dict[str, str] = {}

    def respond(request: Request, _: int) -> str:
        asked = str(request.messages[-1]["content"])
        letter = re.search(r"Answer ([AB]) was preferred", asked)
        assert letter
        chosen, rejected = ("A", "B") if letter[1] == "A" else ("B", "A")
        told = next(text for problem, text in texts.items() if problem in asked)
        return told.replace("the chosen answer", f"Answer {chosen}").replace("the rejected answer", f"Answer {rejected}")

    engine, confirmed = FakeEngine(respond), 0
    for problem, pair in arithmetic_pairs(200):
        sides = sides_of(pair, seed=0)
        told = template_rationale(sides.chosen, sides.rejected, problem.reference)
        assert told is not None
        texts[problem.text] = told.replace("The rejected", "the rejected")
        (row,) = await write_rationale(pair, engine, rubric=DETAILED, config=RationaleConfig(check_agreement=False))
        assert row["state"] == "ok", (row["state"], row["reason"], row["text"])
        confirmed += confirms(row["text"], sides.chosen, sides.rejected, problem.reference)
    assert confirmed == 200


def test_the_judges_gold_critique_reworded_is_confirmed_in_either_order() -> None:
    for problem, pair in arithmetic_pairs(60):
        for seed in (0, 1):
            sides = sides_of(pair, seed=seed)
            said = answered(critique(*sides.shown, problem.reference))
            assert said is not None
            text = reworded(said[0], sides, line_labels=True)
            assert said[1] == ("second" if sides.order else "first")
            assert confirms(text, sides.chosen, sides.rejected, problem.reference), text
            assert not re.search(r"\b[AB]\d?\b", text)


def test_a_rationale_that_says_anything_false_is_not_confirmed() -> None:
    gold = '{"answer": 24, "steps": ["12 - 4 = 8", "8 * 3 = 24"]}'
    right, wrong = "1. 12 - 4 = 8\n2. 8 * 3 = 24\nAnswer: 24", "1. 12 - 4 = 8\n2. 8 * 3 = 25\nAnswer: 25"
    true = 'Line 2 of the rejected answer: "8 * 3 = 25", is 24 no'
    assert confirms(true, right, wrong, gold)
    for false in (
        "The rejected answer multiplies wrongly.",
        true.replace("Line 2", "Line 1"),
        true.replace("25", "26"),
        true.replace("is 24", "is 23"),
        true.replace(" no", " ok"),
        true.replace("rejected", "chosen"),
        true + '\nLine 1 of the chosen answer: "12 - 4 = 8", is 9 no',
        true + '\nLine 3 of the rejected answer: "Answer: 25", is 24 no',
        'Line 1 of the rejected answer: "12 - 4 = 8", is 8 ok',
    ):
        assert not confirms(false, right, wrong, gold), false
    assert not confirms(true, wrong, right, gold), "the rejected answer has no wrong step"


def test_pairs_without_one_wrong_step_have_no_template() -> None:
    gold = '{"answer": 24, "steps": ["12 - 4 = 8", "8 * 3 = 24"]}'
    right, wrong, short = "1. 12 - 4 = 8\n2. 8 * 3 = 24\nAnswer: 24", "1. 12 - 4 = 9", "1. 12 - 4 = 8"
    assert template_rationale(right, right, gold) is None
    assert template_rationale(wrong, wrong, gold) is None
    assert template_rationale(right, short, gold) is None, "what is missing cannot be quoted"
    assert claims(str(template_rationale(right, wrong, gold)))[0].line == 1
    assert first_wrong(wrong, gold) == 0


def test_the_writer_reads_what_the_judge_was_trained_on() -> None:
    """The embedded judge knows one prompt: its rubric's, word for word."""
    judge, writer = ((ROOT / "examples" / "arithmetic" / name).read_text().split("---\n", 2)[2] for name in ("rubric.md", "rationale.md"))
    assert judge == writer
    assert RUBRIC.line_labels
    assert not RUBRIC.fence


def test_the_example_configuration_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config("curate", "examples/arithmetic/rationales.yaml", [])
    assert (config.annotate, config.rationale.kind) == ("rationale", RUBRIC.kind)
