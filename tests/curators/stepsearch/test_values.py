"""Values and labels of trees: T2 in full by its formulas, the reference's adjustments, identities over any tree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import ConfigError
from curators.stepsearch.config import PRESETS, SearchConfig, ValueWeights, preset
from curators.stepsearch.step import Step
from curators.stepsearch.toys import t2, wild
from curators.stepsearch.tree import Tree, search, simulate
from curators.stepsearch.values import answers, hard_labels, regrets, soft_labels, state_value, w_max, w_mean, w_visits


def whole(expander: Any = t2, **changes: Any) -> Tree:
    """The tree with every node expanded and nothing searched."""
    tree = Tree(replace(PRESETS["paper"], depth_limit=None, max_depth=None, **changes))
    node = 0
    while node < len(tree):
        if not tree.closed[node]:
            tree.expand(node, expander(tree, node))
        node += 1
    return tree


def test_the_values_of_t2() -> None:
    tree = whole()
    first = list(tree.children(0))
    assert len(tree) == 1 + 3 + 9 + 27
    assert [w_max(tree)[node] for node in first] == [1.9, 1.8, 1.8]
    assert [w_mean(tree, "prior")[node] for node in first] == pytest.approx([0.16, -0.29, -0.16], abs=5.1e-3)
    assert [soft_labels(tree, "prior")[node] for node in first] == pytest.approx([0.38, 0.10, 0.21])
    assert [soft_labels(tree, "prior")[node] for node in tree.children(1)] == pytest.approx([0.5, 0.3, 0.2])
    assert hard_labels(tree)[:4] == [True] * 4
    assert answers(tree)[0] == (6, 21)
    assert [tree.place(node) for node in range(len(tree)) if tree.steps[node].outcome == 1] == [
        (0, 0, 0),
        (0, 1, 1),
        (0, 2, 2),
        (1, 2, 0),
        (2, 0, 1),
        (2, 1, 2),
    ]


def test_the_uniform_mean_counts_siblings_alike() -> None:
    # below step 0: 000 1 + .1, 001 -.6, 002 -.3; 010 -.4, 011 1.9, 012 -.8; 020 -.9, 021 -.6, 022 1.7: their sum 1.1 over 9
    tree = whole()
    assert w_mean(tree)[1] == pytest.approx(1.1 / 9)
    assert soft_labels(tree)[1] == pytest.approx(1 / 3)


def test_labels_say_nothing_where_no_answer_was_graded() -> None:
    tree = Tree(SearchConfig())
    right = Step(text="r", value=1, outcome=1, terminal=True)
    tree.expand(0, [Step(text="a"), Step(text="b"), Step(text="c", value=-1, state="truncated"), Step(text="d", terminal=True)])
    tree.expand(1, [right, right, Step(text="e"), Step(text="w", value=-1, outcome=-1, terminal=True)])
    tree.close(2, "the request was refused")
    # a: 2 of 3 graded; b leads nowhere; c was cut off; d is an answer that nobody could grade
    assert soft_labels(tree)[1:5] == [pytest.approx(2 / 3), None, 0.0, None]
    assert hard_labels(tree)[:5] == [True, True, None, False, None]
    assert soft_labels(tree)[0] == pytest.approx(1 / 3)
    assert answers(tree)[:5] == [(2, 2), (2, 1), (0, 0), (0, 1), (0, 0)]


def test_values_of_states() -> None:
    ours, ref = SearchConfig(), preset("ref")
    assert [state_value(o, 0.5, ours) for o in (1, -1, 0, None)] == [1.5, -0.5, 0.5, 0.5]
    assert (state_value(None, None, ours), state_value(None, 0.4, ours, truncated=True)) == (0.0, -0.6)
    assert state_value(None, 0.4, ref, truncated=True) == 0.4  # an answer that is cut off keeps its self-evaluation only
    # depth penalty from parent depth 5 on: C / (5 - 3)
    assert [state_value(None, 0.8, ref, parent_depth=depth) for depth in (0, 4, 5, 6)] == [0.8, 0.8, 0.4, pytest.approx(0.8 / 3)]
    assert state_value(None, 0.0, ref, parent_value=0.3) == 0.3
    assert state_value(1, 1.0, ref, novel=True) == 2.25
    assert state_value(-1, 0.0, ref, novel=True) == -1
    assert [state_value(1, 0.0, ref, choice=True, parent_depth=depth) for depth in (1, 2)] == [0.5, 1]
    assert state_value(1, 0.0, ref, choice=True, parent_value=0.2) == 0.2
    assert state_value(1, 1.0, ours, novel=True, choice=True, parent_depth=9) == 2


def test_the_parts_of_a_value_count_by_their_weights() -> None:
    mixed = replace(PRESETS["default"], weights=ValueWeights(verifier=2, self_eval=0.5, reward=0.25))
    assert state_value(1, 0.5, mixed, reward=-3.0) == 2 + 0.25 - 0.75
    assert state_value(None, 0.5, mixed, reward=2.0, truncated=True) == -2 + 0.25 + 0.5
    assert state_value(None, None, mixed, reward=None) == 0
    assert state_value(1, 0.9, replace(mixed, weights=ValueWeights(self_eval=0, reward=0)), reward=7.0) == 1
    deep = replace(PRESETS["ref"], weights=ValueWeights(self_eval=0.5, reward=0.25))
    assert state_value(None, 0.8, deep, reward=0.8, parent_depth=5) == pytest.approx((0.4 + 0.2) / 2)
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="the weight reward is"):
            ValueWeights(reward=wrong)


def test_regrets() -> None:
    assert regrets([1.9, -0.6]) == [0.0, 2.5]


@given(st.integers(0, 10**6), st.sampled_from(["paper", "ref", "default"]), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_what_holds_of_the_values_of_any_tree(seed: int, mode: str, k: int) -> None:
    tree = search(Tree(replace(PRESETS[mode], simulations=k, root_multiplier=1)), wild(seed))
    means, bests, soft, hard, counts = w_mean(tree), w_max(tree), soft_labels(tree), hard_labels(tree), answers(tree)
    for node in range(len(tree)):
        # rewards telescope: their sum from the prompt is R(node) - R(root)
        assert sum(tree.r[step] for step in tree.line(node)) == pytest.approx(tree.R[node] - tree.R[0])
        assert means[node] <= bests[node] + 1e-9
        assert (soft[node] is None) == (hard[node] is None) == (sum(counts[node]) == 0)
        if soft[node] is not None:
            assert (soft[node] > 0, soft[node] < 1) == (counts[node][0] > 0, counts[node][1] > 0)
            assert hard[node] == (counts[node][0] > 0)


@given(st.integers(1, 300))
@settings(deadline=None, max_examples=15)
def test_the_root_is_the_mean_of_the_answers_by_visits(k: int) -> None:
    tree = Tree(replace(PRESETS["paper"], simulations=k, depth_limit=None))
    for _ in range(k):
        simulate(tree, t2)
    mean = sum(tree.N[node] * tree.R[node] for node in range(len(tree)) if tree.closed[node]) / k
    assert tree.V[0] == pytest.approx(mean)
    assert w_visits(tree)[0] == pytest.approx(mean)
