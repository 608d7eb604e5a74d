"""An import from its configuration to a candidate: files read, columns mapped, recorded judgments turned into pairs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from curators.errors import ConfigError
from curators.funnel import count_states
from curators.importing import import_facts
from curators.judging.verdicts import VerdictConfig
from curators.pairs import PairConfig
from pipelines.config import ImportConfig
from pipelines.judging.pairs import Facts, decide
from pipelines.runs import Run, file_digest, registered, run_key
from storage import Lake, open_lake
from storage.files import read_rows


@asynccontextmanager
async def importation(config: ImportConfig) -> AsyncIterator[Run]:
    """The open run of an import, registered under its key."""
    _check_files(config.files)  # here too: a mistake makes no lake
    with await asyncio.to_thread(open_lake, config.lake_root) as lake:
        async with registered(await asyncio.to_thread(opened, config, lake)) as run:
            yield run


def opened(config: ImportConfig, lake: Lake) -> Run:
    """The run of an import, not registered yet.

    Raises:
        ConfigError: a file that is not there, or is given twice.
    """
    _check_files(config.files)
    key = run_key("import", config, seed=0, fingerprints={}, inputs=_inputs(config))
    return Run(key=key, kind="import", config=config, lake=lake, directory=lake.root / "runs" / key)


def _check_files(files: Sequence[str]) -> None:
    places: dict[Path, str] = {}
    for file in files:
        if not Path(file).exists():
            raise ConfigError(f"import: no such file or directory {file!r}")
        place = Path(file).resolve()
        if place in places:
            raise ConfigError(f"import: {file!r} is given twice (first as {places[place]!r}); give every file once")
        places[place] = file


def _inputs(config: ImportConfig) -> dict[str, str]:
    """sha256 of every file by its path as given, a directory's files one by one."""
    files = [p for given in config.files for p in (sorted(Path(given).rglob("*")) if Path(given).is_dir() else [Path(given)])]
    return {str(file): file_digest(file) for file in files if file.is_file()}


def _names(files: Sequence[str]) -> list[str]:
    """What the rows of each file call their source: the file's name, or the path as given where another file has the same name."""
    counts = Counter(Path(file).name for file in files)
    return [Path(file).name if counts[Path(file).name] == 1 else file for file in files]


def import_candidate(run: Run) -> dict[str, Any]:
    """Files → facts → pairs. Scored answers give pairs by the configured policy; pairs, with scores or without, are taken as recorded."""
    config = run.config
    assert isinstance(config, ImportConfig)
    files = {name: islice(read_rows(file), config.limit) for name, file in zip(_names(config.files), config.files, strict=True)}
    found = import_facts(files, name=config.source or config.dataset, columns=config.columns or None)
    run.write("prompts", found.prompts)
    run.write("00000.generations", found.generations)
    run.write("00000.judgments", found.judgments)
    run.figures.funnels = [found.funnel, count_states(found.judgments, stage="judgments", unit="recorded")]
    recorded = any(layout.kind in ("pairs", "labelled") for layout in found.layouts.values())
    pairing = PairConfig(
        pair_policy="recorded" if recorded else config.pairs.policy,
        min_margin=config.pairs.min_margin,
        max_per_prompt=config.pairs.max_per_prompt,
        test_share=config.pairs.test_share,
    )
    facts = Facts(found.prompts.filter(pl.col("state") == "ok"), found.generations, found.judgments, None)
    run.figures.source = {"layouts": {file: layout.layout for file, layout in found.layouts.items()}, "notes": dict(found.notes)}
    return {**decide(run, facts, pairing, VerdictConfig()), **run.figures.source}
