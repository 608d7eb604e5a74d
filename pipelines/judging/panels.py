"""The verdicts that label: one judge's, or a panel's; and what its health is made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import polars as pl

from curators.errors import VerdictError
from curators.judging.consistency import ConsistencyConfig, consistency_report, mark_consistent
from curators.judging.health import gold_agreement, judge_health
from curators.judging.juries import BY_GOLD, PAIR, JuryConfig, not_of_its_own, panel, votes
from curators.judging.jury_report import crossfitted, panel_report
from curators.judging.verdicts import VerdictConfig, verdicts
from curators.statistics.agreement import krippendorff_alpha
from curators.statistics.intervals import Estimate, share_by
from pipelines.judging.config import PanelConfig


def jury(config: PanelConfig) -> JuryConfig:
    """How the members of a configured panel are combined."""
    return JuryConfig(method=config.method, quorum=config.quorum)


def members_verdicts(judgments: pl.DataFrame, generations: pl.DataFrame, config: PanelConfig, reading: VerdictConfig) -> pl.DataFrame:
    """`verdicts` of every member about every pair, unscored where a member wrote one of the texts."""
    found = verdicts(judgments, reading)
    return not_of_its_own(found, generations) if config.exclude_own else found


def panel_verdicts(
    members: pl.DataFrame, config: PanelConfig, *, gold: pl.DataFrame | None, tried: pl.DataFrame | None = None
) -> pl.DataFrame:
    """One verdict a pair. `gold`: verdicts that are right, about these pairs or about those of `tried`, the members' on gold."""
    if config.method in BY_GOLD and tried is not None:
        others = tried.join(members, on=["a_id", "b_id", "judge"], how="anti")
        whole = panel(pl.concat([members, others]), jury(config), gold=gold)
        return whole.join(members.select("a_id", "b_id").unique(), on=["a_id", "b_id"], how="semi")
    return panel(members, jury(config), gold=gold)


def measured_verdicts(found: pl.DataFrame, members: pl.DataFrame, config: PanelConfig, *, gold: pl.DataFrame | None) -> pl.DataFrame:
    """What of a panel is compared with the gold that calibrates it: `found`, or each prompt judged by weights that did not see it.

    Nothing where the gold is of one prompt.
    """
    if config.method not in BY_GOLD or gold is None:
        return found
    try:
        return crossfitted(members, gold, jury(config))
    except VerdictError:
        return found.clear()


def only_consistent(found: pl.DataFrame, members: pl.DataFrame, config: PanelConfig, *, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The panel's verdicts, `inconsistent` with the reason where too few members agree, and the marks of every pair."""
    given = ConsistencyConfig(min_agree=config.min_agree or 1, min_confidence=config.min_confidence, seed=seed)
    marked = mark_consistent(members, given)
    why = marked.filter(~pl.col("keep")).select("a_id", "b_id", why="reason")
    dropped = pl.col("why").is_not_null() & pl.col("verdict").is_in(["a", "b"])
    out = found.join(why, on=["a_id", "b_id"], how="left", maintain_order="left").with_columns(
        verdict=pl.when(dropped).then(pl.lit("inconsistent")).otherwise("verdict"),
        reason=pl.when(dropped).then("why").otherwise("reason"),
    )
    return out.select(found.columns), marked


def consistency_told(members: pl.DataFrame, marked: pl.DataFrame, gold: pl.DataFrame | None) -> dict[str, Any]:
    """What the filter did, and the dropped pairs to look at, as JSON carries it."""
    found = consistency_report(members, marked, gold)
    shares = ("kept", "accuracy_before", "accuracy_after", "accuracy_dropped")
    audit = marked.filter("audit").select("prompt_id", "a_id", "b_id", "side", "n_agree", "n_against", "reason").to_dicts()
    return {
        "n": found.n,
        "n_kept": found.n_kept,
        "reasons": found.reasons,
        **{name: asdict(getattr(found, name)) for name in shares},
        "krippendorff_alpha": asdict(found.alpha.coefficient),
        "fleiss_kappa": asdict(found.fleiss.coefficient),
        "helps": found.helps,
        "audit": audit,
    }


def panel_health(
    judgments: pl.DataFrame,
    members: pl.DataFrame,
    found: pl.DataFrame,
    generations: pl.DataFrame,
    config: PanelConfig,
    *,
    gold: pl.DataFrame | None,
    measured: pl.DataFrame,
    policy: str | None = None,
) -> dict[str, Any]:
    """`judge_health` of the panel, with `members`: each one's own, and `panel`: whether it beats its best member on the gold.

    `measured`: the verdicts that are compared with the gold (`measured_verdicts`).
    """
    health = judge_health(judgments, found, generations, policy=policy) | (gold_agreement(measured, gold) if gold is not None else {})
    each = {
        judge: judge_health(judgments.filter(pl.col("judge") == judge), members.filter(pl.col("judge") == judge), generations, gold=gold)
        for judge in members["judge"].unique().sort()
    }
    told = None if gold is None else _worth(members, gold, config)
    counted = members.filter(pl.col("verdict") != "unscored")
    health |= {"alpha": asdict(members_alpha(members)), "disputed": health["inconsistent"]}
    health["inconsistent"] = share_by(counted, pl.col("verdict") == "inconsistent")
    return health | {"judge": found["judge"][0] if found.height else "panel", "members": each, "panel": told}


def members_alpha(members: pl.DataFrame) -> Estimate:
    """Krippendorff's alpha of the members' votes (a, b, tie), its interval by prompt."""
    ratings = votes(members).select("prompt_id", unit=pl.struct(PAIR), rater="judge", value="vote")
    return krippendorff_alpha(ratings, cluster="prompt_id", n_resamples=200).coefficient


def _worth(members: pl.DataFrame, gold: pl.DataFrame, config: PanelConfig) -> dict[str, Any] | None:
    """Null where the gold decides none of the pairs."""
    try:
        found = panel_report(members, gold, jury(config))
    except VerdictError:
        return None
    names = ("best", "n_both", "only_panel_right", "only_best_right", "p_better", "beats_best")
    return {name: getattr(found, name) for name in names} | {"accuracy": found.members.to_dicts()}
