"""How a judge behaved: what it could not answer, how it leans to a position or to length, and how often a gold agrees with it.

Every share comes with its count and its 95 % interval (E. B. Wilson, 1927). Judgments of one prompt hang together, so the intervals of what
is counted by presentation or by pair are those of the prompts' effective sample size (`clustered_share`): with few judgments, or few
prompts, the interval says so. Deliberately not done here: correcting verdicts for what is found, and several judges (`juries`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from curators.judging.defences import injection_suspect, repeated_answer
from curators.judging.presentations import IDENTICAL
from curators.judging.verdicts import ROUNDING, final_judgments
from curators.statistics.agreement import cohen_kappa
from curators.statistics.calibration import calibration, fit_temperature
from curators.statistics.cycles import cyclic_parts
from curators.statistics.intervals import binomial, cluster_ratio, share, share_by

FEWEST = 20  # pairs of which a calibration says anything
WIDEST = 10.0  # temperature; beyond it the judge is right no more often where it is sure
DECIDED = pl.col("verdict").is_in(["a", "b"])


def judge_health(
    judgments: pl.DataFrame,
    found: pl.DataFrame,
    generations: pl.DataFrame | None = None,
    *,
    gold: pl.DataFrame | None = None,
    policy: str | None = None,
) -> dict[str, Any]:
    """The health of one judge, as JSON carries it; every share is `{n, hits, share, low, high}`.

    `judgments` and `found` (verdicts) are that judge's; `gold` are the verdicts of somebody believed about the same generations
    (`gold_verdicts`): a verifier, recorded labels, another judge. `generations` give lengths and, with `policy` (a fingerprint), who wrote
    what. Counted are the final judgments (the last attempt of each presentation and vote):

    * `ok`: could be read, of all that were asked; `unscored`: verdicts without a result
    * `first`: names the first shown, of the presentations that name one; 1/2 is what an impartial judge shows in both orders
    * `inconsistent`: the orders disagree, of the pairs with a verdict (the flip rate); `tie` likewise
    * `agreement`: the side that the gold prefers is preferred, of the pairs where the gold prefers one and the judge scored both
      (a half counts as a miss); `agreement_decided`: of the verdicts for a side only
    * `kappa`: Cohen's, of the pairs that both call a, b or a tie
    * `calibration`: of the judge's `confidence` in the side that it prefers against the gold: ECE, Brier score, the temperature that would
      mend it (above 1: too bold), and the reliability table
    * `longer`: the longer text wins, of the verdicts for a side; `own`: the judge's own text wins, of those where one alone is its own
    * `injection_suspect`: of all generations those whose text carries a sign of injection (`defences.SIGNS`); they are judged all the same.
      `repeated_answer`: prompts that got the same text, the commonest; all of them, where a policy answers with a constant
    * `cyclic`: the share of preference, in squared logits, that runs in circles (A over B over C over A) in groups of three and more
      whose pairs all have a probability; no ranking can explain it
    * `tokens`: prompt and completion tokens of all judgments, attempts that could not be read included
    """
    final = final_judgments(judgments)
    asked = final.filter(pl.col("state") != "gated")
    named = asked.filter(pl.col("label").is_in(["first", "second"]))
    counted = found.filter((pl.col("verdict") != "unscored") & (pl.col("reason").fill_null("") != IDENTICAL))
    n_verdicts = {name: int(found.filter(pl.col("verdict") == name).height) for name in ("a", "b", "tie", "inconsistent", "unscored")}
    return {
        "judge": judgments["judge"][0] if judgments.height else None,
        "protocol": judgments["protocol"][0] if judgments.height else None,
        "by_model": (~judgments["channel"].is_in(["verifier", "recorded"])).any(),
        "channels": dict(sorted(asked["channel"].value_counts().iter_rows())),
        "n_judgments": judgments.height,
        "states": dict(sorted(final["state"].value_counts().iter_rows())),
        "ok": share_by(asked, pl.col("state") == "ok"),
        "n_verdicts": n_verdicts,
        "unscored": share_by(found, pl.col("verdict") == "unscored"),
        "first": share_by(named, pl.col("label") == "first"),
        "inconsistent": share_by(counted, pl.col("verdict") == "inconsistent"),
        "tie": share_by(counted, pl.col("verdict") == "tie"),
        "label_mass": asked["label_mass"].mean(),
        "position_effect": found["position_effect"].mean(),
        "flips_to_first": _flips(final, counted),
        "cyclic": _cyclic(found),
        "tokens": {name: int(judgments[f"{name}_tokens"].sum()) for name in ("prompt", "completion")},
        **(gold_agreement(found, gold) if gold is not None else {}),
        **(_length(found, generations) if generations is not None else {}),
        **(_answers(generations) if generations is not None else {}),
        **(_own(found, generations, policy) if generations is not None and policy is not None else {}),
    }


MEASURES = {
    "ok": "replies that could be read",
    "unscored": "verdicts without a result",
    "first": "presentations that name the first shown (impartial: 50%)",
    "inconsistent": "pairs whose winner changes with the order shown",
    "disputed": "pairs on which the members of the panel disagree",
    "tie": "pairs called a tie",
    "agreement": "pairs decided by the gold and judged as it does",
    "agreement_decided": "the same, of verdicts for a side only",
    "longer": "verdicts for the longer text",
    "own": "verdicts for the judge's own text against another's",
    "injection_suspect": "answers with a sign of an injected verdict or order",
    "repeated_answer": "prompts that got the commonest answer",
}
"""What each share of a judge's health says, in the order to read them."""


