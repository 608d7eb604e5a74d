"""One wrong step: known errors, what is carried on, and verification in the embedded world."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from curators.contrast.candidates import answers, contrast_pairs
from curators.contrast.differences import differences
from curators.contrast.equations import chain
from curators.contrast.step_errors import OPERATORS, StepErrorConfig, inject, inject_step_errors
from curators.errors import ConfigError
from curators.sampling import make_prompt
from curators.schema import GENERATIONS, PROMPTS, frame
from curators.verifiers import load_verifier
from examples.arithmetic.world import check_steps, first_wrong, problems
from tests.curators.contrast.conftest import answered, generation, in_process, one, said

SHORT = "12 - 5 = 7; 7 * 2 = 14"
GSM = "He has 12 - 5 = 7 apples.\nHe doubles them: <<7*2=14>>14 apples.\n#### 14"
STEPS = in_process(check_steps)
WORLD = problems(80, seed=5, split="demo")


def test_the_known_example() -> None:
    error = inject(SHORT, 0, "plus_one")
    assert error is not None
    assert (error.chosen_step, error.rejected_step) == ("12 - 5 = 7;", "12 - 5 = 8;")
    assert error.solution == "12 - 5 = 8; 8 * 2 = 16"
    # five tokens, one of which differs
    assert differences("12 - 5 = 7", "12 - 5 = 8").edit_sim == 0.8


@pytest.mark.parametrize(
    ("operator", "place", "expected"),
    [
        ("minus_one", 0, "12 - 5 = 6; 6 * 2 = 12"),
        ("times_ten", 0, "12 - 5 = 70; 70 * 2 = 140"),
        ("swap_digits", 1, "12 - 5 = 7; 7 * 2 = 41"),
        ("flip_operator", 0, "12 + 5 = 17; 17 * 2 = 34"),
        ("swap_operands", 0, "5 - 12 = -7; -7 * 2 = -14"),
        ("delete_step", 0, " 12 * 2 = 24"),
    ],
)
def test_operators(operator: str, place: int, expected: str) -> None:
    error = inject(SHORT, place, operator)
    assert error is not None
    assert error.solution == expected


@pytest.mark.parametrize(("operator", "place"), [("swap_operands", 1), ("swap_digits", 0), ("delete_step", 1)])
def test_what_changes_nothing_is_refused(operator: str, place: int) -> None:
    assert inject(SHORT, place, operator) is None


def test_an_error_that_leaves_the_final_result_as_it_is_is_refused() -> None:
    assert inject("3 + 4 = 7\n5 + 6 = 11\nAnswer: 11", 0, "plus_one") is None
    assert inject("3 - 3 = 0\n0 * 9 = 0", 1, "times_ten") is None


def test_lengths_stay_within_bounds_deletion_aside() -> None:
    assert inject(SHORT, 0, "times_ten", len_ratio=(0.9, 1.1)) is None  # 25 characters of 22
    assert inject(SHORT, 0, "plus_one", len_ratio=(0.9, 1.1)) is not None
    assert inject(SHORT, 0, "delete_step", len_ratio=(0.9, 1.1)) is not None


def test_an_error_is_carried_into_prose_and_the_closing_answer() -> None:
    error = inject(GSM, 0, "plus_one")
    assert error is not None
    assert error.solution == "He has 12 - 5 = 8 apples.\nHe doubles them: <<8*2=16>>16 apples.\n#### 16"
    assert error.chosen_step == "He has 12 - 5 = 7 apples."


def test_errors_that_grow_without_bound_and_endless_numbers_are_refused() -> None:
    powers = "\n".join(["1 * 1 = 1"] * 60)  # each step squares the error of the one before
    assert inject(powers, 0, "times_ten") is None
    assert chain(f"{'9' * 6000} + 1 = {'9' * 6000}") == []
    assert inject(f"1 + 1 = 2\n2 + 1 = 3\n{'3' * 6000}", 0, "plus_one") is not None


def test_annotated_steps_stay_consistent_and_parts_of_longer_expressions_are_no_steps() -> None:
    error = inject("It is 48/2 = $<<48/2=24>>24.\nThen 48+24 = <<48+24=72>>72.\n#### 72", 0, "plus_one")
    assert error is not None
    assert error.solution == "It is 48/2 = $<<48/2=25>>25.\nThen 48+25 = <<48+25=73>>73.\n#### 73"
    assert chain("2 * 3 + 4 = 10") == chain("(600*2)*2=2400") == []
    assert [step.c for step in chain("- 12 - 5 = 7\n- 7 * 2 = 14")] == [7, 14]


def test_a_closing_number_that_no_step_gives_is_refused() -> None:
    assert inject("3 + 4 = 7\nso twice that\n#### 14", 0, "plus_one") is None


def test_decimals_and_thousands_are_no_steps() -> None:
    assert chain("1.5 + 2 = 3.5\n1,000 + 5 = 1,005\nthe ratio is 3/4") == []


def test_a_step_left_out_whose_successor_then_reads_the_same_is_no_error() -> None:
    assert inject("15 - 6 = 9\n9 - 6 = 3\n3 * 4 = 12", 0, "delete_step") is None


@given(st.integers(0, len(WORLD) - 1), st.sampled_from(sorted(OPERATORS)), st.integers(0, 7))
@example(75, "delete_step", 7)
def test_an_error_in_the_world_is_first_wrong_where_it_was_put(number: int, operator: str, place: int) -> None:
    problem = WORLD[number]
    place %= len(problem.steps)
    error = inject(problem.solution, place, operator)
    if error is None:
        return
    assert first_wrong(error.solution, problem.reference) == place
    if operator != "delete_step":
        changed = [a != b for a, b in zip(problem.solution.splitlines()[:place], error.solution.splitlines()[:place], strict=True)]
        assert not any(changed)
        assert all(step.right for i, step in enumerate(chain(error.solution)) if i != place)  # what follows the error follows from it


@pytest.mark.parametrize("scope", ["step", "solution"])
def test_every_verified_error_of_the_world_is_a_pair(scope: str) -> None:
    prompts = [make_prompt(problem.text, reference=problem.reference) for problem in WORLD]
    rows = [generation(prompt, problem.solution) for prompt, problem in zip(prompts, WORLD, strict=True)]
    sources = answers(frame(prompts, PROMPTS), frame(rows, GENERATIONS))
    config = StepErrorConfig(scope=scope, per_answer=2)
    found = inject_step_errors(sources, config=config, verifier=STEPS)
    assert inject_step_errors(sources.sample(fraction=1.0, shuffle=True, seed=0), config=config, verifier=STEPS).equals(found)
    assert set(found["state"]) == {"ok"}
    assert found["prompt_id"].n_unique() == len(WORLD)
    references = {prompt["prompt_id"]: prompt["reference"] for prompt in prompts}
    pairs, _, _ = contrast_pairs(found)
    assert pairs.height == 2 * len(WORLD)
    for row in pairs.iter_rows(named=True):
        chosen, rejected, reference = said(row["chosen"]), said(row["rejected"]), references[row["prompt_id"]]
        n_lines = len(chosen.splitlines())
        assert first_wrong(rejected, reference) < n_lines
        assert (row["chosen_score"], row["rejected_score"]) == (1, 0)
        if scope == "step":
            assert chosen.splitlines()[:-1] == rejected.splitlines()[:-1]  # the right beginning, and one step
        else:
            assert first_wrong(chosen, reference) is None


def test_what_cannot_be_made_wrong_says_why() -> None:
    def yes(**_: object) -> bool:
        return True

    assert inject_step_errors(one("Blue."), verifier=STEPS)["state"].to_list() == ["unsatisfiable"]
    assert inject_step_errors(one("1 + 1 = 3"), verifier=STEPS)["state"].to_list() == ["already_wrong"]
    fooled = inject_step_errors(one(SHORT), verifier=in_process(yes)).row(0, named=True)
    assert (fooled["state"], fooled["pair_id"]) == ("checker_failed", None)
    silent = inject_step_errors(one(SHORT), verifier=STEPS).row(0, named=True)  # there is no reference
    assert silent["state"] == "unverified"
    assert "no reference" in silent["reason"]
    with pytest.raises(ConfigError, match="there are"):
        StepErrorConfig(operators=("times_two",))


GSM8K = Path(__file__).parents[3].parent / "shared" / "data" / "gsm8k_train.jsonl.gz"


@pytest.mark.skipif(not GSM8K.exists(), reason="there is no ../shared/data")
def test_real_solutions_are_made_wrong_or_say_why_not() -> None:
    with gzip.open(GSM8K, "rt") as lines:
        rows = [json.loads(line) for line in islice(lines, 200)]
    sources = answered([(make_prompt(row["question"], reference=row["answer"]), [row["answer"]]) for row in rows])
    found = inject_step_errors(sources, config=StepErrorConfig(scope="solution"), verifier=load_verifier("numeric"))
    fates = dict(found["state"].value_counts().iter_rows())
    assert fates.keys() <= {"ok", "unsatisfiable", "already_wrong"}
    assert fates["ok"] > 120
    for row in found.filter(found["state"] == "ok").iter_rows(named=True):
        assert said(row["rejected"]).rpartition("#### ")[2] != said(row["chosen"]).rpartition("#### ")[2]
