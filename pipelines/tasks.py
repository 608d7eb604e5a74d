"""The tasks of the flows: read, curate, write. They exchange run keys and shard numbers, never frames.

A task costs the server about 25 ms, so there is one a shard of at least 256 model calls and one a stage, never one a row.
Concurrency inside a shard is asyncio against the engine, which owns its limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from curators.errors import EngineBusy
from curators.sampling import Row, gather_all
from curators.schema import GENERATIONS, JUDGMENTS, frame
from pipelines import candidates, imports
from pipelines.artifacts import show_outcome, show_table
from pipelines.events import emit_published, emit_tagged
from pipelines.judging import pairs as judged_pairs
from pipelines.judging import rationales, trials
from pipelines.runs import RUNS, Run


def _busy(task: Any, run: Any, state: Any) -> bool:
    """Only a dead endpoint is worth another try of the task; every other failure is a row or a bug."""
    return isinstance(state.data, EngineBusy) or "EngineBusy" in str(state.message)


PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""A task whose work lands in the run's directory or in the lake: its result is a reference and is kept nowhere else."""

PATIENT: dict[str, Any] = {
    **PLAIN,
    "retries": 3,
    "retry_delay_seconds": [5, 20, 60],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _busy,
}
"""A task that asks an engine, and asks again when the endpoint was down."""


@task(name="sample and judge", task_run_name="sample and judge {number}", **PATIENT)
async def annotate_shard(key: str, number: int, start: int, stop: int) -> dict[str, int]:
    """Sample and judge the prompts of one shard: each prompt is judged as soon as its own samples are there."""
    run = RUNS[key]
    prompts = await asyncio.to_thread(lambda: run.read("prompts").filter(pl.col("state") == "ok")[start:stop])
    groups = await gather_all(_annotated(run, prompt) for prompt in prompts.iter_rows(named=True))
    generations = [row for group, _ in groups for row in group]
    judgments = [row for _, group in groups for row in group]
    await asyncio.to_thread(run.write, f"{number:05d}.generations", frame(generations, GENERATIONS))
    await asyncio.to_thread(run.write, f"{number:05d}.judgments", frame(judgments, JUDGMENTS))
    return {"generations": len(generations), "judgments": len(judgments)}


async def _annotated(run: Run, prompt: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
    found = await run.annotate(prompt)
    run.advance(prompt["prompt_id"])
    return found


@task(name="write rationales", task_run_name="write rationales {number}", **PATIENT)
async def write_rationales(key: str, number: int, start: int, stop: int) -> dict[str, int]:
    """The rationales of one shard of pairs."""
    return await rationales.write_shard(RUNS[key], number, start, stop)


@task(name="weigh rationales", **PLAIN)
async def weigh_rationales(key: str) -> dict[str, int]:
    """What became of the rationales, and the gates once more."""
    return await asyncio.to_thread(rationales.weigh_again, RUNS[key])


@task(name="read prompts", **PLAIN)
async def read_prompts(key: str) -> dict[str, int]:
    """The prompt file as rows with states, duplicates marked; only the usable ones are sampled."""
    run = RUNS[key]
    return await asyncio.to_thread(candidates.read_prompts, run)


@task(name="try judges", **PATIENT)
async def try_judges(key: str) -> dict[str, Any]:
    """The judges on gold pairs, before anything is sampled; one that its gate refuses ends the run here."""
    trial = await trials.try_judges(RUNS[key])
    return {"agreement": trial["agreement"]}


@task(name="build pairs", **PLAIN)
async def build_candidate(key: str) -> dict[str, int]:
    """Facts → verdicts → scores → pairs, judge health and gates, in the run's directory."""
    run = RUNS[key]
    return await asyncio.to_thread(judged_pairs.build, run)


@task(name="publish", **PLAIN)
async def publish_candidate(key: str) -> dict[str, Any]:
    """Keep every fact; publish the pairs if the gates let them through."""
    return await asyncio.to_thread(candidates.publish, RUNS[key])


@task(name="show figures", **PLAIN)
async def show_figures(key: str) -> None:
    """Funnel, judge health and gates as artifacts in the Prefect UI."""
    run = RUNS[key]
    name, figures = run.config.dataset, run.figures
    await asyncio.gather(
        show_table("funnel", name, figures.funnel_rows, "rows in = rows kept + rows dropped, at every stage"),
        show_table("health", name, figures.health_rows, "the judge or the searches, measured on this run"),
        show_table("gates", name, [gate.as_dict() for gate in figures.gates], "what the version had to pass"),
    )


@task(name="announce", **PLAIN)
async def announce(key: str) -> None:
    """Move the tag, say that the version is there, which starts its training, and show what the run came to."""
    run = RUNS[key]
    await asyncio.to_thread(candidates.announce, run, emit_published, emit_tagged)
    if run.figures.gates:
        outcome = run.outcome()
        there = f"pairmill report {run.config.dataset}@{outcome['version']}" if outcome["version"] else str(run.path("outcome.json"))
        await show_outcome(run.config.dataset, outcome, report=there)


@task(name="import files", **PLAIN)
async def import_files(key: str) -> dict[str, Any]:
    """Files → facts → pairs, figures and gates, in the run's directory."""
    return await asyncio.to_thread(imports.import_candidate, RUNS[key])
