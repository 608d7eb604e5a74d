"""From attempts to a candidate: pairs of one and of two prompts in one frame, and the figures of every method. Flow `contrast`."""

from __future__ import annotations

import polars as pl

from curators.contrast.candidates import contrast_pairs
from curators.schema import CONTRASTS
from pipelines.candidates import weigh
from pipelines.contrasting.config import ContrastConfig
from pipelines.contrasting.methods import METHODS
from pipelines.contrasting.synthesis import told
from pipelines.runs import Run


def build(run: Run) -> dict[str, int]:
    """Contrasts of the run's shards → `pairs.parquet` and the run's figures."""
    config = run.config
    assert isinstance(config, ContrastConfig)
    found = run.read_shards("contrasts", CONTRASTS)
    source = run.source
    policy = run.parents[0].manifest.get("policy") if run.parents else None
    one, two, funnels = contrast_pairs(found, policy=policy, splits=source.splits)
    pairs = pl.concat([one, two], how="diagonal").sort("prompt_id", "pair_id") if two.height else one
    kinds = {"answers" if METHODS[name].rows == "scored answers" else METHODS[name].rows for name in config.methods}
    run.figures.funnels = [*(source.funnel(kind) for kind in sorted(kinds)), *funnels]
    run.figures.contrast = told(run)
    for funnel in funnels:
        about = run.figures.contrast["methods"][funnel.unit.removesuffix(" attempts")]
        about["attempts"] = {"ok": funnel.n_kept, **funnel.dropped}
    for about in run.figures.contrast["methods"].values():
        about.setdefault("attempts", {})
    counts = {"prompts": found["prompt_id"].n_unique(), "attempts": found.height, **({"joint_pairs": two.height} if two.height else {})}
    return weigh(run, pairs, counts)
