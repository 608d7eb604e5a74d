"""A judge tried on pairs that somebody else has decided: people, a verifier, a benchmark's answer key.

The judge never sees the label. What it says becomes judgments like any others, so that its health, its verdicts and its cost are measured
by the code that measures them in a run. A pair whose label is a tie, or that nobody could decide, is not tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from curators.engines.base import Engine, digest
from curators.errors import SchemaError
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import Rubric
from curators.judging.verdicts import gold_verdicts
from curators.sampling import gather_all
from curators.schema import JUDGMENTS, frame

AT_ONCE = 256
"""Prompts or items whose requests are in the making; an engine has its own limit on those in flight."""


@dataclass(frozen=True, kw_only=True)
class Gold:
    """Labelled pairs: `pairs` has a row for each (`prompt_id`, `a_id`, `b_id`), `truth` the `verdicts` that are right; `prompts` and
    `generations` are those of the pairs. `dropped`: rows of the source of which nothing could be made, by reason.
    """

    prompts: pl.DataFrame
    generations: pl.DataFrame
    truth: pl.DataFrame
    pairs: pl.DataFrame
    dropped: Mapping[str, int] = field(default_factory=dict)


def gold_pairs(
    prompts: pl.DataFrame, generations: pl.DataFrame, judgments: pl.DataFrame, *, limit: int | None = None, seed: int = 0
) -> Gold:
    """The decided pairs of recorded facts; at most `limit` of them, drawn by a hash of their ids and the seed.

    Raises:
        SchemaError: the facts decide no pair.
    """
    truth = gold_verdicts(judgments)
    decided = truth.filter(pl.col("verdict").is_in(["a", "b"]))
    if decided.is_empty():
        raise SchemaError(f"gold: none of the {judgments.height} recorded labels decides a pair; the judge has nothing to agree with")
    pairs = decided.select("prompt_id", "a_id", "b_id").sort("a_id", "b_id")
    if limit is not None and pairs.height > limit:
        order = [digest(a, b, seed) for a, b in pairs.select("a_id", "b_id").iter_rows()]
        pairs = pairs.with_columns(order=pl.Series(order)).sort("order").head(limit).drop("order").sort("a_id", "b_id")
    sides = pl.concat([pairs.select(generation_id=side) for side in ("a_id", "b_id")])
    return Gold(
        prompts=prompts.join(pairs, on="prompt_id", how="semi"),
        generations=generations.join(sides, on="generation_id", how="semi"),
        truth=truth,
        pairs=pairs,
    )


async def try_judge(
    gold: Gold, engine: Engine, *, rubric: Rubric, config: JudgeConfig | None = None, on_done: Callable[[int], None] | None = None
) -> pl.DataFrame:
    """The judge's `judgments` of the gold pairs, `AT_ONCE` prompts at a time; a pointwise or listwise judge rates their generations.

    `on_done` is told how many of the pairs' prompts are through.
    """
    by_prompt = {key[0]: rows for key, rows in gold.pairs.partition_by("prompt_id", as_dict=True).items()}
    texts = gold.generations.partition_by("prompt_id", as_dict=True)
    done, slots = 0, asyncio.Semaphore(AT_ONCE)

    async def one(prompt: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        nonlocal done
        async with slots:
            pairs = by_prompt[prompt["prompt_id"]].select("a_id", "b_id").rows()
            ids = {side for pair in pairs for side in pair}
            group = texts[(prompt["prompt_id"],)].filter(pl.col("generation_id").is_in(ids)).to_dicts()
            rows = await judge_group(prompt, group, engine, rubric=rubric, config=config, pairs=pairs)
        done += 1
        if on_done is not None:
            on_done(done)
        return rows

    groups = await gather_all(one(prompt) for prompt in gold.prompts.iter_rows(named=True))
    return frame([row for rows in groups for row in rows], JUDGMENTS)


def calls_needed(gold: Gold, rubric: Rubric, config: JudgeConfig) -> int:
    """Requests of a trial when every reply can be read at once: pairs × orders, generations, or prompts. Votes come in one request.

    A rerun sends fewer: replies in the ledger are free.
    """
    if rubric.protocol == "pairwise":
        return gold.pairs.height * (2 if config.both_orders else 1)
    if rubric.protocol == "listwise":
        return gold.prompts.height
    return pl.concat([gold.pairs["a_id"], gold.pairs["b_id"]]).n_unique()
