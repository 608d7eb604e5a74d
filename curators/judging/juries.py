"""Several judges' verdicts about the same pairs → one, as a panel; and whether the panel is worth its price.

A judge votes where its verdict is a, b or tie; an inconsistent or unscored verdict is no vote. A pair with fewer votes than the quorum is
unscored, with what became of each member. What the votes amount to:

* majority: the side with most votes; a and b level is `inconsistent`, tie level with one side is a tie
* mean_logit: p = s(mean logit p_j)
* weighted: p = s(sum w_j v_j), v = +1, -1, 0 and w_j = log odds of judge j being right on gold, at least 0 (Nitzan & Paroush 1982)
* naive_bayes: p = s(sum logit(p_j) / T_j), T_j the temperature of judge j on gold
* dawid_skene: without gold, from how the judges agree (`curators.statistics.latent`), a and b alike: needs three judges

For all but majority, p within `indifference` of 1/2 is `inconsistent` where both sides have votes, else a tie. Juries are not magic: judges
who err alike outvote a better one. `curators.judging.jury_report` says whether yours beats its best member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy.special import betainc

from curators.errors import ConfigError, VerdictError
from curators.judging.verdicts import CLIP, ROUNDING
from curators.schema import VERDICTS, check
from curators.statistics.calibration import fit_temperature
from curators.statistics.latent import dawid_skene

Method = Literal["majority", "mean_logit", "weighted", "naive_bayes", "dawid_skene"]
BY_GOLD = ("weighted", "naive_bayes")
PAIR = ("prompt_id", "a_id", "b_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class JuryConfig:
    """`quorum` is the least number of votes, by default more than half of the members."""

    method: Method = "majority"
    quorum: int | None = None
    indifference: float = 0.1


def votes(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Each verdict as a vote: `prompt_id`, `a_id`, `b_id`, `judge`, `vote` (a, b, tie; null: none), `p` (of a; 1, 1/2, 0 where the judge
    states none; null without a vote).
    """
    voted = pl.col("verdict").is_in(["a", "b", "tie"])
    said = pl.col("verdict").replace_strict({"a": 1.0, "tie": 0.5, "b": 0.0}, default=None, return_dtype=pl.Float64)
    p = pl.when(voted).then(pl.coalesce("p_a", said))
    return verdicts.select(*PAIR, "judge", vote=pl.when(voted).then("verdict"), p=p)


def not_of_its_own(verdicts: pl.DataFrame, generations: pl.DataFrame) -> pl.DataFrame:
    """The verdicts, unscored where the judge is the policy that wrote one of the texts (the same fingerprint)."""
    wrote = generations.select("generation_id", "policy")
    authors = verdicts.join(wrote, left_on="a_id", right_on="generation_id", how="left", maintain_order="left")
    authors = authors.join(wrote, left_on="b_id", right_on="generation_id", how="left", suffix="_b", maintain_order="left")
    own = ((authors["policy"] == authors["judge"]) | (authors["policy_b"] == authors["judge"])).fill_null(False)
    numbers = [name for name, dtype in VERDICTS.items() if dtype == pl.Float64()]
    return verdicts.with_columns(
        *(pl.when(~own).then(name).alias(name) for name in numbers),
        verdict=pl.when(own).then(pl.lit("unscored")).otherwise("verdict"),
        reason=pl.when(own).then(pl.lit("the judge wrote one of the texts")).otherwise("reason"),
    )


def panel(verdicts: pl.DataFrame, config: JuryConfig | None = None, *, gold: pl.DataFrame | None = None) -> pl.DataFrame:
    """One verdict a pair, under the judge `panel:<method>(<members>)`; sorted by prompt and pair. `gold` are verdicts that are right.

    >>> from curators.schema import frame
    >>> pair = dict(prompt_id="p", a_id="x", b_id="y", n_judgments=2, n_ok=2)
    >>> rows = [dict(pair, judge=f"j{i}", verdict=side) for i, side in enumerate(["a", "b", "a"])]
    >>> panel(frame(rows, VERDICTS)).select("judge", "verdict", "p_a").row(0)
    ('panel:majority(j0,j1,j2)', 'a', 0.625)

    Raises:
        ConfigError: a method that needs gold without it, fewer than two judges (three for dawid_skene), or a quorum that cannot be.
        VerdictError: a judge has two verdicts about a pair.
    """
    config = config or JuryConfig()
    members = check(verdicts, "verdicts")["judge"].unique().sort().to_list()
    _check_panel(members, config, verdicts, gold)
    ballots = votes(verdicts)
    p = _probability(ballots, config, gold)
    tally = (
        verdicts.join(ballots.select(*PAIR, "judge", "vote", "p"), on=[*PAIR, "judge"])
        .group_by(PAIR)
        .agg(
            n_a=(pl.col("vote") == "a").sum(),
            n_b=(pl.col("vote") == "b").sum(),
            n_tie=(pl.col("vote") == "tie").sum(),
            p_sd=pl.col("p").std(),
            n_judgments=pl.col("n_judgments").sum(),
            n_ok=pl.col("n_ok").sum(),
            missing=_what_became()
            .filter(pl.col("vote").is_null())
            .sort_by(pl.col("judge").filter(pl.col("vote").is_null()))
            .str.join("; "),
        )
        .join(p, on=PAIR, how="left")
    )
    return _decide(tally, config, members)


