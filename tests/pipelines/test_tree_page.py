"""The drawn tree: every step with its numbers, pairs and endings marked, and nothing of a step's text runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from curators.errors import ConfigError
from curators.schema import NODES, PROMPTS, frame
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.extraction import EXTRACTIONS, step_pairs
from curators.stepsearch.nodes import node_rows
from curators.stepsearch.step import Step
from curators.stepsearch.toys import t2, wild
from curators.stepsearch.tree import Expander, Tree, search
from pipelines.cli import main
from pipelines.report.tree import build_tree_page, drawn_trees
from storage import Release, open_lake, publish, resolve

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def evil(tree: Tree, node: int) -> list[Step]:
    return [
        Step(text=f"{EVIL}{i}", value=v, outcome=1 if v > 0 else -1, terminal=True, prior=0.5, reason=EVIL)
        for i, v in enumerate((1.0, -1.0))
    ]


TREES: dict[str, Expander] = {"aa-two": t2, "ab-wild": wild(11), "evil": evil}


@pytest.fixture(scope="module")
def nodes() -> pl.DataFrame:
    rows = []
    for name, expand in TREES.items():
        tree = Tree(SearchConfig(depth_limit=None))
        search(tree, expand)
        rows += node_rows(tree, prompt_id=name, policy="p")
    return frame(rows, NODES)


@pytest.fixture(scope="module")
def lake_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trees") / "lake"


@pytest.fixture(scope="module")
def release(nodes: pl.DataFrame, lake_root: Path) -> Release:
    asked = [
        {"prompt_id": name, "messages": json.dumps([{"role": "user", "content": EVIL}]), "state": "ok", "reference": EVIL} for name in TREES
    ]
    prompts = frame(asked, PROMPTS)
    pairs, _ = step_pairs(prompts, nodes, config=EXTRACTIONS["default"])
    with open_lake(lake_root) as lake:
        lake.append("prompts", prompts, commit_id="p")
        lake.append("nodes", nodes, commit_id="n")
        publish(lake, "steps", pairs, manifest={}, author="a", commit_id="v", facts={"nodes": "tree_id"})
        return resolve(lake, "steps@1")


def test_every_step_is_drawn_with_its_numbers(release: Release, nodes: pl.DataFrame) -> None:
    page = build_tree_page(release, "aa-two")
    steps = nodes.filter((pl.col("prompt_id") == "aa-two") & pl.col("n_visits").is_not_null() & (pl.col("depth") > 0))
    assert page.count("<p class=numbers>") == steps.height
    for node in steps.iter_rows(named=True):
        assert f"Q {node['q']:+.2f} · N {node['n_visits']} · p {node['prior']:.2f}" in page
    answers = steps.filter(pl.col("terminal"))
    assert page.count("<b class=right>right</b>") == answers.filter(pl.col("outcome") > 0).height > 0
    assert page.count("<b class=wrong>wrong</b>") == answers.filter(pl.col("outcome") < 0).height > 0
    assert page.count('class="node committed') == steps.filter("chosen").height > 0


def test_chosen_and_rejected_are_marked_where_they_are(release: Release) -> None:
    pairs = pl.read_parquet(release.frozen / "pairs.parquet").filter(pl.col("prompt_id") == "aa-two").sort("pair_id")
    page = build_tree_page(release, "aa-two")
    assert pairs.height >= 2
    cards = re.findall(r"<pre>([^<]*)</pre><p>(.*?)</p>", page)
    for number, pair in enumerate(pairs.iter_rows(named=True), 1):
        for side in ("chosen", "rejected"):
            (text,) = [text for text, marks in cards if f"{side} in pair {number}</b>" in marks]
            assert text == pair[f"{side}_step"].rstrip()


def test_samples_that_are_no_steps_are_counted(release: Release, nodes: pl.DataFrame) -> None:
    lost = nodes.filter((pl.col("prompt_id") == "ab-wild") & (pl.col("state") == "duplicate"))
    counted = re.findall(r"<summary>below: (\d+) duplicate</summary>", build_tree_page(release, "ab-wild"))
    assert sum(map(int, counted)) == lost.height > 0


def test_no_text_of_a_model_runs(release: Release) -> None:
    page = build_tree_page(release, "evil")
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_the_command_finds_a_prompt_by_its_beginning(release: Release, lake_root: Path, tmp_path: Path) -> None:
    lake = ["--lake", str(lake_root)]
    done = CliRunner().invoke(main, ["tree", "steps", "ev", "--to", str(tmp_path / "new" / "tree.html"), *lake])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "new" / "tree.html")
    assert "prompt evil" in (tmp_path / "new" / "tree.html").read_text()
    for asked, message in (
        ("a", "2 prompts begin with 'a'; there are 3"),
        ("x", "steps@1 has no pair of a prompt 'x', and so no tree; there are 3"),
    ):
        done = CliRunner().invoke(main, ["tree", "steps", asked, *lake])
        assert done.exit_code == 1
        assert message in done.output
        assert "aa-two" in done.output


def test_a_version_without_trees_says_so(release: Release, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"steps@1 was not made by a tree search and has no trees; `pairmill run steps`"):
        build_tree_page(replace(release, frozen=tmp_path), "evil")


def test_the_trees_with_the_most_pairs_are_drawn_beside_an_outline(release: Release, tmp_path: Path) -> None:
    pairs = pl.read_parquet(release.frozen / "pairs.parquet")
    found = drawn_trees(release, tmp_path, most=2)
    counts = [pairs.filter(pl.col("prompt_id") == tree["prompt_id"]).height for tree in found]
    assert counts == sorted(pairs["prompt_id"].value_counts()["count"].to_list(), reverse=True)[:2]
    for tree, n in zip(found, counts, strict=True):
        assert Path(tree["page"]).read_text().count("pair 1</b>") == 2
        for number in range(1, n + 1):
            assert f"<- chosen in pair {number}" in tree["outline"]
            assert f"<- rejected in pair {number}" in tree["outline"]
