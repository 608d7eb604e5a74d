"""docs/training.md: its table of parameters is the dataclass, and its trainer runs."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from curators.schema import PAIRS, PROMPTS, frame
from pipelines.training.job import run_trainer
from pipelines.training.params import DpoParams
from storage.handoff import write_handoff
from storage.lake import open_lake
from storage.publishing import publish

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_table_of_parameters_is_complete_and_its_defaults_are_right() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, flags=re.MULTILINE))
    assert table == {name: "null" if default is None else str(default) for name, default in asdict(DpoParams()).items()}


@pytest.mark.slow
async def test_the_trainer_of_the_page_runs(policy: Path, tmp_path: Path) -> None:
    script = tmp_path / "finetune.py"
    (code,) = re.findall(r"```python\n(import json.*?)```", PAGE, flags=re.DOTALL)
    script.write_text(code)
    texts = {
        name: f'[{{"content":"{name}","role":"{role}"}}]'
        for name, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))
    }
    pair = {**texts, "pair_id": "p", "prompt_id": "q", "kind": "response", "split": "train"}
    with open_lake(tmp_path / "lake") as lake:
        lake.append("prompts", frame([{"prompt_id": "q", "messages": texts["prompt"], "state": "ok"}], PROMPTS), commit_id="facts")
        release = publish(lake, "sums", frame([pair], PAIRS), manifest={}, author="test", commit_id="publish")
    handoff = write_handoff(release.frozen, tmp_path / "hand off", view="dpo")
    command = [sys.executable, str(script), "{handoff}", "{policy}", "{out}", "{params}"]
    params = {"max_steps": 1, "use_cpu": True}
    result = await run_trainer(command, handoff, policy_path=policy, out_dir=tmp_path / "out", params=params, timeout_s=250)
    assert result.metrics["loss"] > 0
    assert (result.checkpoint / "tokenizer.json").exists()
