"""A curation from its configuration to an open run, and its shards sampled and judged."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import polars as pl

from curators.verifiers import load_verifier
from pipelines.config import EngineConfig
from pipelines.judging.config import CurateConfig
from pipelines.judging.labelling import annotator
from pipelines.judging.rationales import explainer, rubrics_of, writers
from pipelines.prompt_runs import Opener, in_shards, prompt_run
from pipelines.runs import Run


def curation(config: CurateConfig, open_run: Opener = prompt_run) -> AbstractAsyncContextManager[Run]:
    """The open run of a configuration, registered under its key."""
    roles: dict[str, EngineConfig] = {"policy": config.policy, **config.judges}
    if config.reward is not None:
        roles["reward"] = config.reward
    files = {f"{role}.rubric": judge.rubric for role, judge in config.judges.items() if judge.rubric.endswith(".md")}
    roles |= writers(config)
    if config.rationale is not None:
        rubrics_of(config.rationale)  # what is wrong with it is found before anything is paid
        files |= {"rationale.rubric": config.rationale.rubric} if config.rationale.rubric else {}
    code = {} if config.verifier is None else {"verifier": load_verifier(config.verifier).judge}
    return open_run("curate", config, roles, files=files, code=code)


async def annotated(run: Run) -> None:
    """Every shard sampled and judged."""
    from pipelines import tasks  # here: it brings Prefect, which a plan does without

    n = run.read("prompts").filter(pl.col("state") == "ok").height
    run.annotate = await annotator(run)
    run.drop_shards()  # those of a killed attempt, perhaps of another size; their calls are in the ledger
    await in_shards(run, lambda *shard: tasks.annotate_shard(run.key, *shard), n=n, doing="prompts sampled and judged")


async def explained(run: Run) -> None:
    """The pairs' rationales, shard by shard, where the configuration asks for them; a candidate that is refused already buys none."""
    config = run.config
    assert isinstance(config, CurateConfig)
    from pipelines import tasks

    if config.rationale is None or run.figures.refusal is not None or not (n := run.read("pairs").height):
        return
    run.explain = explainer(run, config.rationale)
    await in_shards(run, lambda *shard: tasks.write_rationales(run.key, *shard), n=n, doing="pairs explained", unit="pairs")
    await tasks.weigh_rationales(run.key)
