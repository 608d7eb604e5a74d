"""Pairs by policy: hand-computed groups, what must be dropped and why, and properties over random groups."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import ConfigError, SchemaError
from curators.pairs import PairConfig, PairPolicy, best_of_n_kl, build_pairs, split_of
from curators.sampling import make_prompt
from curators.schema import GENERATIONS, PROMPTS, VERDICTS, check, frame

PROMPT = make_prompt("Name a sea animal.")
P = PROMPT["prompt_id"]


def generations(texts: dict[str, str], state: str = "ok", prompt_id: str = P) -> list[dict[str, Any]]:
    return [{"generation_id": gid, "prompt_id": prompt_id, "policy": "m@1", "text": text, "state": state} for gid, text in texts.items()]


def scores(values: dict[str, float | None]) -> pl.DataFrame:
    return pl.DataFrame(list(values.items()), schema={"generation_id": pl.String, "score": pl.Float64}, orient="row")


def verdict(a: str, b: str, verdict: str, p_a: float | None = None, **columns: Any) -> dict[str, Any]:
    return {"prompt_id": P, "a_id": a, "b_id": b, "judge": "j", "verdict": verdict, "p_a": p_a, **columns}


def build(
    rows: list[dict[str, Any]], values: dict[str, float | None], verdicts: list[dict[str, Any]] | None = None, **config: Any
) -> tuple[set[tuple[str, str]], dict[str, int]]:
    """The (chosen, rejected) ids and the prompt funnel's reasons, from the one prompt."""
    pairs, funnels = build_pairs(
        frame([PROMPT], PROMPTS),
        frame(rows, GENERATIONS),
        scores(values),
        verdicts=None if verdicts is None else frame(verdicts, VERDICTS),
        config=PairConfig(**config),
    )
    check(pairs, "pairs")
    return set(pairs.select("chosen_id", "rejected_id").iter_rows()), dict(funnels[0].dropped)


FOUR = generations({"a": "whale", "b": "squid", "c": "seal", "d": "crab"})
GRADES: dict[str, float | None] = {"a": 3.0, "b": 5.0, "c": 1.0, "d": 5.0}


@pytest.mark.parametrize(
    ("policy", "margin", "expected"),
    [
        ("best_vs_worst", 0, {("b", "c")}),  # b and d are equal: the smaller id
        ("best_vs_worst", 4, {("b", "c")}),  # the margin is inclusive
        ("all_pairs", 0, {("b", "a"), ("d", "a"), ("b", "c"), ("d", "c"), ("a", "c")}),  # b against d is a tie
        ("all_pairs", 3, {("b", "c"), ("d", "c")}),
        ("best_vs_random", 3, {("b", "c")}),  # only c is 3 lower
    ],
)
def test_a_policy_gives_the_pairs_computed_by_hand(policy: PairPolicy, margin: float, expected: set[tuple[str, str]]) -> None:
    assert build(FOUR, GRADES, pair_policy=policy, min_margin=margin)[0] == expected


def test_the_random_rejected_depends_on_the_seed_and_every_lower_one_is_drawn() -> None:
    drawn = [build(FOUR, GRADES, pair_policy="best_vs_random", seed=seed)[0] for seed in range(16)]
    assert drawn[7] == build(FOUR, GRADES, pair_policy="best_vs_random", seed=7)[0]
    assert {pair for pairs in drawn for pair in pairs} == {("b", "a"), ("b", "c")}


@pytest.mark.parametrize("policy", ["best_vs_worst", "best_vs_random", "all_pairs"])
@pytest.mark.parametrize(
    ("rows", "values", "margin", "reason"),
    [
        pytest.param(FOUR[:1], {"a": 1.0}, 0, "too_few_generations", id="one generation"),
        pytest.param([FOUR[0], *generations({"x": ""}, "empty")], {"a": 1.0}, 0, "too_few_generations", id="one usable"),
        pytest.param(FOUR, {"a": 1.0, "b": None}, 0, "too_few_scored", id="one scored"),
        pytest.param(FOUR, {"a": 2.0, "b": 2.0, "c": 2.0}, 0, "tie", id="all the same score"),
        pytest.param(FOUR, {"a": 2.0, "b": 2.5}, 1, "below_margin", id="margin"),
        pytest.param(generations({"x": "a  whale", "y": " a whale\n"}), {"x": 1.0, "y": 2.0}, 0, "identical_text", id="same text"),
    ],
)
def test_a_prompt_without_a_pair_has_a_reason(
    policy: PairPolicy, rows: list[dict[str, Any]], values: dict[str, float | None], margin: float, reason: str
) -> None:
    assert build(rows, values, pair_policy=policy, min_margin=margin) == (set(), {reason: 1})


def test_a_copy_of_the_best_does_not_stand_against_it() -> None:
    rows = generations({"a": "whale", "b": " whale", "c": "crab"})
    assert build(rows, {"a": 3.0, "b": 1.0, "c": 2.0})[0] == {("a", "c")}


