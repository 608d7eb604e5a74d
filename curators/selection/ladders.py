"""Nested subsets: the same order cut at several sizes, so that a learning curve compares amounts of data and not different data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from curators.errors import ConfigError
from curators.pairs import unit_hash
from curators.selection.selectors import Selection, n_rows

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """`ids` in order; the last `n_filled` of them are not the selector's choice but drawn by hash, as it ordered no more rows."""

    share: float
    ids: Sequence[str]
    n_filled: int


def ladder(selection: Selection, shares: Sequence[float] = SHARES, *, seed: int = 0) -> list[Rung]:
    """The rungs, smallest first; each begins with all of the one before. Shares are of the usable rows, 1.0 is all of them.

    A selection with the budget of the largest share below 1 serves all: the rest of the full set needs no order. Where the selector ordered
    fewer rows than a rung has (it stops, or the budget was smaller), rows drawn by hash of id and seed fill it.

    >>> from curators.selection.selectors import select
    >>> rows = pl.DataFrame({"pair_id": [f"p{i}" for i in range(20)]})
    >>> [(rung.share, len(rung.ids), rung.n_filled) for rung in ladder(select(rows, budget=0.5), (0.1, 0.5, 1.0))]
    [(0.1, 2, 0), (0.5, 10, 0), (1.0, 20, 10)]

    Raises:
        ConfigError: a share is not above 0 and at most 1, or the selection was refused.
    """
    if not shares or min(shares) <= 0 or max(shares) > 1:
        raise ConfigError(f"ladder: shares are {list(shares)}; each is above 0 and at most 1")
    if selection.state == "refused":
        raise ConfigError(f"ladder: the selection was refused: {selection.reason}")
    unusable = ["not_finite_embedding", "not_finite_score"]
    others = selection.rows.filter(pl.col("rank").is_null() & ~pl.col("state").is_in(unusable))["id"].to_list()
    order = [*selection.ids, *sorted(others, key=lambda each: (unit_hash("ladder", seed, each), each))]
    sizes = [(share, n_rows(float(share), len(order)) if order else 0) for share in sorted(set(shares))]
    return [Rung(share=share, ids=order[:n], n_filled=max(0, n - len(selection.ids))) for share, n in sizes]
