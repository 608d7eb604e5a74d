"""The tasks of flow `evidence`: one a training, and what a person finds at the end."""

from __future__ import annotations

import asyncio
from typing import Literal

import polars as pl
from prefect import task

from pipelines.artifacts import show_table
from pipelines.config import TrainConfig
from pipelines.evidence.trainings import Evidence
from pipelines.report.evidence import build_evidence, difference_rows
from pipelines.report.layout import write_page
from pipelines.tasks import PLAIN
from pipelines.training import tasks as training_tasks
from pipelines.training.evaluate import grade
from pipelines.training.run import TrainingRun, training


@task(name="grade before", **PLAIN)
async def grade_before(config: TrainConfig) -> dict[str, float]:
    """The policy before any training: mean score by prompt of the exam."""
    async with training(config, None) as run:
        return await _graded(run, "before")


@task(name="train and grade", task_run_name="train {config.dataset}, seed {config.params[seed]}", **PLAIN)
async def train_and_grade(config: TrainConfig) -> dict[str, float]:
    """One training: mean score by prompt of the exam. The checkpoint stays in the run's directory: no registry and no tag hears of it."""
    async with training(config, None) as run:
        await training_tasks.hand_off.fn(run.key)
        await training_tasks.run_training.fn(run.key)
        return await _graded(run, "after")


async def _graded(run: TrainingRun, side: Literal["before", "after"]) -> dict[str, float]:
    """By prompt; one whose answers all failed, or which the verifier cannot decide, is not there."""
    (answers,) = await training_tasks.exam_samples(run, (side,))
    assert run.exam is not None
    exam = run.exam
    found = await asyncio.to_thread(lambda: grade(answers, exam.prompts, exam.verifier))
    by_prompt = found.filter(pl.col("score").is_not_null()).group_by("prompt_id").agg(pl.col("score").mean()).sort("prompt_id")
    return dict(by_prompt.iter_rows())


async def tell(evidence: Evidence) -> None:
    """The page and the table."""
    outcome = evidence.outcome()
    await asyncio.to_thread(lambda: write_page(build_evidence(outcome), evidence.page))
    await show_table("evidence", evidence.config.name, difference_rows(outcome), f"accuracy after training; report: {evidence.page}")
