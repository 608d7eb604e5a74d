"""West-of-N (Pace et al. 2024, arXiv 2401.12086): the best and the worst of many samples by a preference model.

A scorer is transitive, so best and worst are where it says so. A pairwise judge finds each in a single-elimination tournament, 2 (N - 1)
comparisons, and then compares the two finalists, which gives P(best > worst). A match without a decision (a tie, orders that disagree, no
verdict) goes to the earlier sample and is counted; it never counts as evidence, since the final alone labels the pair.

Two filters take what lies below a quantile over all pairs that passed: of P(best > worst) (`low_confidence`; with scores of their
difference, of which a Bradley-Terry model's P is a rising function) and of log pi(best) + log pi(worst) (`unlikely`; pairs without
log-probabilities pass). If the preference model errs on a share e of comparisons, the label is right with probability at least 1 - 2 e as
N grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from curators.contrast.candidates import Attempt, by_prompt, contrasts, settings, text_of
from curators.contrast.checkers import Checker
from curators.contrast.rules import RuleConfig, choose
from curators.errors import ConfigError
from curators.sampling import Row, gather_all

Duel = Callable[[int, int], Awaitable[float | None]]
"""P(first beats second), null without a decision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WestConfig:
    """Quantiles in [0, 1): the share of pairs that each filter takes, 0 for none."""

    confidence_quantile: float = 0.0
    likelihood_quantile: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < 1:
                raise ConfigError(f"west_of_n: {name} is {value}, must be in [0, 1)")


async def west_of_n(rows: pl.DataFrame, *, config: WestConfig | None = None, judge: Checker | None = None) -> pl.DataFrame:
    """`contrasts` of `answers`, one row a prompt. Without a `judge` (`checkers.by_judge`) by the column `score`."""
    config = config or WestConfig()
    groups = by_prompt(rows)
    made = (
        await gather_all(_by_judge(group, config, judge) for group in groups) if judge else [_by_score(group, config) for group in groups]
    )
    _filter(made, config)
    return contrasts(attempt.row(*sides, **columns) for attempt, sides, columns in made)


_Made = tuple[Attempt, tuple[Row, Row] | tuple[()], Row]


def _attempt(group: Sequence[Row], config: WestConfig, by: str) -> Attempt:
    ids = sorted(row["generation_id"] for row in group)
    return Attempt(source=group[0], method="west_of_n", axis="score", parameters={**settings(config), "by": by}, source_ids=ids)


def _by_score(group: Sequence[Row], config: WestConfig) -> _Made:
    scored = [row for row in group if row["score"] is not None and np.isfinite(row["score"])]
    attempt = _attempt(group, config, "score")
    found = choose([text_of(row) for row in scored], [row["score"] for row in scored], config=RuleConfig(rule="max_min"))
    if not found:
        return attempt, (), {"state": "too_few_scored", "reason": f"{len(scored)} of {len(group)} answers have a score"}
    choice = found[0]
    checks = {"n_scored": len(scored)}
    reason = None if choice.state == "ok" else "best and worst are worth the same, or have the same text"
    return attempt, (scored[choice.chosen], scored[choice.rejected]), {"state": choice.state, "reason": reason, "checks": checks}


async def _by_judge(group: Sequence[Row], config: WestConfig, judge: Checker) -> _Made:
    distinct = list({text_of(row).strip(): row for row in reversed(group)}.values())[::-1]
    attempt = _attempt(group, config, "judge")
    if len(distinct) < 2:
        return attempt, (), {"state": "too_few_scored", "reason": f"{len(distinct)} different texts among {len(group)} answers"}
    undecided = 0

    async def duel(i: int, j: int) -> float | None:
        nonlocal undecided
        p = (await judge(group[0], text_of(distinct[i]), text_of(distinct[j]))).p_chosen
        undecided += p is None or p == 0.5
        return p

    async def reverse(i: int, j: int) -> float | None:
        p = await duel(i, j)
        return None if p is None else 1 - p

    best, worst = await asyncio.gather(knockout(range(len(distinct)), duel), knockout(range(len(distinct)), reverse))
    sides = distinct[best], distinct[worst]
    checked = await judge(group[0], text_of(sides[0]), text_of(sides[1])) if best != worst else None
    checks = {"n_texts": len(distinct), "n_undecided": undecided}
    if checked is None:
        return attempt, sides, {"state": "tie", "reason": "one sample won both brackets: no match had a decision", "checks": checks}
    told = {"state": checked.state, "reason": checked.reason, "checks": checks | dict(checked.checks)}
    return attempt, sides, told | checked.columns


async def knockout(players: Sequence[int], duel: Duel) -> int:
    """The winner of a single-elimination tournament, n - 1 matches; the earlier player goes on where there is no decision.

    >>> async def by_size(i: int, j: int) -> float:
    ...     return 1.0 if i > j else 0.0
    >>> asyncio.run(knockout([3, 1, 4, 0, 2], by_size))
    4
    """
    left = list(players)
    while len(left) > 1:
        matches = list(zip(left[::2], left[1::2], strict=False))
        results = await gather_all(duel(i, j) for i, j in matches)
        winners = [j if p is not None and p < 0.5 else i for (i, j), p in zip(matches, results, strict=True)]
        left = winners + left[2 * len(matches) :]
    return left[0]


def _filter(made: Sequence[_Made], config: WestConfig) -> None:
    """Set the state of pairs below a quantile; both quantiles are of all pairs that passed before."""
    passed = [(sides, columns) for _, sides, columns in made if columns["state"] == "ok" and sides]
    confidences = [_confidence(sides, columns) for sides, columns in passed]
    likelihoods = [_likelihood(sides) for sides, _ in passed]
    for values, share, state in (
        (confidences, config.confidence_quantile, "low_confidence"),
        (likelihoods, config.likelihood_quantile, "unlikely"),
    ):
        known = [value for value in values if value is not None]
        if not share or not known:
            continue
        bound = float(np.quantile(known, share))
        for value, (_, columns) in zip(values, passed, strict=True):
            if value is not None and value < bound and columns["state"] == "ok":
                columns |= {"state": state, "reason": f"{value:.6g} is below the {share:g} quantile, {bound:.6g}"}


def _confidence(sides: Sequence[Row], columns: Row) -> float | None:
    if columns.get("p_chosen") is not None:
        return float(columns["p_chosen"])
    if columns.get("label_source") is not None:
        return None
    return float(sides[0]["score"] - sides[1]["score"])


def _likelihood(sides: Sequence[Row]) -> float | None:
    sums = [side["sum_logprob"] for side in sides]
    return None if None in sums else float(sum(sums))
