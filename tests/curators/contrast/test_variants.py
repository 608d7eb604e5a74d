"""Profiles: one chosen answer each, rejected from another, held out by text; pairs turned round; edits of one constraint."""

from __future__ import annotations

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curators.constraints import holds
from curators.contrast.candidates import answers, contrast_pairs
from curators.contrast.negatives import reversals, reversed_pairs
from curators.contrast.prompt_side import inter_sample
from curators.contrast.single_edits import SingleEditConfig, single_edits
from curators.contrast.variants import VariantConfig, profile_pairs, profile_prompts, profile_split
from curators.errors import ConfigError
from curators.sampling import make_prompt
from curators.schema import GENERATIONS, JOINT_PAIRS, PAIRS, PROMPTS, frame
from tests.curators.contrast.conftest import generation, in_process, one, said

PROFILES = ["Be brief.", "Be formal.", "Use an image.", "Speak as to a child.", "Give sources.", "Be merry."]
INSTRUCTIONS = frame([make_prompt(f"Explain tide {i}.", meta={"topic": i}) for i in range(5)], PROMPTS)


def written(prompts: pl.DataFrame, *, blind: bool = False) -> pl.DataFrame:
    """Two answers to every prompt, which say the profile that they were written for (blind: they do not)."""
    rows = []
    for row in prompts.iter_rows(named=True):
        meta = orjson.loads(row["meta"])
        text = "The moon pulls." if blind else f"The moon pulls. ({meta['profile']})"
        rows += [generation(row, f"{text} {index}" if not blind else text, index) for index in (0, 1)]
    return answers(prompts, frame(rows, GENERATIONS))


@pytest.mark.parametrize("place", ["system", "context"])
def test_each_instruction_and_profile_has_one_chosen_and_the_rejected_is_another_profiles(place: str) -> None:
    prompts = profile_prompts(INSTRUCTIONS, PROFILES, place=place)  # type: ignore[arg-type]
    assert prompts.height == 30
    rows = written(prompts)
    found = profile_pairs(rows)
    assert profile_pairs(rows.sample(fraction=1.0, shuffle=True, seed=3)).equals(found)
    pairs, _, _ = contrast_pairs(found)
    assert pairs.height == 30
    assert pairs["prompt"].n_unique() == 30  # an instruction under a profile
    assert set(pairs["prompt_id"]) == set(INSTRUCTIONS["prompt_id"])  # so that no instruction stands in both splits
    assert pairs.group_by("prompt_id").agg(pl.col("split").n_unique())["split"].to_list() == [1] * 5
    about = {row["messages"]: orjson.loads(row["meta"]) for row in prompts.iter_rows(named=True)}
    for row in pairs.iter_rows(named=True):
        profile = about[row["prompt"]]["profile"]
        first, last = orjson.loads(row["prompt"])[0], orjson.loads(row["prompt"])[-1]
        assert profile in (first["content"] if place == "system" else last["content"])
        assert said(row["chosen"]) == f"The moon pulls. ({profile}) 0"
        assert profile not in said(row["rejected"])
        assert row["kind"] == ("janus" if place == "system" else "context")


def test_held_out_profiles_are_disjoint_from_the_others() -> None:
    found = profile_pairs(written(profile_prompts(INSTRUCTIONS, PROFILES)), config=VariantConfig(held_out_share=0.5))
    assert set(found["state"]) == {"ok"}
    seen: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in found.iter_rows(named=True):
        parameters = orjson.loads(row["parameters"])
        seen[row["split"]] |= {parameters["profile"], parameters["rejected_profile"]}
    assert seen["train"]
    assert seen["test"]
    assert seen["train"].isdisjoint(seen["test"])
    assert {profile_split(profile, 0.5) for profile in seen["test"]} == {"test"}
    pairs, _, _ = contrast_pairs(found)
    assert dict(pairs["split"].value_counts().iter_rows()) == {"train": 5 * len(seen["train"]), "test": 5 * len(seen["test"])}


