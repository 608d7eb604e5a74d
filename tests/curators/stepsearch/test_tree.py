"""The tree against values worked out by hand and by an independent simulator (T1, T2), and what must hold of any tree."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import ConfigError, CurationError
from curators.stepsearch.config import PRESETS, SearchConfig, preset
from curators.stepsearch.step import Step, priors
from curators.stepsearch.toys import arms, t1, t2, wild
from curators.stepsearch.tree import Expander, Tree, search, simulate
from curators.stepsearch.values import w_visits

FREE: dict[str, Any] = {"simulations": 10**9, "depth_limit": None, "max_depth": None}
MODES = st.sampled_from(["paper", "ref", "default"])


def grown(expander: Expander, simulations: int, mode: str = "paper", **changes: Any) -> Tree:
    tree = Tree(replace(PRESETS[mode], **FREE, **changes))
    for _ in range(simulations):
        simulate(tree, expander)
    return tree


def columns(tree: Tree) -> tuple[list[int], list[float], list[float], list[int]]:
    return tree.N, tree.Q, tree.V, tree.committed


# simulations, mode, V(root), Q(A), Q(B), N(A, B), N(A1, A2), N(B1, B2). The first four are worked out by hand: at 1 B's .7 beats A's .6
# (√0 = 0), B1 gives Q(B) = .7 - 1.3; at 2 A's .6 + .5 · 1/1 beats B's -.6 + .5 · 1/2; at 3 and 4 A's 1.9 wins. The rest is of the
# reference's own mcts.py (`ref`) and of a literal simulator of the paper's formulas.
T1 = [
    (1, "paper", -0.6, 0.6, -0.6, (0, 1), None, (1, 0)),
    (2, "paper", 0.65, 1.9, -0.6, (1, 1), (1, 0), (1, 0)),
    (3, "paper", 1.06667, 1.9, -0.6, (2, 1), (2, 0), (1, 0)),
    (4, "paper", 1.275, 1.9, -0.6, (3, 1), (3, 0), (1, 0)),
    (4, "ref", 0.75625, 1.225, -0.65, (3, 1), (3, 0), (1, 0)),
    (16, "paper", 1.74375, 1.9, -0.6, (15, 1), (15, 0), (1, 0)),
    (16, "ref", 1.58242, 1.73125, -0.65, (15, 1), (15, 0), (1, 0)),
    (64, "paper", 1.81875, 1.85714, -0.6, (63, 1), (62, 1), (1, 0)),
    (64, "ref", 1.77812, 1.85645, -0.65, (62, 2), (61, 1), (1, 1)),
    (256, "paper", 1.84922, 1.87866, -0.63333, (253, 3), (251, 2), (2, 1)),
    (256, "ref", 1.83906, 1.87857, -0.65, (252, 4), (250, 2), (2, 2)),
    (1024, "paper", 1.87197, 1.88674, -0.63333, (1018, 6), (1013, 5), (4, 2)),
    (1024, "ref", 1.86699, 1.88671, -0.6375, (1016, 8), (1011, 5), (5, 3)),
]


@pytest.mark.parametrize(("k", "mode", "v", "q_a", "q_b", "first", "below_a", "below_b"), T1, ids=lambda value: str(value))
def test_t1_number_for_number(
    k: int, mode: str, v: float, q_a: float, q_b: float, first: tuple[int, ...], below_a: tuple[int, ...] | None, below_b: tuple[int, ...]
) -> None:
    tree = grown(t1, k, mode)
    a, b = tree.children(0)
    assert [tree.V[0], tree.Q[a], tree.Q[b]] == pytest.approx([v, q_a, q_b], abs=5.1e-6)
    assert (tree.N[a], tree.N[b]) == first
    assert tuple(tree.N[child] for child in tree.children(a)) == (below_a or ())
    assert tuple(tree.N[child] for child in tree.children(b)) == below_b
    assert tree.N[0] == (2 * k if mode == "ref" else k)


def test_t1_commits_to_the_step_with_more_visits_times_their_range() -> None:
    tree = grown(t1, 4)
    assert [tree._rank(child)[0] for child in tree.children(0)] == [12, 2]  # 3 · (3 - 0 + 1), 1 · (1 - 0 + 1)
    assert tree.commit() == next(iter(tree.children(0)))
    assert (tree.text(tree.root), tree.committed, tree.N[tree.root], tree.done) == ("A", [0, tree.root], 3, 0)


T2 = [
    (1, "paper", 1.6, (0.2, 0.5, 1.6), (0, 0, 1), 3),
    (16, "paper", 1.7, (1.7, 0.5, 1.7), (6, 0, 10), 6),
    (64, "paper", 1.6625, (1.5941, 1.6889, 1.6862), (17, 18, 29), 10),
    (256, "paper", 1.79062, (1.8231, 1.5947, 1.6862), (208, 19, 29), 12),
    (1024, "paper", 1.83857, (1.8535, 1.7119, 1.6917), (921, 67, 36), 12),
    (4096, "paper", 1.87085, (1.8783, 1.7289, 1.7145), (3899, 121, 76), 13),
    (16, "ref", 0.55868, (0.7264, 0.0444, 0.0667), (12, 2, 2), 11),
    (64, "ref", 1.23515, (1.3138, 0.0444, 0.0667), (60, 2, 2), 11),
    (256, "ref", 1.70397, (1.7408, -0.2889, 0.0667), (251, 3, 2), 12),
    (1024, "ref", 1.82393, (1.8437, 1.6364, 1.3326), (950, 58, 16), 12),
    (4096, "ref", 1.86747, (1.8781, 1.7299, 1.6749), (3836, 169, 91), 13),
]


@pytest.mark.parametrize(("k", "mode", "v", "q", "n", "expanded"), T2, ids=lambda value: str(value))
def test_t2_number_for_number(k: int, mode: str, v: float, q: tuple[float, ...], n: tuple[int, ...], expanded: int) -> None:
    tree = grown(t2, k, mode)
    children = tree.children(0)
    assert tree.V[0] == pytest.approx(v, abs=5.1e-6)
    assert [tree.Q[child] for child in children] == pytest.approx(q, abs=5.1e-5)
    assert tuple(tree.N[child] for child in children) == n
    assert sum(map(bool, tree.n_children)) == expanded


def test_t2_with_a_discount() -> None:
    tree = grown(t2, 64, gamma=0.9)
    assert tree.V[0] == pytest.approx(1.43375, abs=5.1e-6)
    assert [tree.Q[child] for child in tree.children(0)] == pytest.approx((1.355, 1.37919, 1.5101), abs=5.1e-6)
    assert [tree.N[child] for child in tree.children(0)] == [18, 16, 30]


def test_without_exploration_the_search_is_stuck_with_its_first_good_step() -> None:
    tree = grown(t2, 64, c_puct=0.0)
    assert ([tree.N[child] for child in tree.children(0)], tree.Q[3], tree.V[0]) == ([0, 0, 64], 1.6, 1.6)


def test_exploration_alone_visits_by_prior() -> None:
    tree = grown(t2, 3000, c_puct=1e6)
    assert [tree.N[child] for child in tree.children(0)] == [1500, 900, 600]


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=6), st.integers(50, 400))
@settings(deadline=None, max_examples=25)
def test_exploration_alone_keeps_within_a_visit_a_child_of_the_priors(p: list[float], k: int) -> None:
    tree = grown(arms([0.0] * len(p), p), k, c_puct=1e6)
    assert all(abs(tree.N[1 + i] / k - weight / sum(p)) <= len(p) / k for i, weight in enumerate(p))


@pytest.mark.parametrize(("rule", "first"), [("prior", [1, 2]), ("index", [0, 1])])
def test_equal_scores_go_by_prior_or_by_index(rule: str, first: list[int]) -> None:
    # the first simulation has √0 = 0, so all scores are 0; equal priors go by index under both rules
    assert grown(arms([0.0] * 3, [0.2, 0.4, 0.4]), 1, tie_rule=rule).N[1:].index(1) == first[0]
    tree = grown(arms([0.0] * 3, [1.0] * 3), 3, tie_rule=rule)
    assert tree.N[1:] == [1, 1, 1]


# arms 1 and 1 - Δ, p = .5, c = 1: N_b solves (1 + N_b)(Δ + p/√K) = p √K; the error of V is about p/√K
@pytest.mark.parametrize(
    ("gap", "k", "visits", "predicted", "error"),
    [(0.2, 256, 33, 33.6, 0.02578), (0.2, 4096, 153, 153.0, 0.00747), (1.0, 256, 7, 6.8, 0.02734), (1.0, 4096, 31, 30.8, 0.00757)],
)
def test_the_law_of_two_arms(gap: float, k: int, visits: int, predicted: float, error: float) -> None:
    tree = grown(arms([1.0, 1 - gap]), k)
    assert tree.N[2] == visits
    assert abs(visits - predicted) <= 1
    assert predicted == pytest.approx(0.5 * math.sqrt(k) / (gap + 0.5 / math.sqrt(k)) - 1, abs=0.06)
    assert 1 - tree.V[0] == pytest.approx(error, abs=5.1e-6)


def test_values_tend_to_the_best_answer() -> None:
    for mode in ("paper", "ref"):
        assert [abs(grown(t2, k, mode).V[0] - 1.9) <= bound for k, bound in ((1024, 0.12), (4096, 0.05))] == [True, True]
        assert abs(grown(t1, 1024, mode).V[0] - 1.9) <= 0.05


def test_few_simulations_order_the_first_steps_of_t2_wrongly() -> None:
    # the best first step is 0, yet it has the lowest Q: known, and what the gap and the sign of W_mean are for
    tree = grown(t2, 64)
    assert (max(tree.children(0), key=tree.Q.__getitem__), max(tree.children(0), key=tree.N.__getitem__)) == (2, 3)


@pytest.mark.parametrize("k", [1, 5, 64])
def test_without_gamma_a_step_is_worth_its_reward(k: int) -> None:
    tree = grown(t2, k, gamma=0.0)
    assert all(q == reward for q, reward in zip(tree.Q, tree.r, strict=True))


@pytest.mark.parametrize("mode", ["paper", "ref", "default"])
def test_a_shift_of_all_values_changes_no_visit(mode: str) -> None:
    def shifted(tree: Tree, node: int) -> list[Step]:
        return [replace(step, value=step.value + 0.37) for step in t2(tree, node)]

    one, other = grown(t2, 256, mode), grown(shifted, 256, mode)
    assert one.N == other.N
    moved = [b - a for a, b in zip(one.Q, other.Q, strict=True)]
    assert moved[1:4] == pytest.approx([0.37] * 3)
    assert moved[4:] == pytest.approx([0.0] * len(moved[4:]))


def fly(tree: Tree, expander: Expander, n_flying: int, rng: random.Random, failing: float = 0.0) -> int:
    """All simulations due, several in flight, whose turns come in random order; returns how many expansions were asked for.

    A simulation waits for its turn also where it needs no steps: those that do not would else use up all that is due on what the tree
    knows already, while the others wait for steps.
    """
    flights: list[list[int]] = []
    asked: set[int] = set()
    n_asked = 0

    def go_on(path: list[int]) -> None:
        nonlocal n_asked
        leaf = tree.descend(path)
        if leaf is not None and tree.claim(leaf):
            asked.add(leaf)
            n_asked += 1

    while tree.due or flights:
        while len(flights) < n_flying and tree.due:
            flights.append(tree.start())
            go_on(flights[-1])
        path = rng.choice(flights)
        leaf = tree.descend(path)
        if leaf is None:
            tree.backup(path)
            flights.remove(path)
        elif leaf in asked and rng.random() < failing:
            asked.remove(leaf)
            tree.release(leaf)
            tree.abandon(path)
            flights.remove(path)
        else:
            if leaf in asked:
                asked.remove(leaf)
                tree.expand(leaf, expander(tree, leaf))
            go_on(path)
    return n_asked


def check_tree(tree: Tree) -> None:
    """Everything that must hold of a tree at rest: T-N, T-TERM, T-BACK, T-TEL."""
    assert set(tree.O) == {0}
    least = int(tree.config.backup_weights == "at_least_one")
    for node in range(len(tree)):
        children = tree.children(node)
        if node not in tree.committed or (tree.root == 0 and tree.config.root_visits == 1):  # a root of its own has visits from above, too
            assert tree.N[node] == tree.ended[node] + sum(tree.N[child] for child in children)
        if tree.closed[node]:
            assert not children
            assert (tree.V[node], tree.Q[node]) == (0, tree.r[node])
        if tree.root in [0, *tree.line(node)] and children and tree.N[node] > tree.ended[node]:
            weights = [tree.N[child] or least for child in children]
            v = sum(w * tree.Q[child] for w, child in zip(weights, children, strict=True)) / sum(weights)
            assert tree.V[node] == pytest.approx(v, abs=1e-9)
            assert tree.Q[node] == pytest.approx(tree.r[node] + tree.config.gamma * v, abs=1e-9)
    if tree.config.gamma == 1:
        w, lows, highs = w_visits(tree), frontier(tree, min), frontier(tree, max)
        for node in range(tree.root, len(tree)):
            if tree.root in [0, *tree.line(node)]:
                assert w[node] == pytest.approx(tree.R[node] + tree.V[node], abs=1e-9)
                assert lows[node] - 1e-9 <= w[node] <= highs[node] + 1e-9


def frontier(tree: Tree, pick: Any) -> list[float]:
    """The least or largest R over the ends below a node, a node that simulations only ended at being an end."""
    ends = list(tree.R)
    for node in range(len(tree) - 1, -1, -1):
        if tree.n_children[node]:
            below = pick(ends[child] for child in tree.children(node))
            ends[node] = pick(below, tree.R[node]) if tree.N[node] <= tree.ended[node] else below
    return ends


@given(st.integers(0, 10**6), MODES, st.integers(1, 60), st.integers(1, 3), st.sampled_from([1.0, 0.9]))
@settings(deadline=None, max_examples=40)
def test_what_holds_of_any_search(seed: int, mode: str, k: int, limit: int, gamma: float) -> None:
    tree = Tree(replace(PRESETS[mode], simulations=k, root_multiplier=1, depth_limit=limit, max_depth=6, gamma=gamma))
    expansions: list[int] = []

    def counted(tree: Tree, node: int) -> list[Step]:
        assert not tree.closed[node]
        assert tree.depth[node] - tree.depth[tree.root] < limit
        expansions.append(node)
        return wild(seed)(tree, node)

    while not tree.finished:
        visits = list(tree.N)
        path = simulate(tree, counted)
        grown_by = [now - before for now, before in zip(tree.N, visits + [0] * (len(tree) - len(visits)), strict=True)]
        root_adds = tree.config.root_visits
        assert grown_by == [(root_adds if node == path[0] else 1) if node in path else 0 for node in range(len(tree))]
        if not tree.due:
            check_tree(tree)
            if tree.root == 0 and not tree.closed[0]:
                assert tree.N[0] == k * tree.config.root_visits
            if tree.commit() is None:
                break
    assert len(expansions) == len(set(expansions))
    assert tree.committed == [0, *tree.line(tree.root)]
    assert tree.finished or not tree.children(tree.root)


@given(st.integers(0, 10**6), MODES, st.integers(1, 16), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 1.0]))
@settings(deadline=None, max_examples=40)
def test_several_simulations_in_flight_leave_a_valid_tree(seed: int, mode: str, flying: int, failing: float, loss: float) -> None:
    tree = Tree(replace(PRESETS[mode], simulations=40, root_multiplier=1, virtual_loss=loss))
    n_asked = fly(tree, wild(seed), flying, random.Random(seed), failing)
    check_tree(tree)
    assert tree.N[0] == tree.done * tree.config.root_visits
    assert tree.done == 40 or tree.closed[0]
    if not failing:
        assert n_asked == sum(status == 2 for status in tree.opened)


@given(st.integers(0, 10**6), MODES)
@settings(deadline=None, max_examples=25)
def test_one_in_flight_and_a_tree_expanded_beforehand_are_the_sequential_search(seed: int, mode: str) -> None:
    config = replace(PRESETS[mode], simulations=30, depth_limit=2)
    tree = search(Tree(config), wild(seed))
    alone = Tree(config)
    while not alone.finished:
        fly(alone, wild(seed), 1, random.Random(seed))
        if alone.commit() is None:
            break
    assert columns(alone) == columns(tree)
    eager = Tree(config)
    for node in range(10**6):  # level by level, all of it
        if node >= len(eager):
            break
        if not eager.closed[node]:
            eager.expand(node, wild(seed)(eager, node))
    search(eager, lambda tree, node: pytest.fail(f"node {node} was expanded"))
    numbers = {eager.place(node): (eager.N[node], eager.Q[node], eager.V[node]) for node in range(len(eager))}
    nodes = [node for node in range(len(tree)) if node != tree.root or not tree.closed[node]]  # a root without steps was known beforehand
    assert {tree.place(node): (tree.N[node], tree.Q[node], tree.V[node]) for node in nodes}.items() <= numbers.items()
    assert [eager.place(node) for node in eager.committed] == [tree.place(node) for node in tree.committed]


@pytest.mark.parametrize(("flying", "bound"), [(2, 0.001), (8, 0.02), (32, 0.07)])
def test_simulations_in_flight_hardly_change_the_values_of_t2(flying: int, bound: float) -> None:
    for seed in range(20):
        tree = Tree(replace(PRESETS["paper"], **FREE | {"simulations": 1024}))
        fly(tree, t2, flying, random.Random(seed))
        check_tree(tree)
        assert abs(tree.V[0] - 1.8386) <= bound
        assert max(tree.children(0), key=tree.Q.__getitem__) == 1


def test_a_virtual_loss_keeps_simulations_in_flight_apart() -> None:
    def paths(loss: float) -> list[int]:
        tree = Tree(replace(PRESETS["paper"], **FREE, virtual_loss=loss, c_puct=0.1))
        tree.expand(0, arms([1.0, 0.9])(tree, 0))
        flights = [tree.start() for _ in range(2)]
        return [path[-1] for path in flights if tree.descend(path) is None]

    assert (paths(0.0), paths(1.0)) == ([1, 1], [1, 2])


def test_two_simulations_meet_at_a_node_that_is_being_expanded() -> None:
    tree = Tree(replace(PRESETS["paper"], **FREE))
    one, other = tree.start(), tree.start()
    assert (tree.descend(one), tree.claim(0)) == (0, True)
    assert (tree.descend(other), tree.claim(0)) == (0, False)
    tree.release(0)
    tree.abandon(one)
    assert (tree.O, tree.done, tree.idle) == ([1], 0, False)
    assert tree.claim(0)
    tree.expand(0, t1(tree, 0))
    leaf = tree.descend(other)
    assert leaf is not None
    tree.close(leaf, "the request was refused")
    assert tree.descend(other) is None
    tree.backup(other)
    assert (tree.idle, tree.ended[leaf], tree.Q[leaf], tree.dead_ends) == (True, 1, 0.7, {leaf: "the request was refused"})


def test_steps_that_are_none_are_kept_and_never_visited() -> None:
    steps = [Step(text="a", state="duplicate"), Step(text="b", value=1, sum_logprob=-1, n_tokens=1), Step(text="c", state="verifier_error")]
    tree = Tree(SearchConfig())
    assert list(tree.expand(0, steps)) == [1]
    assert (tree.sibling, tree.prior, tree.place(1)) == ([0, 1], [1.0, 1.0], (1,))
    assert [(parent, i, step.text) for parent, i, step in tree.discarded] == [(0, 0, "a"), (0, 2, "c")]
    assert not tree.expand(1, steps[:1])
    assert (tree.closed[1], tree.dead_ends) == (True, {1: "no usable step among 1 sampled: duplicate"})


def test_a_prompt_without_a_step_ends_the_search() -> None:
    tree = search(Tree(SearchConfig()), lambda tree, node: [])
    assert (tree.finished, tree.committed, tree.dead_ends) == (True, [0], {0: "no usable step among 0 sampled"})
    assert tree.commit() is None


def test_an_answer_ends_the_search_and_so_does_the_depth() -> None:
    for depth, levels in ((1, 1), (2, 2), (3, 3), (None, 3)):
        tree = search(Tree(replace(PRESETS["paper"], max_depth=depth)), t2)
        assert (len(tree.committed) - 1, max(tree.depth)) == (levels, levels)


def test_siblings_keep_what_they_were_when_one_was_committed_to() -> None:
    tree = search(Tree(replace(PRESETS["paper"], simulations=64)), t2)
    assert tree.committed[1] == 3
    at_first = [tree.at_commit[child] for child in tree.children(0)]
    assert [n for n, _ in at_first] == [17, 18, 29]
    assert [q for _, q in at_first] == pytest.approx([1.5941, 1.6889, 1.6862], abs=5.1e-5)
    assert tree.N[3] == 29 + 64


@pytest.mark.parametrize(("rule", "taken"), [("visits_range", 1), ("visits", 3), ("q", 2)])
def test_the_rules_of_commitment(rule: str, taken: int) -> None:
    # visits · (1 + range): 17 · 15 = 255, 18 · 18 = 324, 29 · 25 = 725; a rule of its own decides for the second
    tree = Tree(replace(PRESETS["paper"], **FREE, commit_rule=rule))
    for _ in range(64):
        simulate(tree, t2)
    assert tree.commit() == (3 if rule == "visits_range" else taken)


LOGPROBS = [Step(text="a", sum_logprob=-4.8, n_tokens=16), Step(text="b", sum_logprob=-19.2, n_tokens=64)]


def test_priors_by_mode() -> None:
    # mean log-probability -.3: exp(-4.8/16^1.25) = .861, exp(-19.2/64^1.25) = .899; exp(-4.8)/16^1.25 = 2.6e-4; equal means, equal shares
    assert priors(LOGPROBS, preset("ref")) == pytest.approx([0.861, 0.899], abs=5e-4)
    assert priors(LOGPROBS, preset("paper"))[0] == pytest.approx(math.exp(-4.8) / 16)
    assert priors(LOGPROBS, replace(preset("paper"), length_power=1.25)) == pytest.approx([2.6e-4, 2.5e-11], rel=0.02)
    assert priors(LOGPROBS, SearchConfig()) == pytest.approx([0.5, 0.5])
    assert priors([*LOGPROBS, Step(text="c")], preset("ref")) == [1 / 3] * 3
    colder = replace(SearchConfig(), prior_temperature=0.5)
    steps = [Step(text="a", sum_logprob=-1, n_tokens=1), Step(text="b", sum_logprob=-4, token_ids=[5, 6])]
    assert priors(steps, colder)[0] == pytest.approx(1 / (1 + math.exp(-2)))


@given(st.lists(st.tuples(st.floats(-2000, 0), st.integers(1, 300)), min_size=1, max_size=8), MODES)
def test_priors_are_probabilities(drawn: list[tuple[float, int]], mode: str) -> None:
    found = priors([Step(text="", sum_logprob=logprob, n_tokens=n) for logprob, n in drawn], preset(mode))
    assert all(0 < p <= 1 for p in found)
    if mode == "default":
        assert sum(found) == pytest.approx(1)
    if mode == "ref":
        assert found == pytest.approx([math.exp(logprob / n**1.25) for logprob, n in drawn], abs=1e-12)


def test_what_the_tree_refuses() -> None:
    tree = Tree(SearchConfig())
    with pytest.raises(CurationError, match="a step has the value nan: 'x'"):
        tree.expand(0, [Step(text="x", value=math.nan)])
    tree.expand(0, [Step(text="x", terminal=True)])
    with pytest.raises(CurationError, match="node 0 is expanded already"):
        tree.expand(0, [Step(text="x")])
    with pytest.raises(CurationError, match="node 1 is terminal"):
        tree.expand(1, [Step(text="x")])
    tree.start()
    with pytest.raises(CurationError, match="1 simulations are in flight"):
        tree.commit()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior_mode": "softmax"}, "prior_mode is 'softmax'; allowed are"),
        ({"simulations": 0}, "simulations is 0, must be ≥ 1"),
        ({"depth_limit": 0}, "depth_limit is 0"),
        ({"gamma": 1.5}, r"gamma is 1.5, must be in \[0, 1\]"),
        ({"root_visits": 3}, "root_visits is 3, must be 1 or 2"),
        ({"virtual_loss": -1}, "virtual_loss is -1"),
    ],
)
def test_a_wrong_parameter_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**changes)


def test_presets_have_names() -> None:
    assert preset("default") == SearchConfig()
    assert [(p.simulations_at(0), p.simulations_at(1), p.children_at(0), p.children_at(2)) for p in map(preset, ("paper", "ref"))] == [
        (5, 5, 5, 3),
        (256, 64, 2, 2),
    ]
    with pytest.raises(ConfigError, match="no preset 'alpha'"):
        preset("alpha")
