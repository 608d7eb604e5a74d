"""The tasks of flow `contrast` that no other flow has, and its shards."""

from __future__ import annotations

import asyncio

from prefect import task

from pipelines.contrasting import pairs
from pipelines.contrasting.synthesis import synthesiser
from pipelines.prompt_runs import in_shards
from pipelines.runs import RUNS, Run
from pipelines.tasks import PATIENT, PLAIN

WHOLE = 99_999
"""The number of the shard that holds what cannot be made shard by shard; file names have five digits."""


async def contrasted(run: Run) -> None:
    """Every attempt of every method: shard by shard of the prompts, then of those that look at all attempts at once."""
    run.synthesise = made = await synthesiser(run)
    n = len(made.prompt_ids)
    await in_shards(run, lambda *shard: contrast_shard(run.key, *shard), n=n, doing="prompts contrasted")
    if made.has_whole:
        await contrast_shard(run.key, WHOLE, 0, n)


@task(name="contrast", task_run_name="contrast {number}", **PATIENT)
async def contrast_shard(key: str, number: int, start: int, stop: int) -> dict[str, int]:
    """The attempts of one shard's prompts."""
    run = RUNS[key]
    found = await run.synthesise(start, stop, number == WHOLE)
    await asyncio.to_thread(run.write, f"{number:05d}.contrasts", found)
    return {"attempts": found.height}


@task(name="build contrast pairs", **PLAIN)
async def build_candidate(key: str) -> dict[str, int]:
    """Attempts → pairs, their figures and gates, in the run's directory."""
    return await asyncio.to_thread(pairs.build, RUNS[key])
