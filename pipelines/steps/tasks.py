"""The tasks of flow `steps` that no other flow has."""

from __future__ import annotations

import asyncio

from prefect import task

from pipelines.artifacts import show_trees
from pipelines.report.tree import drawn_trees
from pipelines.runs import RUNS
from pipelines.steps import pairs
from pipelines.steps.trees import Searcher, usable_prompts
from pipelines.tasks import PATIENT, PLAIN

DRAWN = 3


@task(name="search", task_run_name="search {number}", **PATIENT)
async def search_shard(key: str, number: int, start: int, stop: int) -> dict[str, int]:
    """The trees of one shard's prompts into the lake; those that are there are not searched again."""
    run = RUNS[key]
    prompts = await asyncio.to_thread(usable_prompts, run)
    return await Searcher(run)(number, prompts[start:stop])


@task(name="draw trees", **PLAIN)
async def draw_trees(key: str) -> None:
    """The trees of the prompts with the most pairs as pages in the run's directory, and as an artifact that leads to them."""
    run = RUNS[key]
    if run.release is not None:
        await show_trees(run.config.dataset, await asyncio.to_thread(drawn_trees, run.release, run.path("trees"), most=DRAWN))


@task(name="build step pairs", **PLAIN)
async def build_candidate(key: str) -> dict[str, int]:
    """Trees → pairs, the health of the searches and gates, in the run's directory."""
    return await asyncio.to_thread(pairs.build, RUNS[key])
