"""The health of searches, counted by hand on small trees."""

from __future__ import annotations

from collections import Counter

import polars as pl

from curators.judging.health import share_rows
from curators.schema import NODES, frame
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.health import MEASURES, search_counts, search_health
from curators.stepsearch.nodes import node_rows
from curators.stepsearch.step import Step
from curators.stepsearch.tree import Tree, search


def tree_of(*steps: Step, state: str = "finished", prompt_id: str = "p", judge: str | None = "v") -> pl.DataFrame:
    """A tree whose steps stand below the prompt."""
    tree = search(Tree(SearchConfig(simulations=4)), lambda tree, node: steps)
    return frame(node_rows(tree, prompt_id=prompt_id, tree_state=state, judge=judge), NODES)


RIGHT, WRONG = Step(text="1", terminal=True, outcome=1.0), Step(text="2", terminal=True, outcome=-1.0)
CUT, UNKNOWN = Step(text="and so on", state="truncated"), Step(text="3", terminal=True)
LOST = [Step(text=state, state=state) for state in ("duplicate", "verifier_error", "transport_error", "value_error")]


def test_what_stands_in_trees_is_counted_once_and_adds_up_over_parts() -> None:
    trees = [tree_of(RIGHT, WRONG, CUT, *LOST), tree_of(RIGHT, UNKNOWN, prompt_id="q"), tree_of(*LOST, state="budget", prompt_id="r")]
    counts = search_counts(pl.concat(trees))
    assert counts == sum((search_counts(tree) for tree in trees), Counter())
    found = search_health(counts, judge="v")
    shares = {name: (found[name]["hits"], found[name]["n"]) for name in MEASURES}
    assert shares == {
        "finished": (2, 3),
        "solved": (2, 3),
        "mixed": (1, 3),
        "right": (2, 3),  # one wrong; the fourth answer has no grade
        "ungraded": (3, 6),  # it, and two that the verifier could not grade
        "truncated": (1, 7),
        "repeated": (2, 13),
        "failed": (2, 13),
        "unvalued": (2, 13),
    }
    assert [row["measure"] for row in share_rows(found, MEASURES)] == list(MEASURES.values())


def test_answers_that_nobody_was_to_grade_are_not_ungraded() -> None:
    found = search_health(search_counts(tree_of(UNKNOWN, CUT, judge=None)), judge=None)
    assert (found["ungraded"]["n"], found["right"]["n"], found["truncated"]["n"]) == (0, 0, 2)


def test_nothing_searched_has_no_shares() -> None:
    found = search_health(search_counts(frame([], NODES)), judge=None)
    assert {found[name]["share"] for name in MEASURES} == {None}
    assert share_rows(found, MEASURES) == []
