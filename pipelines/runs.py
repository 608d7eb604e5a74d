"""A run: one configuration with its engines' fingerprints and its seed, under one key.

The key decides everything: the same key is the same run, so a published run answers at once, and a killed one finds its calls in
the ledger and its directory where it left it. Tasks exchange the key; frames wait in the run's directory as Parquet.

    <lake>/runs/<key>/{prompts.parquet, 00000.generations.parquet, 00000.judgments.parquet, …, pairs.parquet, outcome.json}
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
import polars as pl

from curators.embeddings import Vectors
from curators.engines.base import Engine, digest
from curators.engines.budget import Budget
from curators.engines.cached import CachedEngine
from curators.sampling import Row
from pipelines.config import RunConfig
from pipelines.derived import parents_told
from pipelines.figures import Figures
from storage import Lake, Release, find_by_commit
from storage.calls import CallLedger

if TYPE_CHECKING:
    from pipelines.contrasting.source import Source

ROOMS = ("judging", "steps", "selecting", "contrasting", "references", "iterating")
# What decides a run. Where the lake lies, how fast it may go, who runs it and which tag moves do not change one row.
NOT_IN_KEY = {"lake", "author", "tag", "shard_prompts", "concurrent_shards", "concurrent_trees"}
NOT_IN_ENGINE_KEY = {"engine", "max_concurrency", "timeout_s", "api_key_env", "prompt_usd", "completion_usd", "threads", "share_requests"}


@dataclass(kw_only=True)
class Run:
    """What the tasks of one flow run share in this process. Only `key` and `directory` mean anything elsewhere."""

    key: str
    kind: str
    config: RunConfig
    lake: Lake
    directory: Path
    seed: int = 0
    engines: Mapping[str, Engine] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    budget: Budget | None = None
    ledger: CallLedger | None = None
    session: str = ""  # names this process's calls in the ledger
    release: Release | None = None
    parents: tuple[Release, ...] = ()  # the published versions that it starts from
    figures: Figures = field(default_factory=Figures)
    done: set[str] = field(default_factory=set)  # ids of the prompts that are through
    vectors: Vectors | None = None  # of the pairs to select from
    slots: asyncio.Semaphore | None = None  # of trees searched at a time
    annotate: Callable[[Mapping[str, Any]], Awaitable[tuple[list[Row], list[Row]]]] = field(init=False)  # a prompt → generations, judgments
    explain: Callable[[Mapping[str, Any]], Awaitable[list[Row]]] = field(init=False)  # a pair → rationales
    source: Source = field(init=False)  # what contrasts are made from
    synthesise: Callable[[int, int, bool], Awaitable[pl.DataFrame]] = field(init=False)  # a range of prompts → contrasts
    on_advance: Callable[[int], None] | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def capped(self) -> str | None:
        """Which cap ended the run early, or null."""
        return self.budget.exhausted if self.budget is not None else None

    def outcome(self, outcome: str | None = None) -> dict[str, Any]:
        """What the run came to, as JSON: the last line of `pairmill run`."""
        release, figures = self.release, self.figures
        state = outcome or ("published" if release and not release.reused else "reused" if release else "refused")
        found = release.manifest if release is not None else {}
        return {
            "outcome": state,
            "dataset": self.config.dataset,
            "version": release.version if release else None,
            "digest": release.digest if release else None,
            **parents_told(self.parents),
            "capped": self.capped or found.get("capped"),
            "counts": figures.counts or found.get("counts"),
            "funnel": [funnel.as_dict() for funnel in figures.funnels] or found.get("funnel"),
            "gates": [gate.as_dict() for gate in figures.gates] or found.get("gates"),
            "refusal": figures.refusal,
            **({"source": figures.source or found["source"]} if figures.source or found.get("source") else {}),
            "health": figures.health or found.get("health"),
            **({"search": search} if (search := figures.search or found.get("search")) else {}),
            **({"rationales": rationales} if (rationales := figures.rationales or found.get("rationales")) else {}),
            **({"contrast": contrast} if (contrast := figures.contrast or found.get("contrast")) else {}),
            **({"selection": _brief(selection)} if (selection := figures.selection or found.get("selection")) else {}),
            **({"embedded": figures.embedded} if figures.embedded else {}),
            "calls": self.calls(),
            **({"trees": figures.trees} if figures.trees else {}),
            "seconds": round(time.monotonic() - self.started, 2),
            "run_key": self.key,
        }

    def calls(self) -> dict[str, Any] | None:
        """What this run asked of its engines: samples kept, ledger hits, requests, tokens, dollars."""
        if self.ledger is None:
            return None
        for engine in self.engines.values():
            if isinstance(engine, CachedEngine):
                engine.record_hits()
        return self.ledger.summary(run_id=self.session)

    def advance(self, prompt_id: str) -> None:
        """That prompt is through; a task that is retried may say so again."""
        self.done.add(prompt_id)
        if self.on_advance is not None:
            self.on_advance(len(self.done))

    def path(self, name: str) -> Path:
        return self.directory / name

    def write(self, name: str, frame: pl.DataFrame) -> None:
        """Whole or not at all: a killed run leaves no torn file behind."""
        target = self.path(f"{name}.parquet")
        draft = target.with_suffix(f".{os.getpid()}.tmp")
        frame.write_parquet(draft, compression="zstd", compression_level=1)
        draft.replace(target)

    def read(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.path(f"{name}.parquet"))

    def read_shards(self, name: str, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """The shards' frames of one kind, in order of shard; an empty frame of that schema when there are none."""
        files = self.shards(name)
        return pl.read_parquet(files) if files else pl.DataFrame(schema=dict(schema))

    def shards(self, name: str) -> list[Path]:
        """The shards' files of one kind, in order of shard."""
        return sorted(self.directory.glob(f"[0-9]*.{name}.parquet"))

    def drop_shards(self) -> None:
        for file in self.directory.glob("[0-9]*.parquet"):
            file.unlink()

    def noted(self, name: str) -> Any:
        """What `note` wrote under that name, or null."""
        path = self.path(f"{name}.json")
        return orjson.loads(path.read_bytes()) if path.exists() else None

    def note(self, name: str, value: object) -> None:
        draft = self.path(f"{name}.{os.getpid()}.tmp")
        draft.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
        draft.replace(self.path(f"{name}.json"))