CONSISTENCY = {
    "kept": "pairs kept: enough judges agree",
    "accuracy_before": "the side of most judges is that of the gold",
    "accuracy_after": "the same, of the pairs kept",
}
"""What each figure of the consistency filter says."""


def health_rows(health: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The health as a table to read: measure, count, share and interval in percent; a share of nothing is left out."""
    rows = share_rows(health, MEASURES)
    if (kappa := health.get("kappa")) and kappa["value"] is not None:
        interval = f"{kappa['low']:.2f} to {kappa['high']:.2f}" if kappa["low"] is not None else ""
        rows.append(_line("Cohen's kappa with the gold", f"{kappa['n']} pairs", f"{kappa['value']:.2f}", interval))
    if (cyclic := health.get("cyclic")) and cyclic["value"] is not None:
        rows.append(_line("preference that runs in circles", f"{cyclic['n']} prompts", f"{cyclic['value']:.1%}", _interval(cyclic)))
    if calibrated := health.get("calibration"):
        mends = calibrated["temperature"]
        advice = "" if mends is None else f" (temperature {mends:.2f} would mend it)"
        rows.append(_line(f"expected calibration error{advice}", f"{calibrated['n']} pairs", f"{calibrated['ece']:.3f}", ""))
    if (length := health.get("length_effect")) and length["effect"]["value"] is not None:
        effect = length["effect"]
        interval = "" if effect["low"] is None else f"{effect['low']:+.3f} to {effect['high']:+.3f}"
        rows.append(_line("logits that 100 characters more are worth", f"{effect['n']} rows", f"{effect['value']:+.3f}", interval))
    elif length:
        rows.append(_line("effect of length", "", "-", length["reason"] or "not identified"))
    for judge, own in (health.get("members") or {}).items():
        rows += [row | {"measure": f"{judge}: {row['measure']}"} for row in share_rows(own, {"agreement": MEASURES["agreement"]})]
    if (alpha := health.get("alpha")) and alpha["value"] is not None:
        interval = "" if alpha["low"] is None else f"{alpha['low']:.2f} to {alpha['high']:.2f}"
        rows.append(_line("Krippendorff's alpha of the members", f"{alpha['n']} pairs", f"{alpha['value']:.2f}", interval))
    if worth := health.get("panel"):
        told = f"{worth['only_panel_right']} : {worth['only_best_right']}"
        better = "beats" if worth["beats_best"] else "does not beat"
        rows.append(
            _line(f"the panel {better} its best member ({worth['best']})", f"{worth['n_both']} pairs", told, f"p = {worth['p_better']:.3f}")
        )
    if filtered := health.get("consistency"):
        rows += [
            _line(what, f"{filtered[name]['n']} pairs", f"{filtered[name]['value']:.1%}", _interval(filtered[name]))
            for name, what in CONSISTENCY.items()
            if filtered[name]["value"] is not None
        ]
    if health["label_mass"] is not None:
        rows.append(_line("mean probability of the labels together", "", f"{health['label_mass']:.3f}", ""))
    return rows


def share_rows(health: Mapping[str, Any], measures: Mapping[str, str]) -> list[dict[str, Any]]:
    """The shares of a health by what each says, in that order."""
    shares = ((what, health[name]) for name, what in measures.items() if name in health and health[name]["n"])
    return [_line(what, f"{s['hits']} of {s['n']}", f"{s['share']:.1%}", f"{s['low']:.1%} to {s['high']:.1%}") for what, s in shares]


def _interval(estimate: Mapping[str, Any]) -> str:
    return "" if estimate["low"] is None else f"{estimate['low']:.1%} to {estimate['high']:.1%}"


def _line(measure: str, count: str, share: str, interval: str) -> dict[str, Any]:
    return {"measure": measure, "count": count, "share": share, "95% interval": interval}


def _flips(final: pl.DataFrame, counted: pl.DataFrame) -> dict[str, Any]:
    """Which position the flipping pairs favour: `n` pairs, `hits` of them the first shown, and the exact p-value of so many by chance.

    A panel's verdict is inconsistent where its members disagree, which favours no position and does not count.
    """
    flipped = counted.filter((pl.col("verdict") == "inconsistent") & pl.col("position_effect").is_not_null())
    found = share_by(flipped, pl.col("position_effect") > 0)
    return found | {"p": binomial(found["hits"], found["n"]) if final.height else None}


def _cyclic(found: pl.DataFrame) -> dict[str, Any]:
    parts = cyclic_parts(found)
    circles = cluster_ratio(parts, "left", "total")
    return {"value": circles.value, "low": circles.low, "high": circles.high, "n": circles.n}


def _side(p_a: str = "p_a", delta: str = "scores_delta") -> pl.Expr:
    """+1 where a is preferred, -1 where b is, 0 for a half; null where nothing is scored."""
    lead = pl.coalesce(pl.col(p_a) - 0.5, delta)
    return pl.when(lead.abs() <= ROUNDING).then(0.0).otherwise(lead.sign())


def gold_agreement(found: pl.DataFrame, gold: pl.DataFrame) -> dict[str, Any]:
    """What `judge_health` says of verdicts beside those of a gold."""
    truth = gold.select("a_id", "b_id", gold="verdict", gold_side=_side())
    joined = found.join(truth, on=["a_id", "b_id"]).with_columns(side=_side())
    decidable = joined.filter(pl.col("gold").is_in(["a", "b"]))
    scored = decidable.filter(pl.col("side").is_not_null())
    decided = scored.filter(DECIDED)
    right = pl.col("side") == pl.col("gold_side")
    return {
        "n_decidable": decidable.height,
        "agreement": share_by(scored, right),
        "agreement_decided": share_by(decided, right),
        "kappa": _kappa(joined),
        "calibration": _calibration(scored.filter(pl.col("confidence").is_not_null() & (pl.col("side") != 0))),
    }


def _kappa(joined: pl.DataFrame) -> dict[str, Any]:
    told = ["a", "b", "tie"]
    both = joined.filter(pl.col("verdict").is_in(told) & pl.col("gold").is_in(told)).with_columns(unit=pl.struct("a_id", "b_id"))
    raters = [
        both.select("unit", "prompt_id", rater=pl.lit(rater), value=column) for rater, column in (("judge", "verdict"), ("gold", "gold"))
    ]
    if not both.height:
        return {"value": None, "low": None, "high": None, "n": 0}
    kappa = cohen_kappa(pl.concat(raters), cluster="prompt_id", n_resamples=200).coefficient
    return {"value": kappa.value, "low": kappa.low, "high": kappa.high, "n": kappa.n}


def _calibration(sided: pl.DataFrame) -> dict[str, Any] | None:
    """Null where the judge preferred a side in fewer than `FEWEST` pairs; `temperature` is null where none would mend it."""
    if sided.height < FEWEST:
        return None
    p, right = sided["confidence"].to_numpy(), (sided["side"] == sided["gold_side"]).cast(pl.Float64).to_numpy()
    found = calibration(p, right)
    temperature = fit_temperature(p, right)
    mends = 1 / WIDEST < temperature < WIDEST
    told = {"n": found.n, "ece": found.ece, "brier": found.brier, "temperature": temperature if mends else None}
    return told | {"table": found.table.to_dicts()}


def _length(found: pl.DataFrame, generations: pl.DataFrame) -> dict[str, Any]:
    joined = _joined(found, generations.select("generation_id", size=pl.col("text").str.len_chars().cast(pl.Int64)))
    decided = joined.filter(DECIDED & (pl.col("size") != pl.col("size_b")))
    return {"longer": share_by(decided, (pl.col("size") > pl.col("size_b")) == (pl.col("verdict") == "a"))}


def _answers(generations: pl.DataFrame) -> dict[str, Any]:
    """What a program sees in the answers themselves."""
    suspect = generations.select("prompt_id", suspect=injection_suspect()).drop_nulls("suspect")
    _, n_same, n_prompts = repeated_answer(generations)
    repeated = share(n_same if n_same > 1 else 0, n_prompts)
    return {"injection_suspect": share_by(suspect, pl.col("suspect")), "repeated_answer": repeated}


def _own(found: pl.DataFrame, generations: pl.DataFrame, policy: str) -> dict[str, Any]:
    """Self-preference where the judge is one of those who wrote the answers; elsewhere there is nothing to count."""
    joined = _joined(found, generations.select("generation_id", own=pl.col("policy") == policy))
    decided = joined.filter(DECIDED & (pl.col("judge") == policy) & (pl.col("own") != pl.col("own_b")))
    return {"own": share_by(decided, pl.col("own") == (pl.col("verdict") == "a"))}


def _joined(found: pl.DataFrame, about: pl.DataFrame) -> pl.DataFrame:
    once = about.unique("generation_id")
    return found.join(once, left_on="a_id", right_on="generation_id").join(once, left_on="b_id", right_on="generation_id", suffix="_b")
