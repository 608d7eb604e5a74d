"""A step search from its configuration to an open run, and its shards searched."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from curators.verifiers import load_verifier
from pipelines.config import EngineConfig
from pipelines.prompt_runs import Opener, in_shards, prompt_run
from pipelines.runs import Run
from pipelines.steps.config import StepsConfig
from pipelines.steps.settings import check_pairs, search_config
from pipelines.steps.trees import keep_trees, usable_prompts


def search_run(config: StepsConfig, open_run: Opener = prompt_run) -> AbstractAsyncContextManager[Run]:
    """The open run of a configuration, registered under its key.

    Raises:
        ConfigError: a parameter of the search or of the pairs that is not allowed; nothing has been opened then.
    """
    search_config(config.search)
    check_pairs(config)
    roles: dict[str, EngineConfig] = {"policy": config.policy, **({"reward": config.reward} if config.reward else {})}
    rubrics = {"self_eval": config.self_eval, "reward": config.reward}
    files = {f"{name}.rubric": given.rubric for name, given in rubrics.items() if given and given.rubric.endswith(".md")}
    functions = {"verifier": config.verifier, "reward_function": config.reward_function}
    code = {name: load_verifier(function).judge for name, function in functions.items() if function}
    return open_run("steps", config, roles, files=files, code=code)


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
    from pipelines.steps import tasks as step_tasks  # here: it brings Prefect, which a plan does without

    n = await asyncio.to_thread(prepare, run)
    await in_shards(run, lambda *shard: step_tasks.search_shard(run.key, *shard), n=n, doing="prompts searched")