def _check_panel(members: Sequence[str], config: JuryConfig, verdicts: pl.DataFrame, gold: pl.DataFrame | None) -> None:
    least = 3 if config.method == "dawid_skene" else 2
    if len(members) < least:
        raise ConfigError(f"a panel by {config.method} needs at least {least} judges, there are {len(members)}: {members}")
    if config.method in BY_GOLD and gold is None:
        raise ConfigError(f"a panel by {config.method} is calibrated on gold; give it, or use majority, mean_logit or dawid_skene")
    if config.quorum is not None and not 1 <= config.quorum <= len(members):
        raise ConfigError(f"a quorum of {config.quorum} votes of {len(members)} judges; use 1 to {len(members)}")
    if twice := verdicts.filter(pl.struct(*PAIR, "judge").is_duplicated()).select("judge", "a_id", "b_id").rows():
        raise VerdictError(f"judge {twice[0][0]!r} has two verdicts about {twice[0][1]} and {twice[0][2]}")


def _what_became() -> pl.Expr:
    return pl.concat_str("judge", pl.lit(" "), "verdict", pl.concat_str(pl.lit(" ("), "reason", pl.lit(")")).fill_null(""))


def _probability(ballots: pl.DataFrame, config: JuryConfig, gold: pl.DataFrame | None) -> pl.DataFrame:
    """`p_a` of each pair that has a vote."""
    cast = ballots.drop_nulls("vote")
    inside = pl.col("p").clip(CLIP, 1 - CLIP)
    logit, sign = (inside / (1 - inside)).log(), (pl.col("p") - 0.5).sign()
    if config.method == "majority":
        won = pl.when(pl.col("vote") == "a").then(1.0).when(pl.col("vote") == "b").then(0.0).otherwise(0.5)
        return cast.group_by(PAIR).agg(p_a=(won.sum() + 0.5) / (pl.len() + 1))
    if config.method == "dawid_skene":
        return _by_agreement(cast)
    if config.method == "mean_logit":
        return cast.group_by(PAIR).agg(total=logit.mean()).with_columns(p_a=_logistic("total")).drop("total")
    assert gold is not None
    weighted = cast.join(gold_weights(ballots, gold, config.method), on="judge", how="left").with_columns(pl.col("weight").fill_null(0.0))
    by = logit if config.method == "naive_bayes" else sign
    sums = weighted.group_by(PAIR).agg(total=(by * pl.col("weight")).sum(), weight=pl.col("weight").sum())
    return sums.select(*PAIR, p_a=pl.when(pl.col("weight") > 0).then(_logistic("total")))


def gold_weights(ballots: pl.DataFrame, gold: pl.DataFrame, method: str) -> pl.DataFrame:
    """`judge`, `weight`, `n`: log odds of being right (weighted) or 1 / temperature (naive_bayes), from the votes on gold pairs; a judge
    who has none, or is right no more often than wrong, has weight 0.
    """
    known = ballots.join(decided_sides(gold), on=PAIR).drop_nulls("vote")
    rows = []
    for (judge,), own in sorted(known.group_by("judge")):
        decided = own.filter(pl.col("vote") != "tie")
        right = int((decided["vote"] == decided["gold"]).sum())
        weight = max(0.0, float(np.log((right + 1) / (decided.height - right + 1))))
        if method == "naive_bayes":
            p, happened = own["p"].to_numpy().clip(CLIP, 1 - CLIP), (own["gold"] == "a").cast(pl.Float64).to_numpy()
            # a pair counts from both sides, as which text is a means nothing; one pseudo-pair each way at the boldest probability keeps
            # a judge that was never wrong from being infallible
            bold = max(float(np.abs(p - 0.5).max()) + 0.5, 0.5 + CLIP)
            weight = 1 / fit_temperature(np.concatenate([p, 1 - p, [bold, bold]]), np.concatenate([happened, 1 - happened, [1.0, 0.0]]))
            weight = weight if right * 2 > decided.height else 0.0
        rows.append((judge, weight, own.height))
    return pl.DataFrame(rows, schema={"judge": pl.String, "weight": pl.Float64, "n": pl.Int64}, orient="row")


