"""A candidate version → passed or not, gate by gate, with the figure and the bound.

A bound that is null switches its gate off. A gate about a judge says `not applicable` where no model judged, one about the gold or
about searched trees where there is none: it then passes, and its detail says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import polars as pl

from curators.statistics.intervals import share


@dataclass(frozen=True, kw_only=True, slots=True)
class GateBounds:
    """Inclusive bounds. Shares are in 0..1; a deviation is the distance of a share from 1/2."""

    min_pairs: int | None = 1
    max_duplicate_share: float | None = 0.05
    max_longer_chosen_share: float | None = None
    max_ending_deviation: float | None = None
    max_unfinished_share: float | None = None
    min_on_policy_share: float | None = None
    max_unscored_share: float | None = 0.5
    min_judge_agreement: float | None = None
    min_gold_agreement: float | None = None
    max_judge_inconsistent_share: float | None = 0.5
    max_judge_first_deviation: float | None = None
    min_rationale_share: float | None = None
    max_shortcut_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """`figure` is null where the gate is not applicable; `detail` is a sentence with the counts."""

    name: str
    figure: float | None
    bound: float
    passed: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What is to be published: its pairs, and the health of who labelled them, a judge (`judge_health`) or searches (`search_health`).

    Both are null where the labels came with the data. `trial`: the health of the judge, or panel, on gold pairs, null: it was not tried.
    `rationales` (`rationale_health`): null where none were written. `audit` (`audit_shortcuts(pairs).summary`): null where none was made.
    """

    pairs: pl.DataFrame
    health: Mapping[str, Any] | None = None
    search: Mapping[str, Any] | None = None
    trial: Mapping[str, Any] | None = None
    rationales: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None

    @property
    def judge(self) -> Mapping[str, Any] | None:
        """The health of a model judge; null for verifiers, and for labels that came with the data."""
        return self.health if self.health and self.health["by_model"] else None


Gate = Callable[[Candidate, float], GateResult]


def min_pairs(candidate: Candidate, bound: float) -> GateResult:
    n = candidate.pairs.height
    return GateResult(name="min_pairs", figure=n, bound=bound, passed=n >= bound, detail=f"{n} pairs; at least {bound:g}")


def max_duplicate_share(candidate: Candidate, bound: float) -> GateResult:
    """Pairs whose prompt, chosen and rejected, white space and case aside, stand in the candidate already."""
    texts = [pl.col(column).str.to_lowercase().str.replace_all(r"(?:\s|\\[nrt])+", " ") for column in ("prompt", "chosen", "rejected")]
    n = candidate.pairs.height
    duplicates = n - candidate.pairs.select(pl.struct(texts).n_unique()).item() if n else 0
    return _at_most("max_duplicate_share", share(duplicates, n), bound, "pairs repeat another one")


def max_longer_chosen_share(candidate: Candidate, bound: float) -> GateResult:
    """Pairs whose chosen side is the longer one, of those whose sides differ in length."""
    sizes = candidate.pairs.select(chosen=pl.col("chosen").str.len_chars(), rejected=pl.col("rejected").str.len_chars())
    unequal = sizes.filter(pl.col("chosen") != pl.col("rejected"))
    longer = share(unequal.filter(pl.col("chosen") > pl.col("rejected")).height, unequal.height)
    return _at_most("max_longer_chosen_share", longer, bound, "pairs of unequal length prefer the longer side")


def max_ending_deviation(candidate: Candidate, bound: float) -> GateResult:
    """Of the pairs in which one side alone ends the answer, the share in which that is the chosen one.

    Far from 1/2, a model learns when to stop rather than how to go on.
    """
    name = "max_ending_deviation"
    if "chosen_terminal" not in candidate.pairs.columns:
        return _not_applicable(name, bound, "the pairs are no steps")
    apart = candidate.pairs.filter(pl.col("chosen_terminal") != pl.col("rejected_terminal"))
    figure = share(int(apart["chosen_terminal"].sum()), apart.height)
    return _deviation(name, figure, bound, "pairs of which one side ends the answer prefer that side")


