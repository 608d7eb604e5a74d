"""The tasks of flow `train`. They exchange the run's key; what they make lies in the run's directory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
from prefect import task

from curators.engines.base import Sampling
from curators.engines.fingerprint import fingerprint
from curators.errors import ConfigError
from curators.sampling import sample
from pipelines.artifacts import show_table
from pipelines.config import EngineConfig
from pipelines.engines import engines_open
from pipelines.progress import showing
from pipelines.runs import alone
from pipelines.tasks import PLAIN
from pipelines.training.evaluate import compare
from pipelines.training.job import TrainResult, finished, progress, run_trainer
from pipelines.training.run import TRAININGS, TrainingRun, view_of
from storage.calls import open_ledger
from storage.checkpoints import Checkpoint, promote, register
from storage.handoff import write_handoff


@task(name="hand off", **PLAIN)
async def hand_off(key: str) -> str:
    """The version as a directory that a trainer opens without the lake."""
    run = TRAININGS[key]
    config = run.config
    run.handoff = await asyncio.to_thread(
        lambda: write_handoff(
            run.release.frozen,
            run.directory / "handoff",
            view=view_of(config, run.release),
            form=config.form,
            format=config.handoff_format,
        )
    )
    return str(run.handoff)


@task(name="train", **PLAIN)
async def run_training(key: str) -> dict[str, Any]:
    """The trainer, in a process of its own; its progress lines move the bar. What it left in full is not trained again."""
    run = TRAININGS[key]
    out_dir = run.directory / "trainer"
    async with alone(run.directory):
        result = finished(out_dir) or await _trained(run, out_dir)
    run.trained, run.metrics = result.checkpoint, result.metrics
    return result.metrics


async def _trained(run: TrainingRun, out_dir: Path) -> TrainResult:
    config = run.config
    assert run.handoff is not None
    with showing() as advance:

        def on_line(line: str) -> None:
            record = progress(line) or {}
            step, steps = record.get("step", 0), record.get("steps")
            if isinstance(step, int) and isinstance(steps, int) and steps > 0:
                advance("training", step, steps)

        return await run_trainer(
            config.command,
            run.handoff,
            policy_path=run.policy_path,
            out_dir=out_dir,
            params=config.params,
            timeout_s=config.timeout_s,
            on_line=on_line,
        )


@task(name="evaluate", **PLAIN)
async def evaluate_checkpoint(key: str) -> dict[str, Any] | None:
    """Accuracy of the policy before and after on prompts that the version does not hold, sample by sample."""
    run = TRAININGS[key]
    config, exam = run.config.evaluation, run.exam
    if config is None or exam is None:
        return None
    before, after = await exam_samples(run, ("before", "after"))
    found = await asyncio.to_thread(lambda: compare(before, after, exam.prompts, exam.verifier, seed=config.seed))
    run.evaluation = found.as_record()
    return run.evaluation


async def exam_samples(run: TrainingRun, sides: Sequence[Literal["before", "after"]]) -> list[pl.DataFrame]:
    """The answers of the policy before or after the training to the exam, as `generations`; what was asked before is in the ledger."""
    config, exam = run.config.evaluation, run.exam
    assert config is not None
    assert exam is not None
    sampling = Sampling(temperature=config.temperature, max_tokens=config.max_tokens, seed=config.seed)
    trained = EngineConfig(engine=f"hf:{run.trained}", dtype=run.policy.dtype, threads=run.policy.threads)
    roles: dict[str, EngineConfig] = {side: run.policy if side == "before" else trained for side in sides}
    with open_ledger(run.lake.root / "calls.sqlite") as ledger:
        async with engines_open(roles, run.lake.root, ledger=ledger, spend=None, run_id=run.key) as engines:
            return [await sample(exam.prompts, engines[side], n=config.n, sampling=sampling) for side in sides]


@task(name="register checkpoint", **PLAIN)
async def register_checkpoint(key: str) -> str:
    """The new weights into the registry, with what they came from. `prod` moves only to one whose whole interval of gain is above 0."""
    run = TRAININGS[key]
    if run.trained is None:
        raise ConfigError("the trainer left no checkpoint")
    found = run.checkpoint = await asyncio.to_thread(_register, run, run.trained)
    return found.ref


def _register(run: TrainingRun, path: Path) -> Checkpoint:
    found = register(
        run.lake.root,
        run.name,
        path,
        fingerprint=fingerprint(path),
        parent=run.policy_fingerprint,
        dataset=run.release.ref,
        metrics={"run_key": run.key, "evaluation": run.evaluation, "training": run.metrics},
    )
    if run.evaluation is not None and run.evaluation["low"] > 0:
        promote(run.lake.root, run.name, found.version)
    return found


@task(name="show training", **PLAIN)
async def show_training(key: str) -> None:
    """Evaluation and trainer metrics as tables in the Prefect UI."""
    run = TRAININGS[key]
    name = run.release.name
    for kind, values in (("evaluation", run.evaluation or {}), ("training", run.metrics)):
        rows = [{"figure": figure, "value": str(value)} for figure, value in values.items()]
        await show_table(kind, name, rows, f"{run.release.ref} → {run.checkpoint.ref if run.checkpoint else 'no checkpoint'}")
