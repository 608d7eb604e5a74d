"""Flow `score`: a published version → log-probabilities under a reference policy → gates → a published version."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow, task

from pipelines import tasks
from pipelines.progress import showing
from pipelines.references.config import ScoreConfig
from pipelines.references.scores import score_pairs, scoring
from pipelines.runs import RUNS
from pipelines.tasks import PLAIN


@flow(name="score", flow_run_name="score {config.dataset}", persist_result=False)
async def score(config: ScoreConfig) -> dict[str, Any]:
    """Say what a reference policy makes of both answers of every pair, and publish the pairs with it.

    The same version and reference is the same run. No text is scored twice by one model.
    """
    async with scoring(config) as run:
        if run.release is not None:
            await tasks.announce(run.key)
            return run.outcome("reused")
        await score_version(run.key)
        await asyncio.gather(tasks.show_figures(run.key), tasks.publish_candidate(run.key))
        await tasks.announce(run.key)
        return run.outcome()


@task(name="score pairs", **PLAIN)
async def score_version(key: str) -> dict[str, int]:
    """The log-probabilities of every answer, in the run's directory."""
    with showing() as advance:
        return await asyncio.to_thread(score_pairs, RUNS[key], lambda done, n: advance("texts", done, n))


FLOW = score
