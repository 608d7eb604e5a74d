"""Flow `evidence`: published versions → the same policy trained on each, over seeds → the differences with their intervals."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow

from pipelines.evidence.config import EvidenceConfig
from pipelines.evidence.tasks import grade_before, tell, train_and_grade
from pipelines.evidence.trainings import open_evidence, tabled


@flow(name="evidence", flow_run_name="evidence {config.name}", retries=0, persist_result=False)
async def evidence(config: EvidenceConfig) -> dict[str, Any]:
    """Train the same policy on every version with the same budget, and say which is better to train on.

    Trainings that are done are not done again, as long as the budget stays what it is.
    """
    found = await asyncio.to_thread(open_evidence, config)
    found.before = await grade_before(found.training(0, 0))
    tabled([[found.before]])  # an exam that cannot be graded costs no training
    for place in range(len(found.releases)):
        found.scores.append([await train_and_grade(found.training(place, number)) for number in range(config.seeds)])
    await tell(found)
    return found.outcome()


FLOW = evidence
