"""From searched trees to a candidate: pairs of sibling steps or of whole answers, and the health of the searches. Flow `steps`.

Shard by shard, so that no frame holds all trees; the pairs of all shards are one frame.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from curators.funnel import Funnel, merge
from curators.schema import STEP_PAIRS, empty
from curators.stepsearch.extraction import StepPairConfig, step_pairs
from curators.stepsearch.health import search_counts, search_health
from curators.stepsearch.writing import answer_funnel, answer_pairs
from curators.verifiers import load_verifier
from pipelines.candidates import weigh
from pipelines.runs import Run
from pipelines.steps.config import StepsConfig
from pipelines.steps.settings import extraction
from pipelines.steps.trees import nodes_of, usable_prompts

KEPT = "kept"


def build(run: Run) -> dict[str, int]:
    """Trees of the run's shards → `pairs.parquet` and the run's figures."""
    config = run.config
    assert isinstance(config, StepsConfig)
    prompts, rule = usable_prompts(run), extraction(config.pairs, policy=run.fingerprints["policy"], seed=run.seed)
    counts: Counter[str] = Counter()
    found, funnels = [empty(STEP_PAIRS)], list[Funnel]()
    for file in run.shards("trees"):
        trees = pl.read_parquet(file)
        nodes = nodes_of(run.lake, trees)
        counts += search_counts(nodes)
        its = prompts.filter(pl.col("prompt_id").is_in(trees["prompt_id"].implode()))
        pairs, stages = _pairs_of(its, nodes, config, rule)
        found.append(pairs)
        funnels += stages
    every = pl.concat(found)
    # Prompts that differ in their tools alone may give the same pair, in different shards.
    pairs = every.unique("pair_id", keep="first", maintain_order=True).sort("prompt_id", "pair_id")
    repeated = Funnel(
        stage="pairs", unit="pairs", n_in=every.height, n_kept=pairs.height, dropped={"duplicate_pair": every.height - pairs.height}
    )
    run.figures.funnels = [*run.figures.funnels[:1], *merge(funnels), repeated]
    run.figures.search = search_health(counts, judge=load_verifier(config.verifier).judge if config.verifier else None)
    unfinished = counts["trees"] - counts["trees_finished"]
    return weigh(run, pairs, {"prompts": prompts.height, "trees": counts["trees"], "unfinished": unfinished, "nodes": counts["nodes"]})


def _pairs_of(prompts: pl.DataFrame, nodes: pl.DataFrame, config: StepsConfig, rule: StepPairConfig) -> tuple[pl.DataFrame, list[Funnel]]:
    """The pairs of some prompts' trees, and what became of trees, prompts and, for steps, parents."""
    fates = _fates(nodes, use_unfinished=config.pairs.use_unfinished)
    dropped = Counter(fates["fate"].to_list())
    searched = Funnel(stage="search", unit="trees", n_in=fates.height, n_kept=dropped.pop(KEPT, 0), dropped=dropped)
    used = nodes.filter(pl.col("tree_id").is_in(fates.filter(pl.col("fate") == KEPT)["tree_id"].implode()))
    if config.pairs.kind == "step":
        pairs, funnels = step_pairs(prompts, used, config=rule)
        return pairs, [searched, *funnels]
    pairs = answer_pairs(prompts, used, config=rule)
    return pairs, [searched, answer_funnel(prompts, used, pairs)]


def _fates(nodes: pl.DataFrame, *, use_unfinished: bool) -> pl.DataFrame:
    """Every tree with `fate`: kept, or why no pair can be made of it: its tree state, or that of its prompt's node, which has no steps."""
    with_steps = nodes.filter((pl.col("depth") == 1) & pl.col("n_visits").is_not_null())["tree_id"].unique().implode()
    usable = (pl.col("tree_state") == "finished") | pl.lit(use_unfinished)
    early = pl.col("tree_state") != "finished"
    fate = (
        pl.when(usable & pl.col("tree_id").is_in(with_steps))
        .then(pl.lit(KEPT))
        .otherwise(pl.when(early).then(pl.col("tree_state")).otherwise(pl.col("state")))
    )
    return nodes.filter(pl.col("parent_id").is_null()).select("tree_id", fate=fate)
