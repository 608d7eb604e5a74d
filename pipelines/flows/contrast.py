"""Flow `contrast`: a published version → contrastive pairs, checked → gates → a published version."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow

from pipelines import tasks
from pipelines.contrasting import tasks as contrast_tasks
from pipelines.contrasting.config import ContrastConfig
from pipelines.contrasting.synthesis import contrast_run


@flow(name="contrast", flow_run_name="contrast {config.dataset}", retries=0, persist_result=False)
async def contrast(config: ContrastConfig) -> dict[str, Any]:
    """Make pairs that differ in one known thing from a version's prompts, answers or pairs, and publish those that pass.

    The same configuration, seed and source is the same run: once it is published it answers with its version, and a killed one repeats only
    the calls that were in flight.
    """
    async with contrast_run(config) as run:
        if run.release is not None:
            await tasks.announce(run.key)
            return run.outcome("reused")
        await contrast_tasks.contrasted(run)
        await contrast_tasks.build_candidate(run.key)
        await asyncio.gather(tasks.show_figures(run.key), tasks.publish_candidate(run.key))
        await tasks.announce(run.key)
        return run.outcome()


FLOW = contrast
