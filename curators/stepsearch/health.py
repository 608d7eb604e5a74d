"""How searches went: whether they came to their end, found answers of both kinds, and what their samples were good for.

Counts are additive, so that trees may come in parts. Every share has its Wilson interval, as in a judge's health.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

import polars as pl

from curators.engines.base import ErrorKind
from curators.schema import check
from curators.statistics.intervals import share

MEASURES = {
    "finished": "trees searched to their end",
    "solved": "trees with a right answer",
    "mixed": "trees with right and wrong answers",
    "right": "graded answers that are right",
    "ungraded": "answers that could not be graded",
    "truncated": "answers that were cut off",
    "repeated": "samples that say what a sibling says",
    "failed": "samples whose request failed",
    "unvalued": "samples whose value did not come",
}
"""What each share says, in the order to read them."""

_SHARES = {
    "finished": ("trees_finished", "trees"),
    "solved": ("trees_solved", "trees"),
    "mixed": ("trees_mixed", "trees"),
    "right": ("right", "graded"),
    "ungraded": ("ungraded", "to_grade"),
    "truncated": ("truncated", "endings"),
    "repeated": ("repeated", "samples"),
    "failed": ("failed", "samples"),
    "unvalued": ("value_error", "samples"),
}

_ADVICE = {
    "truncated": "raise steps.max_tokens or search.max_depth",
    "ungraded": "the reasons stand in the table `nodes`; does every prompt have a reference?",
    "repeated": "raise steps.temperature",
    "failed": "the reasons stand in the table `nodes`",
    "unvalued": "the reasons stand in the table `nodes`",
}
REMARKED = 0.3  # share from which a refusal says what else was the matter


def search_counts(nodes: pl.DataFrame) -> Counter[str]:
    """What stands in the trees of `nodes`, each whole. An ending is a step that ends an answer, or one that was cut off."""
    nodes = check(nodes, "nodes")
    trees, steps = nodes.filter(pl.col("parent_id").is_null()), nodes.filter(pl.col("parent_id").is_not_null())
    solved, missed = trees["n_correct"] > 0, trees["n_wrong"] > 0
    states = Counter(steps["state"].to_list())
    ended = steps.filter(pl.col("terminal") & (pl.col("state") != "truncated"))
    graded = ended["outcome"].drop_nulls()
    to_grade = ended.filter(pl.col("judge").is_not_null()).height + states["verifier_error"]
    return Counter(
        nodes=nodes.height,
        trees=trees.height,
        trees_finished=int((trees["tree_state"] == "finished").sum()),
        trees_solved=int(solved.sum()),
        trees_mixed=int((solved & missed).sum()),
        to_grade=to_grade,
        graded=graded.len(),
        ungraded=to_grade - graded.len(),
        right=int((graded > 0).sum()),
        truncated=states["truncated"],
        endings=ended.height + states["verifier_error"] + states["truncated"],
        samples=steps.height,
        repeated=states["duplicate"],
        value_error=states["value_error"],
        failed=sum(states[kind] for kind in get_args(ErrorKind)),
    )


def search_health(counts: Mapping[str, int], *, judge: str | None) -> dict[str, Any]:
    """The health of searches as JSON carries it; every share is `{n, hits, share, low, high}`. `judge`: who graded the answers."""
    return {"judge": judge, **{name: share(counts[hits], counts[of]) for name, (hits, of) in _SHARES.items()}}


def remarks(health: Mapping[str, Any]) -> list[str]:
    """What went wrong with many of the searches, with what to do about it: why a run may have few pairs.

    >>> remarks({"truncated": share(9, 10), "finished": share(10, 10)})
    ['9 of 10 answers that were cut off: raise steps.max_tokens or search.max_depth']
    """
    found = [
        f"{health[name]['hits']:,} of {health[name]['n']:,} {MEASURES[name]}: {advice}"
        for name, advice in _ADVICE.items()
        if name in health and health[name]["n"] and health[name]["share"] >= REMARKED
    ]
    early = health["finished"]["n"] - health["finished"]["hits"]
    return [*found, *([f"{early:,} of {health['finished']['n']:,} trees were ended early by a cap or limit"] if early else [])]
