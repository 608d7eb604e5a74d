"""Plans by flow. A flow that runs others has the sum of its stages' plans (`pipelines.planning.plan.summed_up`)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.config import ImportConfig, TrainConfig
from pipelines.config_files import check_inputs
from pipelines.contrasting.config import ContrastConfig
from pipelines.judging.config import CurateConfig
from pipelines.nightly.config import NightlyConfig, prepared, source_of
from pipelines.planning.engines import Place, PlanningEngine, Tally
from pipelines.planning.forecast import exactly
from pipelines.planning.opening import planned_lake
from pipelines.planning.outcomes import begun, decided
from pipelines.planning.plan import Plan, lines_of, summed_up
from pipelines.runs import resolved_seed
from pipelines.selecting.config import SelectionConfig
from pipelines.steps.config import StepsConfig
from storage import open_lake, resolve
from storage.usage import LedgerReader


def plan_of(flow: str, config: Any) -> Plan:
    """What `pipelines.flows` would do with this configuration. Nothing is bought, and nothing is written into the lake.

    Raises:
        CurationError, StorageError: what the run itself would be refused for before it asks anything.
    """
    check_inputs(config)
    if isinstance(config, NightlyConfig):
        return plan_nightly(config)
    if isinstance(config, CurateConfig):
        from pipelines.planning.curate import plan_curate  # here and below: each flow brings its own curators

        return asyncio.run(plan_curate(config))
    if isinstance(config, StepsConfig):
        from pipelines.planning.steps import plan_steps

        return asyncio.run(plan_steps(config))
    if isinstance(config, ContrastConfig):
        from pipelines.planning.derived import plan_contrast

        return asyncio.run(plan_contrast(config))
    if isinstance(config, SelectionConfig):
        from pipelines.planning.derived import plan_select

        return plan_select(config)
    if isinstance(config, TrainConfig):
        return asyncio.run(plan_train(config))
    if isinstance(config, ImportConfig):
        return plan_import(config)
    return Plan(flow=flow, dataset=getattr(config, "dataset", flow), notes=[f"flow {flow} cannot be planned: plan the flows that it runs"])


def plan_import(config: ImportConfig) -> Plan:
    """What an import would publish: it asks no model, so that its whole candidate is computed."""
    from pipelines.imports import import_candidate, opened
    from storage import find_by_commit

    with TemporaryDirectory(prefix="pairmill-plan-") as temporary:
        lake, first = planned_lake(config.lake_root, Path(temporary))
        with lake:
            run = opened(config, lake)
            run.directory, run.release = Path(temporary), None if first else find_by_commit(lake, run.key)
            plan = begun(run, "import")
            if run.release is not None:
                return plan
            import_candidate(run)
            plan.seconds = None
            return decided(plan, run)


async def plan_train(config: TrainConfig) -> Plan:
    """A training publishes no version; before and after, its evaluation samples both policies on the same prompts."""
    from curators.engines.base import Sampling
    from curators.engines.budget import Budget
    from curators.sampling import sample
    from pipelines.engines import connect
    from pipelines.training.run import exam_of, policy_of

    plan = Plan(flow="train", dataset=config.dataset, rows=exactly(0), rows_by="a training makes a checkpoint and no rows")
    if (given := config.evaluation) is None:
        plan.notes.append("a training asks no engine: there is no `evaluation`")
        return plan
    with open_lake(config.lake_root, create=False) as lake, LedgerReader(config.lake_root / "calls.sqlite") as reader:
        release, tally = resolve(lake, config.dataset), Tally()
        exam = exam_of(given, release)
        engine = PlanningEngine(connect(policy_of(config, release, lake.root), lake.root), reader, tally, budget=Budget())
        sampling = Sampling(temperature=given.temperature, max_tokens=given.max_tokens, seed=given.seed)
        await sample(exam.prompts, engine, n=given.n, sampling=sampling)
        place = Place(engine.spec, engine.fingerprint, "sample")
        after = exam.prompts.height * (1 if "n" in engine.capabilities else given.n)
        plan.lines, _ = lines_of(tally, {place: exactly(tally.ask(place, "sure").calls + after)}, reader)
        await engine.aclose()
    plan.notes.append(f"{after:,} of the calls are the trained policy's, and none if this training is registered already")
    return plan


def plan_nightly(config: NightlyConfig) -> Plan:
    """The sum of a night's stages. A stage that starts from what an earlier one is still to publish cannot be planned before that has."""
    stages, notes, pending, known = [], list[str](), set[str](), dict[str, int]()
    seed = resolved_seed(config.seed)
    for stage, given in config.stages.items():
        source = source_of(stage, given)
        if source in pending:
            notes.append(f"{stage} starts from {source}, which is published in the same night: plan it once that is there")
            pending.add(given.dataset)
            continue
        plan = plan_of(stage, prepared(config, stage, given, seed=seed, version=known.get(source or "")))
        stages.append(plan)
        if stage == "train":
            continue
        if plan.published is None:
            pending.add(given.dataset)
        else:
            known[given.dataset] = int(plan.published.rpartition("@")[2])
    return summed_up("nightly", config.name, stages, notes=notes)
