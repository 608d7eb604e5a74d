"""The tasks of flow `select`: read, curate, write. They exchange the run's key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from prefect import task

from pipelines.artifacts import ProgressArtifact
from pipelines.progress import showing
from pipelines.runs import RUNS, Run
from pipelines.selecting import choosing, filtering
from pipelines.selecting.config import SelectionConfig
from pipelines.selecting.settings import filters_by_vectors, selects_by_vectors
from pipelines.selecting.vectors import Advance
from pipelines.tasks import PLAIN


@task(name="filter pairs", **PLAIN)
async def filter_pairs(key: str) -> dict[str, int]:
    """A mark for every pair of the source; what is marked goes no further."""
    run = RUNS[key]
    assert isinstance(run.config, SelectionConfig)
    return await _watched(run, filtering.filter_pairs, embeds=filters_by_vectors(run.config))


@task(name="embed pairs", **PLAIN)
async def embed_pairs(key: str) -> dict[str, int]:
    """The vectors of what the filters left, where the selector goes by them; known ones come from the cache."""
    run = RUNS[key]
    assert isinstance(run.config, SelectionConfig)
    return await _watched(run, choosing.embed_pairs, embeds=selects_by_vectors(run.config))


@task(name="select pairs", **PLAIN)
async def select_pairs(key: str) -> dict[str, int]:
    """The selector's choice, its figures and the gates."""
    return await asyncio.to_thread(choosing.select_pairs, RUNS[key])


async def _watched(run: Run, work: Callable[[Run, Advance], dict[str, int]], *, embeds: bool) -> dict[str, int]:
    """The work in a thread, with a bar where texts are embedded; a run that is stopped stops that at its next batch."""
    if not embeds:
        return await asyncio.to_thread(work, run, lambda done, total: None)
    stopped, place = threading.Event(), (0, 0)

    with showing() as show:

        def advance(done: int, total: int) -> None:
            nonlocal place
            if stopped.is_set():
                raise InterruptedError("the run was stopped")
            place = (done, total)
            show("texts", done, total)

        bar = await ProgressArtifact.create(run.config.dataset, "texts embedded")
        watch = asyncio.create_task(bar.follow(lambda: place))
        try:
            found = await asyncio.to_thread(work, run, advance)
        finally:
            stopped.set()
            watch.cancel()
    await bar.update(1, 1)
    return found
