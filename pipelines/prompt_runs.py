"""A run that asks engines about prompts, from its configuration to an open run, and its prompts shard by shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from curators.engines.base import digest
from curators.errors import ConfigError
from curators.sampling import gather_all
from pipelines.config import EngineConfig, PromptsConfig, ShardedConfig
from pipelines.engines import budget, concrete_spec, engines_open, is_floating
from pipelines.progress import showing
from pipelines.runs import Run, file_digest, first_resolution, registered, resolved_seed, run_key
from storage import open_lake, resolve
from storage.calls import open_ledger


class Opener(Protocol):
    """How a run is opened: `prompt_run`, or for a plan `pipelines.planning.opening.planned_run`."""

    def __call__(
        self,
        kind: str,
        config: ShardedConfig,
        roles: Mapping[str, EngineConfig],
        *,
        files: Mapping[str, str],
        code: Mapping[str, str],
        source: str | None = None,
    ) -> AbstractAsyncContextManager[Run]: ...


@asynccontextmanager
async def prompt_run(
    kind: str,
    config: ShardedConfig,
    roles: Mapping[str, EngineConfig],
    *,
    files: Mapping[str, str],
    code: Mapping[str, str],
    source: str | None = None,
) -> AsyncIterator[Run]:
    """The open run of a configuration, registered under its key; engines, ledger and lake are closed afterwards.

    Args:
        roles: the engines by role; each role is a key of the configuration.
        files: paths that decide rows beside a file of prompts, by what they are. They and the prompts are part of the run's key by content.
        code: digests of a user's code that decides rows, likewise.
        source: the published version that the run starts from in place of a file, the value of the configuration's key of that name. The
            run's own configuration says which one it was.

    Raises:
        ConfigError: a file is not there, or an engine cannot be reached by its configuration.
        DatasetNotFound: there is no such version.
    """
    inputs = input_digests({"prompts": config.prompts, **files} if isinstance(config, PromptsConfig) else files) | dict(code)
    async with AsyncExitStack() as stack:
        lake = stack.enter_context(await asyncio.to_thread(open_lake, config.lake_root, create=source is None))
        parents = (await asyncio.to_thread(resolve, lake, source),) if source else ()
        for parent in parents:
            config = config.model_copy(update={"source": parent.ref})
            inputs |= {"source": parent.digest, "source facts": parent.facts_digest}
        ledger = stack.enter_context(open_ledger(lake.root / "calls.sqlite"))
        seed = resolved_seed(config.seed)
        spend = budget(config.caps)
        session = uuid4().hex
        pinned = pinned_engines(config, roles, seed, lake.root)
        engines = await stack.enter_async_context(engines_open(pinned, lake.root, ledger=ledger, spend=spend, run_id=session))
        fingerprints = {role: await asyncio.to_thread(getattr, engine, "fingerprint") for role, engine in engines.items()}
        key = run_key(kind, config, seed=seed, fingerprints=fingerprints, inputs=inputs)
        run = Run(key=key, kind=kind, config=config, lake=lake, directory=lake.root / "runs" / key, seed=seed, engines=engines)
        run.fingerprints, run.budget, run.ledger, run.session, run.parents = fingerprints, spend, ledger, session, parents
        yield await stack.enter_async_context(registered(run))


def input_digests(files: Mapping[str, str]) -> dict[str, str]:
    """sha256 of the files that decide a run's rows, by what they are.

    Raises:
        ConfigError: one is not there.
    """
    for name, path in files.items():
        if not Path(path).is_file():
            form = "; give a .jsonl[.gz], .parquet or .csv file" if name == "prompts" else ""
            raise ConfigError(f"{name}: no file {path!r}{form}")
    return {name: file_digest(path) for name, path in files.items()}


def pinned_engines(
    config: ShardedConfig, roles: Mapping[str, EngineConfig], seed: int, lake_root: Path, *, keep: bool = True
) -> dict[str, EngineConfig]:
    """The engines by role, with a floating checkpoint replaced by what it meant when this configuration first ran with this seed.

    Without `keep` nothing is written, so that a later run may still be the first one.
    """
    floating = {role: engine for role, engine in roles.items() if is_floating(engine)}
    if not floating:
        return dict(roles)
    now = {role: concrete_spec(engine, lake_root) for role, engine in floating.items()}
    question = digest(config.model_dump(mode="json", exclude={"lake", "author", "tag"}), seed, size=12)
    then = first_resolution(lake_root, question, now, keep=keep)
    return dict(roles) | {role: engine.model_copy(update={"engine": then[role]}) for role, engine in floating.items()}


async def in_shards(run: Run, work: Callable[[int, int, int], Awaitable[object]], *, n: int, doing: str, unit: str = "prompts") -> None:
    """`work(number, start, stop)` for every shard of `n` prompts (or `unit`), a few at a time over the same engines: slots stay full.

    `doing` says in the UI what becomes of one; `run.advance` moves the bar.
    """
    from pipelines.artifacts import ProgressArtifact  # here: it brings Prefect, which a plan does without

    config = run.config
    assert isinstance(config, ShardedConfig)
    size = config.shard_prompts
    turn = asyncio.Semaphore(config.concurrent_shards)
    bar = await ProgressArtifact.create(config.dataset, doing)
    run.done.clear()

    async def shard(number: int, start: int) -> None:
        async with turn:
            await work(number, start, min(start + size, n))

    with showing() as advance:
        run.on_advance = lambda done: advance(unit, done, n)
        watch = asyncio.create_task(bar.follow(lambda: (len(run.done), n)))
        try:
            await gather_all(shard(number, start) for number, start in enumerate(range(0, n, size)))
        finally:
            watch.cancel()
    await bar.update(n, n)
