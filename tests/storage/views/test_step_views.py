"""Views of searched trees: the same steps, labels and values that the tree's own arithmetic gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from curators.schema import NODES, PROMPTS, frame
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.extraction import EXTRACTIONS, step_pairs
from curators.stepsearch.labels import step_labels
from curators.stepsearch.nodes import node_rows
from curators.stepsearch.toys import t2, wild
from curators.stepsearch.tree import Expander, Tree, search
from curators.stepsearch.writing import answer_pairs
from storage.errors import ViewError
from storage.handoff import Handoff, open_handoff, write_handoff

ANY = replace(EXTRACTIONS["default"], min_gap=0.0, require_outcomes=False, signs_agree=False, min_visits=0)
TREES: dict[str, Expander] = {"two": t2, "wild": wild(3), "wilder": wild(11)}


@pytest.fixture
def facts() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Prompts and the nodes of their trees, token ids in one tree only."""
    prompts: list[dict[str, Any]] = [
        {"prompt_id": name, "messages": json.dumps([{"role": "user", "content": name}], separators=(",", ":")), "state": "ok"}
        for name in TREES
    ]
    rows: list[dict[str, Any]] = []
    for name, expand in TREES.items():
        tree = Tree(SearchConfig(depth_limit=None))
        search(tree, expand)
        rows += node_rows(tree, prompt_id=name, policy="p")
    nodes = frame(rows, NODES).with_columns(
        token_ids=pl.when(pl.col("prompt_id") == "two").then(pl.concat_list(pl.col("sibling"), pl.col("depth")).cast(pl.List(pl.Int32)))
    )
    return frame(prompts, PROMPTS), nodes


@pytest.fixture
def export(make_frozen: Callable[..., Path], facts: Any, tmp_path: Path) -> Callable[..., Handoff]:
    prompts, nodes = facts
    pairs, _ = step_pairs(prompts, nodes, config=ANY)

    def run(view: str, pairs: pl.DataFrame = pairs, form: str = "conversational", **options: Any) -> Handoff:
        place = tmp_path / f"{view}-{form}"
        frozen = make_frozen(pairs.to_dicts(), prompts=prompts.to_dicts(), nodes=nodes.to_dicts(), name=f"{view}-{form}")
        return open_handoff(write_handoff(frozen, place, view=view, form=form, **options))

    return run


Export = Callable[..., Handoff]


def rows_of(handoff: Handoff) -> list[dict[str, Any]]:
    return [row for part in handoff.dataset_dict().values() for row in part]


def test_a_step_pair_is_prompt_prefix_and_the_two_next_steps(facts: Any, export: Export) -> None:
    pairs, _ = step_pairs(*facts, config=ANY)
    expected = {row["pair_id"]: row for row in pairs.iter_rows(named=True)}
    found = rows_of(export("step"))
    assert {row["pair_id"] for row in found} == set(expected)
    assert len(found) > 10
    assert any(row["prefix"] for row in found)
    assert {row["chosen_token_ids"] is None for row in found} == {True, False}
    for row in found:
        pair = expected[row["pair_id"]]
        whole = [json.loads(pair[side])[0]["content"] for side in ("chosen", "rejected")]
        assert [row["prefix"] + row["chosen"], row["prefix"] + row["rejected"]] == whole
        assert row["prompt"] == json.loads(pair["prompt"])
        assert row["label_smoothing"] == pair["alpha"]
        for name in ("prefix_token_ids", "chosen_token_ids", "rejected_token_ids", "chosen_q", "rejected_visits", "depth", "margin"):
            assert row[name] == pair[name], name
        assert [row["chosen_terminal"], row["rejected_terminal"]] == [pair["chosen_terminal"], pair["rejected_terminal"]]


def test_the_dpo_rendering_says_which_side_ends(facts: Any, export: Export) -> None:
    pairs, _ = step_pairs(*facts, config=ANY)
    expected = {row["pair_id"]: row for row in pairs.iter_rows(named=True)}
    found = rows_of(export("step-dpo"))
    assert len(found) == len(expected)
    for row in found:
        pair = expected[row["pair_id"]]
        assert row["chosen"] == json.loads(pair["chosen"])
        assert row["chosen"][0]["content"].startswith(row["prefix"])
        assert (row["chosen_terminal"], row["label_smoothing"]) == (pair["chosen_terminal"], pair["alpha"])


@pytest.mark.parametrize("view", ["dpo", "reward", "sft", "kto"])
def test_views_of_whole_answers_take_no_steps(facts: Any, export: Export, view: str) -> None:
    with pytest.raises(ViewError, match=r"step_pair; views step and step-dpo are for pairs of steps"):
        export(view)
    whole = answer_pairs(*facts, config=ANY)
    assert len(rows_of(export(view, whole, "standard"))) >= whole.height > 0


def test_answers_of_the_same_trees_are_step_rows_without_a_prefix(facts: Any, export: Export) -> None:
    whole = answer_pairs(*facts, config=ANY)
    found = rows_of(export("step", whole))
    assert len(found) == whole.height
    assert {(row["prefix"], row["chosen_terminal"], row["rejected_terminal"], row["label_smoothing"]) for row in found} == {
        ("", True, True, 0.0)
    }


@pytest.mark.parametrize("format", ["duckdb", "parquet", "jsonl"])
def test_stepwise_rows_are_the_labels_of_the_tree(facts: Any, export: Export, format: str) -> None:
    labels = step_labels(facts[1])
    with_pairs = step_pairs(*facts, config=ANY)[0]["prompt_id"].unique().to_list()
    expected = {row["node_id"]: row for row in labels.iter_rows(named=True) if row["prompt_id"] in with_pairs}
    found = rows_of(export("stepwise", format=format))
    assert {row["node_id"] for row in found} == set(expected)
    assert len(found) > 20
    for row in found:
        for name in ("completions", "labels", "soft_labels", "q", "regrets", "outcome", "prompt_id"):
            assert row[name] == expected[row["node_id"]][name], name
        assert row["prompt"] == [{"role": "user", "content": row["prompt_id"]}]


def test_nodes_are_states_with_their_values(facts: Any, export: Export) -> None:
    _, nodes = facts
    visited = nodes.filter((pl.col("n_visits") > 0) & (pl.col("depth") > 0))
    of = {row["node_id"]: row for row in nodes.iter_rows(named=True)}
    found = rows_of(export("nodes"))
    assert {row["node_id"] for row in found} == set(visited["node_id"])
    for row in found:
        node = of[row["node_id"]]
        before, parent = "", of[node["parent_id"]]
        while parent["parent_id"] is not None:
            before, parent = parent["text"] + before, of[parent["parent_id"]]
        assert (row["prefix"], row["step"]) == (before, node["text"])
        assert (row["q"], row["w_mean"], row["visits"], row["soft_label"]) == (
            node["q"],
            node["w_mean"],
            node["n_visits"],
            node["soft_label"],
        )
