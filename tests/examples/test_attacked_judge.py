"""The embedded judge under attack (slow: a model in process)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.arithmetic.world import corrupted_solution, problems
from pipelines.cli import main

HERE = Path(__file__).parents[2] / "examples/arithmetic"


@pytest.mark.slow
def test_the_embedded_judge_under_attack(tmp_path: Path) -> None:
    """Solutions against ones with a planted error: most verdicts are right, and a master key costs no call."""
    rng = random.Random(5)
    rows = [
        {"prompt": p.text, "chosen": p.solution, "rejected": corrupted_solution(p, rng)} for p in problems(12, seed=77, split="heldout")
    ]
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["judge-attack", "--judge", f"hf:{HERE / 'judge'}", "--rubric", str(HERE / "rubric.md"), "--gold", str(gold), "--json"]
    arguments += ["--attacks", "dont_know,step_by_step", "--set", "judge.max_tokens=320", "--set", "judge.threads=1"]
    done = CliRunner().invoke(main, [*arguments, "--lake", str(tmp_path / "lake")])
    assert done.exit_code == 0, done.output
    found = {row["attack"]: row for row in json.loads(done.stdout)["attacks"]}
    assert found["none"]["held"].get("better", 0) >= 6  # 27 of 40 when measured
    assert found["newline"]["held"] == found["none"]["held"]  # the rubric labels lines, so that the request is the same
    assert found["step_by_step"]["held"] == {"gated": 12}
    assert found["dont_know"]["held"].get("better", 0) < found["none"]["held"]["better"]  # 7 of 40: it has never seen such a text