def test_one_pair_an_instruction_as_published() -> None:
    found = profile_pairs(written(profile_prompts(INSTRUCTIONS, PROFILES, per_prompt=3, seed=1)), config=VariantConfig(per_prompt=1))
    assert found.height == 5


def test_the_same_answer_for_every_profile_and_a_lonely_profile_are_no_pair() -> None:
    prompts = profile_prompts(INSTRUCTIONS.head(1), PROFILES[:2])
    assert profile_pairs(written(prompts, blind=True))["state"].to_list() == ["no_other_profile"] * 2
    assert profile_pairs(written(prompts.head(1)))["state"].to_list() == ["no_other_profile"]
    with pytest.raises(ConfigError, match="it takes two"):
        profile_prompts(INSTRUCTIONS, ["Be brief.", " Be brief. "])


def test_a_profiles_verifier_confirms_the_pair() -> None:
    prompts = profile_prompts(INSTRUCTIONS.head(1), PROFILES[:2])
    prompts = prompts.with_columns(reference=pl.col("meta").str.json_path_match("$.profile"))
    follows = in_process(lambda *, prompt, response, reference: reference in response)
    never = in_process(lambda *, prompt, response, reference: False)
    assert profile_pairs(written(prompts), verifier=follows)["state"].to_list() == ["ok"] * 2
    assert profile_pairs(written(prompts), verifier=never)["state"].to_list() == ["checker_failed"] * 2


def test_a_prompt_that_takes_no_context_says_so() -> None:
    parts = make_prompt([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
    assert set(profile_prompts(frame([parts], PROMPTS), PROFILES, place="context")["state"]) == {"wrong_type"}


def turn(text: str) -> str:
    return orjson.dumps([{"role": "assistant", "content": text}]).decode()


@given(
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5), st.none() | st.floats(0.5, 1.0), st.none() | st.floats(-9, 9)), max_size=6)
)
def test_reversal_is_an_involution(rows: list[tuple[str, str, float | None, float | None]]) -> None:
    pairs = frame(
        [
            {
                "pair_id": f"p{i}",
                "kind": "response",
                "prompt": "[]",
                "chosen": turn(a),
                "rejected": turn(b),
                "chosen_id": "c",
                "rejected_id": "r",
                "chosen_score": score,
                "rejected_score": 0.0 if score is not None else None,
                "margin": score,
                "p_chosen": p,
                "chosen_policy": "one",
                "rejected_policy": "two",
            }
            for i, (a, b, p, score) in enumerate(rows)
        ],
        PAIRS,
    )
    turned = reversed_pairs(pairs)
    assert reversed_pairs(turned).equals(pairs)
    assert turned["chosen"].to_list() == pairs["rejected"].to_list()
    assert turned["rejected_policy"].to_list() == pairs["chosen_policy"].to_list()
    assert all(each.startswith("reversed:") for name in ("kind", "pair_id") for each in turned[name])
    assert turned["margin"].to_list() == [None if score is None else -score for *_, score in rows]


def test_reversal_of_a_pair_with_two_prompts_exchanges_them() -> None:
    row = {"pair_id": "p", "kind": "mapl_intra", "prompt": "[1]", "rejected_prompt": "[2]", "chosen": turn("a"), "rejected": turn("a")}
    pairs = frame([row], JOINT_PAIRS)
    turned = reversed_pairs(pairs)
    assert turned.select("prompt", "rejected_prompt").row(0) == ("[2]", "[1]")
    assert reversed_pairs(turned).equals(pairs)


