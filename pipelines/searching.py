"""A step search from its configuration to an open run, and its shards searched."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from curators.verifiers import load_verifier
from pipelines import step_tasks
from pipelines.config import StepsConfig
from pipelines.prompt_runs import in_shards, prompt_run
from pipelines.runs import Run
from pipelines.step_settings import extraction, search_config
from pipelines.trees import keep_trees, usable_prompts


def search_run(config: StepsConfig) -> AbstractAsyncContextManager[Run]:
    """The open run of a configuration, registered under its key.

    Raises:
        ConfigError: a parameter of the search or of the pairs that is not allowed; nothing has been opened then.
    """
    search_config(config.search)
    extraction(config.pairs, policy="", seed=0)
    return prompt_run("steps", config, {"policy": config.policy}, files={}, code={"verifier": load_verifier(config.verifier).judge})


def prepare(run: Run) -> int:
    """Make the run ready for its shards; returns how many prompts there are to search."""
    config = run.config
    assert isinstance(config, StepsConfig)
    keep_trees(run)  # what a killed attempt had finished
    run.drop_shards()
    run.slots = asyncio.Semaphore(config.concurrent_trees)
    return usable_prompts(run).height


async def searched(run: Run) -> None:
    """A tree for every prompt, in the lake."""
    n = await asyncio.to_thread(prepare, run)
    await in_shards(run, lambda *shard: step_tasks.search_shard(run.key, *shard), n=n, doing="prompts searched")