def test_pairs_with_the_same_two_texts_are_one_pair() -> None:
    rows = generations({"a": "whale", "b": " whale", "c": "crab"})
    pairs, dropped = build(rows, {"a": 3.0, "b": 4.0, "c": 2.0}, pair_policy="all_pairs")
    assert (pairs, dropped) == ({("b", "c")}, {})


def test_truncated_generations_stand_in_a_pair_only_when_allowed() -> None:
    rows = [*FOUR[:1], *generations({"t": "cut o"}, "truncated")]
    assert build(rows, {"a": 2.0, "t": 1.0}) == (set(), {"too_few_generations": 1})
    assert build(rows, {"a": 2.0, "t": 1.0}, use_truncated=True)[0] == {("a", "t")}


def test_the_cap_keeps_the_largest_margins() -> None:
    assert build(FOUR, GRADES, pair_policy="all_pairs", max_per_prompt=2)[0] == {("b", "c"), ("d", "c")}


@pytest.mark.parametrize(
    ("direct", "expected"),
    [
        ([verdict("b", "c", "a", 0.9)], ({("b", "c")}, {})),
        ([verdict("b", "c", "inconsistent", 0.6)], (set(), {"inconsistent": 1})),
        ([verdict("b", "c", "tie", 0.5)], (set(), {"tie": 1})),
        ([verdict("b", "c", "b", 0.2)], (set(), {"contradicted": 1})),
        ([verdict("b", "c", "unscored")], ({("b", "c")}, {})),
        ([verdict("a", "b", "inconsistent", 0.5)], ({("b", "c")}, {})),
    ],
)
def test_a_direct_verdict_may_veto_a_pair(direct: list[dict[str, Any]], expected: tuple[set[tuple[str, str]], dict[str, int]]) -> None:
    assert build(FOUR, {"a": 0.5, "b": 0.9, "c": 0.1}, direct) == expected


def test_a_pair_carries_text_scores_probability_and_origin() -> None:
    rows = generations({"a": "whale", "b": "squid"})
    rows[0] |= {"reasoning": "think", "tool_calls": '[{"id":"1"}]'}
    rows[1] |= {"policy": "other"}
    pairs, _ = build_pairs(
        frame([PROMPT], PROMPTS),
        frame(rows, GENERATIONS),
        scores({"a": 0.8, "b": 0.2}),
        verdicts=frame([verdict("a", "b", "a", 0.8)], VERDICTS),
        label_source="j",
        config=PairConfig(policy="m@1"),
    )
    (pair,) = pairs.to_dicts()
    assert pair["prompt"] == '[{"role":"user","content":"Name a sea animal."}]'
    assert pair["chosen"] == '[{"role":"assistant","content":"whale","reasoning_content":"think","tool_calls":[{"id":"1"}]}]'
    assert pair["rejected"] == '[{"role":"assistant","content":"squid"}]'
    assert (pair["margin"], pair["p_chosen"], pair["label_source"], pair["on_policy"]) == (pytest.approx(0.6), 0.8, "j", False)
    assert (pair["chosen_score"], pair["rejected_score"], pair["chosen_policy"], pair["rejected_policy"]) == (0.8, 0.2, "m@1", "other")


def test_the_pairs_id_is_about_its_texts_and_not_about_its_scores() -> None:
    def ids(values: dict[str, float | None]) -> list[str]:
        pairs, _ = build_pairs(frame([PROMPT], PROMPTS), frame(FOUR, GENERATIONS), scores(values))
        return pairs["pair_id"].to_list()

    assert ids({"a": 2.0, "b": 1.0}) == ids({"a": 9.0, "b": 1.0}) != ids({"a": 1.0, "b": 2.0})


def test_recorded_pairs_are_those_that_were_compared() -> None:
    recorded = [
        verdict("a", "b", "a", 1.0, margin=1.0),
        verdict("c", "d", "b", 0.25, margin=0.5),
        verdict("a", "c", "tie", 0.5, margin=0.0),
        verdict("a", "d", "unscored"),
        verdict("b", "d", "inconsistent", 0.5, margin=0.0),
    ]
    pairs, funnels = build_pairs(
        frame([PROMPT], PROMPTS),
        frame(FOUR, GENERATIONS),
        scores({}),
        verdicts=frame(recorded, VERDICTS),
        config=PairConfig(pair_policy="recorded"),
    )
    found = {(row["chosen_id"], row["rejected_id"]): (row["p_chosen"], row["margin"], row["chosen_score"]) for row in pairs.to_dicts()}
    # a bare label has no stated probability, and so no known margin
    assert found == {("a", "b"): (None, None, None), ("d", "c"): (0.75, 0.5, None)}
    assert funnels[1].dropped == {"inconsistent": 1, "tie": 1, "unscored": 1}


