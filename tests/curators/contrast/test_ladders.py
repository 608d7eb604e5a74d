"""Degrees: nested, monotone in the embedded world, and no pair where the score does not fall."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curators.contrast.candidates import answers, contrast_pairs
from curators.contrast.ladders import LadderConfig, degradation_ladder, degrade, units
from curators.errors import ConfigError
from curators.sampling import make_prompt
from curators.schema import GENERATIONS, PROMPTS, frame
from curators.verifiers import load_verifier
from examples.arithmetic.world import check_answer, problems, solution_lines, step_matches
from tests.curators.contrast.conftest import generation, in_process, one, said

WORLD = problems(120, seed=9, split="demo")


def share_right(*, prompt: str, response: str, reference: str | None) -> float:
    """The gold score of a solution: the share of the gold lines that it has."""
    gold = json.loads(reference or "{}")
    lines = solution_lines(response)
    steps = [any(step_matches(line, step) for line in lines) for step in gold["steps"]]
    return (sum(steps) + (f"Answer: {gold['answer']}" in lines)) / (len(steps) + 1)


GOLD = in_process(share_right)
PLAIN = in_process(lambda *, prompt, response, reference: float("ocean" in response))


@pytest.mark.parametrize("operator", ["corrupt", "drop"])
def test_gold_never_rises_with_the_degree_in_the_world(operator: Any) -> None:
    prompts = [make_prompt(problem.text, reference=problem.reference) for problem in WORLD]
    rows = [generation(prompt, problem.solution) for prompt, problem in zip(prompts, WORLD, strict=True)]
    sources = answers(frame(prompts, PROMPTS), frame(rows, GENERATIONS))
    found = degradation_ladder(sources, config=LadderConfig(operator=operator, pairs="all"), verifier=GOLD)
    ladders = [list(orjson.loads(row["checks"])["ladder"].values()) for row in found.iter_rows(named=True) if row["checks"]]
    assert len(ladders) >= 5.5 * len(WORLD)
    assert all(scores == sorted(scores, reverse=True) and scores[0] == 1 for scores in ladders)  # for all of them
    fates = dict(found["state"].value_counts().iter_rows())
    assert fates.keys() <= {"ok", "unsatisfiable", "checker_failed"}
    assert fates.get("checker_failed", 0) <= 1  # two lines of one problem that are the same step, one of which is left
    kept, _, _ = contrast_pairs(found)
    assert kept.height > 5.5 * len(WORLD)
    assert (kept["chosen_score"] > kept["rejected_score"]).all()
    ok = found.filter(found["state"] == "ok")
    assert set(ok["degree"]) == {1, 2, 3}
    by_degree = ok.group_by("degree").agg(pl.col("rejected_score").mean()).sort("degree")
    assert by_degree["rejected_score"].to_list() == sorted(by_degree["rejected_score"], reverse=True)


@pytest.mark.parametrize(
    ("pairs", "degrees"),
    [
        ("original", [(0, 1), (0, 2), (0, 3)]),
        ("adjacent", [(0, 1), (1, 2), (2, 3)]),
        ("all", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
    ],
)
def test_which_rungs_are_compared(pairs: Any, degrees: list[tuple[int, int]]) -> None:
    source = one(WORLD[0].solution, WORLD[0].text, WORLD[0].reference)
    found = degradation_ladder(source, config=LadderConfig(pairs=pairs), verifier=GOLD)
    compared = [(orjson.loads(row["parameters"])["chosen_degree"], int(row["degree"])) for row in found.iter_rows(named=True)]
    assert sorted(compared) == degrees


@given(st.lists(st.sampled_from(["1 + 1 = 2", "so 3 left", "well", "it is 7."]), min_size=2, max_size=6), st.integers(0, 5))
def test_a_higher_degree_changes_all_that_a_lower_one_does(lines: list[str], seed: int) -> None:
    text = "\n".join(lines)
    config = LadderConfig(seed=seed)
    rungs = [text, *(degrade(text, degree, config=config, key="a") for degree in range(1, 7))]
    for high, low in pairwise(rungs):
        if high is None or low is None:
            continue
        before, above, below = (units(each) for each in (text, high, low))
        touched = {i for i, unit in enumerate(above) if unit != before[i]}
        assert touched < {i for i, unit in enumerate(below) if unit != before[i]}
        assert all(above[i] == below[i] for i in touched)


def test_units_joined_are_the_text() -> None:
    for text in ("a\nb\n", "One. Two! Three", "", "one", "a\n\nb"):
        assert "".join(units(text)) == text


def test_an_injected_property_grows_and_the_text_stays() -> None:
    text = "It is blue.\nIt is deep.\nIt is salty."
    config = LadderConfig(operator="inject", injections=("As you surely know.",), degrees=(1, 2))
    rungs = [degrade(text, degree, config=config, key="a") for degree in (1, 2)]
    assert [rung and rung.count("As you surely know.") for rung in rungs] == [1, 2]
    assert (rungs[1] or "").replace(" As you surely know.", "") == text


def test_an_enumerator_is_not_the_number_that_is_corrupted() -> None:
    text = "1. take it\n2. put 5 back\n3. done"
    assert degrade(text, 1, config=LadderConfig(), key="a") in {f"1. take it\n2. put {n} back\n3. done" for n in (6, 7, 8)}
    assert degrade(text, 2, config=LadderConfig(), key="a") is None


def test_no_pair_where_the_checker_sees_no_fall_or_a_rise_or_nothing() -> None:
    answer = "First 1.\nThen 2.\nThe end 3."
    flat = degradation_ladder(one(answer, reference="x"), verifier=PLAIN)
    assert set(flat["state"]) == {"checker_failed"}
    rising = in_process(lambda *, prompt, response, reference: sum(int(n) for n in response.replace(".", " ").split() if n.isdigit()))
    assert set(degradation_ladder(one(answer), verifier=rising)["state"]) == {"not_monotone"}
    cannot_tell = in_process(lambda *, prompt, response, reference: None)
    assert set(degradation_ladder(one(answer, reference="x"), verifier=cannot_tell)["state"]) == {"unverified"}
    assert set(degradation_ladder(one("no number"), verifier=PLAIN)["state"]) == {"unsatisfiable"}
    assert contrast_pairs(flat)[0].is_empty()


def test_a_yes_or_no_check_gives_pairs_with_the_answer_alone() -> None:
    problem = WORLD[0]
    source = one(problem.solution, problem.text, problem.reference)
    answer_only = in_process(check_answer)
    config = LadderConfig(operator="drop", degrees=(1, 2, 3), pairs="adjacent")
    states = degradation_ladder(source, config=config, verifier=answer_only).sort("degree")["state"].to_list()
    assert states.count("ok") <= 1


def test_a_shipped_verifier_and_an_endless_number() -> None:
    found = degradation_ladder(one("It is 4.", reference="4"), config=LadderConfig(degrees=(1,)), verifier=load_verifier("numeric"))
    assert (found["state"].to_list(), found["label_source"][0][:16]) == (["ok"], "verifier:numeric")
    assert degrade("9" * 6000, 1, config=LadderConfig(), key="a") is None


def test_the_distance_is_bounded() -> None:
    problem = WORLD[0]
    source = one(problem.solution, problem.text, problem.reference)
    found = degradation_ladder(source, config=LadderConfig(min_edit_sim=0.99), verifier=GOLD)
    assert set(found["state"]) == {"too_different"}
    assert found["reason"].str.contains("below 0.99").all()


def test_a_pair_keeps_the_answer_as_it_was_and_names_it() -> None:
    problem = WORLD[0]
    source = one(problem.solution, problem.text, problem.reference)
    row = degradation_ladder(source, verifier=GOLD).sort("degree").row(0, named=True)
    assert said(row["chosen"]) == problem.solution
    assert (row["chosen_id"], row["rejected_id"]) == (source["generation_id"][0], None)
    assert (row["axis"], row["label_source"]) == ("corrupt", "verifier:check@test")
    with pytest.raises(ConfigError, match="needs `injections`"):
        LadderConfig(operator="inject")
    with pytest.raises(ConfigError, match="rising"):
        LadderConfig(degrees=(2, 1))
