"""Trainings without a server: what is checked before the trainer starts, what is not trained twice, and what a run's key holds."""

from __future__ import annotations

import asyncio
import json
import linecache
import shlex
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from curators.engines.fingerprint import fingerprint
from curators.errors import ConfigError, EngineError
from curators.sampling import make_prompt
from curators.schema import PAIRS, PROMPTS, STEP_PAIRS, frame
from pipelines.config import TrainConfig
from pipelines.training import tasks
from pipelines.training.job import TrainerError
from pipelines.training.run import training
from storage.checkpoints import history
from storage.lake import open_lake
from storage.publishing import publish
from storage.versions import resolve

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


async def key_of(given: dict[str, Any], **changes: Any) -> tuple[str, str]:
    """The key of a run, and the directory of its weights."""
    async with training(TrainConfig(**{**given, **changes}), None) as run:
        return run.key, run.directory.name


async def test_the_code_and_the_content_of_files_are_part_of_the_key(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_exam.py").write_text("def check(*, prompt, response, reference):\n    return True\n")
    given["evaluation"]["verifier"] = "my_exam:check"
    key, weights = await key_of(given)
    assert await key_of(given) == (key, weights)

    ask(tmp_path, ["Another question?", *QUESTIONS])
    other_prompts = await key_of(given)
    assert other_prompts[0] != key
    (tmp_path / "my_exam.py").write_text("def check(*, prompt, response, reference):\n    return len(response) > 1\n")
    sys.modules.pop("my_exam")
    linecache.clearcache()
    other_verifier = await key_of(given)
    assert other_verifier[0] not in (key, other_prompts[0])
    assert other_prompts[1] == other_verifier[1] == weights, "another evaluation needs no other training"

    (tmp_path / "trainer.py").write_text(TRAINER + "# another trainer\n")
    assert (await key_of(given))[1] != weights


async def test_another_evaluation_of_the_same_weights_is_one_more_measurement(given: dict[str, Any], lake_root: Path) -> None:
    for seed in (1, 2, 1, 2):
        config = TrainConfig(**{**given, "evaluation": {**given["evaluation"], "seed": seed}})
        async with training(config, None) as run:
            if run.checkpoint is None:
                await tasks.hand_off.fn(run.key)
                await tasks.run_training.fn(run.key)
                run.evaluation = {"gain": 0.1 * seed, "low": -0.1}
                await tasks.register_checkpoint.fn(run.key)
            assert run.outcome("trained")["evaluation"] == {"gain": 0.1 * seed, "low": -0.1}
            assert (run.directory / "trainer" / "runs").read_text().count("\n") == 1
    assert [e["event"] for e in history(lake_root, "sums")] == ["registered", "measured"]


async def test_runs_that_share_weights_train_them_once(given: dict[str, Any]) -> None:
    found = await asyncio.gather(*(trained(given, evaluation={**given["evaluation"], "seed": seed}) for seed in (1, 2)))
    assert found[0][0] != found[1][0]
    assert [len(runs) for _, runs in found] == [1, 1]


async def test_a_pinned_policy_reaches_the_trainer_as_the_place_of_its_weights(given: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "policy"
    revision = fingerprint(place)[:8]
    assert (await trained(given, policy=f"{given['policy']}@{revision}"))[1] == [str(place)]
    with pytest.raises(EngineError, match="pin that fingerprint"):
        await key_of(given, policy=f"{given['policy']}@hf-0000")


async def test_the_built_in_trainer_takes_no_gguf_file(given: dict[str, Any], tmp_path: Path, lake_root: Path) -> None:
    (tmp_path / "policy.gguf").write_text("weights")
    policy = f"hf:{tmp_path / 'policy.gguf'}"
    with pytest.raises(ConfigError, match=r"policy\.gguf'; the built-in trainer takes a model directory, not a \.gguf file"):
        await key_of(given, policy=policy, command=None)
    assert not list((lake_root / "runs").glob("train-*"))
    assert (await trained(given, policy=policy))[1] == [str(tmp_path / "policy.gguf")]


async def test_a_trainer_that_failed_is_started_again(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER + "if not (out / 'again').exists():\n    (out / 'again').touch(); sys.exit(3)\n")
    with pytest.raises(TrainerError, match="ended with exit code 3"):
        await trained(given)
    assert len((await trained(given))[1]) == 2


async def test_a_version_of_step_pairs_is_handed_off_as_steps_unless_another_view_is_asked_for(
    given: dict[str, Any], lake_root: Path
) -> None:
    whole = pl.read_parquet(resolve(open_lake(lake_root), "sums@1").frozen / "pairs.parquet")
    filled = {"prefix": "", "chosen_step": "chosen", "rejected_step": "rejected", "alpha": 0.1, "depth": 1, "chosen_terminal": False}
    filled |= {"rejected_terminal": True, "chosen_q": 0.5, "rejected_q": -0.5, "chosen_visits": 2, "rejected_visits": 1}
    steps = [{**row, **filled, "kind": "step"} for row in whole.to_dicts()]
    with open_lake(lake_root) as lake:
        publish(lake, "sums-steps", frame(steps, STEP_PAIRS), manifest={"kind": "steps"}, author="test", commit_id="steps")
    for dataset, asked, expected in (("sums@1", None, "dpo"), ("sums-steps@1", None, "step"), ("sums-steps@1", "step-dpo", "step-dpo")):
        async with training(TrainConfig(**{**given, "dataset": dataset, "view": asked}), None) as run:
            handoff = json.loads((Path(await tasks.hand_off.fn(run.key)) / "handoff.json").read_text())
            assert handoff["view"] == expected
