"""Flow `import`: existing preference data → facts → verdicts → pairs → gates → a published version."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow

from pipelines import tasks
from pipelines.config import ImportConfig
from pipelines.imports import importation


@flow(name="import", flow_run_name="import {config.dataset}", persist_result=False)
async def import_dataset(config: ImportConfig) -> dict[str, Any]:
    """Bring in data that others sampled and judged. The same files, columns and code are the same version."""
    async with importation(config) as run:
        if run.release is not None:
            await tasks.announce(run.key)
            return run.outcome("reused")
        await tasks.import_files(run.key)
        await asyncio.gather(tasks.show_figures(run.key), tasks.publish_candidate(run.key))
        await tasks.announce(run.key)
        return run.outcome()


FLOW = import_dataset
