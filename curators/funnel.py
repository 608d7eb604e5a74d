"""Rows in = rows kept + rows dropped with a reason, at every stage; a funnel that does not add up cannot be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from curators.errors import CurationError

FRAME_COLUMNS = {"stage": pl.String, "unit": pl.String, "n_in": pl.Int64, "n_kept": pl.Int64, "n_dropped": pl.Int64, "reason": pl.String}


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """One stage. `unit` says what is counted (prompts, generations, judgments, pairs); `dropped` counts by reason.

    >>> Funnel(stage="pairs", unit="prompts", n_in=3, n_kept=2, dropped={"tie": 1}).n_dropped
    1
    >>> Funnel(stage="pairs", unit="prompts", n_in=3, n_kept=2)
    Traceback (most recent call last):
    ...
    curators.errors.CurationError: funnel pairs (prompts): 3 in, but 2 kept + 0 dropped {} are 2

    Raises:
        CurationError: the counts do not add up, or one is negative.
    """

    stage: str
    unit: str
    n_in: int
    n_kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {reason: n for reason, n in sorted(self.dropped.items()) if n}
        object.__setattr__(self, "dropped", counts)
        if self.n_in != self.n_kept + self.n_dropped or min(self.n_kept, *counts.values(), 0) < 0:
            what = f"{self.n_kept} kept + {self.n_dropped} dropped {counts} are {self.n_kept + self.n_dropped}"
            raise CurationError(f"funnel {self.stage} ({self.unit}): {self.n_in} in, but {what}")

    @property
    def n_dropped(self) -> int:
        return sum(self.dropped.values())

    def as_dict(self) -> dict[str, Any]:
        """As JSON carries it, between tasks and in a manifest; `Funnel(**…)` reads it back."""
        return {"stage": self.stage, "unit": self.unit, "n_in": self.n_in, "n_kept": self.n_kept, "dropped": dict(self.dropped)}


def count_states(rows: pl.DataFrame | Iterable[Mapping[str, Any]], *, stage: str, unit: str, kept: Iterable[str] = ("ok",)) -> Funnel:
    """The funnel of rows with a `state`; every state that is not kept is a reason.

    >>> count_states([{"state": "ok"}, {"state": "empty"}], stage="sample", unit="generations").dropped
    {'empty': 1}
    """
    states = rows["state"].to_list() if isinstance(rows, pl.DataFrame) else [row["state"] for row in rows]
    counts, good = Counter(states), set(kept)
    n_kept = sum(n for state, n in counts.items() if state in good)
    return Funnel(stage=stage, unit=unit, n_in=len(states), n_kept=n_kept, dropped={s: n for s, n in counts.items() if s not in good})


def merge(funnels: Iterable[Funnel]) -> list[Funnel]:
    """One funnel for each stage and unit, in the order in which they first appear: the sum over shards.

    >>> one = Funnel(stage="sample", unit="prompts", n_in=2, n_kept=1, dropped={"empty": 1})
    >>> [total.as_dict()["dropped"] for total in merge([one, one])]
    [{'empty': 2}]
    """
    totals: dict[tuple[str, str], tuple[int, int, Counter[str]]] = {}
    for funnel in funnels:
        n_in, n_kept, dropped = totals.get((funnel.stage, funnel.unit), (0, 0, Counter()))
        totals[funnel.stage, funnel.unit] = (n_in + funnel.n_in, n_kept + funnel.n_kept, dropped + Counter(funnel.dropped))
    return [Funnel(stage=stage, unit=unit, n_in=a, n_kept=b, dropped=dict(c)) for (stage, unit), (a, b, c) in totals.items()]


def to_frame(funnels: Iterable[Funnel]) -> pl.DataFrame:
    """One row for each stage and reason (reason null: nothing was dropped), for tables and artifacts."""
    rows: list[tuple[object, ...]] = []
    for funnel in funnels:
        reasons: list[tuple[str | None, int]] = [*funnel.dropped.items()] or [(None, 0)]
        rows += [(funnel.stage, funnel.unit, funnel.n_in, funnel.n_kept, n_dropped, reason) for reason, n_dropped in reasons]
    return pl.DataFrame(rows, schema=FRAME_COLUMNS, orient="row")
