"""The embedded world: its generator and checker, its committed files, and (slow) its two models."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.judging.prompts import render
from curators.judging.rubric import load_rubric
from examples.arithmetic import make_prompts, world
from examples.arithmetic.critiques import critique, verdict, walk
from examples.arithmetic.phrases import patterns

HERE = Path(world.__file__).parent
MODELS = ("policy", "judge")
REFERENCE = '{"answer": 23, "steps": ["12 - 11 = 1", "1 + 22 = 23"]}'
GOLD = "1. 12 - 11 = 1\n2. 1 + 22 = 23\nAnswer: 23"

seeds = st.integers(0, 10_000)
splits = st.sampled_from(world.SPLITS)


def right(problem: world.Problem, text: str) -> bool:
    return world.check_steps(prompt=problem.text, response=text, reference=problem.reference)


@given(seed=seeds, split=splits)
@settings(max_examples=60, deadline=None)
def test_every_gold_solution_passes_both_checks(seed: int, split: str) -> None:
    for problem in world.problems(5, seed=seed, split=split):
        assert right(problem, problem.solution)
        assert world.check_answer(prompt=problem.text, response=problem.solution, reference=problem.reference)
        assert 3 <= len(problem.steps) <= 8


@given(seed=seeds, split=splits)
@settings(max_examples=60, deadline=None)
def test_values_and_operands_stay_between_1_and_99(seed: int, split: str) -> None:
    for problem in world.problems(5, seed=seed, split=split):
        value = problem.start
        for op, operand in problem.operations:
            assert operand in (2, 3, 4) if op == "*" else 1 <= operand <= 99
            value = world.apply(op, value, operand)
            assert 1 <= value <= 99
        assert value == problem.answer


@given(seed=seeds, split=splits)
@settings(max_examples=60, deadline=None)
def test_every_planted_error_is_rejected_and_its_critique_stops_there(seed: int, split: str) -> None:
    rng = random.Random(seed)
    for problem in world.problems(5, seed=seed, split=split):
        text = world.corrupted_solution(problem, rng)
        wrong = world.first_wrong(text, problem.reference)
        assert wrong is not None
        lines = walk("A", text, problem.reference)
        assert len(lines) == wrong + 1
        assert lines[-1].endswith(" no")
        assert all(line.endswith(" ok") for line in lines[:-1])


@pytest.mark.parametrize(
    ("response", "steps", "answer"),
    [
        (GOLD, True, True),
        ("12-11=1\n22 + 1 = 23\n\nAnswer: 23\n", True, True),  # no numbers, sum the other way round
        ("1. 12 - 11 = 1\n2. 1 + 22 = 24\nAnswer: 23", False, True),  # a wrong step under a right answer
        ("1. 12 - 11 = 1\n2. 1 + 22 = 23\nAnswer: 24", False, False),
        ("1. 12 - 11 = 1\nAnswer: 23", False, True),  # a step is missing
        ("1. 12 + 11 = 23\nAnswer: 23", False, True),  # right arithmetic, not what the problem says
        (GOLD + "\n3. 23 + 0 = 23", False, True),
        ("1. 12 - 11 = 1\n2. 1 + 22 = 23\n", False, False),
        ("Answer: twenty-three", False, False),
        ("", False, False),
    ],
)
def test_checkers_on_known_answers(response: str, steps: bool, answer: bool) -> None:
    assert world.check_steps(prompt="", response=response, reference=REFERENCE) is steps
    assert world.check_answer(prompt="", response=response, reference=REFERENCE) is answer


@pytest.mark.parametrize("check", [world.check_steps, world.check_answer])
def test_a_checker_without_a_reference_says_what_it_needs(check) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="no reference; it needs a JSON string"):
        check(prompt="", response=GOLD, reference=None)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed are"):
        world.problems(1, seed=0, split="test")


def test_splits_share_no_numbers_and_heldout_shares_no_sentence_pattern() -> None:
    drawn = {split: world.problems(1500, seed=3, split=split) for split in world.SPLITS}
    numbers = {split: {(p.start, p.operations) for p in found} for split, found in drawn.items()}
    assert not numbers["train"] & numbers["heldout"]
    assert not numbers["train"] & numbers["demo"]
    assert not numbers["demo"] & numbers["heldout"]
    train, unseen = patterns(heldout=False), patterns(heldout=True)
    assert not set(train.frames) & set(unseen.frames)
    for op in "+-*":
        assert not set(train.steps[op]) & set(unseen.steps[op])
        # every opening and clause is known from training: what is new is how they are joined
        assert {part for pair in unseen.steps[op] for part in pair} <= {p for pair in train.steps[op] for p in pair}


def test_a_problem_does_not_depend_on_how_many_are_drawn() -> None:
    assert world.problems(20, seed=5, split="demo") == world.problems(50, seed=5, split="demo")[:20]
    assert world.problems(20, seed=5, split="demo") != world.problems(20, seed=6, split="demo")


def test_verdicts_follow_the_checker_in_both_orders() -> None:
    wrong = "1. 12 - 11 = 2\n2. 2 + 22 = 24\nAnswer: 24"
    assert verdict(GOLD, wrong, REFERENCE) == "A"
    assert verdict(wrong, GOLD, REFERENCE) == "B"
    assert verdict(GOLD, GOLD, REFERENCE) == verdict(wrong, wrong, REFERENCE) == "tie"
    # by hand: A fails at its first line, where 12 - 11 is 1; B is right at every line
    assert critique(wrong, GOLD, REFERENCE) == (
        "A1: 12 - 11 = 2, is 1 no\nB1: 12 - 11 = 1, is 1 ok\nB2: 1 + 22 = 23, is 23 ok\nB3: Answer: 23, is 23 ok\nVerdict: B"
    )


@pytest.mark.parametrize(
    ("response", "last"),
    [
        ("1. 12 + 11 = 23\nAnswer: 23", "A1: 12 + 11 = 23, is 12 - 11 no"),
        ("1. 12 - 11 = 1\nAnswer: 1", "A2: Answer: 1, is 1 + 22 no"),
        ("1. 12 - 11 = 1\n2. 1 + 22 = 23\n3. 23 + 1 = 24\nAnswer: 24", "A3: 23 + 1 = 24, is Answer no"),
        ("1. 12 - 11 = 1\n", "A2: nothing, is 1 + 22 no"),
        (GOLD + "\nmore", "A4: more, is nothing no"),
    ],
)
def test_a_critique_names_what_the_line_should_have_been(response: str, last: str) -> None:
    assert walk("A", response, REFERENCE)[-1] == last


def test_the_rubric_shows_labelled_lines_and_nothing_of_the_reference() -> None:
    problem = world.problems(1, seed=0, split="demo")[0]
    messages = render(
        load_rubric(str(HERE / "rubric.md")),
        prompt=problem.text,
        answers=[problem.solution, GOLD],
        reference=problem.reference,
    )
    assert [m["role"] for m in messages] == ["system", "user"]
    assert problem.text in messages[1]["content"]
    assert f"A1: {problem.steps[0]}\n" in messages[1]["content"]
    assert "B3: Answer: 23" in messages[1]["content"]
    assert '"steps"' not in messages[1]["content"]


def test_the_committed_prompts_are_what_the_script_writes(tmp_path: Path) -> None:
    make_prompts.write(tmp_path)
    for name, n in (("prompts.jsonl", 400), ("eval.jsonl", 500)):
        assert (tmp_path / name).read_bytes() == (HERE / name).read_bytes()
        rows = [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
        assert len({row["prompt"][0]["content"] for row in rows}) == len(rows) == n
        assert {tuple(row) for row in rows} == {("prompt", "reference")}
        assert all(isinstance(row["reference"], str) for row in rows)


def test_all_weights_together_are_small_16_bit_and_have_a_card() -> None:
    from safetensors import safe_open

    assert sum(p.stat().st_size for p in HERE.rglob("*") if p.is_file()) < 8_000_000
    for name in MODELS:
        with safe_open(HERE / name / "model.safetensors", framework="pt") as weights:
            assert {str(weights.get_tensor(key).dtype) for key in weights.keys()} == {"torch.bfloat16"}  # noqa: SIM118
        assert "## Measured" in (HERE / name / "README.md").read_text(encoding="utf-8")
    assert "## Position bias" in (HERE / "judge" / "README.md").read_text(encoding="utf-8")


CONVERSATION = [
    {"role": "system", "content": "You can add."},
    {"role": "user", "content": "What is 1 + 2? 日本 é"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I need the tool.",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}],
    },
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("name", MODELS)
def test_the_chat_template_keeps_tools_calls_and_reasoning(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(HERE / name)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert len(tokenizer.encode("<|im_start|>", add_special_tokens=False)) == 1
    text = tokenizer.apply_chat_template(CONVERSATION, tools=TOOLS, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou can add.\n\nTools:\n" + json.dumps(TOOLS[0]) + "\n<|im_end|>\n"
        "<|im_start|>user\nWhat is 1 + 2? 日本 é<|im_end|>\n"
        "<|im_start|>assistant\n<think>I need the tool.</think>\n\n"
        '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>3</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nIt is 3.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", MODELS)
def test_the_chat_template_marks_what_the_assistant_said(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(HERE / name)
    out = tokenizer.apply_chat_template(CONVERSATION[-1:], return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, mask in zip(out["input_ids"], out["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == "It is 3.<|im_end|>"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_policy_is_right_on_40_to_70_percent_of_heldout_problems() -> None:
    from examples.arithmetic.evaluate import measure_policy

    report, _ = measure_policy(str(HERE / "policy"), world.problems(100, seed=21, split="heldout"))
    assert 0.40 <= report["accuracy_t1"] <= 0.70


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_judge_agrees_with_the_checker_on_75_to_95_percent_of_decidable_pairs() -> None:
    from examples.arithmetic.evaluate import choose_pairs, measure_judge, measure_policy

    drawn = world.problems(170, seed=22, split="heldout")
    _, texts = measure_policy(str(HERE / "policy"), drawn)
    report = measure_judge(str(HERE / "judge"), choose_pairs(drawn, texts, n_ties=0)[:60])
    assert report["decidable_pairs"] >= 50
    assert 0.75 <= report["agreement"] <= 0.95
