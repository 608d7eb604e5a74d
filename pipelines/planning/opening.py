"""A run opened for a plan: the same key, engines that buy nothing, a directory of its own, and a lake that is only read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import polars as pl

from curators.engines.base import Engine
from pipelines.config import EngineConfig, PromptsConfig, ShardedConfig
from pipelines.engines import budget, connect, shared_key
from pipelines.judging.config import CurateConfig
from pipelines.planning.engines import PlanningEngine, Tally
from pipelines.prompt_runs import input_digests, pinned_engines
from pipelines.runs import Run, resolved_seed, run_key
from storage import Lake, find_by_commit, open_lake, resolve
from storage.columns import Frame
from storage.errors import StorageError
from storage.facts import fact_key
from storage.usage import LedgerReader


class ReadOnlyLake(Lake):
    """A lake whose facts a plan adds to in memory: what is appended is read back, and nothing is written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.added: dict[str, list[pl.DataFrame]] = {}

    def append(self, table: str, frame: Frame, *, commit_id: str, author: str = "pairmill", replacing: str | None = None) -> int:
        rows = pl.DataFrame(frame)
        self.added.setdefault(table, []).append(rows)
        return rows.height

    def facts(self, table: str, prompt_ids: pl.Series | None = None, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
        found = super().facts(table, prompt_ids, columns=columns)
        added = [rows if prompt_ids is None else rows.filter(pl.col("prompt_id").is_in(prompt_ids.implode())) for rows in self._of(table)]
        if not added:
            return found
        whole = pl.concat(
            [*([found] if found.width else []), *(rows.select(columns) if columns else rows for rows in added)], how="diagonal"
        )
        key = fact_key(table)
        return whole.unique(key, keep="first").sort(key) if key in whole.columns else whole

    @contextmanager
    def writing(self, what: str) -> Iterator[duckdb.DuckDBPyConnection]:
        raise StorageError(f"{what}: a plan writes nothing")
        yield

    def _of(self, table: str) -> list[pl.DataFrame]:
        return self.added.get(table, [])


@dataclass(kw_only=True)
class PlannedRun(Run):
    """A run that only asks the ledger. `tally`: what it asked; `reader`: the ledger; `first`: there is no lake yet."""

    tally: Tally = field(default_factory=Tally)
    reader: LedgerReader
    first: bool = False


def planned_lake(root: Path, temporary: Path, *, create: bool = True) -> tuple[Lake, bool]:
    """The lake to read, and whether it is an empty one in a temporary directory because there is none yet.

    Raises:
        ManifestError: the directory holds something else, or there is no lake and `create` is off.
    """
    if create and not (root / "catalog.sqlite").exists() and (not root.exists() or not any(root.iterdir())):
        return open_lake(temporary / "lake"), True
    return ReadOnlyLake(open_lake(root, create=False).root), False


@asynccontextmanager
async def planned_run(
    kind: str,
    config: ShardedConfig,
    roles: Mapping[str, EngineConfig],
    *,
    files: Mapping[str, str],
    code: Mapping[str, str],
    source: str | None = None,
) -> AsyncIterator[PlannedRun]:
    """The open run of a configuration as `pipelines.prompt_runs.prompt_run` would open it, under the same key, for a plan.

    Raises:
        ConfigError: as `prompt_run`; a cap in money, and an engine without a price.
    """
    inputs = input_digests({"prompts": config.prompts, **files} if isinstance(config, PromptsConfig) else files) | dict(code)
    async with AsyncExitStack() as stack:
        temporary = Path(stack.enter_context(TemporaryDirectory(prefix="pairmill-plan-")))
        lake, first = planned_lake(config.lake_root, temporary, create=source is None)
        stack.enter_context(lake)
        parents = (resolve(lake, source),) if source else ()
        for parent in parents:
            config = config.model_copy(update={"source": parent.ref})
            inputs |= {"source": parent.digest, "source facts": parent.facts_digest}
        reader = stack.enter_context(LedgerReader(config.lake_root / "calls.sqlite"))
        seed, tally = resolved_seed(config.seed), Tally()
        pinned = pinned_engines(config, roles, seed, config.lake_root, keep=False)
        engines = await stack.enter_async_context(_engines(pinned, config, reader, tally))
        fingerprints = {role: engine.fingerprint for role, engine in engines.items()}
        key = run_key(kind, config, seed=seed, fingerprints=fingerprints, inputs=inputs)
        (temporary / "run").mkdir()
        run = PlannedRun(
            key=key,
            kind=kind,
            config=config,
            lake=lake,
            directory=temporary / "run",
            seed=seed,
            engines=engines,
            reader=reader,
            first=first,
        )
        run.tally, run.fingerprints, run.parents = tally, fingerprints, parents
        run.release = None if first else find_by_commit(lake, key)
        yield run


@asynccontextmanager
async def _engines(
    configs: Mapping[str, EngineConfig], config: ShardedConfig, reader: LedgerReader, tally: Tally
) -> AsyncIterator[dict[str, Engine]]:
    """One engine a role, shared as `pipelines.engines.engines_open` shares them; none of them is asked."""
    opened: dict[tuple[object, ...], PlanningEngine] = {}
    spend, root = budget(config.caps), config.lake_root
    async with AsyncExitStack() as stack:
        for given in configs.values():
            if (same := shared_key(given, root)) not in opened:
                bare = connect(given, root)
                stack.push_async_callback(bare.aclose)
                opened[same] = PlanningEngine(bare, reader, tally, budget=spend, made_up=isinstance(config, CurateConfig))
        yield {role: opened[shared_key(given, root)] for role, given in configs.items()}
