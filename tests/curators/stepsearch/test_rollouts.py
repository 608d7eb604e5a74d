"""Estimates from rollouts on T2, where the policy's chances are known, and first errors with an oracle that never errs."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curators.errors import ConfigError, CurationError
from curators.stepsearch.config import PRESETS
from curators.stepsearch.rollouts import Estimates, FirstError
from curators.stepsearch.toys import t2
from curators.stepsearch.tree import Tree

TREE = Tree(PRESETS["paper"])
for node in range(1 + 3 + 9):
    TREE.expand(node, t2(TREE, node))
RIGHT = {TREE.place(node): TREE.steps[node].outcome == 1 for node in range(len(TREE)) if TREE.closed[node]}


def rollout(place: tuple[int, ...], rng: random.Random) -> bool:
    """One answer of T2's policy, which draws steps by their priors, from a place on."""
    while place not in RIGHT:
        place = (*place, rng.choices(range(3), (0.5, 0.3, 0.2))[0])
    return RIGHT[place]


# the chance of a right answer: sums of the priors of the right leaves 000, 011, 022, 120, 201, 212
CHANCES = {(0,): 0.38, (1,): 0.10, (2,): 0.21, (0, 0): 0.5, (0, 1): 0.3, (0, 2): 0.2}


@pytest.mark.parametrize(("place", "chance"), CHANCES.items(), ids=str)
def test_the_soft_label_tends_to_the_chance_of_a_right_answer(place: tuple[int, ...], chance: float) -> None:
    rng, n = random.Random(7), 4000
    estimates = Estimates(1, n_rollouts=n)
    while estimates.due:
        estimates.answer(1, rollout(place, rng))
    assert estimates.hard == [True]
    assert estimates.soft[0] == pytest.approx(chance, abs=3 * math.sqrt(chance * (1 - chance) / n))


def test_a_hard_label_of_eight_rollouts_is_often_wrong() -> None:
    # 1 - (1 - .1)^8 = .5695
    rng = random.Random(3)
    trials = 2000
    found = 0
    for _ in range(trials):
        estimates = Estimates(1, n_rollouts=8, hard_only=True)
        while estimates.due:
            estimates.answer(1, rollout((1,), rng))
        found += estimates.hard == [True]
    share = 1 - 0.9**8
    assert found / trials == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / trials))


def test_estimates_of_a_solution_come_in_any_order() -> None:
    estimates = Estimates(3, n_rollouts=2, hard_only=True)
    estimates.answer(3, False)
    estimates.answer(1, True)
    assert (estimates.due, estimates.soft, estimates.hard) == ({2: 2, 3: 1}, [1.0, None, 0.0], [True, None, False])
    with pytest.raises(CurationError, match="no prefix of 4 steps; the solution has 3"):
        estimates.answer(4, True)
    with pytest.raises(ConfigError, match="n_rollouts 0, must be ≥ 1"):
        Estimates(1, n_rollouts=0)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.booleans())
def test_the_first_error_is_found_in_few_questions(chain: tuple[int, int], solvable: bool) -> None:
    n_steps, error = chain
    search = FirstError(n_steps, solvable=solvable)
    n_asked = 0
    while (prefix := search.ask) is not None:
        assert prefix not in search.rollouts
        search.answer([False, prefix < error])
        n_asked += 1
    assert search.first_error == error
    assert n_asked <= math.ceil(math.log2(n_steps)) + 1
    assert search.labels == [True] * (error - 1) + [False] * (n_steps - error + 1)


def test_nothing_is_said_of_a_prompt_that_the_policy_never_solves() -> None:
    search = FirstError(4)
    search.answer([])  # no rollout came: asked again
    assert (search.ask, search.first_error) == (0, None)
    search.answer([False] * 8)
    assert (search.ask, search.hopeless, search.first_error, search.labels) == (None, True, None, None)
    with pytest.raises(CurationError, match="the search is over"):
        search.answer([True])
    with pytest.raises(ConfigError, match="n_steps is 0"):
        FirstError(0)