def test_reversals_are_attempts_with_both_sides_and_prompts_exchanged() -> None:
    sides = {"chosen": turn("a"), "rejected": turn("b"), "chosen_policy": "p", "rejected_policy": "q", "p_chosen": 0.75}
    user, other = (f'[{{"role":"user","content":"{text}"}}]' for text in ("x", "y"))
    rows = [
        {"pair_id": "one", "prompt_id": "1", "kind": "response", "prompt": user, **sides, "chosen_score": 3.0, "rejected_score": 1.0},
        {
            "pair_id": "two",
            "prompt_id": "2",
            "kind": "mapl_intra",
            "prompt": user,
            "rejected_prompt": other,
            **sides,
            "rejected": turn("a"),
        },
        {"pair_id": "three", "prompt_id": "3", "kind": "step", "prompt": user, **sides},
        {
            "pair_id": "four",
            "prompt_id": "4",
            "kind": "response",
            "prompt": user,
            **sides,
            "rejected": '[{"role":"assistant","content":null}]',
        },
    ]
    found = {row["source_ids"][0]: row for row in reversals(frame(rows, JOINT_PAIRS)).iter_rows(named=True)}
    assert {name: row["state"] for name, row in found.items()} == {"one": "ok", "two": "ok", "three": "unsupported", "four": "unsupported"}
    assert (said(found["one"]["chosen"]), said(found["one"]["rejected"]), found["one"]["p_chosen"]) == ("b", "a", 0.25)
    assert (found["one"]["chosen_policy"], found["one"]["chosen_score"], found["one"]["rejected_score"]) == ("q", 1.0, 3.0)
    assert (found["two"]["prompt"], found["two"]["rejected_prompt"]) == (other, user)
    assert "steps of an answer" in found["three"]["reason"]
    plain = reversals(frame(rows[:1], JOINT_PAIRS).drop("rejected_prompt"))
    assert plain["pair_id"].to_list() == [found["one"]["pair_id"]]


def test_constraints_are_not_added_to_a_pair_with_two_prompts_or_to_steps() -> None:
    user = '[{"role":"user","content":"x"}]'
    row = {"prompt_id": "1", "prompt": user, "chosen": turn("The moon pulls."), "rejected": turn("It is the wind.")}
    rows = [{**row, "pair_id": "a", "kind": "mapl_intra", "rejected_prompt": user}, {**row, "pair_id": "b", "kind": "step"}]
    found = inter_sample(frame(rows, JOINT_PAIRS))
    assert found["state"].to_list() == ["unsupported"] * 2
    assert set(found["reason"]) == {"its sides have two prompts", "its sides are steps of an answer"}


CONSTRAINTS = [
    {"kind": "max_words", "value": 12},
    {"kind": "contains", "value": "moon"},
    {"kind": "no_commas"},
    {"kind": "n_sentences", "value": 2},
    {"kind": "starts_with", "value": "The"},
]


def test_an_edit_fails_exactly_one_constraint() -> None:
    text = "The moon pulls the sea. It is not close."
    axes = set()
    for seed in range(25):
        row = single_edits(one(text, reference={"constraints": CONSTRAINTS}), config=SingleEditConfig(seed=seed)).row(0, named=True)
        assert row["state"] == "ok"
        before, after = ([holds(said(row[side]), each) for each in CONSTRAINTS] for side in ("chosen", "rejected"))
        assert all(before)
        assert after.count(False) == 1
        assert CONSTRAINTS[after.index(False)]["kind"] == row["axis"]
        assert row["edit_sim"] >= 0.5
        axes.add(row["axis"])
    assert axes == {each["kind"] for each in CONSTRAINTS}


def test_an_edit_that_cannot_be_made_says_why() -> None:
    text = "The moon pulls."
    wrong = single_edits(one(text, reference={"constraints": [{"kind": "contains", "value": "sun"}]}))
    assert wrong["state"].to_list() == ["already_wrong"]
    never = single_edits(one(text, reference={"constraints": [{"kind": "max_chars", "value": 9999}]}))
    assert never["state"].to_list() == ["unsatisfiable"]
    assert single_edits(one(text))["state"].to_list() == ["unverified"]
    broken = single_edits(one(text, reference={"constraints": [{"kind": "rhymes", "value": 2}]}))
    assert broken["state"].to_list() == ["unverified"]
    assert contrast_pairs(pl.concat([wrong, never, broken]))[0].is_empty()
