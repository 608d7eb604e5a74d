"""Flow `steps`: prompts → searched trees → pairs of steps → gates → a published version."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow

from pipelines import tasks
from pipelines.steps import tasks as step_tasks
from pipelines.steps.config import StepsConfig
from pipelines.steps.searching import search_run, searched


@flow(name="steps", flow_run_name="steps {config.dataset}", retries=0, persist_result=False)
async def steps(config: StepsConfig) -> dict[str, Any]:
    """Search over the steps of a policy's answers, and publish the pairs of steps that pass the gates.

    The same configuration and seed is the same run: once it is published it answers with its version. Finished trees are never searched
    again, whatever pairs are made of them, and a killed run repeats only the calls that were in flight.
    """
    async with search_run(config) as run:
        if run.release is not None:
            await tasks.announce(run.key)
            return run.outcome("reused")
        await tasks.read_prompts(run.key)
        await searched(run)
        await step_tasks.build_candidate(run.key)
        await asyncio.gather(tasks.show_figures(run.key), tasks.publish_candidate(run.key))
        await tasks.announce(run.key)
        await step_tasks.draw_trees(run.key)
        return run.outcome()


FLOW = steps
