"""A curation from its configuration to an open run: engines connected, seed and floating names resolved, key known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import polars as pl

from curators.engines.base import digest
from curators.errors import ConfigError
from curators.sampling import gather_all
from curators.verifiers import load_verifier
from pipelines import tasks
from pipelines.artifacts import ProgressArtifact
from pipelines.config import CurateConfig, EngineConfig
from pipelines.engines import budget, concrete_spec, engines_open
from pipelines.progress import showing
from pipelines.runs import RUNS, Run, file_digest, first_resolution, resolved_seed, run_key
from storage import find_by_commit, open_lake
from storage.calls import open_ledger


@asynccontextmanager
async def curation(config: CurateConfig) -> AsyncIterator[Run]:
    """The open run of a configuration, registered under its key; engines, ledger and lake are closed afterwards."""
    if not Path(config.prompts).is_file():
        raise ConfigError(f"prompts: no file {config.prompts!r}; give a .jsonl[.gz], .parquet or .csv file")
    async with AsyncExitStack() as stack:
        lake = stack.enter_context(await asyncio.to_thread(open_lake, config.lake_root))
        ledger = stack.enter_context(open_ledger(lake.root / "calls.sqlite"))
        seed = resolved_seed(config)
        roles = _pinned(config, seed, lake.root)
        spend = budget(config.caps)
        session = uuid4().hex
        engines = await stack.enter_async_context(engines_open(roles, lake.root, ledger=ledger, spend=spend, run_id=session))
        fingerprints = {role: await asyncio.to_thread(getattr, engine, "fingerprint") for role, engine in engines.items()}
        key = run_key("curate", config, seed=seed, fingerprints=fingerprints, inputs=_inputs(config))
        run = Run(key=key, kind="curate", config=config, lake=lake, directory=lake.root / "runs" / key, seed=seed, engines=engines)
        run.fingerprints, run.budget, run.ledger, run.session = fingerprints, spend, ledger, session
        run.directory.mkdir(parents=True, exist_ok=True)
        run.release = await asyncio.to_thread(find_by_commit, lake, key)
        RUNS[key] = run
        stack.callback(RUNS.pop, key)
        yield run


def _pinned(config: CurateConfig, seed: int, lake_root: Path) -> dict[str, EngineConfig]:
    """The engines by role, with a floating checkpoint replaced by what it meant when this configuration first ran with this seed."""
    roles: dict[str, EngineConfig] = {"policy": config.policy}
    if config.judge is not None:
        roles["judge"] = config.judge
    floating = {role: engine for role, engine in roles.items() if engine.engine.startswith("checkpoint:")}
    if not floating:
        return roles
    now = {role: concrete_spec(engine, lake_root) for role, engine in floating.items()}
    question = digest(config.model_dump(mode="json", exclude={"lake", "author", "tag"}), seed, size=12)
    then = first_resolution(lake_root, question, now)
    return roles | {role: engine.model_copy(update={"engine": then[role]}) for role, engine in floating.items()}


def _inputs(config: CurateConfig) -> dict[str, str]:
    """sha256 of every file that decides rows beside the configuration."""
    files = {"prompts": config.prompts}
    if config.judge is not None and config.judge.rubric.endswith(".md"):
        files["rubric"] = config.judge.rubric
    for name, path in files.items():
        if not Path(path).is_file():
            raise ConfigError(f"{name}: no file {path!r}")
    found = {name: file_digest(path) for name, path in files.items()}
    if config.verifier is not None:
        found["verifier"] = load_verifier(config.verifier).judge
    return found


async def annotated(run: Run) -> None:
    """Every shard sampled and judged, a few at a time over the same engines, so that their slots stay full."""
    config = run.config
    assert isinstance(config, CurateConfig)
    n = run.read("prompts").filter(pl.col("state") == "ok").height
    starts = range(0, n, config.shard_prompts)
    run.drop_shards()  # those of a killed attempt, perhaps of another size; their calls are in the ledger
    turn = asyncio.Semaphore(config.concurrent_shards)
    bar = await ProgressArtifact.create(config.dataset)

    async def shard(number: int, start: int) -> None:
        async with turn:
            await tasks.annotate_shard(run.key, number, start, min(start + config.shard_prompts, n))

    with showing() as advance:
        run.on_advance = lambda done: advance("prompts", done, n)
        watch = asyncio.create_task(bar.follow(lambda: (run.done, n)))
        try:
            await gather_all(shard(number, start) for number, start in enumerate(starts))
        finally:
            watch.cancel()
    await bar.update(n, n)
