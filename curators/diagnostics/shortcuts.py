"""How well trivial rules predict the label. A label that "longer" predicts teaches a model to write longer.

A rule compares the sides and names one, or neither. `accuracy` is over the pairs that it decides; `expected` over all, where a pair that it
does not decide counts half, as a coin would have it: a rule that is always right about 2 pairs of 1,000 is no shortcut. Intervals are
clustered by prompt. Above 65 % of a synthetic set is a leak (house threshold); of natural pairs about 60 % prefer the longer answer
(59.8 % in the evaluation set of Rc-BT, arXiv:2502.00814). A rule far below one half is its opposite: a set that prefers the shorter.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from curators.diagnostics.sides import FEATURES, side_features
from curators.statistics.intervals import Floats, cluster_ratio, clustered_share
from curators.statistics.logistic import folds

SHORTCUTS = {
    "name": pl.String(),
    "kind": pl.String(),  # rule | model (words alone) | ablation (words with the prompt)
    "n": pl.Int64(),
    "n_decided": pl.Int64(),
    "accuracy": pl.Float64(),  # of the decided; null where none is
    "low": pl.Float64(),
    "high": pl.Float64(),
    "expected": pl.Float64(),  # of all, undecided pairs one half; null where none is decided
    "expected_low": pl.Float64(),
    "expected_high": pl.Float64(),
    "reason": pl.String(),
}


def rule_hits(texts: pl.DataFrame, *, seed: int = 0) -> dict[str, Floats]:
    """By rule, of every pair of `pair_texts`: 1 it names the chosen side, 0 the rejected, NaN neither."""
    counts = side_features(texts)
    found = {rule: signs(np.asarray(counts[f"{rule}_chosen"] - counts[f"{rule}_rejected"], dtype=np.float64)) for rule in FEATURES}
    return found | {"source": source_hits(texts, seed=seed)}


def signs(difference: Floats) -> Floats:
    """1 for a positive difference, 0 for a negative one, NaN for none.

    >>> signs(np.array([2.0, -1.0, 0.0])).tolist()
    [1.0, 0.0, nan]
    """
    return np.where(difference > 0, 1.0, np.where(difference < 0, 0.0, np.nan))


def source_hits(texts: pl.DataFrame, *, seed: int = 0) -> Floats:
    """The rule "prefer the writer who wins more often", its win rates counted on the prompts of the other four folds.

    Undecided are pairs of one writer, of an unknown one, and of writers with equal rates.
    """
    writers = texts.select("chosen_policy", "rejected_policy") if {"chosen_policy", "rejected_policy"} <= set(texts.columns) else None
    out = np.full(texts.height, np.nan)
    if writers is None or not texts.height:
        return out
    fold = folds(texts["prompt_id"], seed=seed)
    apart = (writers["chosen_policy"] != writers["rejected_policy"]).fill_null(False).to_numpy()
    for one in np.unique(fold):
        counted = writers.filter(pl.Series(apart & (fold != one)))
        wins, losses = (dict(counted[side].value_counts().iter_rows()) for side in ("chosen_policy", "rejected_policy"))
        rate = {name: (wins.get(name, 0) + 1) / (wins.get(name, 0) + losses.get(name, 0) + 2) for name in wins.keys() | losses.keys()}
        for place in np.flatnonzero(apart & (fold == one)):
            chosen, rejected = writers.row(int(place))
            out[place] = signs(np.array([rate.get(chosen, 0.5) - rate.get(rejected, 0.5)]))[0]
    return out


def accuracies(hits: dict[str, Floats], prompt_ids: pl.Series, *, kind: str, seed: int = 0) -> pl.DataFrame:
    """One row of `SHORTCUTS` a name, the strongest (`expected` furthest from one half) first."""
    rows = [_accuracy(name, kind, each, prompt_ids, seed) for name, each in hits.items()]
    return pl.DataFrame(rows, schema=SHORTCUTS).sort((pl.col("expected") - 0.5).abs(), "name", descending=[True, False], nulls_last=True)


def _accuracy(name: str, kind: str, hits: Floats, prompt_ids: pl.Series, seed: int) -> dict[str, object]:
    rows = pl.DataFrame({"prompt_id": prompt_ids, "hit": pl.Series(hits).fill_nan(None)})
    by_prompt = rows.drop_nulls("hit").group_by("prompt_id").agg(hits=pl.col("hit").sum(), n=pl.len()).sort("prompt_id")
    decided = clustered_share(by_prompt["hits"].to_numpy(), by_prompt["n"].to_numpy())
    every = cluster_ratio(rows.with_columns(pl.col("hit").fill_null(0.5)), "hit", seed=seed)
    return {
        "name": name,
        "kind": kind,
        "n": rows.height,
        "n_decided": decided["n"],
        "accuracy": decided["share"],
        "low": decided["low"] if decided["n"] else None,
        "high": decided["high"] if decided["n"] else None,
        "expected": every.value if decided["n"] else None,
        "expected_low": every.low if decided["n"] else None,
        "expected_high": every.high if decided["n"] else None,
        "reason": None if decided["n"] else "decides no pair",
    }
