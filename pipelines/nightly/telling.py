"""What a person finds of a night: its page beside the lake, and a table and a line in the Prefect UI."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prefect.artifacts import acreate_markdown_artifact

from curators.errors import CurationError
from pipelines.artifacts import show_table
from pipelines.nightly.stages import Night
from pipelines.report.layout import write_page
from pipelines.report.night import build_night, gist, made


class NightFailed(CurationError):
    """A stage of a night did not come to its end; the others did what they could. `outcome` is the night's."""

    def __init__(self, message: str, outcome: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.outcome = outcome


async def tell(night: Night) -> None:
    """Write the page and the artifacts.

    Raises:
        NightFailed: a stage failed. The page says which, and what became of the others.
    """
    outcome, name = night.outcome(), night.config.name
    page = await asyncio.to_thread(lambda: write_page(build_night(outcome), night.page))
    rows = [
        {"stage": each["stage"], "outcome": each["outcome"], "made": made(each) or "-", "what of it": gist(each) or "-"}
        for each in night.done
    ]
    await show_table("stages", name, rows, f"{name} {night.seed}, stage by stage")
    await acreate_markdown_artifact(
        key=f"{name}-report".replace("_", "-"),
        markdown=f"# {name} {night.seed}: {outcome['outcome']}\n\nReport: [{page}](file://{page.absolute()})",
        description="the night's report",
    )
    if problems := night.problems():
        raise night.bug or NightFailed(
            f"{len(problems)} of {len(night.done)} stages failed: {'; '.join(problems)}; report: {page}", outcome
        )
