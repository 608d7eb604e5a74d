"""What a round trains on beside its own pairs: some of those of earlier rounds, as a version that names all of its parents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from curators.engines.base import digest
from curators.funnel import Funnel
from curators.pairs import unit_hash
from pipelines.candidates import publish, weigh
from pipelines.config import GatesConfig, RunConfig
from pipelines.iterating.config import ReplayConfig
from pipelines.runs import Run, code_digest
from storage import Lake, Release, find_by_commit, scan

LOOSE = GatesConfig(max_duplicate_share=None, max_unscored_share=None, max_judge_inconsistent_share=None)
"""Every pair passed the gates of its own round."""


def mixed(lake: Lake, current: Release, earlier: Sequence[Release], config: ReplayConfig, *, seed: int, author: str | None) -> Release:
    """The version `<name>-replay` of a round's pairs and of `share` times as many drawn from earlier rounds, by a hash of their ids.

    A pair that a round repeats counts once. `on_policy` is said anew: the policy that the dataset is for is the current round's.
    """
    told = [[each.digest, each.facts_digest] for each in (current, *earlier)]
    key = digest("replay", config.model_dump(mode="json"), seed, told, code_digest(), size=12)
    if (known := find_by_commit(lake, key)) is not None:
        return known
    own = scan(current).collect()
    older = pl.concat([scan(each).collect() for each in earlier], how="diagonal_relaxed").unique(
        "pair_id", keep="first", maintain_order=True
    )
    older = older.filter(~pl.col("pair_id").is_in(own["pair_id"].implode()))
    draws = pl.Series("draw", [unit_hash("replay", seed, pair_id) for pair_id in older["pair_id"]], dtype=pl.Float64)
    drawn = older.with_columns(draws).sort("draw", "pair_id").head(round(config.share * own.height)).drop("draw")
    pairs = pl.concat([own, drawn], how="diagonal_relaxed")
    policy = current.manifest.get("policy")
    if policy is not None:
        pairs = pairs.with_columns(on_policy=((pl.col("chosen_policy") == policy) & (pl.col("rejected_policy") == policy)).fill_null(False))
    run = _run(key, lake, current, earlier, config, author)
    run.seed = seed
    counts = {"own_pairs": own.height, "replayed_pairs": drawn.height}
    n_in = sum(each.n_pairs for each in (current, *earlier))
    dropped = {"repeated": n_in - own.height - older.height, "not_drawn": older.height - drawn.height}
    left_out = {reason: n for reason, n in dropped.items() if n}
    run.figures.funnels = [Funnel(stage="replay", unit="pairs", n_in=n_in, n_kept=pairs.height, dropped=left_out)]
    run.directory.mkdir(parents=True, exist_ok=True)
    weigh(run, pairs.sort("prompt_id", "pair_id"), counts)
    publish(run)
    assert run.release is not None, run.figures.refusal
    return run.release


class ReplayRunConfig(RunConfig):
    """What a version of replayed pairs says of how it was made."""

    replay: ReplayConfig


def _run(key: str, lake: Lake, current: Release, earlier: Sequence[Release], config: ReplayConfig, author: str | None) -> Run:
    recipe = ReplayRunConfig(dataset=f"{current.name}-replay", lake=str(lake.root), author=author, gates=LOOSE, replay=config)
    run = Run(key=key, kind="replay", config=recipe, lake=lake, directory=lake.root / "runs" / key)
    run.parents = (current, *earlier)
    made_by: dict[str, Any] = {role: current.manifest[role] for role in ("judge", "reward") if current.manifest.get(role)}
    run.fingerprints = made_by
    return run
