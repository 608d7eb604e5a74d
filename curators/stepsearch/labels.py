"""Labels of single steps, as process reward models learn them: every graded answer of a tree, step by step."""

from __future__ import annotations

import polars as pl

from curators.schema import STEP_LABELS, check, frame


def step_labels(nodes: pl.DataFrame) -> pl.DataFrame:
    """`step_labels`: one row for every answer that was graded, sorted by prompt, tree and node.

    A step's hard label says whether some right answer was found at or below it (Math-Shepherd's hard estimate), its soft label which
    share of the answers found below was right. Of an answer that is wrong as a whole the first steps may be right: where the labels
    turn false lies its first error, as far as the tree knows. Steps of several answers of one tree appear in each of them.

    Raises:
        SchemaError: `nodes` lacks a column.
    """
    wanted = ["node_id", "parent_id", "prompt_id", "tree_id", "policy", "text", "n_correct", "soft_label", "q", "regret"]
    rows = check(nodes, "nodes").filter(pl.col("n_visits").is_not_null())
    of = {row["node_id"]: row for row in rows.select(wanted).iter_rows(named=True)}
    ends = rows.filter(pl.col("terminal") & pl.col("outcome").is_not_null() & (pl.col("outcome") != 0))
    found = []
    for node_id, outcome, state in ends.sort("prompt_id", "tree_id", "node_id").select("node_id", "outcome", "state").iter_rows():
        line = []
        node = of[node_id]
        while node["parent_id"] is not None:
            line.append(node)
            node = of[node["parent_id"]]
        line.reverse()
        found.append(
            {
                **{name: of[node_id][name] for name in ("node_id", "prompt_id", "tree_id", "policy")},
                "completions": [step["text"] for step in line],
                "labels": [step["n_correct"] > 0 for step in line],
                "soft_labels": [step["soft_label"] for step in line],
                "q": [step["q"] for step in line],
                "regrets": [step["regret"] for step in line],
                "outcome": outcome,
                "state": state,
            }
        )
    return frame(found, STEP_LABELS)
