"""Flow `nightly`: the whole card in one run, every stage a flow of its own."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipelines.flows.contrast import contrast
from pipelines.flows.curate import curate
from pipelines.flows.select import select
from pipelines.flows.steps import steps
from pipelines.flows.train import train
from pipelines.nightly.config import NightlyConfig
from pipelines.nightly.stages import Night
from pipelines.nightly.telling import tell
from pipelines.runs import resolved_seed


@flow(name="nightly", flow_run_name="{config.name}", retries=0, persist_result=False)
async def nightly(config: NightlyConfig) -> dict[str, Any]:
    """Sample and judge, search steps, keep the informative few, make contrasts, train: what is switched on, and one report of all.

    A stage that is refused or fails leaves out what starts from it and nothing else. Asked again for the same night, every stage that is
    done answers at once, and one that was killed repeats only the calls that were in flight.
    """
    night = Night(config=config, seed=resolved_seed(config.seed))
    await night.run("curate", curate)
    await night.run("steps", steps)
    await night.run("select", select)
    await night.run("contrast", contrast)
    await night.run("train", train)
    await tell(night)
    return night.outcome()


FLOW = nightly
