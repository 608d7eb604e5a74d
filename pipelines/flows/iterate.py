"""Flow `iterate`: rounds of sampling, publishing, training and evaluation, each on the policy that the round before has trained."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow

from pipelines.flows.curate import curate
from pipelines.flows.steps import steps
from pipelines.flows.train import train
from pipelines.iterating.chain import Chain
from pipelines.iterating.config import IterateConfig
from pipelines.iterating.telling import tell
from pipelines.runs import alone

MAKE: dict[str, Any] = {"curate": curate, "steps": steps}


@flow(name="iterate", flow_run_name="iterate {config.name}", retries=0, persist_result=False)
async def iterate(config: IterateConfig) -> dict[str, Any]:
    """Round after round until the last one, a rule that stops the chain, or a version that the gates refuse.

    Asked again, rounds that are done answer at once, and more of them go on from there.
    """
    chain = Chain(config=config)
    await asyncio.to_thread(chain.make_lake)
    async with alone(chain.page.parent):
        await asyncio.to_thread(chain.recall)
        while chain.unfinished:
            collect = await asyncio.to_thread(chain.collecting)
            made = await MAKE[config.making](collect)
            if made["version"] is None:
                chain.refused(made)
                continue
            ref = await asyncio.to_thread(chain.learning_from, made)
            trained = await train(chain.training(collect, ref))
            await asyncio.to_thread(chain.close, made, trained)
        await tell(chain)
    return chain.outcome()


FLOW = iterate