def max_unfinished_share(candidate: Candidate, bound: float) -> GateResult:
    """Trees that a cap ended before they were done."""
    if not candidate.search:
        return _not_applicable("max_unfinished_share", bound, "nothing was searched")
    finished = candidate.search["finished"]
    figure = share(finished["n"] - finished["hits"], finished["n"])
    return _at_most("max_unfinished_share", figure, bound, "trees were ended before they were done")


def min_on_policy_share(candidate: Candidate, bound: float) -> GateResult:
    on_policy = share(int(candidate.pairs["on_policy"].fill_null(False).sum()), candidate.pairs.height)
    return _at_least("min_on_policy_share", on_policy, bound, "pairs are on-policy on both sides")


def max_unscored_share(candidate: Candidate, bound: float) -> GateResult:
    """Verdicts without a result, or the answers of searched trees that could not be graded."""
    if candidate.search:
        return _at_most("max_unscored_share", candidate.search["ungraded"], bound, "answers could not be graded")
    if not candidate.health:
        return _not_applicable("max_unscored_share", bound, "the labels came with the data")
    return _at_most("max_unscored_share", candidate.health["unscored"], bound, "verdicts are unscored")


def min_judge_agreement(candidate: Candidate, bound: float) -> GateResult:
    name = "min_judge_agreement"
    if not candidate.judge:
        return _not_applicable(name, bound, "no model judged")
    if "agreement" not in candidate.judge:
        return _not_applicable(name, bound, "there is no gold to agree with")
    return _agrees(name, candidate.judge["agreement"], bound, "pairs that the gold decides are judged as it does")


def min_gold_agreement(candidate: Candidate, bound: float) -> GateResult:
    if not candidate.trial:
        return _not_applicable("min_gold_agreement", bound, "no judge was tried on gold pairs")
    return _agrees("min_gold_agreement", candidate.trial["agreement"], bound, "gold pairs are judged as their label says")


def max_judge_inconsistent_share(candidate: Candidate, bound: float) -> GateResult:
    name = "max_judge_inconsistent_share"
    if not candidate.judge or candidate.judge["protocol"] != "pairwise":
        return _not_applicable(name, bound, "no model judged pairs")
    return _at_most(name, candidate.judge["inconsistent"], bound, "pairs change their winner with the order shown")


def max_judge_first_deviation(candidate: Candidate, bound: float) -> GateResult:
    name = "max_judge_first_deviation"
    if not candidate.judge or candidate.judge["protocol"] != "pairwise":
        return _not_applicable(name, bound, "no model judged pairs")
    return _deviation(name, candidate.judge["first"], bound, "presentations name the first shown")


def min_rationale_share(candidate: Candidate, bound: float) -> GateResult:
    if not candidate.rationales:
        return _not_applicable("min_rationale_share", bound, "no rationales were written")
    return _at_least("min_rationale_share", candidate.rationales["explained"], bound, "pairs have a rationale that passed every check")


def max_shortcut_accuracy(candidate: Candidate, bound: float) -> GateResult:
    """No trivial rule, nor its opposite, and no words alone predict more than `bound` of the labels (`expected`).

    A model that is wrong more often than a coin is no leak; what takes the prompt to predict is none either. Where no figure is known the
    gate does not apply.
    """
    name = "max_shortcut_accuracy"
    rows = candidate.audit["shortcuts"].values() if candidate.audit else ()
    strengths = [(_strength(row), row) for row in rows if row["expected"] is not None and row["kind"] != "ablation"]
    if not strengths:
        return _not_applicable(name, bound, "there is nothing to count")
    figure, row = max(strengths, key=lambda found: (found[0], found[1]["name"]))
    what = f"not {row['name']}" if figure > row["expected"] else row["name"]
    bounds = sorted(abs(float(figure > row["expected"]) - end) for end in (row["expected_low"], row["expected_high"]) if end is not None)
    interval = f", 95% interval {bounds[0]:.1%} to {bounds[1]:.1%}" if len(bounds) == 2 else ""
    detail = f"{what!r} predicts {figure:.1%} of {row['n']} labels ({row['n_decided']} decided{interval}); at most {bound:.1%}"
    return GateResult(name=name, figure=figure, bound=bound, passed=figure <= bound, detail=detail)


