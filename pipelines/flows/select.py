"""Flow `select`: a published version → filters → embeddings → selection → gates → a published version."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow

from pipelines import tasks
from pipelines.selecting import tasks as select_tasks
from pipelines.selecting.config import SelectionConfig
from pipelines.selecting.opening import selection


@flow(name="select", flow_run_name="select {config.dataset}", persist_result=False)
async def select(config: SelectionConfig) -> dict[str, Any]:
    """Keep the pairs of a published version that are worth training on, and publish them.

    The same version, configuration and code is the same run: once it is published it answers with its version. No text is embedded twice
    by one model.
    """
    async with selection(config) as run:
        if run.release is not None:
            await tasks.announce(run.key)
            return run.outcome("reused")
        await select_tasks.filter_pairs(run.key)
        await select_tasks.embed_pairs(run.key)
        await select_tasks.select_pairs(run.key)
        await asyncio.gather(tasks.show_figures(run.key), tasks.publish_candidate(run.key))
        await tasks.announce(run.key)
        return run.outcome()


FLOW = select
