"""Flow `curate`: prompts → generations → judgments → verdicts → pairs → rationales → gates → a published version."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow

from pipelines import tasks
from pipelines.curation import annotated, curation, explained
from pipelines.judging.config import CurateConfig


@flow(name="curate", flow_run_name="curate {config.dataset}", retries=0, persist_result=False)
async def curate(config: CurateConfig) -> dict[str, Any]:
    """Sample a policy, judge what it wrote, and publish the pairs that pass the gates.

    The same configuration and seed is the same run: once it is published it answers with its version, and a killed one repeats only the
    calls that were in flight.
    """
    async with curation(config) as run:
        if run.release is not None:
            await tasks.announce(run.key)
            return run.outcome("reused")
        await tasks.read_prompts(run.key)
        if config.gold is not None:
            await tasks.try_judges(run.key)
        if run.figures.refusal is None:
            await annotated(run)
            await tasks.build_candidate(run.key)
        await explained(run)
        await asyncio.gather(tasks.show_figures(run.key), tasks.publish_candidate(run.key))
        await tasks.announce(run.key)
        return run.outcome()


FLOW = curate
