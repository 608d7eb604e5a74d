"""From an engine's configuration to an engine that pays once: spec, price and key in, ledger and budget around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from curators.engines import open_engine
from curators.engines.base import Engine
from curators.engines.budget import Budget
from curators.engines.cached import CachedEngine
from curators.engines.ledger import Ledger
from curators.errors import ConfigError
from pipelines.config import CapsConfig, EngineConfig, api_key
from storage.checkpoints import resolve_checkpoint

OPTIONS = ("max_concurrency", "timeout_s", "prompt_usd", "completion_usd", "share_requests", "dtype", "threads", "api_key_env")


def concrete_spec(engine: EngineConfig, lake_root: Path) -> str:
    """The spec with `checkpoint:NAME[@VERSION|TAG]`, also after `rm:`, replaced by the directory that it means today."""
    if not is_floating(engine):
        return engine.engine
    kind, _, name = engine.engine.partition("checkpoint:")
    return f"{kind or 'hf:'}{resolve_checkpoint(lake_root, name).path}"


def is_floating(engine: EngineConfig) -> bool:
    """Whether the spec names a checkpoint, which may be another one tomorrow."""
    return engine.engine.startswith(("checkpoint:", "rm:checkpoint:"))


def shared_key(engine: EngineConfig, lake_root: Path) -> tuple[object, ...]:
    """What roles must have in common to share one engine."""
    return (concrete_spec(engine, lake_root), *(getattr(engine, name) for name in OPTIONS))


def connect(engine: EngineConfig, lake_root: Path) -> Engine:
    """Open the bare engine: no ledger, no budget."""
    spec = concrete_spec(engine, lake_root)
    if engine.api_key_env and not api_key(engine):
        raise ConfigError(f"{spec}: the environment variable {engine.api_key_env} is empty or not set")
    given = {name: getattr(engine, name) for name in OPTIONS if getattr(engine, name) is not None}
    return open_engine(spec, options={**given, "api_key": api_key(engine)})


def budget(caps: CapsConfig) -> Budget:
    """One budget for the whole run."""
    return Budget(max_calls=caps.calls, max_tokens=caps.tokens, max_usd=caps.usd, max_seconds=caps.seconds)


@asynccontextmanager
async def engines_open(
    configs: dict[str, EngineConfig], lake_root: Path, *, ledger: Ledger, spend: Budget | None, run_id: str
) -> AsyncIterator[dict[str, Engine]]:
    """One cached engine a role. Roles that agree in spec and options share one engine, and so one model and one concurrency limit;
    where they differ in any option, each has its own.

    Raises:
        ConfigError: a key is not set, or there is a cap in dollars and an engine has no price; nothing has been sent then.
    """
    opened: dict[tuple[object, ...], Engine] = {}
    roles: dict[str, Engine] = {}
    try:
        for role, config in configs.items():
            same = shared_key(config, lake_root)
            if same not in opened:
                bare = await asyncio.to_thread(connect, config, lake_root)
                opened[same] = CachedEngine(bare, ledger, budget=spend, run_id=run_id)
            roles[role] = opened[same]
        yield roles
    finally:
        await asyncio.gather(*(engine.aclose() for engine in opened.values()))