def _by_agreement(cast: pl.DataFrame) -> pl.DataFrame:
    """Dawid–Skene with every pair also the other way round, so that a and b are errors of one kind."""
    rows = cast.select(pair=pl.struct(PAIR), rater="judge", value="vote").with_columns(turned=pl.lit(False))
    other = rows.with_columns(value=pl.col("value").replace({"a": "b", "b": "a"}), turned=pl.lit(True))
    both = pl.concat([rows, other]).with_columns(unit=pl.struct("pair", "turned"))
    keys = both.select("unit").unique().sort("unit").with_row_index("key")
    truths = ["a", "b"]
    if rows["rater"].n_unique() < 3:
        return cast.select(*PAIR, p_a=pl.lit(None, dtype=pl.Float64)).unique()
    if not set(truths) <= set(both["value"]):
        return cast.group_by(PAIR).agg(p_a=pl.lit(0.5))
    found = dawid_skene(both.join(keys, on="unit").select("rater", "value", unit="key"), truths=truths)
    told = found.posterior.join(keys, left_on="unit", right_on="key").rename({"unit_right": "names"}).unnest("names")
    return told.filter(~pl.col("turned")).unnest("pair").select(*PAIR, p_a="p0")


def _decide(tally: pl.DataFrame, config: JuryConfig, members: Sequence[str]) -> pl.DataFrame:
    n_a, n_b, n_tie, p = pl.col("n_a"), pl.col("n_b"), pl.col("n_tie"), pl.col("p_a")
    n = n_a + n_b + n_tie
    quorum = config.quorum or len(members) // 2 + 1
    contested = (n_a > 0) & (n_b > 0)
    if config.method == "majority":
        won_a, won_b = (n_a > n_b) & (n_a > n_tie), (n_b > n_a) & (n_b > n_tie)
        level = (n_a == n_b) & (n_a >= n_tie) & contested
    else:
        won_a, won_b = p >= 0.5 + config.indifference - ROUNDING, p <= 0.5 - config.indifference + ROUNDING
        level = contested
    said = pl.when(won_a).then(pl.lit("a")).when(won_b).then(pl.lit("b")).when(level).then(pl.lit("inconsistent")).otherwise(pl.lit("tie"))
    verdict = pl.when((n < quorum) | p.is_null()).then(pl.lit("unscored")).otherwise(said)
    few = pl.concat_str(pl.lit(f"{quorum} of {len(members)} votes are needed, there are "), n, pl.lit(": "), pl.col("missing"))
    weightless = (
        "three judges who vote are needed"
        if config.method == "dawid_skene"
        else "no judge who votes is right more often than wrong on gold"
    )
    reason = pl.when(n < quorum).then(few).otherwise(pl.lit(weightless))
    rows = tally.with_columns(verdict=verdict, n_votes=n)
    scored = pl.col("verdict") != "unscored"
    rows = rows.with_columns(
        p_a=pl.when(scored).then("p_a"),
        p_se=pl.when(scored).then(pl.col("p_sd") / pl.col("n_votes").sqrt()),
        reason=pl.when(~scored).then(reason),
        judge=pl.lit(f"panel:{config.method}({','.join(members)})"),
        scores_delta=pl.lit(None),
        position_effect=pl.lit(None),
    )
    confidence = _majority_confidence(rows) if config.method == "majority" else rows.select((pl.col("p_a") - 0.5).abs() + 0.5)["p_a"]
    rows = rows.with_columns(margin=(pl.col("p_a") - 0.5).abs() * 2, confidence=pl.when(scored).then(confidence))
    return rows.select(pl.col(name).cast(dtype) for name, dtype in VERDICTS.items()).sort(PAIR)


def _majority_confidence(rows: pl.DataFrame) -> pl.Series:
    """What the votes say of the probability that most judges would prefer the same side; a tie is half a vote for each."""
    k = (rows["n_a"] + rows["n_tie"] / 2).to_numpy()
    n = rows["n_votes"].to_numpy()
    return pl.Series(np.abs(0.5 - betainc(k + 0.5, n - k + 0.5, 0.5)) + 0.5)


def _logistic(column: str) -> pl.Expr:
    return 1 / (1 + (-pl.col(column)).exp())


def decided_sides(gold: pl.DataFrame) -> pl.DataFrame:
    """The gold pairs that are decided: `prompt_id`, `a_id`, `b_id`, `gold` (a or b)."""
    return gold.filter(pl.col("verdict").is_in(["a", "b"])).select(*PAIR, gold="verdict")
