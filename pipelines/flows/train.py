"""Flow `train`: a published version → hand-off → trainer → evaluation before and after → a registered checkpoint."""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipelines.config import TrainConfig
from pipelines.training import tasks
from pipelines.training.run import training


@flow(name="train", flow_run_name="train {config.dataset}", persist_result=False)
async def train(config: TrainConfig, version: int | None = None) -> dict[str, Any]:
    """Train the policy on a version. `version` is what the publish event says; null: what `config.dataset` resolves to."""
    async with training(config, version) as run:
        if run.checkpoint is not None:
            return run.outcome("reused")
        await tasks.hand_off(run.key)
        await tasks.run_training(run.key)
        await tasks.evaluate_checkpoint(run.key)
        await tasks.register_checkpoint(run.key)
        await tasks.show_training(run.key)
        return run.outcome("trained")


FLOW = train
