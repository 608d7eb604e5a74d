"""Runs without a server, to hold against their plans: the flows' own steps, one after the other in this process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from curators.schema import GENERATIONS, JUDGMENTS, frame
from pipelines import candidates
from pipelines.config_files import load_config
from pipelines.curation import curation
from pipelines.judging import pairs as judged_pairs
from pipelines.judging import trials
from pipelines.judging.config import CurateConfig
from pipelines.judging.labelling import annotator
from pipelines.judging.rationales import explainer, weigh_again, write_shard
from tests.pipelines.conftest import write_prompts

N = 12
LOOSE = {"max_judge_inconsistent_share": None, "max_unscored_share": None, "min_pairs": None}

Given = Callable[..., CurateConfig]


def configs(folder: Path) -> Given:
    """Curations of N prompts by fakes, in a lake of that folder."""
    prompts = write_prompts(folder / "p.jsonl", [f"What is {i} + {i}?" for i in range(N)])
    shared = {"dataset": "sums", "prompts": str(prompts), "policy": "fake:", "lake": str(folder / "lake"), "gates": LOOSE}

    def config(**values: Any) -> CurateConfig:
        found = load_config("curate", None, [f"{name}={json.dumps(value)}" for name, value in (shared | values).items()])
        assert isinstance(found, CurateConfig)
        return found

    return config


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return configs(tmp_path)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    asyncio.run(curated(configs(folder)(judge="fake:judge")))
    return folder / "lake"


@pytest.fixture
def judged(template: Path, lake_root: Path) -> Path:
    """The lake with sums@1, by a judge."""
    shutil.copytree(template, lake_root)
    return lake_root


async def curated(config: CurateConfig) -> dict[str, Any]:
    """What `pairmill run curate` says at the end."""
    async with curation(config) as run:
        if run.release is not None:
            return run.outcome("reused")
        candidates.read_prompts(run)
        if config.gold is not None:
            await trials.try_judges(run)
        run.annotate = await annotator(run)
        prompts = run.read("prompts").filter(pl.col("state") == "ok")
        rows = [await run.annotate(prompt) for prompt in prompts.iter_rows(named=True)]
        run.write("00000.generations", frame([row for made, _ in rows for row in made], GENERATIONS))
        run.write("00000.judgments", frame([row for _, judged in rows for row in judged], JUDGMENTS))
        judged_pairs.build(run)
        if config.rationale is not None and run.figures.refusal is None:
            run.explain = explainer(run, config.rationale)
            await write_shard(run, 0, 0, run.read("pairs").height)
            weigh_again(run)
        return candidates.publish(run)


def files_of(root: Path) -> dict[str, str]:
    """sha256 of every file of a lake, but for SQLite's own about who has it open."""
    found = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
