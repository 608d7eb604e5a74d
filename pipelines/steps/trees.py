"""The trees of a run: those that the lake has, and those that are still to be searched.

A finished tree is searched once. It lies in the run's directory within `PART_S` of its end, which `kill -9` leaves there, and goes into the
lake with its shard; whoever asks for the same search later finds it there (`search_id`). Searched again are trees that a cap ended early,
and trees that lost a request on the way; what they asked for before is in the ledger. A tree that an endpoint took down is not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl

from curators.errors import EngineBusy
from curators.sampling import gather_all
from curators.schema import NODES, check, empty, frame
from curators.stepsearch.driver import search_id, search_prompt
from curators.stepsearch.proposals import StepConfig
from curators.verifiers import load_verifier
from pipelines.runs import Run
from pipelines.steps.config import StepsConfig
from pipelines.steps.settings import search_config, tree_limits, values_of
from storage import Lake

PART_S = 2.0

Row = Mapping[str, Any]

TREES = {"prompt_id": pl.String, "tree_id": pl.String}


def usable_prompts(run: Run) -> pl.DataFrame:
    """The prompts to be searched, in the order of their ids: a shard is then a range of them, and its trees one file of the lake."""
    return run.read("prompts").filter(pl.col("state") == "ok").sort("prompt_id")


class Searcher:
    """Searches the trees of a shard that the lake does not have. Everything that a search needs is resolved once a shard."""

    def __init__(self, run: Run) -> None:
        config = run.config
        assert isinstance(config, StepsConfig)
        self.run, self.policy = run, run.engines["policy"]
        self.verifier = load_verifier(config.verifier) if config.verifier else None
        self.limits = tree_limits(config.limits)
        self.how: dict[str, Any] = {
            "config": search_config(config.search),
            "steps": StepConfig(**config.steps.model_dump(), seed=run.seed),
            "values": values_of(config, run.engines, seed=run.seed, secret=run.lake.secret),
        }
        self.found: list[tuple[str, str]] = []
        self.unwritten: list[list[dict[str, Any]]] = []
        self.down: str | None = None

    async def __call__(self, number: int, prompts: pl.DataFrame) -> dict[str, int]:
        """Every prompt's tree into the lake; `NUMBER.trees.parquet` names them.

        Raises:
            EngineBusy: the endpoint is down; the trees that were finished before are kept.
        """
        asked = {self._search_id(prompt): prompt for prompt in prompts.iter_rows(named=True)}
        known = await asyncio.to_thread(finished_trees, self.run.lake, prompts["prompt_id"], list(asked))
        there = set(known["prompt_id"].to_list())
        self.run.figures.trees["known"] += len(there - self.run.done)
        for prompt_id in there:
            self.run.advance(prompt_id)
        await self._search_all(number, [prompt for prompt in asked.values() if prompt["prompt_id"] not in there])
        await asyncio.to_thread(keep_trees, self.run, f"{number:05d}")
        if self.down is not None:
            raise EngineBusy(self.down)
        trees = pl.concat([known, pl.DataFrame(self.found, schema=TREES, orient="row")])
        await asyncio.to_thread(self.run.write, f"{number:05d}.trees", trees)
        return {"known": known.height, "searched": len(self.found)}

    def _search_id(self, prompt: Row) -> str:
        return search_id(prompt, self.policy, self.verifier, **self.how)

    async def _search_all(self, number: int, prompts: Sequence[Row]) -> None:
        over = asyncio.Event()
        writing = asyncio.create_task(self._write_parts(number, over))
        try:
            await gather_all(self._search(prompt) for prompt in prompts)
        finally:
            over.set()
            await writing

    async def _search(self, prompt: Row) -> None:
        assert self.run.slots is not None
        async with self.run.slots:
            if self.down is not None:
                return
            rows = await search_prompt(prompt, self.policy, self.verifier, **self.how, limits=self.limits)
        if rows[0]["tree_state"] == "endpoint_down":
            self.down = rows[0]["reason"]
            return
        self.unwritten.append(rows)
        self.found.append((prompt["prompt_id"], rows[0]["tree_id"]))
        self.run.figures.trees["searched"] += 1
        self.run.advance(prompt["prompt_id"])

    async def _write_parts(self, number: int, over: asyncio.Event) -> None:
        """Trees onto the disk as they come, until there will be no more."""
        for part in count():
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), PART_S)
            last = over.is_set()
            trees, self.unwritten = self.unwritten, []
            if trees:
                await asyncio.to_thread(self._write, f"{number:05d}.{part:05d}.nodes", trees)
            if last:
                return

    def _write(self, name: str, trees: Sequence[list[dict[str, Any]]]) -> None:
        self.run.write(name, frame([row for rows in trees for row in rows], NODES))


def keep_trees(run: Run, shard: str | None = None) -> None:
    """Trees that lie in the run's directory, those of one shard or all that a killed attempt left, into the lake."""
    parts: dict[str, list[Path]] = {}
    for path in run.shards("nodes"):
        parts.setdefault(path.name.partition(".")[0], []).append(path)
    for files in parts.values() if shard is None else [parts[shard]] if shard in parts else []:
        run.lake.append("nodes", pl.read_parquet(files), commit_id=f"{run.key}/nodes")
        for path in files:
            path.unlink()


def finished_trees(lake: Lake, prompt_ids: pl.Series, search_ids: Sequence[str]) -> pl.DataFrame:
    """`prompt_id` and `tree_id` of the trees in the lake that need no further search."""
    nodes = lake.facts("nodes", prompt_ids, columns=["prompt_id", "search_id", "tree_id", "tree_state", "state"])
    if nodes.is_empty():
        return pl.DataFrame(schema=TREES)
    trees = (
        nodes.filter(pl.col("search_id").is_in(search_ids))
        .group_by("prompt_id", "search_id", "tree_id")
        .agg(finished=(pl.col("tree_state") == "finished").all(), lost=(pl.col("state") == "transport_error").any())
    )
    whole = trees.filter(pl.col("finished") & ~pl.col("lost")).sort("tree_id")
    return whole.unique("search_id", keep="first", maintain_order=True).select(*TREES)


def nodes_of(lake: Lake, trees: pl.DataFrame) -> pl.DataFrame:
    """The nodes of trees in the lake; a column that they were written without is null."""
    nodes = lake.facts("nodes", trees["prompt_id"])
    nodes = nodes.filter(pl.col("tree_id").is_in(trees["tree_id"].implode())) if nodes.height else nodes
    return check(pl.concat([empty(NODES), nodes], how="diagonal"), "nodes")
