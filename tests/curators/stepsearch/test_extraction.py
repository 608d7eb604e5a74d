"""Step pairs and labels of finished trees: T1 and T2 as in the specification, the rules on one hand-made tree, properties of any trees."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import ConfigError, SchemaError
from curators.judging.parsing import normalise
from curators.sampling import Row, make_prompt
from curators.schema import NODES, PROMPTS, check, frame
from curators.stepsearch.config import PRESETS
from curators.stepsearch.extraction import EXTRACTIONS, StepPairConfig, step_pairs
from curators.stepsearch.labels import step_labels
from curators.stepsearch.nodes import node_rows
from curators.stepsearch.smoothing import smoothing
from curators.stepsearch.step import Step
from curators.stepsearch.toys import t1, t2, wild
from curators.stepsearch.tree import Expander, Tree, search, simulate
from curators.stepsearch.writing import answer_funnel, answer_pairs

PROMPT = make_prompt("How many sea animals are there?")


def searched(expander: Expander, mode: str = "paper", **changes: Any) -> Tree:
    return search(Tree(replace(PRESETS[mode], **{"depth_limit": None, "root_multiplier": 1} | changes)), expander)


def nodes_of(*trees: Tree, prompt: Row = PROMPT, **about: Any) -> pl.DataFrame:
    rows = [row for tree in trees for row in node_rows(tree, prompt_id=prompt["prompt_id"], **{"policy": "m@1", "judge": "v@1"} | about)]
    return check(frame(rows, NODES), "nodes")


def extract(nodes: pl.DataFrame, preset: str = "default", **changes: Any) -> tuple[list[Row], dict[str, int]]:
    """The pairs, deepest last, and why parents have none."""
    pairs, funnels = step_pairs(frame([PROMPT], PROMPTS), nodes, config=replace(EXTRACTIONS[preset], **changes))
    return check(pairs, "step_pairs").sort("depth", "prefix").to_dicts(), dict(funnels[1].dropped)


def test_the_pairs_of_t1() -> None:
    # depth 1: A 1.9 against B -.6, visits 3 and 1; depth 2: A1 1.3 (4 simulations more: 7) against A2, which nobody visited, -1.4
    nodes = nodes_of(searched(t1, simulations=4))
    first, second = extract(nodes, "paper")[0]
    assert (first["prefix"], first["chosen_step"], first["rejected_step"], first["depth"]) == ("", "A", "B", 1)
    assert [first[name] for name in ("chosen_q", "rejected_q", "margin", "chosen_visits", "rejected_visits", "alpha")] == pytest.approx(
        [1.9, -0.6, 2.5, 3, 1, 0.25]
    )
    assert (second["prefix"], second["chosen_step"], second["rejected_step"], second["depth"]) == ("A", "1", "2", 2)
    assert [second[name] for name in ("chosen_q", "rejected_q", "margin", "rejected_visits", "alpha")] == pytest.approx(
        [1.3, -1.4, 2.7, 0, 0]
    )
    assert [pair["alpha"] for pair in extract(nodes, "paper", alpha_mode="ref")[0]] == [0.25, 0]
    ours = extract(nodes, "paper", alpha_mode="visits")[0]
    assert ours[0]["alpha"] == pytest.approx(1 / 3)
    assert (first["chosen"], second["chosen"]) == tuple(f'[{{"role":"assistant","content":"{text}"}}]' for text in ("A", "A1"))
    assert (second["chosen_terminal"], second["rejected_outcome"], second["parent_r_value"], first["chosen_regret"]) == (True, -1, 0.6, 0)
    assert (first["rejected_regret"], first["rejected_w_mean"], first["label_source"]) == (2.5, pytest.approx(-0.65), "v@1")


def test_the_wrong_order_of_t2_after_few_simulations_is_no_pair() -> None:
    tree = Tree(replace(PRESETS["paper"], depth_limit=None))
    for _ in range(64):
        simulate(tree, t2)
    nodes = nodes_of(tree)
    (first,) = extract(nodes, "paper")[0]
    assert (first["chosen_step"], first["rejected_step"]) == ("1 ", "0 ")  # Q 1.689 and 1.594, though 0 is the best first step
    assert first["alpha"] == pytest.approx(17 / 35)
    pairs, dropped = extract(nodes, parents="path")
    assert (pairs, dropped) == ([], {"below_gap": 1})
    assert extract(nodes, parents="path", min_gap=0.0)[1] == {"signs_disagree": 1}
    # against the sibling with 29 visits the paper's α would flip the label: 29 / 47
    assert smoothing(18, 29, mode="paper") == pytest.approx(0.617, abs=5e-4)
    assert smoothing(18, 29, mode="ref") == smoothing(18, 29) == 0.5


# what is below A, B, C and D; each was visited
FOUR = (("A", 0.1, 2.0), ("B", 0.45, 1.5), ("C", 0.3, -1.0), ("D", 0.15, -2.0))


def four(steps: tuple[tuple[str, float, float], ...] = FOUR, **changes: Any) -> Expander:
    def expand(tree: Tree, node: int) -> list[Step]:
        return [
            Step(text=text, value=value, outcome=math.copysign(1, value), terminal=True, prior=prior, **changes)
            for text, prior, value in steps
        ]

    return expand


@pytest.mark.parametrize(
    ("changes", "rejected"),
    [
        ({}, ["D"]),
        ({"rejected": "second_best", "min_gap": 0.5, "require_outcomes": False}, ["B"]),
        ({"rejected": "second_best", "min_gap": 0.6, "require_outcomes": False}, []),
        ({"rejected": "hardest"}, ["C"]),
        ({"rejected": "hardest", "require_outcomes": False}, ["B"]),
        ({"rejected": "hardest", "require_outcomes": False, "min_gap": 0.6}, ["C"]),
        ({"rejected": "hardest", "require_outcomes": False, "max_per_parent": 2}, ["B", "C"]),
        ({"max_per_parent": 3, "require_outcomes": False}, ["B", "C", "D"]),
        ({"max_per_parent": 3, "require_outcomes": False, "min_gap": 3.0}, ["C", "D"]),
        ({"max_per_parent": 3, "max_per_prompt": 1}, ["D"]),
        ({"label_value": "w_max", "max_per_parent": 2}, ["C", "D"]),
    ],
)
def test_the_rejected_step_by_rule(changes: dict[str, Any], rejected: list[str]) -> None:
    pairs, _ = extract(nodes_of(searched(four(), simulations=64)), **changes)
    assert [pair["chosen_step"] for pair in pairs] == ["A"] * len(rejected)
    assert sorted(pair["rejected_step"] for pair in pairs) == rejected


def test_a_random_rejected_step_depends_on_the_seed_and_is_never_the_best() -> None:
    nodes = nodes_of(searched(four(), simulations=64))
    drawn = [extract(nodes, "ref", solved_only=False, seed=seed)[0][0] for seed in range(24)]
    assert {pair["chosen_step"] for pair in drawn} == {"A"}
    assert {pair["rejected_step"] for pair in drawn} == {"B", "C", "D"}


@pytest.mark.parametrize(
    ("steps", "changes", "reason"),
    [
        ((("A", 1, 1.0),), {}, "too_few_steps"),
        ((("A", 0.5, 1.0), ("B", 0.5, 1.0)), {"require_outcomes": False}, "tie"),
        ((("A", 0.5, 1.0), (" A\n", 0.5, -1.0)), {}, "identical_text"),
        ((("A", 0.5, 1.0), ("B", 0.5, 0.5)), {}, "no_wrong_below"),
        ((("A", 0.5, -1.0), ("B", 0.5, -0.5)), {}, "no_right_below"),
        ((("A", 0.5, 1.0), ("B", 0.5, 0.8)), {"require_outcomes": False}, "below_gap"),
    ],
)
def test_a_parent_without_a_pair_has_a_reason(steps: Any, changes: dict[str, Any], reason: str) -> None:
    assert extract(nodes_of(searched(four(steps), simulations=8)), **changes) == ([], {reason: 1})


def test_a_step_from_the_reference_stands_only_when_allowed() -> None:
    nodes = nodes_of(searched(four(injected=True), simulations=8))
    assert extract(nodes) == ([], {"too_few_steps": 1})
    assert len(extract(nodes, allow_injected=True)[0]) == 1


def test_a_step_that_was_hardly_visited_stands_only_as_a_graded_answer() -> None:
    tree = searched(t2, simulations=5)
    assert [tree.at_commit[child][0] for child in tree.children(0)] == [0, 0, 5]
    pairs, dropped = extract(nodes_of(tree), parents="path", require_outcomes=False, min_gap=0.0, signs_agree=False, min_visits=2)
    assert [pair["depth"] for pair in pairs] == [2, 3]
    assert dropped == {"too_few_steps": 1}


def test_only_solved_trees_when_asked() -> None:
    wrong = four((("A", 0.5, -1.0), ("B", 0.5, -2.0)))
    nodes = nodes_of(searched(wrong, simulations=8))
    assert extract(nodes, "ref") == ([], {"unsolved": 1})
    assert len(extract(nodes, "ref", solved_only=False)[0]) == 1
    assert len(extract(nodes_of(searched(four(), simulations=8)), "ref")[0]) == 1


def test_several_trees_of_a_prompt_share_its_cap_and_repeat_no_pair() -> None:
    one, other = (nodes_of(searched(four(), simulations=64), seed=seed) for seed in (1, 2))
    both = pl.concat([one, other])
    assert both["tree_id"].n_unique() == 2
    assert extract(both)[1] == {"duplicate_pair": 1}
    assert len(extract(both, max_per_parent=2)[0]) == 2
    assert extract(pl.concat([one, nodes_of(searched(t1, simulations=8))]), max_per_prompt=1)[1]["over_cap"] == 2


def test_tokens_are_those_sampled() -> None:
    def expand(tree: Tree, node: int) -> list[Step]:
        depth = tree.depth[node]
        return [Step(**fields, token_ids=[depth, i]) for i, fields in enumerate(_fields(step) for step in t1(tree, node))]

    pairs, _ = extract(nodes_of(searched(expand, simulations=8)))
    assert [(p["prefix_token_ids"], p["chosen_token_ids"], p["rejected_token_ids"]) for p in pairs] == [
        ([], [0, 0], [0, 1]),
        ([0, 0], [1, 0], [1, 1]),
    ]
    assert extract(nodes_of(searched(t1, simulations=8)))[0][1]["prefix_token_ids"] is None


def _fields(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in ("text", "value", "outcome", "terminal", "prior")}


def test_origin_and_split_are_those_of_the_prompt_and_policy() -> None:
    nodes = nodes_of(searched(t1, simulations=8))
    (pair, _), _ = extract(nodes, policy="m@1")
    assert (pair["on_policy"], pair["prompt_id"], pair["split"]) == (True, PROMPT["prompt_id"], "train")
    assert pair["prompt"] == PROMPT["messages"]
    assert extract(nodes, policy="other")[0][0]["on_policy"] is False
    stranger = nodes_of(searched(t1, simulations=8), prompt={"prompt_id": "nobody's"})
    assert extract(stranger) == ([], {})


def test_nodes_hold_all_that_was_sampled() -> None:
    def expand(tree: Tree, node: int) -> list[Step]:
        steps = [*t1(tree, node), Step(text="x", state="duplicate", reason="as B", sum_logprob=-2.0)]
        return [*steps[:1], replace(steps[1], value=-1, state="truncated"), steps[2]] if node == 0 else steps

    nodes = nodes_of(searched(expand, simulations=4))
    assert nodes["node_id"].is_unique().all()
    prompt, a, b = nodes[:3].to_dicts()
    assert (prompt["parent_id"], prompt["place"], prompt["text"], prompt["n_visits"], a["place"]) == (None, [], "", 4, [0])
    assert (b["state"], b["terminal"], b["outcome"], b["n_wrong"], b["chosen"], a["chosen"]) == ("truncated", True, -1, 1, False, True)
    assert (a["n_visits_at_commit"], a["n_visits"], a["regret"], b["regret"]) == (4, 8, 0, pytest.approx(2.9))
    lost = nodes.filter(pl.col("state") == "duplicate").to_dicts()
    assert [(row["parent_id"], row["place"], row["depth"], row["q"], row["reason"]) for row in lost] == [
        (prompt["node_id"], [2], 1, None, "as B"),
        (a["node_id"], [0, 2], 2, None, "as B"),
    ]
    assert extract(nodes)[0][0]["rejected_step"] == "B"


def test_a_tree_without_a_step_is_a_fact_without_pairs() -> None:
    nodes = nodes_of(searched(lambda tree, node: []), tree_state="budget")
    assert nodes.select("state", "reason", "tree_state").row(0) == ("dead_end", "no usable step among 0 sampled", "budget")
    pairs, funnels = step_pairs(frame([PROMPT], PROMPTS), nodes)
    assert (pairs.height, dict(funnels[0].dropped), funnels[1].n_in) == (0, {"no_steps": 1}, 0)


def test_labels_of_every_answer_of_t1() -> None:
    labels = check(step_labels(nodes_of(searched(t1, simulations=64))), "step_labels").sort("completions")
    assert labels["completions"].to_list() == [["A", "1"], ["A", "2"], ["B", "1"], ["B", "2"]]
    assert labels["labels"].to_list() == [[True, True], [True, False], [False, False], [False, False]]
    assert labels["soft_labels"].to_list() == [[0.5, 1.0], [0.5, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert labels["outcome"].to_list() == [1, -1, -1, -1]
    assert [len(row) for row in labels["regrets"].to_list()] == [2] * 4


def test_an_answer_that_is_neither_right_nor_wrong_has_no_labels() -> None:
    steps = [Step(text="a", terminal=True, outcome=outcome) for outcome in (0, None)]
    assert step_labels(nodes_of(searched(lambda tree, node: steps, simulations=4))).height == 0


def test_whole_answers_of_the_same_tree() -> None:
    nodes = nodes_of(searched(t2, simulations=256))
    graded = nodes.filter(pl.col("terminal"))["outcome"].value_counts()
    n_right = dict(graded.rows())[1.0]
    pairs = check(answer_pairs(frame([PROMPT], PROMPTS), nodes, config=StepPairConfig(max_per_prompt=100)), "step_pairs")
    assert pairs.height == n_right
    assert set(pairs.select("kind", "pair_policy", "prefix", "alpha").unique().rows()) == {("response", "right_vs_wrong", "", 0.0)}
    assert pairs["chosen_step"].is_unique().all()
    assert (pairs["chosen_outcome"] == 1).all()
    assert (pairs["rejected_outcome"] == -1).all()
    assert pairs["chosen"].str.contains(r'"\d \d \d "').all()
    assert answer_pairs(frame([PROMPT], PROMPTS), nodes, config=StepPairConfig(max_per_prompt=2)).height == 2
    assert answer_pairs(frame([PROMPT], PROMPTS), nodes_of(searched(four(injected=True))), config=StepPairConfig()).height == 0


def test_every_prompt_without_a_pair_of_whole_answers_has_its_reason() -> None:
    def ends(*outcomes: float | None, injected: bool = False) -> Expander:
        return lambda tree, node: [Step(text=str(i), terminal=True, outcome=o, injected=injected) for i, o in enumerate(outcomes)]

    trees = [ends(1, -1), ends(1), ends(-1), ends(None), ends(1, -1, injected=True)]
    prompts = [make_prompt(f"What is {i}?") for i in range(len(trees) + 1)] + [{**PROMPT, "state": "duplicate"}]
    nodes = pl.concat([nodes_of(searched(tree, simulations=4), prompt=prompt) for prompt, tree in zip(prompts, trees, strict=False)])
    pairs = answer_pairs(frame(prompts, PROMPTS), nodes, config=StepPairConfig())
    funnel = answer_funnel(frame(prompts, PROMPTS), nodes, pairs)
    assert (funnel.n_in, funnel.n_kept) == (6, 1)
    assert funnel.dropped == {"no_wrong": 1, "no_right": 1, "no_answer": 2, "injected": 1}


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0, 5), st.floats(0, 5))
def test_smoothing_is_at_most_a_half_and_falls_with_the_share_of_visits(n_w: int, n_l: int, q: float, gap: float) -> None:
    for mode in ("visits", "ref", "q"):
        assert 0 <= smoothing(n_w, n_l, chosen_q=q + gap, rejected_q=q, mode=mode) <= 0.5
    if n_w > n_l:
        assert smoothing(n_w + 1, n_l) < smoothing(n_w, n_l)
        assert smoothing(n_w + 1, n_l, mode="ref") <= smoothing(n_w, n_l, mode="ref")
    assert smoothing(0, 0, mode="q", chosen_q=1e9) == pytest.approx(0)
    assert smoothing(4, 2, mode="q", chosen_q=1.0, rejected_q=0.5) == pytest.approx(1 / (1 + math.e))


@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(EXTRACTIONS)),
    st.sampled_from(["paper", "ref", "default"]),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=30)
def test_properties_of_the_pairs_of_any_trees(seed: int, preset: str, mode: str, rng: random.Random) -> None:
    prompts = [make_prompt(f"prompt {i}") for i in range(3)]
    config = replace(PRESETS[mode], simulations=20, root_multiplier=1)
    rows = [
        row
        for i, prompt in enumerate(prompts[:2])
        for row in node_rows(search(Tree(config), wild(seed + i)), prompt_id=prompt["prompt_id"], policy="m@1")
    ]
    nodes = frame(rows, NODES)
    asked = EXTRACTIONS[preset]
    pairs, funnels = step_pairs(frame(prompts, PROMPTS), nodes, config=asked)
    again, _ = step_pairs(frame(rng.sample(prompts, 3), PROMPTS), frame(rng.sample(rows, len(rows)), NODES), config=asked)
    assert pairs.equals(again)
    assert pairs["pair_id"].is_unique().all()
    assert (funnels[0].n_in, funnels[0].n_kept) == (3, pairs["prompt_id"].n_unique())
    assert funnels[1].n_kept == pairs["parent_id"].n_unique() == pairs.height
    assert pairs.height <= 8 * 2 or asked.max_per_prompt is None
    texts = {row["node_id"]: row for row in rows}
    if asked.parents == "path":
        levels = nodes.filter("chosen").group_by("tree_id").agg(levels=pl.len())
        per_tree = pairs.group_by("tree_id").agg(n=pl.len()).join(levels, on="tree_id")
        assert (per_tree["n"] <= per_tree["levels"]).all()
    for pair in pairs.to_dicts():
        sides = [texts[pair[f"{side}_id"]] for side in ("chosen", "rejected")]
        assert sides[0]["parent_id"] == sides[1]["parent_id"] == pair["parent_id"]
        assert normalise(pair["chosen_step"]) != normalise(pair["rejected_step"])
        assert (pair["chosen_score"], pair["rejected_score"]) == (pair["chosen_q"], pair["rejected_q"])
        assert pair["chosen_q"] > pair["rejected_q"]
        assert 0 <= pair["alpha"] <= (1 if asked.alpha_mode == "paper" else 0.5)
        assert pair["prefix"] == "".join(f"{i} " for i in sides[0]["place"][:-1])
        if preset == "default":
            assert pair["margin"] >= 0.3 - 1e-9
            assert pair["chosen_w_mean"] > pair["rejected_w_mean"]
            assert sides[0]["n_correct"] > 0 < sides[1]["n_wrong"]
    labels = step_labels(nodes)
    lengths = labels.select(*(pl.col(name).list.len() for name in ("completions", "labels", "soft_labels", "q", "regrets")))
    assert all(len(set(row)) == 1 for row in lengths.iter_rows())
    assert (labels["labels"].list.last() == (labels["outcome"] > 0)).all()
    assert labels["soft_labels"].list.contains(None).sum() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rejected": "worst"}, "rejected is 'worst'; allowed are"),
        ({"alpha_mode": "none"}, "alpha_mode is 'none'"),
        ({"min_gap": -1}, "min_gap is -1"),
        ({"max_per_prompt": 0}, "max_per_prompt 0, must be ≥ 1"),
        ({"tau": 0}, "tau is 0, must be > 0"),
        ({"test_share": 1.0}, "test_share is 1.0"),
    ],
)
def test_a_wrong_parameter_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StepPairConfig(**changes)


def test_another_frame_is_refused() -> None:
    with pytest.raises(SchemaError, match="nodes: columns"):
        step_labels(pl.DataFrame({"node_id": ["a"]}))
    nodes = nodes_of(searched(t1, simulations=8))
    with pytest.raises(SchemaError, match="a node comes twice"):
        extract(pl.concat([nodes, nodes]))
