"""Flow `export`: a published version → the Hub looked at → Parquet shards and a card → one commit and a tag on the Hub."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow, task

from pipelines.artifacts import show_table
from pipelines.config import ExportConfig
from pipelines.exporting import EXPORTS, exporting
from pipelines.tasks import PLAIN


@task(name="look at the Hub", **PLAIN)
async def look_at_hub(key: str) -> bool:
    """Whether the Hub has all of it already."""
    run = EXPORTS[key]
    await asyncio.to_thread(run.look)
    return run.is_there


@task(name="write shards", **PLAIN)
async def write_shards(key: str) -> None:
    """The folder that is pushed, in the run's directory."""
    await asyncio.to_thread(EXPORTS[key].write)


@task(name="push", **PLAIN)
async def push_folder(key: str) -> dict[str, Any]:
    """Files, then one commit, then the tag."""
    run = EXPORTS[key]
    await asyncio.to_thread(run.push)
    return dict(run.pushed)


@task(name="show export", **PLAIN)
async def show_export(key: str) -> None:
    """What went where, as a table in the Prefect UI."""
    run = EXPORTS[key]
    rows = [{"what": name, "value": str(value)} for name, value in run.outcome().items() if value is not None]
    await show_table("export", run.release.name, rows, f"{run.release.ref} → {run.config.to}")


@flow(name="export", flow_run_name="export {config.dataset}", persist_result=False)
async def export(config: ExportConfig, version: int | None = None) -> dict[str, Any]:
    """Push a version to the Hub. `version` is what the event of a tag says; null: what `config.dataset` resolves to.

    What the Hub has already is not sent again, and a version that it has whole makes no commit.
    """
    async with exporting(config, version) as run:
        if not await look_at_hub(run.key):
            await write_shards(run.key)
            await push_folder(run.key)
        await show_export(run.key)
        return run.outcome()


FLOW = export
