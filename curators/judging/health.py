"""How a judge behaved: what it could not answer, how it leans to a position or to length, and how often a gold agrees with it.

Every share comes with its count and its Wilson 95 % interval (E. B. Wilson, 1927): with few judgments the interval says so.
Deliberately not done here: correcting verdicts for what is found, and agreement between several judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from curators.judging.presentations import IDENTICAL
from curators.judging.verdicts import final_judgments
from curators.statistics.intervals import share


def judge_health(
    judgments: pl.DataFrame, verdicts: pl.DataFrame, generations: pl.DataFrame | None = None, *, gold: pl.DataFrame | None = None
) -> dict[str, Any]:
    """The health of one judge, as JSON carries it; every share is `{n, hits, share, low, high}`.

    `judgments` and `verdicts` are that judge's; `gold` are the `judgments` of a verifier on the same generations, `generations` give the
    lengths. Counted are the final judgments (the last attempt of each presentation and vote):

    * `ok`: could be read, of all that were asked; `unscored`: verdicts without a result
    * `first`: names the first shown, of the presentations that name one; 1/2 is what an impartial judge shows in both orders
    * `inconsistent`: the orders disagree, of the pairs with a verdict; `tie` likewise
    * `agreement`: the side that the gold prefers is preferred, of the pairs where the gold prefers one and the judge scored both
      (a half counts as a miss); `agreement_decided`: of the verdicts for a side only
    * `longer`: the longer text wins, of the verdicts for a side
    """
    final = final_judgments(judgments)
    asked = final.filter(pl.col("state") != "gated")
    labels = asked["label"].drop_nulls()
    counted = verdicts.filter((pl.col("verdict") != "unscored") & (pl.col("reason").fill_null("") != IDENTICAL))
    n_verdicts = {name: int(verdicts.filter(pl.col("verdict") == name).height) for name in ("a", "b", "tie", "inconsistent", "unscored")}
    return {
        "judge": judgments["judge"][0] if judgments.height else None,
        "protocol": judgments["protocol"][0] if judgments.height else None,
        "by_model": (~judgments["channel"].is_in(["verifier", "recorded"])).any(),
        "n_judgments": judgments.height,
        "states": dict(sorted(final["state"].value_counts().iter_rows())),
        "ok": share(asked.filter(pl.col("state") == "ok").height, asked.height),
        "n_verdicts": n_verdicts,
        "unscored": share(n_verdicts["unscored"], verdicts.height),
        "first": share(int((labels == "first").sum()), int((labels != "tie").sum())),
        "inconsistent": share(n_verdicts["inconsistent"], counted.height),
        "tie": share(counted.filter(pl.col("verdict") == "tie").height, counted.height),
        "label_mass": asked["label_mass"].mean(),
        "position_effect": verdicts["position_effect"].mean(),
        **(_agreement(verdicts, gold) if gold is not None else {}),
        **(_length(verdicts, generations) if generations is not None else {}),
    }


MEASURES = {
    "ok": "replies that could be read",
    "unscored": "verdicts without a result",
    "first": "presentations that name the first shown (impartial: 50%)",
    "inconsistent": "pairs whose winner changes with the order shown",
    "tie": "pairs called a tie",
    "agreement": "pairs decided by the gold and judged as it does",
    "agreement_decided": "the same, of verdicts for a side only",
    "longer": "verdicts for the longer text",
}
"""What each share of a judge's health says, in the order to read them."""


def health_rows(health: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The health as a table to read: measure, count, share and interval in percent; a share of nothing is left out."""
    rows = share_rows(health, MEASURES)
    if health["label_mass"] is not None:
        rows.append(_line("mean probability of the labels together", "", f"{health['label_mass']:.3f}", ""))
    return rows


def share_rows(health: Mapping[str, Any], measures: Mapping[str, str]) -> list[dict[str, Any]]:
    """The shares of a health by what each says, in that order."""
    shares = ((what, health[name]) for name, what in measures.items() if name in health and health[name]["n"])
    return [_line(what, f"{s['hits']} of {s['n']}", f"{s['share']:.1%}", f"{s['low']:.1%} to {s['high']:.1%}") for what, s in shares]


def _line(measure: str, count: str, share: str, interval: str) -> dict[str, Any]:
    return {"measure": measure, "count": count, "share": share, "95% interval": interval}


def _side(p_a: str = "p_a", delta: str = "scores_delta") -> pl.Expr:
    """+1 where a is preferred, -1 where b is, 0 for a half; null where nothing is scored."""
    return pl.coalesce(pl.col(p_a) - 0.5, delta).sign()


def _agreement(verdicts: pl.DataFrame, gold: pl.DataFrame) -> dict[str, Any]:
    truth = final_judgments(gold).filter(pl.col("state") == "ok").select("generation_ids", "scores").explode("generation_ids", "scores")
    truth = truth.group_by(generation_id="generation_ids").agg(gold=pl.col("scores").mean())
    joined = verdicts.join(truth, left_on="a_id", right_on="generation_id").join(
        truth, left_on="b_id", right_on="generation_id", suffix="_b"
    )
    decidable = joined.with_columns(gold_side=(pl.col("gold") - pl.col("gold_b")).sign(), side=_side()).filter(pl.col("gold_side") != 0)
    scored = decidable.filter(pl.col("side").is_not_null())
    decided = scored.filter(pl.col("verdict").is_in(["a", "b"]))
    right = pl.col("side") == pl.col("gold_side")
    return {
        "n_decidable": decidable.height,
        "agreement": share(scored.filter(right).height, scored.height),
        "agreement_decided": share(decided.filter(right).height, decided.height),
    }


def _length(verdicts: pl.DataFrame, generations: pl.DataFrame) -> dict[str, Any]:
    sizes = generations.select("generation_id", size=pl.col("text").str.len_chars().cast(pl.Int64)).unique("generation_id")
    joined = verdicts.join(sizes, left_on="a_id", right_on="generation_id").join(
        sizes, left_on="b_id", right_on="generation_id", suffix="_b"
    )
    decided = joined.filter(pl.col("verdict").is_in(["a", "b"]) & (pl.col("size") != pl.col("size_b")))
    a_longer, a_wins = pl.col("size") > pl.col("size_b"), pl.col("verdict") == "a"
    return {"longer": share(decided.filter(a_longer == a_wins).height, decided.height)}
