"""What sways a judge besides quality: length, position, its own texts; as effects with intervals, with what would confound them said.

* `length_effect`: logit P(first wins) = position + lambda * (length of first - length of second) / 100 [+ beta * gold], lengths in
  characters, gold the difference of its scores or its side. With soft probabilities a linear regression of the logit, else a logistic
  one; what a logistic one does not know of quality makes its lambda too small. Where the better text by gold is the longer one in
  more than 90 % of pairs (or fewer than 10 %) quality and length cannot be told apart.
* `length_matched`: as many pairs whose chosen text is longer as whose is shorter, at every size of difference
* `position_audit`: stability of repeated questions, consistency between orders, direction of the flips (exact binomial)
* `self_preference`: how much more often a judge names its own text than gold does

Flips and shares for every run are in `health`; attacks on purpose in `attacks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curators.engines.base import digest
from curators.judging.juries import PAIR, decided_sides
from curators.judging.verdicts import final_judgments
from curators.statistics.intervals import Estimate, Floats, binomial, cluster_bootstrap, cluster_ratio, share_by
from curators.statistics.logistic import fit_logistic

PER = 100
MOST_ONE_SIDED = 0.9
FEWEST = 20  # pairs of unequal length
_CLIP = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthEffect:
    """`effect`: logits per 100 characters; null with a `reason`. `longer`: how often the longer text is preferred; `gold_longer`: how often
    gold prefers it. `with_gold`: gold was held equal. `soft`: fitted to logits of probabilities.
    """

    effect: Estimate
    longer: Estimate
    gold_longer: Estimate
    with_gold: bool
    soft: bool
    reason: str | None


def length_effect(
    told: pl.DataFrame, sizes: pl.DataFrame, gold: pl.DataFrame | None = None, *, n_resamples: int = 300, seed: int = 0
) -> LengthEffect:
    """The effect of length on one judge; `sizes` has `generation_id` and `size` (characters), `gold` are right verdicts.

    `told` are its pairwise `judgments`, every presentation with a probability a row, or its `verdicts` (of scores, of a panel), without
    position. With gold only pairs that it decides count.
    """
    shown = _shown(told) if "generation_ids" in told.columns else _decided(told)
    known = sizes.select("generation_id", pl.col("size").cast(pl.Float64)).unique("generation_id")
    rows = shown.join(known, left_on="one", right_on="generation_id").join(
        known, left_on="other", right_on="generation_id", suffix="_other"
    )
    rows = rows.with_columns(more=(pl.col("size") - pl.col("size_other")) / PER)
    if gold is not None:
        rows = rows.join(_gold_lead(gold), on=["one", "other"])
    soft = rows.filter(~pl.col("p").is_in([0.0, 0.5, 1.0])).height * 2 > rows.height
    apart = rows.filter(pl.col("more") != 0)
    gold_longer = (pl.col("gold") > 0) == (pl.col("more") > 0) if gold is not None else pl.lit(None, dtype=pl.Boolean)
    found = cluster_ratio(apart, gold_longer, seed=seed)
    columns = [name for name in ("more", "position", "gold") if name in rows.columns]
    x, p, fit = rows.select(columns).to_numpy(), rows["p"].to_numpy(), _linear if soft else _logistic
    reason = _not_told(rows, apart, found)
    return LengthEffect(
        effect=cluster_bootstrap(
            rows["prompt_id"], lambda weight: math.nan if reason else fit(x, p, weight), n_resamples=n_resamples, seed=seed
        ),
        longer=cluster_ratio(apart.filter(pl.col("p") != 0.5), (pl.col("p") > 0.5) == (pl.col("more") > 0), seed=seed),
        gold_longer=found,
        with_gold=gold is not None,
        soft=soft,
        reason=reason,
    )


def _shown(judgments: pl.DataFrame) -> pl.DataFrame:
    ok = final_judgments(judgments).filter((pl.col("state") == "ok") & (pl.col("protocol") == "pairwise"))
    ids = pl.col("generation_ids")
    return ok.select("prompt_id", one=ids.list.get(0), other=ids.list.get(1), p="p_first", position=pl.lit(1.0))


def _decided(verdicts: pl.DataFrame) -> pl.DataFrame:
    said = pl.col("verdict").replace_strict({"a": 1.0, "tie": 0.5, "b": 0.0}, default=None, return_dtype=pl.Float64)
    return verdicts.select("prompt_id", one="a_id", other="b_id", p=pl.coalesce("p_a", said)).drop_nulls("p")


def _gold_lead(gold: pl.DataFrame) -> pl.DataFrame:
    """By how much gold prefers one to the other, of both orders of the pairs that it decides."""
    side = pl.when(pl.col("verdict") == "a").then(1.0).otherwise(-1.0)
    decided = gold.filter(pl.col("verdict").is_in(["a", "b"])).with_columns(gold=pl.coalesce("scores_delta", side))
    return pl.concat(
        [decided.select(one="a_id", other="b_id", gold="gold"), decided.select(one="b_id", other="a_id", gold=-pl.col("gold"))]
    )


def _not_told(rows: pl.DataFrame, apart: pl.DataFrame, gold_longer: Estimate) -> str | None:
    """Why there is no number: too few pairs to see one, or longer and better are the same side."""
    n = apart.select(pl.min_horizontal("one", "other"), other=pl.max_horizontal("one", "other")).n_unique()
    if n < FEWEST:
        return f"{n} pairs differ in length, {FEWEST} are needed" if rows.height else "no pair was judged"
    at = gold_longer.value
    if at is not None and max(at, 1 - at) > MOST_ONE_SIDED:
        return f"the longer text is the better one in {at:.0%} of {n} pairs"
    return None


def _linear(x: Floats, p: Floats, weight: Floats) -> float:
    inside = np.clip(p, _CLIP, 1 - _CLIP)
    scaled = x * weight[:, None]
    return float(np.linalg.lstsq(scaled.T @ x, scaled.T @ np.log(inside / (1 - inside)), rcond=None)[0][0])


def _logistic(x: Floats, p: Floats, weight: Floats) -> float:
    return float(fit_logistic(x, p, weight=weight)[0])


def length_matched(
    pairs: pl.DataFrame, *, chosen: str, rejected: str, pair_id: str = "pair_id", n_bins: int = 10, seed: int = 0
) -> pl.DataFrame:
    """The pairs with `keep` and `reason`, so that among the kept the chosen text is the longer one in half of those that differ.

    Within each of `n_bins` bins by size of difference (`chosen`, `rejected`: columns of sizes), the pairs of the commoner direction that
    come last by a hash of their id and the seed are dropped.
    """
    more = pl.col(chosen).cast(pl.Float64) - pl.col(rejected)
    place = pl.Series("place", [digest(name, seed, size=8) for name in pairs[pair_id]], dtype=pl.String)
    rows = pairs.with_columns(place, more=more)
    bins = (pl.col("more").abs().rank("average") * n_bins / (pl.len() + 1)).floor()
    equal = pl.col("more") == 0
    rows = rows.with_columns(bin=pl.when(~equal).then(bins).otherwise(-1), longer=pl.col("more") > 0)
    allowed = pl.min_horizontal(pl.col("longer").sum().over("bin"), (~pl.col("longer")).sum().over("bin"))
    rank = pl.col("place").rank("ordinal").over("bin", "longer")
    marked = rows.with_columns(keep=equal | (rank <= allowed))
    reason = pl.when(~pl.col("keep")).then(pl.when("longer").then(pl.lit("chosen is longer")).otherwise(pl.lit("chosen is shorter")))
    return marked.with_columns(reason=reason).drop("place", "more", "bin", "longer")


def position_audit(judgments: pl.DataFrame) -> dict[str, Any]:
    """Of one judge's pairwise judgments: `repetition` (votes that say what the first vote of the same presentation says), `consistent`
    (pairs named alike in both orders, ties left out), `to_first` (of the others: those that name the first shown both times), its exact
    `p`, and `effect`: the mean of P(first) over presentations, both orders of a pair weighing alike, minus 1/2.
    """
    ok = final_judgments(judgments).filter((pl.col("state") == "ok") & (pl.col("protocol") == "pairwise"))
    first = pl.col("generation_ids").list.get(0) < pl.col("generation_ids").list.get(1)
    pair = pl.col("generation_ids").list.sort().list.join(" ")
    rows = ok.with_columns(pair=pair, first_id=first).sort("pair", "first_id", "vote")
    shown = ["prompt_id", "pair", "first_id"]
    repeated = rows.with_columns(again=pl.col("vote") > pl.col("vote").min().over(shown), once=pl.col("label").first().over(shown))
    again = repeated.filter("again")
    order = rows.group_by(shown).agg(p=pl.col("p_first").mean())
    both = order.group_by("prompt_id", "pair").agg(
        n=pl.len(), ab=pl.col("p").filter("first_id").first(), ba=pl.col("p").filter(~pl.col("first_id")).first()
    )
    both = both.filter(n=2)
    named = both.filter((pl.col("ab") != 0.5) & (pl.col("ba") != 0.5))
    to_first, to_second = pl.min_horizontal("ab", "ba") > 0.5, pl.max_horizontal("ab", "ba") < 0.5
    flips = share_by(named.filter(to_first | to_second), to_first)
    return {
        "repetition": share_by(again, pl.col("label") == pl.col("once")),
        "consistent": share_by(named, to_first.not_() & to_second.not_()),
        "to_first": flips,
        "p": binomial(flips["hits"], flips["n"]),
        "effect": cluster_ratio(both, (pl.col("ab") + pl.col("ba")) / 2 - 0.5),
    }


def self_preference(
    verdicts: pl.DataFrame, generations: pl.DataFrame, gold: pl.DataFrame | None = None, *, seed: int = 0
) -> dict[str, Estimate]:
    """Of the pairs where one text alone is the judge's own (policy = judge) and it decides: `own`, the share of verdicts for its own; with
    gold, of the pairs both decide, `gold_own`, the share that gold gives them, and `excess`, the difference.
    """
    wrote = generations.select("generation_id", "policy")
    rows = verdicts.join(wrote, left_on="a_id", right_on="generation_id").join(wrote, left_on="b_id", right_on="generation_id", suffix="_b")
    own_a, own_b = pl.col("policy") == pl.col("judge"), pl.col("policy_b") == pl.col("judge")
    rows = rows.filter((own_a != own_b) & pl.col("verdict").is_in(["a", "b"])).with_columns(
        own=own_a == (pl.col("verdict") == "a"), own_a=own_a
    )
    found = {"own": cluster_ratio(rows, "own", seed=seed)}
    if gold is None:
        return found
    known = rows.join(decided_sides(gold), on=PAIR).with_columns(gold_own=pl.col("own_a") == (pl.col("gold") == "a"))
    excess = pl.col("own").cast(pl.Float64) - pl.col("gold_own").cast(pl.Float64)
    return found | {"gold_own": cluster_ratio(known, "gold_own", seed=seed), "excess": cluster_ratio(known, excess, seed=seed)}