def test_recorded_scores_are_margins() -> None:
    recorded = [verdict("a", "b", "b", scores_delta=-2.5), verdict("c", "d", "tie", scores_delta=0.0)]
    values = {"a": 6.0, "b": 8.5, "c": 7.0, "d": 7.0}
    pairs, _ = build_pairs(
        frame([PROMPT], PROMPTS),
        frame(FOUR, GENERATIONS),
        scores(dict(values)),
        verdicts=frame(recorded, VERDICTS),
        config=PairConfig(pair_policy="recorded"),
    )
    assert pairs.select("chosen_id", "chosen_score", "rejected_score", "margin", "p_chosen").rows() == [("b", 8.5, 6.0, 2.5, None)]


def test_a_margin_that_nobody_recorded_is_not_large_enough() -> None:
    assert build(FOUR, {}, [verdict("a", "b", "a", 1.0, margin=1.0)], pair_policy="recorded", min_margin=0.1)[1] == {"no_margin": 1}


def test_prompts_that_are_not_ok_have_no_pairs_and_are_not_counted() -> None:
    bad = {**make_prompt("x"), "state": "duplicate"}
    rows = generations({"e": "1", "f": "2"}, prompt_id=bad["prompt_id"])
    pairs, funnels = build_pairs(frame([bad], PROMPTS), frame(rows, GENERATIONS), scores({"e": 1.0, "f": 2.0}))
    assert (pairs.height, funnels[0].n_in) == (0, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pair_policy": "best"}, "pair policy is 'best'; allowed are"),
        ({"min_margin": -1}, "min_margin is -1, must be ≥ 0"),
        ({"test_share": 1}, r"test_share is 1, must be in \[0, 1\)"),
        ({"max_per_prompt": 0}, "max_per_prompt is 0"),
    ],
)
def test_a_wrong_parameter_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairConfig(**config)


def test_ambiguous_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="policy 'recorded' takes the pairs from verdicts"):
        build(FOUR, GRADES, pair_policy="recorded")
    with pytest.raises(SchemaError, match="a pair has more than one verdict"):
        build(FOUR, GRADES, [verdict("a", "b", "a", 1.0), verdict("a", "b", "b", 0.0)])
    doubled = pl.concat([scores(GRADES), scores(GRADES)])
    with pytest.raises(SchemaError, match="a generation has more than one score"):
        build_pairs(frame([PROMPT], PROMPTS), frame(FOUR, GENERATIONS), doubled)


def test_the_split_is_by_prompt_and_near_its_share() -> None:
    splits = [split_of(f"prompt {i}", 0.1) for i in range(5000)]
    assert splits.count("test") == pytest.approx(500, abs=70)
    # a prompt in the test split stays there when the share grows
    assert all(split_of(f"prompt {i}", 0.2) == "test" for i, split in enumerate(splits) if split == "test")


def test_the_kl_bound_of_best_of_n() -> None:
    # log n - (n - 1)/n: 0 for one sample, log 4 - 3/4 for four
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(0.636294)


groups = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["ok", "truncated", "empty"]), st.sampled_from("uvwxyz"), st.none() | st.integers(1, 5)), max_size=6
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=25)
@given(groups, st.sampled_from(["best_vs_worst", "best_vs_random", "all_pairs"]), st.integers(0, 3), st.randoms(use_true_random=False))
def test_properties_of_any_groups(
    drawn: list[list[tuple[str, str, int | None]]], policy: PairPolicy, margin: int, rng: random.Random
) -> None:
    prompts = [make_prompt(f"prompt {i}") for i in range(len(drawn))]
    rows, values = [], {}
    for i, group in enumerate(drawn):
        for k, (state, text, score) in enumerate(group):
            rows += generations({f"{i}.{k}": text}, state, prompts[i]["prompt_id"])
            values[f"{i}.{k}"] = None if score is None else float(score)
    config = PairConfig(pair_policy=policy, min_margin=margin)
    pairs, funnels = build_pairs(frame(prompts, PROMPTS), frame(rows, GENERATIONS), scores(dict(values)), config=config)
    shuffled, _ = build_pairs(
        frame(rng.sample(prompts, len(prompts)), PROMPTS),
        frame(rng.sample(rows, len(rows)), GENERATIONS),
        scores(dict(rng.sample(sorted(values.items()), len(values)))),
        config=config,
    )
    assert pairs.equals(shuffled)
    assert (pairs["margin"] >= margin).all()
    assert (pairs["margin"] > 0).all()
    assert (pairs["chosen"] != pairs["rejected"]).all()
    assert pairs["pair_id"].is_unique().all()
    assert (pairs["chosen_score"] > pairs["rejected_score"]).all()
    assert [funnel.n_in for funnel in funnels[:1]] == [len(prompts)]
    assert funnels[0].n_kept == pairs["prompt_id"].n_unique()
    assert funnels[1].n_kept == pairs.height
