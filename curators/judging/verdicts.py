"""Judgments → verdicts: what all presentations, votes and attempts about two generations amount to.

For a pair with a = P(A | A first) and b = P(A | A second), both clipped to [ε, 1 - ε]:

    p = 1 / (1 + exp(-(logit a + logit b) / 2))        the probability that A is preferred, free of a constant position bias
    β = (logit a - logit b) / 2                        the position effect in logits, > 0 where the first shown is favoured

Judgments that give only a label (first 1, second 0, tie 1/2) are averaged instead, p = (a + b) / 2. The orders disagree when
one says A and the other says B, both by more than δ: such a pair is `inconsistent`, which is not a tie. A pair with an
order missing is `unscored` with the reason, never a half. Scores (pointwise, listwise, verifiers) are averaged over votes
and compared; they state no probability, so `p_a` stays null.

Averaging over both orders: Wang et al. 2023 (arXiv:2305.17926), here in logits, where a constant bias cancels. Deliberately not
done here: several judges (juries), and ratings over more than one prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import betainc

from curators.errors import VerdictError
from curators.judging.presentations import IDENTICAL
from curators.schema import VERDICTS, check

CLIP = 1e-3
ROUNDING = 1e-9  # a bound is met by what differs from it by rounding alone


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictConfig:
    """Where a probability or a score difference becomes a label.

    A is preferred from p ≥ 1/2 + `indifference` on, B from p ≤ 1/2 - `indifference` on. Orders disagree when each is more than
    `disagreement` away from 1/2. Scores must differ by more than `min_delta`. Without `both_orders` one order is enough (it always is for
    recorded judgments, which nobody can ask again).
    """

    both_orders: bool = True
    indifference: float = 0.1
    disagreement: float = 0.1
    min_delta: float = 0.0


PRESENTATION = ("judge", "prompt_id", "generation_ids", "vote")
"""What every attempt at the same question shares."""


READ = ("judgment_id", "protocol", "channel", "p_first", "scores", "state", "reason")
"""What else a verdict is made of."""


def final_judgments(judgments: pl.DataFrame) -> pl.DataFrame:
    """One attempt of every presentation and vote: the last that could be read, else the last that was made."""
    if not _asked_again(judgments):
        return judgments
    readable = pl.col("state") == "ok"
    return judgments.sort(readable, "attempt").unique(PRESENTATION, keep="last", maintain_order=True)


def _asked_again(judgments: pl.DataFrame) -> bool:
    """Whether a presentation and vote may have several attempts: certainly not where all hashes differ, which is quick to see."""
    return bool(judgments.select(pl.struct(PRESENTATION).hash().is_duplicated().any()).item())


def verdicts(judgments: pl.DataFrame, config: VerdictConfig | None = None) -> pl.DataFrame:
    """`verdicts`: one row for every pair and judge, sorted by prompt, pair and judge; the order of the input does not matter.

    Pairs are those that were judged (pairwise), stood in one list (listwise), or are of one prompt (pointwise, verifier).

    >>> from curators.schema import JUDGMENTS, frame
    >>> shown = dict(prompt_id="p", protocol="pairwise", judge="j", channel="options", vote=0, attempt=0, state="ok")
    >>> rows = [dict(shown, generation_ids=["a", "b"], p_first=0.9), dict(shown, generation_ids=["b", "a"], p_first=1 - 0.35)]
    >>> row = verdicts(frame(rows, JUDGMENTS)).row(0, named=True)
    >>> round(row["p_a"], 4), round(row["position_effect"], 4), row["verdict"]
    (0.6876, 1.4081, 'inconsistent')

    Raises:
        VerdictError: one judge has judgments under two rubrics or protocols, or a pair belongs to two prompts.
    """
    config = config or VerdictConfig()
    _check_sources(check(judgments, "judgments"))
    asked = judgments.select(*PRESENTATION, "attempt", *READ)
    n_attempts = pl.len().over(PRESENTATION) if _asked_again(asked) else pl.lit(1)
    final = final_judgments(asked.with_columns(n_attempts=n_attempts))
    pairs = _pairwise(final.filter(pl.col("protocol") == "pairwise"), config)
    scored = _scored(final.filter(pl.col("protocol") != "pairwise"), config)
    return pl.concat([pairs, scored]).sort("prompt_id", "a_id", "b_id", "judge")


def gold_verdicts(judgments: pl.DataFrame) -> pl.DataFrame:
    """`verdicts` of somebody who is believed (recorded labels, a verifier, another judge): one presentation order is enough."""
    return verdicts(judgments, VerdictConfig(both_orders=False))


def _check_sources(judgments: pl.DataFrame) -> None:
    kinds = judgments.select("judge", "protocol", "rubric_digest").unique()
    if mixed := kinds.filter(pl.col("judge").is_duplicated()).sort("judge").rows():
        raise VerdictError(f"judge {mixed[0][0]!r} has judgments under {len(mixed)} rubrics or protocols; combine one at a time: {mixed}")


def _pairwise(final: pl.DataFrame, config: VerdictConfig) -> pl.DataFrame:
    first, second = pl.col("generation_ids").list.get(0), pl.col("generation_ids").list.get(1)
    ok = pl.col("state") == "ok"
    p = pl.when(ok).then(pl.when("a_first").then("p_first").otherwise(1 - pl.col("p_first")))
    pair = ["prompt_id", "a_id", "b_id", "judge"]
    # columns that `group_by` can take as they stand: an expression in every group would take several times as long
    rows = final.with_columns(
        a_id=pl.min_horizontal(first, second), b_id=pl.max_horizontal(first, second), a_first=first < second, ok=ok
    ).with_columns(
        p=p,
        p_ab=pl.when("a_first").then(p),
        p_ba=pl.when(~pl.col("a_first")).then(p),
        soft=~ok | (pl.col("channel") == "options"),
        recorded=pl.col("channel") == "recorded",
        identical=(pl.col("state") == "gated") & (pl.col("reason") == IDENTICAL),
    )
    if (rows["vote"] > 0).any():
        rows = rows.sort("p")  # the last bit of a sum depends on the order of what is added
    groups = rows.group_by(pair).agg(
        **{side: pl.col(f"p_{side}").mean() for side in ("ab", "ba")},
        **{f"variance_{side}": pl.col(f"p_{side}").var() / pl.col(f"p_{side}").count() for side in ("ab", "ba")},
        soft=pl.col("soft").all(),
        one_order=pl.col("recorded").all() | (not config.both_orders),
        identical=pl.col("identical").any(),
        votes_a=pl.col("p").sum(),
        n_judgments=pl.col("n_attempts").sum(),
        n_ok=pl.col("ok").sum(),
    )
    unread = rows.filter(~ok).sort("a_first", "vote", descending=[True, False])
    why = pl.concat_str("state", pl.lit(": "), pl.col("reason").fill_null("no reason given"))
    groups = groups.join(unread.with_columns(why=why).group_by(pair).agg(pl.col("why").first()), on=pair, how="left")
    if twice := groups.select("a_id", "b_id", "prompt_id").unique().filter(pl.struct("a_id", "b_id").is_duplicated()).rows():
        raise VerdictError(f"generations {twice[0][0]} and {twice[0][1]} are judged under two prompts")
    return _decide(_probability(groups), config)


def _probability(groups: pl.DataFrame) -> pl.DataFrame:
    """p, its standard error and the position effect of each pair; both sides are P(a is preferred)."""

    def logit(p: pl.Expr) -> pl.Expr:
        clipped = p.clip(CLIP, 1 - CLIP)
        return (clipped / (1 - clipped)).log()

    ab, ba = pl.col("ab"), pl.col("ba")
    both = ab.is_not_null() & ba.is_not_null()
    mean = pl.when("soft").then(1 / (1 + (-(logit(ab) + logit(ba)) / 2).exp())).otherwise((ab + ba) / 2)
    return groups.with_columns(
        p_a=pl.when("identical").then(0.5).when(both).then(mean).when("one_order").then(pl.coalesce(ab, ba)),
        p_se=pl.when(both)
        .then((pl.col("variance_ab") + pl.col("variance_ba")).sqrt() / 2)
        .when("one_order")
        .then(pl.coalesce("variance_ab", "variance_ba").sqrt()),
        position_effect=pl.when(both).then((logit(ab) - logit(ba)) / 2),
    )


def _decide(groups: pl.DataFrame, config: VerdictConfig) -> pl.DataFrame:
    ab, ba, p = pl.col("ab") - 0.5, pl.col("ba") - 0.5, pl.col("p_a")
    disagree = (ab * ba < 0) & (pl.min_horizontal(ab.abs(), ba.abs()) > config.disagreement + ROUNDING)
    verdict = (
        pl.when(p.is_null())
        .then(pl.lit("unscored"))
        .when(disagree.fill_null(False))
        .then(pl.lit("inconsistent"))
        .when(p >= 0.5 + config.indifference - ROUNDING)
        .then(pl.lit("a"))
        .when(p <= 0.5 - config.indifference + ROUNDING)
        .then(pl.lit("b"))
        .otherwise(pl.lit("tie"))
    )
    reason = (
        pl.when("identical")
        .then(pl.lit(IDENTICAL))
        .when(p.is_null())
        .then(pl.coalesce("why", pl.lit("one presentation order was never asked")))
    )
    decided = groups.with_columns(verdict=verdict, reason=reason, margin=(p - 0.5).abs() * 2)
    return _as_verdicts(decided.with_columns(confidence=pl.when(p.is_not_null() & ~pl.col("identical")).then(_confidence(decided))))


def _confidence(groups: pl.DataFrame) -> pl.Series:
    """Probability that the preferred side is the better one: the debiased probability where labels have log-probabilities, else what the
    votes say of p > 1/2 (`posterior`).
    """
    k, n = np.where(groups["soft"].to_numpy(), 0.0, groups["votes_a"].to_numpy()), groups["n_ok"].to_numpy()
    counts, place = np.unique(k + 1j * n, return_inverse=True)  # few, however many pairs
    voted = pl.Series((1 - betainc(counts.real + 0.5, counts.imag - counts.real + 0.5, 0.5))[place])
    side = groups.select(p=pl.when("soft").then("p_a").otherwise(voted))["p"]
    return (side - 0.5).abs() + 0.5


def _scored(final: pl.DataFrame, config: VerdictConfig) -> pl.DataFrame:
    """Verdicts of score judges; a pair of which one side has no score is unscored."""
    rows = final.with_columns(
        ok=pl.col("state") == "ok",
        why=pl.concat_str("state", pl.lit(": "), pl.col("reason").fill_null("no reason given")),
        list_id=pl.when(pl.col("protocol") == "listwise").then("judgment_id"),
    ).select("prompt_id", "judge", "list_id", "ok", "why", "n_attempts", generation_id="generation_ids", score="scores")
    read = rows.filter("ok").explode("generation_id", "score")
    unread = rows.filter(~pl.col("ok")).explode("generation_id").with_columns(score=pl.lit(None, dtype=pl.Float64))
    each = pl.concat([read, unread]).sort("score")  # as for votes
    key = ["prompt_id", "judge", "list_id"]
    single = each.group_by(*key, "generation_id").agg(
        score=pl.col("score").mean(),
        why=pl.col("why").filter(~pl.col("ok")).min(),
        n_judgments=pl.col("n_attempts").sum(),
        n_ok=pl.col("ok").sum(),
    )
    joined = single.join(single, on=key, nulls_equal=True, suffix="_b").filter(pl.col("generation_id") < pl.col("generation_id_b"))
    apart = joined.with_columns(delta=pl.col("score") - pl.col("score_b")).sort("delta")
    pairs = apart.group_by("prompt_id", "judge", a_id="generation_id", b_id="generation_id_b").agg(
        scores_delta=pl.col("delta").mean(),
        why=pl.coalesce("why", "why_b").min(),
        n_judgments=(pl.col("n_judgments") + pl.col("n_judgments_b")).sum(),
        n_ok=(pl.col("n_ok") + pl.col("n_ok_b")).sum(),
    )
    delta = pl.col("scores_delta")
    verdict = (
        pl.when(delta.is_null())
        .then(pl.lit("unscored"))
        .when(delta > config.min_delta + ROUNDING)
        .then(pl.lit("a"))
        .when(delta < -config.min_delta - ROUNDING)
        .then(pl.lit("b"))
        .otherwise(pl.lit("tie"))
    )
    return _as_verdicts(pairs.with_columns(verdict=verdict, reason=pl.when(delta.is_null()).then("why")))


def _as_verdicts(rows: pl.DataFrame) -> pl.DataFrame:
    missing = [pl.lit(None, dtype=dtype).alias(column) for column, dtype in VERDICTS.items() if column not in rows.columns]
    return rows.with_columns(missing).select([pl.col(column).cast(dtype) for column, dtype in VERDICTS.items()])


def group_scores(verdicts: pl.DataFrame, generations: pl.DataFrame, judgments: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row for every generation: `generation_id`, `prompt_id`, `score`, `n_scored`, sorted by prompt and id.

    The score is the mean over final judgments of the scores in `judgments` (pointwise, listwise, verifier), else the mean probability of
    winning over the generation's pairs in `verdicts`; null when nothing scored it. An inconsistent pair counts with its
    debiased probability, so that a judge that always names the first scores everything 1/2.

    Raises:
        VerdictError: a verdict or score is about a generation that is not there, or there are several judges.
    """
    scored = pl.DataFrame(schema={"generation_id": pl.String, "score": pl.Float64})
    judges = set(verdicts["judge"]) | (set() if judgments is None else set(judgments["judge"]))
    if len(judges) > 1:
        raise VerdictError(f"scores of {len(judges)} judges do not share a scale; choose one of {sorted(judges)}")
    if judgments is not None and (judgments["protocol"] != "pairwise").any():
        final = final_judgments(judgments).filter((pl.col("protocol") != "pairwise") & (pl.col("state") == "ok"))
        scored = final.select(generation_id="generation_ids", score="scores").explode("generation_id", "score")
    else:
        sides = [verdicts.select(generation_id="a_id", score="p_a"), verdicts.select(generation_id="b_id", score=1 - pl.col("p_a"))]
        scored = pl.concat([scored, *sides])
    known = generations.select("generation_id", "prompt_id")
    if stray := scored.join(known, on="generation_id", how="anti")["generation_id"].head(3).to_list():
        raise VerdictError(f"judged generations {stray} are not among the {known.height} generations given")
    means = (
        scored.sort("score").group_by("generation_id").agg(score=pl.col("score").mean(), n_scored=pl.col("score").count().cast(pl.Int32))
    )
    out = known.join(means, on="generation_id", how="left").with_columns(pl.col("n_scored").fill_null(0))
    return out.sort("prompt_id", "generation_id")
