"""What a person reads in the Prefect UI: funnel, gates, judge health, progress, and where the report is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact

PROGRESS_S = 2.0


async def show_table(kind: str, dataset: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table under a stable key, so that the UI keeps its history over runs."""
    await acreate_table_artifact(key=f"{dataset}-{kind}".replace("_", "-"), table=[dict(row) for row in rows], description=description)


async def show_outcome(dataset: str, outcome: Mapping[str, Any], report: str | None) -> None:
    """What the run came to, in a few lines of Markdown."""
    lines = [f"# {dataset}: {outcome['outcome']}", ""]
    if outcome.get("version"):
        lines += [f"**{dataset}@{outcome['version']}**, digest `{str(outcome['digest'])[:12]}`", ""]
    if outcome.get("capped"):
        lines += [f"Ended early by a cap: {outcome['capped']}.", ""]
    lines += [f"* refused by **{gate['name']}**: {gate['detail']}" for gate in outcome["gates"] or [] if not gate["passed"]]
    if report:
        lines += ["", f"Report: `{report}`"]
    await acreate_markdown_artifact(key=f"{dataset}-outcome".replace("_", "-"), markdown="\n".join(lines), description="outcome of the run")


async def show_trees(dataset: str, trees: Sequence[Mapping[str, str]]) -> None:
    """A few search trees as text, each with its drawn page and the command that draws any other."""
    parts = [
        f"## Prompt {tree['prompt_id']}\n\n[{tree['page']}](file://{tree['page']})\n\n```\n{tree['outline'].replace('```', '')}\n```"
        for tree in trees
    ]
    hint = f"Any other: `pairmill tree {trees[0]['ref']} PROMPT_ID --to tree.html`" if trees else "No prompt gave a pair."
    await acreate_markdown_artifact(
        key=f"{dataset}-trees".replace("_", "-"),
        markdown="\n\n".join([f"# Search trees of {dataset}", hint, *parts]),
        description="search trees",
    )


class ProgressArtifact:
    """One bar in the UI, moved every two seconds at most, because every update costs the server a request."""

    def __init__(self, artifact_id: UUID) -> None:
        self._id = artifact_id

    @classmethod
    async def create(cls, dataset: str, description: str) -> ProgressArtifact:
        key = f"{dataset}-progress".replace("_", "-")
        return cls(await acreate_progress_artifact(progress=0.0, key=key, description=description))

    async def update(self, done: int, total: int) -> None:
        await aupdate_progress_artifact(artifact_id=self._id, progress=100.0 * done / max(total, 1))

    async def follow(self, where: Callable[[], tuple[int, int]]) -> None:
        """Move the bar until cancelled."""
        while True:
            await asyncio.sleep(PROGRESS_S)
            await self.update(*where())