def _strength(row: Mapping[str, Any]) -> float:
    expected = float(row["expected"])
    return max(expected, 1 - expected) if row["kind"] == "rule" else expected


GATES: Mapping[str, Gate] = {
    "min_pairs": min_pairs,
    "max_duplicate_share": max_duplicate_share,
    "max_longer_chosen_share": max_longer_chosen_share,
    "max_ending_deviation": max_ending_deviation,
    "max_unfinished_share": max_unfinished_share,
    "min_on_policy_share": min_on_policy_share,
    "max_unscored_share": max_unscored_share,
    "min_judge_agreement": min_judge_agreement,
    "min_gold_agreement": min_gold_agreement,
    "max_judge_inconsistent_share": max_judge_inconsistent_share,
    "max_judge_first_deviation": max_judge_first_deviation,
    "min_rationale_share": min_rationale_share,
    "max_shortcut_accuracy": max_shortcut_accuracy,
}
"""By the name of their bound in `GateBounds`."""


def check_gates(candidate: Candidate, bounds: GateBounds | None = None) -> list[GateResult]:
    """The result of every gate that is not switched off, in the order of `GateBounds`."""
    bounds = bounds or GateBounds()
    wanted = ((field.name, getattr(bounds, field.name)) for field in fields(bounds))
    return [GATES[name](candidate, float(bound)) for name, bound in wanted if bound is not None]


def passed(results: Sequence[GateResult]) -> bool:
    """Whether every gate let the candidate through."""
    return all(result.passed for result in results)


def refusal(results: Sequence[GateResult]) -> str | None:
    """One line with the figures of every gate that failed; null when all passed.

    >>> refusal([GateResult(name="min_pairs", figure=0, bound=1, passed=False, detail="0 pairs; at least 1")])
    'refused by 1 of 1 gates: min_pairs (0 pairs; at least 1)'
    """
    failed = [f"{result.name} ({result.detail})" for result in results if not result.passed]
    return f"refused by {len(failed)} of {len(results)} gates: {'; '.join(failed)}" if failed else None


def _counted(figure: Mapping[str, Any], what: str) -> str:
    return f"{figure['hits']} of {figure['n']} {what} ({figure['share']:.1%}, 95% interval {figure['low']:.1%} to {figure['high']:.1%})"


def _at_most(name: str, figure: Mapping[str, Any], bound: float, what: str) -> GateResult:
    if figure["share"] is None:
        return _not_applicable(name, bound, "there is nothing to count")
    detail = f"{_counted(figure, what)}; at most {bound:.1%}"
    return GateResult(name=name, figure=figure["share"], bound=bound, passed=figure["share"] <= bound, detail=detail)


def _at_least(name: str, figure: Mapping[str, Any], bound: float, what: str) -> GateResult:
    if figure["share"] is None:
        return _not_applicable(name, bound, "there is nothing to count")
    detail = f"{_counted(figure, what)}; at least {bound:.1%}"
    return GateResult(name=name, figure=figure["share"], bound=bound, passed=figure["share"] >= bound, detail=detail)


def _agrees(name: str, figure: Mapping[str, Any], bound: float, what: str) -> GateResult:
    """A judge of whom nothing is known does not pass."""
    if figure["n"]:
        return _at_least(name, figure, bound, what)
    why = f"of the pairs that the gold decides none could be judged, so nothing shows that the judge agrees with it; at least {bound:.1%}"
    return GateResult(name=name, figure=None, bound=bound, passed=False, detail=why)


def _deviation(name: str, figure: Mapping[str, Any], bound: float, what: str) -> GateResult:
    if figure["share"] is None:
        return _not_applicable(name, bound, "there is nothing to count")
    away = abs(figure["share"] - 0.5)
    detail = f"{_counted(figure, what)}; at most {bound:.1%} away from 50.0%"
    return GateResult(name=name, figure=away, bound=bound, passed=away <= bound, detail=detail)


def _not_applicable(name: str, bound: float, why: str) -> GateResult:
    return GateResult(name=name, figure=None, bound=bound, passed=True, detail=f"not applicable: {why}")
