"""What every attempt becomes, whatever made it."""

from __future__ import annotations

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curators.contrast.candidates import Attempt, answers, contrast_pairs, contrasts, of_synthesis
from curators.contrast.differences import differences, edit_sim
from curators.errors import SchemaError
from curators.sampling import make_prompt
from curators.schema import CONTRASTS, GENERATIONS, PROMPTS, check, frame
from tests.curators.contrast.conftest import POLICY, answered, generation, one, said

PROMPT = make_prompt("What is 2 + 2?")
ATTEMPT = Attempt(source=PROMPT, method="ladder", axis="a number", parameters={"degree": 1})
TEXTS = st.text(alphabet="ab \n", max_size=12)


def test_differences_of_known_texts() -> None:
    # "a b c d" against "a b x d": one of four tokens replaced; 3 shared of 5 different tokens; both begin with 2 of 4
    found = differences("a b c d", "a b x d")
    assert (found.edit_sim, found.jaccard, found.shared_prefix_share, found.len_ratio) == (0.75, 0.6, 0.5, 1.0)
    same = differences("it is 4", "it is 4")
    assert (same.edit_sim, same.jaccard, same.shared_prefix_share, same.len_ratio) == (1, 1, 1, 1)
    assert differences("a b", "").len_ratio is None
    assert differences(" ", "") == differences("", "")


@given(TEXTS, TEXTS)
def test_similarities_are_symmetric_shares_and_one_for_equal_tokens(a: str, b: str) -> None:
    one_way, other = differences(a, b), differences(b, a)
    for name in ("edit_sim", "jaccard", "shared_prefix_share"):
        assert 0 <= getattr(one_way, name) <= 1
        assert getattr(one_way, name) == getattr(other, name)
        assert (getattr(one_way, name) == 1) or a.split() != b.split()
    assert edit_sim(a.split(), b.split(), at_least=one_way.edit_sim) == one_way.edit_sim


def test_a_row_says_how_it_was_made_and_what_differs() -> None:
    row = ATTEMPT.row("It is 4.", "It is 5.", checks={"chosen": 1.0})
    assert (row["state"], row["method"], row["axis"], orjson.loads(row["parameters"])) == ("ok", "ladder", "a number", {"degree": 1})
    assert row["edit_sim"] == pytest.approx(2 / 3)
    assert row["pair_id"] is not None
    assert check(contrasts([row]), "contrasts").height == 1


@pytest.mark.parametrize(
    ("chosen", "rejected", "state"),
    [("It is 4.", " It is 4. ", "identical_text"), ("", "It is 5.", "empty"), ("It is 4.", " ", "empty"), (None, "It is 5.", "empty")],
)
def test_a_form_that_makes_no_pair(chosen: str | None, rejected: str, state: str) -> None:
    row = ATTEMPT.row(chosen, rejected)
    assert (row["state"], row["pair_id"]) == (state, None)


def test_the_same_text_under_two_prompts_is_a_joint_pair() -> None:
    row = ATTEMPT.row("It is 4.", "It is 4.", rejected_prompt='[{"role":"user","content":"What is 2 + 3?"}]')
    assert row["state"] == "ok"
    pairs, joint, _ = contrast_pairs(contrasts([row]))
    assert (pairs.height, joint.height) == (0, 1)
    assert joint["prompt"][0] != joint["rejected_prompt"][0]


def test_reasoning_and_tool_calls_of_an_answer_stay_with_it() -> None:
    calls = '[{"function":{"name":"add","arguments":"{}"}}]'
    rows = [generation(PROMPT, "4", 0, reasoning="two and two"), generation(PROMPT, "", 1, tool_calls=calls)]
    sides = answers(frame([PROMPT], PROMPTS), frame(rows, GENERATIONS)).sort("sample_index").to_dicts()
    row = ATTEMPT.row(*sides)
    assert row["state"] == "ok"
    assert orjson.loads(row["chosen"])[0]["reasoning_content"] == "two and two"
    assert orjson.loads(row["rejected"])[0]["tool_calls"][0]["function"]["name"] == "add"


