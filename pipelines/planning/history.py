"""What earlier groups in the lake came to: samples of one prompt, and what judging them took; trees, and what searching them took."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import polars as pl

from curators.sampling import sampling_json
from curators.stepsearch.step import SELECTABLE
from pipelines.judging.labelling import Annotator, Judge
from pipelines.planning.engines import Place
from storage import Lake

LOOK_AT = 500  # prompts whose earlier groups are looked at

SKIPPED = ("budget_skipped", "transport_error")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One prompt's samples and what labelling them took: first requests, and re-asks and further votes."""

    prompt_id: str
    n: int
    first: Counter[Place]
    further: Counter[Place]


def past_groups(lake: Lake, annotate: Annotator, prompt_ids: pl.Series) -> list[Group]:
    """Earlier groups of these prompts by the same policy and sampling, other seeds included, as far as the same judges have labelled them
    to the end.
    """
    ids, policy = prompt_ids.sort().head(LOOK_AT), annotate.policy
    columns = ["generation_id", "prompt_id", "policy", "sampling", "seed", "state", "text"]
    generations = lake.facts("generations", ids, columns=columns) if "generations" in _tables(lake) else pl.DataFrame()
    if generations.is_empty():
        return []
    alike = (pl.col("policy") == policy.fingerprint) & (pl.col("sampling") == sampling_json(annotate.sampling))
    mine = generations.filter(alike).with_columns(n=pl.len().over("prompt_id", "seed"), lost=_lost().over("prompt_id", "seed"))
    mine = mine.filter(~pl.col("lost"))
    judgments = lake.facts("judgments", ids)
    if mine.is_empty() or judgments.is_empty():
        return []
    group = mine.select("generation_id", "seed", "n")
    told = judgments.with_columns(
        generation_id=pl.col("generation_ids").list.first(),
        texts=pl.col("generation_ids").list.eval(pl.element().replace(mine["generation_id"], mine["text"].fill_null(""))),
    ).join(group, on="generation_id", how="inner")
    return [
        found
        for (prompt_id, _), rows in told.group_by("prompt_id", "seed", maintain_order=True)
        if (found := _group(str(prompt_id), rows, annotate)) is not None
    ]


def _group(prompt_id: str, rows: pl.DataFrame, annotate: Annotator) -> Group | None:
    """Null where a judge has not said all that it was asked."""
    first, further = Counter[Place](), Counter[Place]()
    for judge in annotate.judges:
        its = rows.filter((pl.col("judge") == judge.engine.fingerprint) & (pl.col("rubric_digest") == judge.rubric.digest))
        if its.is_empty() or its["state"].is_in(SKIPPED).any():
            return None
        _count(judge, its.filter(pl.col("state") != "gated"), first, further)
    if annotate.reward is not None:
        engine = annotate.reward.engine
        its = rows.filter((pl.col("judge") == engine.fingerprint) & (pl.col("protocol") == "reward"))
        if its.is_empty() or its["state"].is_in(SKIPPED).any():
            return None
        first[Place(engine.spec, engine.fingerprint, "reward")] += its.filter(pl.col("state") != "gated")["texts"].n_unique()
    return Group(prompt_id=prompt_id, n=rows["n"][0], first=first, further=further)


def _count(judge: Judge, asked: pl.DataFrame, first: Counter[Place], further: Counter[Place]) -> None:
    """Where no fence's mark tells them apart, requests about equal texts are one, which is bought once."""
    place = Place(judge.engine.spec, judge.engine.fingerprint, "judge")
    asked = asked.unique(["generation_ids" if judge.rubric.fence else "texts", "vote", "attempt"])
    begun = asked.filter((pl.col("attempt") == 0) & (pl.col("vote") < judge.config.votes))
    together = "n" in judge.engine.capabilities
    first[place] += begun.filter(pl.col("vote") == 0).height if together else begun.height
    further[place] += asked.height - begun.height


@dataclass(frozen=True, kw_only=True)
class PastTree:
    """What one finished tree took: requests for steps, and steps whose value was asked for."""

    prompt_id: str
    expanded: int
    rated: int


def past_trees(lake: Lake, search: str, policy: str, prompt_ids: pl.Series) -> list[PastTree]:
    """Earlier trees of these prompts by the same policy and search, other seeds included; of other prompts where these have none."""
    if "nodes" not in _tables(lake):
        return []
    columns = ["node_id", "prompt_id", "tree_id", "parent_id", "policy", "search", "tree_state", "state"]
    found = lake.facts("nodes", prompt_ids.sort().head(LOOK_AT), columns=columns)
    alike = (pl.col("policy") == policy) & (pl.col("search") == search) & (pl.col("tree_state") == "finished")
    nodes = found.filter(alike) if found.width else found
    if nodes.is_empty():
        others = lake.facts("nodes", columns=["prompt_id"])["prompt_id"].unique().sort().head(LOOK_AT)
        nodes = lake.facts("nodes", others, columns=columns).filter(alike)
    below = nodes.filter(pl.col("parent_id").is_not_null())
    rated = pl.col("state").is_in([*SELECTABLE, "dead_end"]).sum()
    trees = below.group_by("tree_id").agg(pl.col("prompt_id").first(), expanded=pl.col("parent_id").n_unique(), rated=rated).sort("tree_id")
    return [PastTree(prompt_id=row["prompt_id"], expanded=row["expanded"], rated=row["rated"]) for row in trees.iter_rows(named=True)]


def _lost() -> pl.Expr:
    return pl.col("state").is_in(SKIPPED).any()


def _tables(lake: Lake) -> set[str]:
    """The fact tables that the lake has rows of."""
    from storage.lake import tables

    with lake.reading() as con:
        return set(tables(con))
