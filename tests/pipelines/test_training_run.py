"""Trainings without a server: what is checked before the trainer starts, what is not trained twice, and what a run's key holds."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from curators.errors import ConfigError
from curators.sampling import make_prompt
from curators.schema import PAIRS, PROMPTS, frame
from pipelines import training_tasks as tasks
from pipelines.config import TrainConfig
from pipelines.training.job import TrainerError
from pipelines.training_run import training
from storage.lake import open_lake
from storage.publishing import publish

TRAINER = """
import os, pathlib, sys
handoff, policy, out, params = map(pathlib.Path, sys.argv[1:])
with (out / "runs").open("a") as runs:
    runs.write(f"{policy}\\n")
weights = out / "weights"
weights.mkdir(exist_ok=True)
(weights / "config.json").write_text("{}")
(weights / "model.safetensors").write_text("trained")
(out / "result.json").write_text('{"checkpoint": "weights", "metrics": {"loss": 0.5}}')
"""
QUESTIONS = ["Held out 1?", "Held out 2?"]


@pytest.fixture
def given(tmp_path: Path, lake_root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A version of one pair, a policy of a few bytes, a trainer and an evaluation file: the configuration that names them."""
    monkeypatch.chdir(tmp_path)
    prompt = make_prompt("Trained on?", reference="4")
    texts = {side: f'[{{"content":"{side}","role":"assistant"}}]' for side in ("chosen", "rejected")}
    pair = {**texts, "prompt": prompt["messages"], "pair_id": "p", "prompt_id": prompt["prompt_id"], "kind": "response", "split": "train"}
    with open_lake(lake_root) as lake:
        lake.append("prompts", frame([prompt], PROMPTS), commit_id="facts")
        publish(lake, "sums", frame([pair], PAIRS), manifest={}, author="test", commit_id="publish")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    (tmp_path / "policy" / "model.safetensors").write_text("weights")
    (tmp_path / "trainer.py").write_text(TRAINER)
    ask(tmp_path, QUESTIONS)
    return {
        "dataset": "sums@1",
        "lake": str(lake_root),
        "policy": f"hf:{tmp_path / 'policy'}",
        "command": f"{shlex.quote(sys.executable)} {tmp_path / 'trainer.py'} {{handoff}} {{policy}} {{out}} {{params}}",
        "evaluation": {"prompts": str(tmp_path / "eval.jsonl"), "verifier": "numeric"},
    }


def ask(folder: Path, questions: list[str]) -> None:
    (folder / "eval.jsonl").write_text("".join(json.dumps({"prompt": text, "reference": "4"}) + "\n" for text in questions))


async def trained(given: dict[str, Any], **changes: Any) -> tuple[str, list[str]]:
    """Train, and fail before the evaluation: the run's key, and the policies that its trainer was started with."""
    async with training(TrainConfig(**{**given, **changes}), None) as run:
        await tasks.hand_off.fn(run.key)
        assert await tasks.run_training.fn(run.key) == {"loss": 0.5}
        return run.key, (run.directory / "trainer" / "runs").read_text().splitlines()


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"verifier": "numerc"}, "verifier: 'numerc' is not shipped"),
        ({"verifier": "no_such_module:check"}, "cannot import 'no_such_module'"),
        ({"prompts": "none.jsonl"}, r"evaluation\.prompts: no file 'none\.jsonl'"),
        ({"n_prompts": 2, "prompts": "seen.jsonl"}, "contaminated: 1 of 2 evaluation prompts were trained on"),
        ({"prompts": "one.jsonl"}, "at least two unseen prompts, there are 1"),
    ],
)
async def test_an_evaluation_that_cannot_be_made_is_refused_before_the_training(
    given: dict[str, Any], tmp_path: Path, lake_root: Path, evaluation: dict[str, Any], message: str
) -> None:
    ask(tmp_path, ["Trained on?", *QUESTIONS])
    (tmp_path / "eval.jsonl").rename(tmp_path / "seen.jsonl")
    ask(tmp_path, QUESTIONS[:1])
    (tmp_path / "eval.jsonl").rename(tmp_path / "one.jsonl")
    ask(tmp_path, QUESTIONS)
    with pytest.raises(ConfigError, match=message):
        async with training(TrainConfig(**{**given, "evaluation": {**given["evaluation"], **evaluation}}), None):
            pass
    assert not list((lake_root / "runs").glob("train-*"))


async def test_a_finished_training_is_not_repeated_after_a_failure_that_came_later(given: dict[str, Any]) -> None:
    key, runs = await trained(given)
    assert len(runs) == 1
    assert await trained(given) == (key, runs)


async def test_a_trainer_that_failed_is_started_again(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER + "if not (out / 'again').exists():\n    (out / 'again').touch(); sys.exit(3)\n")
    with pytest.raises(TrainerError, match="ended with exit code 3"):
        await trained(given)
    assert len((await trained(given))[1]) == 2
