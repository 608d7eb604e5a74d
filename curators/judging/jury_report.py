"""Is a panel worth its price? Its members, the panel, and the panel without each of them, on pairs that a gold decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from curators.errors import VerdictError
from curators.judging.juries import BY_GOLD, PAIR, JuryConfig, decided_sides, panel
from curators.statistics.intervals import Estimate, cluster_ratio, mcnemar
from curators.statistics.logistic import folds


@dataclass(frozen=True, kw_only=True, slots=True)
class PanelReport:
    """`members` has a row for each judge and one for the panel: `judge`, `n_gold` pairs, `decided` of them for a side, `accuracy` of those
    with `low` and `high` over resampled prompts, `without`: the panel's accuracy without this judge, `worth`: what the judge adds to it.

    `best` is the member of greatest accuracy; `p_better` McNemar's exact p of panel against best over the `n_both` pairs both decide.
    """

    members: pl.DataFrame
    best: str
    n_both: int
    only_panel_right: int
    only_best_right: int
    p_better: float

    @property
    def beats_best(self) -> bool:
        """The panel is right where its best member is not, more often than the other way and by more than chance (p < 0.05)."""
        return self.only_panel_right > self.only_best_right and self.p_better < 0.05


def panel_report(verdicts: pl.DataFrame, gold: pl.DataFrame, config: JuryConfig | None = None, *, seed: int = 0) -> PanelReport:
    """The panel and its members on gold. A method that is calibrated on gold is calibrated on other prompts than it is measured on.

    Raises:
        ConfigError, VerdictError: as `panel`; VerdictError also where the gold decides none of the pairs.
    """
    config = config or JuryConfig()
    sides = decided_sides(gold)
    known = verdicts.join(sides.select(PAIR), on=PAIR, how="semi")
    if known.is_empty():
        raise VerdictError(f"the gold decides {sides.height} pairs, none of them is among the {verdicts.height} verdicts")
    judged = crossfitted(known, gold, config, seed)
    judges = sorted(set(verdicts["judge"]))
    rows = {judge: _right(known.filter(pl.col("judge") == judge), sides) for judge in judges}
    whole = _right(judged, sides)
    figures = {judge: _accuracy(found, seed) for judge, found in rows.items()}
    least = 3 if config.method == "dawid_skene" else 2
    table: list[dict[str, Any]] = []
    for judge in judges:
        rest = known.filter(pl.col("judge") != judge)
        smaller = JuryConfig(method=config.method, indifference=config.indifference)
        without = _accuracy(_right(crossfitted(rest, gold, smaller, seed), sides), seed).value if len(judges) > least else None
        table.append(_line(judge, rows[judge], figures[judge], without))
    best = max(judges, key=lambda judge: (figures[judge].value or 0.0, judge))
    table.append(_line("panel", whole, _accuracy(whole, seed), None))
    found = pl.DataFrame(table, infer_schema_length=None)
    total = found.filter(pl.col("judge") == "panel")["accuracy"]
    both = whole.drop_nulls("right").join(rows[best].drop_nulls("right"), on=PAIR, suffix="_best")
    only_panel = int((both["right"] & ~both["right_best"]).sum())
    only_best = int((~both["right"] & both["right_best"]).sum())
    return PanelReport(
        members=found.with_columns(worth=total.item() - pl.col("without")),
        best=best,
        n_both=both.height,
        only_panel_right=only_panel,
        only_best_right=only_best,
        p_better=mcnemar(only_panel, only_best),
    )


def crossfitted(known: pl.DataFrame, gold: pl.DataFrame, config: JuryConfig, seed: int = 0) -> pl.DataFrame:
    """The panel's verdicts, by a method that is calibrated on gold with weights that did not see the pair's prompt: five folds of prompts.

    Raises:
        VerdictError: all verdicts are about one prompt.
    """
    if config.method not in BY_GOLD:
        return panel(known, config)
    prompts = known["prompt_id"].unique().sort()
    fold = pl.DataFrame({"prompt_id": prompts, "fold": folds(prompts, seed=seed)})
    if fold["fold"].n_unique() < 2:
        raise VerdictError("the gold is of one prompt; a panel calibrated on gold is measured on other prompts than it is calibrated on")
    parts = []
    for one in fold["fold"].unique().sort():
        held = fold.filter(pl.col("fold") == one)
        others = gold.join(held, on="prompt_id", how="anti")
        parts.append(panel(known, config, gold=others).join(held, on="prompt_id", how="semi"))
    return pl.concat(parts)


def _right(verdicts: pl.DataFrame, sides: pl.DataFrame) -> pl.DataFrame:
    """Each gold pair: `right`, null where the judge decided for no side."""
    found = sides.join(verdicts.select(*PAIR, "verdict"), on=PAIR, how="left")
    return found.select(*PAIR, right=pl.when(pl.col("verdict").is_in(["a", "b"])).then(pl.col("verdict") == pl.col("gold")))


def _accuracy(right: pl.DataFrame, seed: int) -> Estimate:
    return cluster_ratio(right, "right", seed=seed)


def _line(judge: str, right: pl.DataFrame, accuracy: Estimate, without: float | None) -> dict[str, Any]:
    found = {"accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high, "without": without}
    return {"judge": judge, "n_gold": right.height, "decided": accuracy.n, **found}
