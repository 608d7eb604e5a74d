"""Keep the pairs on which judges agree: a filter for precision, of use only with judges better than chance.

A pair is kept where at least m judges decide for the same side, more than for the other, with a mean confidence of at least c. A
judge whose presentation orders disagree casts no vote (its verdict is `inconsistent`). As in SCIR and other consistency filters, here over
any judges. With judges worse than chance agreement selects their common errors, so look at `consistency_report` on gold first. A seeded
sample of what was dropped is marked for an audit by eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from curators.engines.base import digest
from curators.errors import ConfigError
from curators.judging.juries import PAIR, decided_sides, votes
from curators.statistics.agreement import Agreement, fleiss_kappa, krippendorff_alpha
from curators.statistics.intervals import Estimate, cluster_ratio

REASONS = ("no judge decides", "judges disagree", "too few judges agree", "not confident enough")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyConfig:
    """At least `min_agree` judges for one side, with a mean `confidence` of `min_confidence` (0.5: any; a judge that states none does not
    count in the mean). `audit` dropped pairs are marked, drawn by a hash of their ids and the seed.
    """

    min_agree: int = 2
    min_confidence: float = 0.5
    audit: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_agree < 1 or not 0.5 <= self.min_confidence <= 1 or self.audit < 0:
            raise ConfigError(f"consistency: min_agree >= 1, min_confidence 0.5 to 1 and audit >= 0 are allowed, not {self}")


def mark_consistent(verdicts: pl.DataFrame, config: ConsistencyConfig | None = None) -> pl.DataFrame:
    """A row a pair: `prompt_id`, `a_id`, `b_id`, `side` (of most judges; null: level), `n_judges`, `n_votes`, `n_agree`, `n_against`,
    `confidence` (mean of those who agree; null: none states one), `p_mean`, `p_sd`, `p_low`, `p_high` (of a, over the judges who vote),
    `keep`, `reason` (null when kept), `audit`. Sorted by prompt and pair.
    """
    config = config or ConsistencyConfig()
    ballots = votes(verdicts).with_columns(confidence=verdicts["confidence"])
    is_a, is_b = pl.col("vote") == "a", pl.col("vote") == "b"
    rows = ballots.group_by(PAIR).agg(
        n_judges=pl.len(),
        n_votes=pl.col("vote").count(),
        n_a=is_a.sum(),
        n_b=is_b.sum(),
        sure_a=pl.col("confidence").filter(is_a).mean(),
        sure_b=pl.col("confidence").filter(is_b).mean(),
        p_mean=pl.col("p").mean(),
        p_sd=pl.col("p").std(),
        p_low=pl.col("p").min(),
        p_high=pl.col("p").max(),
    )
    n_a, n_b = pl.col("n_a"), pl.col("n_b")
    rows = rows.with_columns(
        side=pl.when(n_a > n_b).then(pl.lit("a")).when(n_b > n_a).then(pl.lit("b")),
        n_agree=pl.max_horizontal(n_a, n_b),
        n_against=pl.min_horizontal(n_a, n_b),
        confidence=pl.when(n_a > n_b).then("sure_a").when(n_b > n_a).then("sure_b"),
    )
    unsure = pl.col("confidence").is_null() | (pl.col("confidence") < config.min_confidence)
    reason = (
        pl.when(pl.col("n_agree") == 0)
        .then(pl.lit(REASONS[0]))
        .when(pl.col("side").is_null())
        .then(pl.lit(REASONS[1]))
        .when(pl.col("n_agree") < config.min_agree)
        .then(pl.when(pl.col("n_against") > 0).then(pl.lit(REASONS[1])).otherwise(pl.lit(REASONS[2])))
        .when(unsure & (config.min_confidence > 0.5))
        .then(pl.lit(REASONS[3]))
    )
    marked = rows.with_columns(reason=reason).with_columns(keep=pl.col("reason").is_null())
    told = ("side", "n_judges", "n_votes", "n_agree", "n_against", "confidence", "p_mean", "p_sd", "p_low", "p_high", "keep", "reason")
    return _with_audit(marked.select(*PAIR, *told).sort(PAIR), config)


def _with_audit(marked: pl.DataFrame, config: ConsistencyConfig) -> pl.DataFrame:
    place = [digest(a, b, config.seed, size=8) for a, b in marked.select("a_id", "b_id").iter_rows()]
    drawn = pl.when(~pl.col("keep")).then(pl.Series("place", place, dtype=pl.String))
    return marked.with_columns(audit=(drawn.rank("ordinal") <= config.audit).fill_null(False))


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyReport:
    """`accuracy_before` is that of the side of most judges, wherever there is one, `accuracy_after` of what is kept; both of the pairs that
    gold decides, null where there are none. `helps`: the kept are right more often than the dropped by more than chance (95 %).
    """

    n: int
    n_kept: int
    reasons: dict[str, int]
    kept: Estimate
    accuracy_before: Estimate
    accuracy_after: Estimate
    accuracy_dropped: Estimate
    alpha: Agreement
    fleiss: Agreement

    @property
    def helps(self) -> bool:
        after, dropped = self.accuracy_after, self.accuracy_dropped
        return after.low is not None and dropped.high is not None and after.low > dropped.high


def consistency_report(
    verdicts: pl.DataFrame, marked: pl.DataFrame, gold: pl.DataFrame | None = None, *, seed: int = 0
) -> ConsistencyReport:
    """What the filter kept, how the judges agree, and on gold how right the side of most judges is before and after."""
    sides = decided_sides(gold) if gold is not None else marked.clear().select(*PAIR, gold="side")
    right = marked.join(sides, on=PAIR).select("prompt_id", "keep", right=pl.col("side") == pl.col("gold"))
    ratings = votes(verdicts).select("prompt_id", unit=pl.struct(PAIR), rater="judge", value="vote")
    n_resamples = 200
    found: dict[str, Any] = {
        "accuracy_before": cluster_ratio(right, "right", seed=seed),
        "accuracy_after": cluster_ratio(right.filter("keep"), "right", seed=seed),
        "accuracy_dropped": cluster_ratio(right.filter(~pl.col("keep")), "right", seed=seed),
        "alpha": krippendorff_alpha(ratings, cluster="prompt_id", n_resamples=n_resamples, seed=seed),
        "fleiss": fleiss_kappa(ratings, cluster="prompt_id", n_resamples=n_resamples, seed=seed),
    }
    counts = marked["reason"].drop_nulls().value_counts().sort("reason")
    kept = cluster_ratio(marked, "keep", seed=seed)
    return ConsistencyReport(n=marked.height, n_kept=int(marked["keep"].sum()), reasons=dict(counts.iter_rows()), kept=kept, **found)
