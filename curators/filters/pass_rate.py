"""Prompts that a policy neither always nor never solves, and as many drawn at random to compare with.

A prompt whose samples all pass, or all fail, has no pair and little to teach (DAPO, arXiv:2503.14476, leaves out rates of 0 and 1). The
band of .2 to .8 is the house's. That it is better than as many prompts at random is a claim to test each time: `random_control` gives the
arm to test it against.
"""

from __future__ import annotations

import polars as pl

from curators.errors import ConfigError
from curators.filters.marks import Fault, check_rows, mark
from curators.pairs import unit_hash


def pass_rates(judgments: pl.DataFrame) -> pl.DataFrame:
    """`row_id` (the prompt's), `pass_rate` (mean score of its generations in 0..1) and `n_graded`, of a verifier's `judgments`.

    A generation graded several times counts once, with its mean; one that could not be graded does not count.
    """
    graded = judgments.filter((pl.col("protocol") == "verifier") & (pl.col("state") == "ok"))
    scores = graded.select("prompt_id", "generation_ids", "scores").explode("generation_ids", "scores")
    each = scores.group_by("prompt_id", "generation_ids").agg(pl.col("scores").mean())
    rates = each.group_by("prompt_id").agg(pass_rate=pl.col("scores").mean(), n_graded=pl.len().cast(pl.Int64))
    return rates.rename({"prompt_id": "row_id"}).sort("row_id")


def pass_rate_band(rows: pl.DataFrame, *, low: float = 0.2, high: float = 0.8, min_graded: int = 4) -> pl.DataFrame:
    """Marks of prompts whose rate is outside `low` to `high` (inclusive), or known from too few samples to say.

    >>> rows = pl.DataFrame({"row_id": ["a", "b", "c"], "pass_rate": [0.5, 1.0, 0.5], "n_graded": [8, 8, 2]})
    >>> pass_rate_band(rows).select("keep", "reason", "detail").rows()
    [(True, None, None), (False, 'too_easy', '1.00 of 8'), (False, 'ungraded', '2 graded samples; at least 4')]

    Raises:
        ConfigError: the band is not within 0..1 or empty, or `min_graded` is less than 1.
    """
    if not 0 <= low <= high <= 1 or min_graded < 1:
        raise ConfigError(f"pass_rate_band: low {low} and high {high} must be ordered in 0..1, min_graded {min_graded} at least 1")
    faults: dict[str, Fault] = {}
    for row_id, rate, n in check_rows(rows, "pass_rate", "n_graded").select("row_id", "pass_rate", "n_graded").iter_rows():
        if rate is None or rate != rate or (n or 0) < min_graded:
            faults[row_id] = ("ungraded", f"{n or 0} graded samples; at least {min_graded}")
        elif not low - 1e-9 <= rate <= high + 1e-9:
            faults[row_id] = ("too_hard" if rate < low else "too_easy", f"{rate:.2f} of {n}")
    return mark(rows, faults)


def random_control(marks: pl.DataFrame, *, seed: int = 0, except_for: tuple[str, ...] = ("ungraded",)) -> pl.DataFrame:
    """Marks that keep as many rows as `marks` do, drawn by a hash of id and seed among all whose reason is not one of `except_for`.

    Rows that were not drawn have the reason `not_drawn`; the others keep theirs. Some rows are in both arms, as chance has it.

    >>> marks = mark(pl.DataFrame({"row_id": ["a", "b", "c"]}), {"a": ("too_easy", None), "c": ("ungraded", None)})
    >>> random_control(marks, seed=1)["keep"].sum()
    1
    """
    allowed = marks.filter(~pl.col("reason").is_in(except_for).fill_null(False))["row_id"]
    drawn = sorted(allowed, key=lambda row_id: unit_hash("pass_rate_control", seed, row_id))
    faults: dict[str, Fault] = dict.fromkeys(drawn[int(marks["keep"].sum()) :], ("not_drawn", None))
    others = marks.filter(~pl.col("row_id").is_in(allowed.implode()))
    return mark(marks, faults | {row_id: (reason, detail) for row_id, _, reason, detail in others.iter_rows()})
