"""Searched trees as training data: answers labelled step by step, and every node with its values.

`stepwise` is the format of process reward models (Math-Shepherd, Wang et al. 2023, arXiv 2312.08935): a step's label says whether a right
answer was found at or below it. An answer whose outcome nobody knows is no row. `nodes` gives (state, value) for value models: the state is
`prefix` and `step` together. Both hold the trees from which the version's pairs came.
"""

from __future__ import annotations

from storage.views.view import CONTEXT, PROMPT, Column, View

_PROMPTS = ("prompt_id", "messages", "tools", "chat_template_kwargs")
_NODES = ("node_id", "prompt_id", "tree_id", "place", "depth", "text", "n_visits", "terminal", "outcome", "soft_label", "q")
_KEYS = """
    SELECT node_id AS row_id, node_id AS source_id, side.split, md5(messages) AS prompt_hash,
        CASE WHEN side.split IS NULL THEN 'no_pair' WHEN open_turn(messages) THEN 'prompt_ends_with_assistant' END AS drop
    FROM nodes JOIN prompts USING (prompt_id)
        LEFT JOIN (SELECT prompt_id, min(split) AS split FROM pairs GROUP BY prompt_id) AS side USING (prompt_id)
    WHERE {which}
"""
# The steps of an answer are the nodes of its tree whose place is a beginning of the answer's own.
_LINES = """
    WITH ends AS (
        SELECT row_id, tree_id, place, unnest(range(1, depth + 1)) AS k FROM keys JOIN nodes ON node_id = row_id WHERE drop IS NULL
    ), line AS (
        SELECT row_id, nodes.* FROM ends JOIN nodes ON nodes.tree_id = ends.tree_id AND nodes.place = ends.place[1:k]
    )
"""
_CONTEXT = "prompt_id, tools, chat_template_kwargs"

STEPWISE = View(
    row="a graded answer of a tree",
    trainers="`examples.arithmetic.train_prm` and other trainers of process reward models (TRL has none since September 2026)",
    unit="graded answers",
    columns={
        "prompt": PROMPT,
        "completions": Column(kind="texts", meaning="the steps, each with its delimiter: joined they are the answer"),
        "labels": Column(kind="flags", meaning="for every step: a right answer stands at or below it in the tree"),
        "soft_labels": Column(kind="numbers", meaning="for every step: the share of right answers below it"),
        "q": Column(kind="numbers", meaning="for every step: the value that the search gave it"),
        "regrets": Column(kind="numbers", meaning="for every step: how much worse than its best sibling"),
        "outcome": Column(kind="number", meaning="1: the answer is right, -1: it is wrong"),
        "node_id": Column(kind="text", meaning="id of the node that ends the answer"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
    }
    | CONTEXT,
    needs={"prompts": _PROMPTS, "pairs": ("prompt_id", "split"), "nodes": (*_NODES, "n_correct", "regret")},
    keys=_KEYS.format(which="n_visits IS NOT NULL AND terminal AND coalesce(outcome, 0) <> 0"),
    rows=f"""{_LINES}, lists AS (
            SELECT row_id, list(text ORDER BY depth) AS completions, list(n_correct > 0 ORDER BY depth) AS labels,
                list(soft_label ORDER BY depth) AS soft_labels, list(q ORDER BY depth) AS q, list(regret ORDER BY depth) AS regrets
            FROM line GROUP BY row_id
        )
        SELECT row_id, source_id, keys.split, messages AS prompt, completions, labels, soft_labels, lists.q, regrets, outcome,
            row_id AS node_id, {_CONTEXT}
        FROM keys JOIN lists USING (row_id) JOIN nodes ON node_id = row_id JOIN prompts USING (prompt_id) WHERE drop IS NULL
    """,
)

NODES = View(
    row="a step of a tree that a simulation went through",
    trainers="none of TRL: for value models and prefix-level losses",
    unit="nodes",
    columns={
        "prompt": PROMPT,
        "prefix": Column(kind="text", meaning="the answer before the step"),
        "step": Column(kind="text", meaning="the step, with its delimiter"),
        "q": Column(kind="number", meaning="value that the search gave the state after the step"),
        "w_mean": Column(kind="number", meaning="mean value of the ends of the tree below: the return to expect of the policy"),
        "soft_label": Column(kind="number", meaning="share of right answers below; null where none was graded"),
        "visits": Column(kind="integer", meaning="simulations through the step"),
        "prior": Column(kind="number", meaning="share of the step among its siblings by the policy's probability"),
        "depth": Column(kind="integer", meaning="number of the step in the answer, 1 for the first"),
        "terminal": Column(kind="flag", meaning="the answer ends here"),
        "outcome": Column(kind="number", meaning="1: the answer is right, -1: it is wrong; null: unfinished or not graded"),
        "node_id": Column(kind="text", meaning="id of the node"),
        "prompt_id": Column(kind="text", meaning="id of the prompt"),
    }
    | CONTEXT,
    needs={"prompts": _PROMPTS, "pairs": ("prompt_id", "split"), "nodes": (*_NODES, "w_mean", "prior")},
    keys=_KEYS.format(which="n_visits > 0 AND depth > 0"),
    rows=f"""{_LINES}, texts AS (
            SELECT row_id, string_agg(text, '' ORDER BY depth) AS answer FROM line GROUP BY row_id
        )
        SELECT row_id, source_id, keys.split, messages AS prompt, left(answer, len(answer) - len(text)) AS prefix, text AS step, q, w_mean,
            soft_label, n_visits AS visits, prior, depth, terminal, outcome, row_id AS node_id, {_CONTEXT}
        FROM keys JOIN texts USING (row_id) JOIN nodes ON node_id = row_id JOIN prompts USING (prompt_id) WHERE drop IS NULL
    """,
)