def _brief(selection: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in selection.items() if name != "histogram"}


RUNS: dict[str, Run] = {}
"""The runs that are open in this process, by key: how a task finds its engines and its lake."""


@asynccontextmanager
async def alone(directory: Path) -> AsyncIterator[None]:
    """Wait until no other run works in that directory, in this process or another; a process that ends lets go."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(0.5)
            else:
                break
        yield


@asynccontextmanager
async def registered(run: Run) -> AsyncIterator[Run]:
    """The run under its key, alone in its directory, with what it has published already: by itself, or by the one that it waited for."""
    async with alone(run.directory):
        run.release = await asyncio.to_thread(find_by_commit, run.lake, run.key)
        RUNS[run.key] = run
        try:
            yield run
        finally:
            del RUNS[run.key]


def run_key(kind: str, config: RunConfig, *, seed: int, fingerprints: Mapping[str, str], inputs: Mapping[str, str]) -> str:
    """The identity of a run: what is asked, of which models, on which inputs (name → sha256), by which code."""
    asked = without_reach(config.model_dump(mode="json", exclude=NOT_IN_KEY))
    return digest(kind, asked, seed, dict(fingerprints), dict(inputs), code_digest(), size=12)


def without_reach(asked: Any) -> Any:
    """The configuration without how its engines are reached, at whatever depth they stand."""
    if isinstance(asked, list):
        return [without_reach(value) for value in asked]
    if not isinstance(asked, dict):
        return asked
    engine = asked.keys() >= NOT_IN_ENGINE_KEY
    return {name: without_reach(value) for name, value in asked.items() if not (engine and name in NOT_IN_ENGINE_KEY)}


@cache
def code_digest() -> str:
    """sha256 over the source of `curators` and of the flows' rooms: code decides rows, so another code is another run (its calls stay
    paid).
    """
    found = hashlib.sha256()
    house = Path(str(resources.files("curators"))).parent
    for room in ("curators", *(f"pipelines/{name}" for name in ROOMS)):
        for path in sorted((house / room).rglob("*")):
            if path.suffix in {".py", ".md"}:
                found.update(path.relative_to(house).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def file_digest(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolved_seed(seed: int | Literal["scheduled-date"]) -> int:
    """The seed itself, or the scheduled date as YYYYMMDD: every night samples anew, a rerun of a night does not."""
    if seed != "scheduled-date":
        return seed
    from prefect.runtime import flow_run  # here: a plan does without Prefect, which takes a second

    scheduled = flow_run.scheduled_start_time
    return int(f"{scheduled:%Y%m%d}") if scheduled is not None else int(time.strftime("%Y%m%d"))


def first_resolution(lake_root: Path, question: str, answer: Mapping[str, Any], *, keep: bool = True) -> dict[str, Any]:
    """What a floating name (`checkpoint:x@prod`) meant when this question was first asked; the first asker to `keep` it does."""
    path = lake_root / "runs" / "resolved" / f"{question}.json"
    if not keep:
        return dict(orjson.loads(path.read_bytes()) if path.exists() else answer)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_bytes(orjson.dumps(answer))
    try:
        os.link(draft, path)  # unlike rename, link fails when another run was first
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found
