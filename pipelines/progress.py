"""How far a long run is: a bar on a terminal, a line now and then in a log, a progress artifact in the Prefect UI.

Curators report through a callable and know nothing of this; a flow opens `showing()` around its work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_S = 10.0

Advance = Callable[[str, int, int], None]
"""`advance(stage, done, total)`: `done` of `total` units of a stage are finished."""


@contextmanager
def showing(*, quiet: bool = False) -> Iterator[Advance]:
    """A progress display on standard error, bars on a terminal and plain lines elsewhere."""
    if quiet:
        yield lambda stage, done, total: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


def _lines() -> Advance:
    said: dict[str, float] = {}

    def advance(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - said.get(stage, now - LINE_S) >= LINE_S:
            said[stage] = now
            print(f"{stage}: {done}/{total}", file=sys.stderr, flush=True)

    return advance