def test_pairs_are_those_that_passed_and_the_funnel_adds_up() -> None:
    rows = [ATTEMPT.row("4", "5"), ATTEMPT.row("4", "6", state="checker_failed", reason="both right"), ATTEMPT.row("4", "4")]
    twin = Attempt(source=PROMPT, method="ladder", axis="a number", parameters={"degree": 2}).row("4", "5")
    found = contrasts([*rows, twin])
    pairs, _, funnels = contrast_pairs(found)
    assert check(pairs, "pairs").height == 1
    assert (pairs["kind"][0], pairs["pair_policy"][0], said(pairs["chosen"][0]), said(pairs["rejected"][0])) == (
        "ladder",
        "ladder",
        "4",
        "5",
    )
    assert funnels[0].as_dict() == {
        "stage": "contrast",
        "unit": "ladder attempts",
        "n_in": 4,
        "n_kept": 1,
        "dropped": {"checker_failed": 1, "duplicate_pair": 1, "identical_text": 1},
    }
    shuffled, _, again = contrast_pairs(found.sample(fraction=1.0, shuffle=True, seed=1))
    assert shuffled.equals(pairs)
    assert again == funnels


def test_nothing_in_gives_nothing_out() -> None:
    pairs, joint, funnels = contrast_pairs(contrasts([]))
    assert (check(pairs, "pairs").height, check(joint, "joint_pairs").height, funnels) == (0, 0, [])
    assert contrasts([]).schema == pl.Schema(dict(CONTRASTS))


def test_on_policy_needs_both_sides_of_the_policy() -> None:
    rows = answered([(PROMPT, ["4", "5"])]).sort("sample_index").to_dicts()
    found = contrasts([ATTEMPT.row(rows[0], rows[1]), ATTEMPT.row(rows[0], "6")])
    pairs, _, _ = contrast_pairs(found, policy=POLICY)
    assert {said(row["rejected"]): row["on_policy"] for row in pairs.iter_rows(named=True)} == {"5": True, "6": False}
    assert contrast_pairs(found)[0]["on_policy"].to_list() == [None, None]


def test_answers_leaves_out_what_cannot_be_used() -> None:
    bad = {**make_prompt("Hi"), "state": "duplicate"}
    rows = [generation(PROMPT, "4"), generation(PROMPT, "", 1, state="empty"), generation(bad, "Hello")]
    found = answers(frame([PROMPT, bad], PROMPTS), frame(rows, GENERATIONS))
    assert found["text"].to_list() == ["4"]
    assert found["score"].to_list() == [None]
    twice = pl.DataFrame({"generation_id": ["x", "x"], "score": [1.0, 2.0]})
    with pytest.raises(SchemaError, match="more than one score"):
        answers(frame([PROMPT], PROMPTS), frame(rows, GENERATIONS), twice)
    assert one("4").height == 1


def test_attempts_that_name_what_was_asked_have_ids_of_their_own() -> None:
    made = contrasts([ATTEMPT.row("4", "5"), ATTEMPT.row("4", "6")])
    first, again, other = (of_synthesis(made, name) for name in ("one", "one", "two"))
    assert first.equals(again)
    assert len({*made["contrast_id"], *first["contrast_id"], *other["contrast_id"]}) == 6
    assert first["synthesis_id"].to_list() == ["one", "one"]
    assert contrast_pairs(first)[0].equals(contrast_pairs(other)[0])


def test_a_prompt_stays_in_the_split_that_it_has() -> None:
    made = contrasts([ATTEMPT.row("4", "5")])
    splits = [contrast_pairs(made, splits={PROMPT["prompt_id"]: split})[0]["split"].to_list() for split in ("train", "test")]
    assert splits == [["train"], ["test"]]
    assert contrast_pairs(contrasts([ATTEMPT.row("4", "5", split="test")]), splits={PROMPT["prompt_id"]: "train"})[0]["split"][0] == "test"
