"""A lake with a small imported version, and selections from it without a server."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.candidates import publish
from pipelines.config import ImportConfig
from pipelines.imports import import_candidate, importation
from pipelines.runs import Run
from pipelines.selecting.choosing import embed_pairs, select_pairs
from pipelines.selecting.config import SelectionConfig
from pipelines.selecting.filtering import filter_pairs
from pipelines.selecting.opening import selection

N = 40

WORDS = ("rivers", "bread", "engines", "poems", "glaciers", "chess", "soap", "violins", "bees", "maps")


def rows(n: int = N) -> list[dict[str, Any]]:
    """Pairs with margins 0.5, 1.0, …: the longer the list, the larger the margin."""
    return [
        {
            "prompt": f"Tell me something about {WORDS[i % len(WORDS)]}, number {i}.",
            "chosen": f"Here is what is known of {WORDS[i % len(WORDS)]} in the year {1900 + i}.",
            "rejected": f"I do not know {i}.",
            "score_chosen": 1.0 + i / 2,
            "score_rejected": 0.5,
        }
        for i in range(n)
    ]


async def import_rows(lake_root: Path, name: str, given: list[dict[str, Any]], folder: Path) -> None:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    async with importation(ImportConfig(dataset=name, lake=str(lake_root), files=(str(file),))) as run:
        import_candidate(run)
        publish(run)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    asyncio.run(import_rows(folder / "lake", "big", rows(), folder))
    return folder / "lake"


@pytest.fixture
def big(template: Path, lake_root: Path) -> Path:
    """The lake's root; it holds big@1."""
    shutil.copytree(template, lake_root)
    return lake_root


async def selected(lake_root: Path, **given: Any) -> tuple[dict[str, Any], Run]:
    """What flow `select` does, without its artifacts: the outcome, and the run."""
    config = SelectionConfig.model_validate({"dataset": "small", "source": "big", "lake": str(lake_root), **given})
    async with selection(config) as run:
        if run.release is not None:
            return run.outcome("reused"), run
        filter_pairs(run, lambda done, total: None)
        embed_pairs(run, lambda done, total: None)
        select_pairs(run)
        return publish(run), run
