"""`pairmill audit`: what a rule predicts is told, drawn, and refused beyond its bound, by the command and by the gate of a run."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from curators.schema import PAIRS, frame
from pipelines.candidates import manifest, weigh
from pipelines.cli import main
from pipelines.config import ImportConfig
from pipelines.report.page import build_report
from pipelines.runs import Run
from storage import open_lake, publish, resolve

BASICS = {"counts": {"pairs": 40}, "funnel": [{"stage": "s", "unit": "rows", "n_in": 40, "n_kept": 40, "dropped": {}}], "gates": []}


def pairs(n_longer: int, n: int = 40) -> pl.DataFrame:
    """Of n pairs so many prefer the longer side; their words are alike."""

    def turn(text: str) -> str:
        return json.dumps([{"role": "assistant", "content": text}])

    rows: list[dict[str, object]] = []
    for i in range(n):
        chosen, rejected = ("same words again same", "same words") if i < n_longer else ("same words", "same words again same")
        row = {
            "pair_id": f"p{i:02d}",
            "prompt_id": f"q{i}",
            "prompt": turn(f"<b>{i}</b>"),
            "chosen": turn(chosen),
            "rejected": turn(rejected),
        }
        rows.append({**row, "kind": "response", "split": "train"})
    return frame(rows, PAIRS)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    with open_lake(tmp_path / "lake") as opened:
        publish(opened, "long", pairs(36), manifest=BASICS, author="a", commit_id="one")
        publish(opened, "fair", pairs(20), manifest=BASICS, author="a", commit_id="two")
    return tmp_path / "lake"


def audit(lake: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["audit", *arguments, "--lake", str(lake)])


def test_a_version_whose_labels_follow_length_is_refused_and_the_page_says_so(lake: Path, tmp_path: Path) -> None:
    done = audit(lake, "long", "--json", "--to", str(tmp_path / "page.html"))
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 3
    assert told["dataset"] == "long@1"
    assert told["shortcuts"]["longer"]["expected"] == 0.9
    assert told["gate"]["figure"] == 0.9
    page = (tmp_path / "page.html").read_text()
    assert "predicts 90.0% of 40 labels" in page
    assert "<svg" in page
    assert audit(lake, "long", "--bound", "0.95").exit_code == 0


def test_a_fair_version_passes_and_the_table_has_every_rule(lake: Path) -> None:
    done = audit(lake, "fair@1")
    assert done.exit_code == 0, done.output
    for name in ("longer", "more_digits", "words_and_prompt", "passed:"):
        assert name in done.stdout


def test_a_share_of_the_pairs_is_the_same_share_again(lake: Path) -> None:
    one, other = (json.loads(audit(lake, "fair", "--limit", "10", "--json").stdout) for _ in range(2))
    assert one["n_pairs"] == 10
    assert one == other


def test_what_is_not_there_is_one_line(lake: Path) -> None:
    done = audit(lake, "none")
    assert done.exit_code == 1
    assert done.stderr.startswith("pairmill: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_gate_of_a_run_refuses_keeps_its_audit_and_shows_it(tmp_path: Path) -> None:
    config = ImportConfig.model_validate({"dataset": "set", "files": ["f"], "gates": {"max_shortcut_accuracy": 0.65}})
    with open_lake(tmp_path / "lake") as opened:
        run = Run(key="k", kind="import", config=config, lake=opened, directory=tmp_path)
        weigh(run, pairs(36), {})
        assert "predicts 90.0% of 40 labels" in str(run.figures.refusal)
        run.figures.gates = []
        publish(opened, "set", pairs(36), manifest={**manifest(run), "funnel": BASICS["funnel"]}, author="a", commit_id="one")
        assert "Shortcuts" in build_report(resolve(opened, "set@1"))
        plain = ImportConfig.model_validate({"dataset": "set", "files": ["f"]})
        unasked = Run(key="l", kind="import", config=plain, lake=opened, directory=tmp_path)
        weigh(unasked, pairs(36), {})
        assert unasked.figures.refusal is None
        assert "audit" not in manifest(unasked)
