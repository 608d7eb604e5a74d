"""A tree as rows of `nodes`: facts, from which pairs and labels are made without another search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from curators.engines.base import as_json, digest
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.step import Step
from curators.stepsearch.tree import Tree
from curators.stepsearch.values import answers, regrets, soft_labels, w_max, w_mean

Row = dict[str, Any]


def asked(
    config: SearchConfig,
    *,
    prompt_id: str,
    reference: str | None = None,
    policy: str | None = None,
    judge: str | None = None,
    seed: int = 0,
    steps: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Row:
    """What a tree is the answer to, known before anything is sampled: the columns `prompt_id`, `policy`, `judge`, `search` and `seed`, and
    `search_id`, their content id together with the reference that answers are graded against.

    `steps` says how steps were sampled and `values` who was asked what they are worth; they stand in `search` under those keys.
    """
    said = {"steps": steps, "values": values}
    search = as_json(asdict(config) | {name: dict(about) for name, about in said.items() if about is not None})
    about = {"prompt_id": prompt_id, "policy": policy, "judge": judge, "search": search, "seed": seed}
    return {**about, "search_id": digest("search", about, reference)}


def node_rows(tree: Tree, *, engine: str | None = None, tree_state: str = "finished", **about: Any) -> list[Row]:
    """Rows of `nodes`: every node in the order in which they came, then the samples that were no steps. `about` is what `asked` takes."""
    columns_asked = asked(tree.config, **about)
    places = [tree.place(node) for node in range(len(tree))]
    discarded = [((*places[parent], sibling), parent, step) for parent, sibling, step in tree.discarded]
    content = [[places[node], step.text, step.state, step.outcome, tree.N[node], tree.R[node]] for node, step in enumerate(tree.steps)]
    lost = [[place, step.text, step.state] for place, _, step in discarded]
    tree_id = digest(columns_asked["search_id"], tree_state, tree.committed, content, lost)
    shared = {**columns_asked, "tree_id": tree_id, "tree_state": tree_state, "engine": engine}
    ids = [digest(tree_id, place) for place in places]
    columns = _columns(tree)
    rows = [
        {
            **shared,
            **_step(step),
            **{name: values[node] for name, values in columns.items()},
            "node_id": ids[node],
            "parent_id": ids[tree.parent[node]] if node else None,
            "place": places[node],
        }
        for node, step in enumerate(tree.steps)
    ]
    for place, parent, step in discarded:
        rows.append({**dict.fromkeys(columns), **shared, **_step(step), "node_id": digest(tree_id, place), "parent_id": ids[parent]})
        rows[-1] |= {"place": place, "depth": len(place), "sibling": place[-1], "state": step.state, "reason": step.reason}
    return rows


def _step(step: Step) -> Row:
    """What was sampled."""
    return {
        "text": step.text,
        "token_ids": step.token_ids,
        "n_tokens": step.n_tokens if step.token_ids is None else len(step.token_ids),
        "sum_logprob": step.sum_logprob,
        "injected": step.injected,
    }


def _columns(tree: Tree) -> dict[str, list[Any]]:
    """What became of every node in the search."""
    counts = answers(tree)
    chosen = set(tree.committed)
    at_commit = [tree.at_commit.get(node, (None, None)) for node in range(len(tree))]
    return {
        "depth": tree.depth,
        "sibling": tree.sibling,
        "prior": tree.prior,
        "n_visits": tree.N,
        "n_ended": tree.ended,
        "q": tree.Q,
        "v": tree.V,
        "r_value": tree.R,
        "outcome": [tree.config.truncated_outcome if step.state == "truncated" else step.outcome for step in tree.steps],
        "self_eval": [step.self_eval for step in tree.steps],
        "reward": [step.reward for step in tree.steps],
        "n_visits_at_commit": [n for n, _ in at_commit],
        "q_at_commit": [q for _, q in at_commit],
        "w_mean": w_mean(tree),
        "w_max": w_max(tree),
        "soft_label": soft_labels(tree),
        "n_correct": [right for right, _ in counts],
        "n_wrong": [wrong for _, wrong in counts],
        "regret": _regrets(tree),
        "terminal": [step.terminal or step.state == "truncated" for step in tree.steps],
        "chosen": [node in chosen for node in range(len(tree))],
        "state": ["dead_end" if node in tree.dead_ends else step.state for node, step in enumerate(tree.steps)],
        "reason": [tree.dead_ends.get(node, step.reason) for node, step in enumerate(tree.steps)],
    }


def _regrets(tree: Tree) -> list[float]:
    found = [0.0] * len(tree)
    for node in range(len(tree)):
        if below := tree.children(node):
            found[below.start : below.stop] = regrets([tree.at_commit.get(child, (0, tree.Q[child]))[1] for child in below])
    return found
