"""What became of a run's rationales, as shares with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import polars as pl

from curators.statistics.intervals import share_by


def final_rationales(rationales: pl.DataFrame) -> pl.DataFrame:
    """The last attempt of every pair and kind; where a call that failed was answered in a later run, the answer."""
    return (
        rationales.sort(pl.col("state") == "ok", "attempt", "rationale_id", descending=[True, True, False])
        .unique(["pair_id", "kind"], keep="first", maintain_order=True)
        .sort("pair_id", "kind")
    )


def rationale_health(rationales: pl.DataFrame, pairs: pl.DataFrame, n_kinds: int) -> dict[str, Any]:
    """The health of the rationales of `pairs`, as JSON carries it; every share is `{n, hits, share, low, high}`, its interval by prompt.

    * `explained`: pairs with a rationale that passed every check in every kind, of all pairs
    * `usable`: rationales that passed, of those that were asked for; `contradicts`, `leaks_position` … likewise
    """
    final = final_rationales(rationales)
    passed = final.filter(pl.col("state") == "ok").group_by("pair_id").len(name="n_kinds")
    explained = pairs.select("pair_id", "prompt_id").join(passed, on="pair_id", how="left")
    asked = final.filter(pl.col("state") != "gated")
    states = dict(sorted(final["state"].value_counts().iter_rows()))
    return {
        "writer": rationales["writer"][0] if rationales.height else None,
        "states": states,
        "explained": share_by(explained, pl.col("n_kinds").fill_null(0) >= n_kinds),
        "usable": share_by(asked, pl.col("state") == "ok"),
        **{state: share_by(asked, pl.col("state") == state) for state in MEASURES if state not in ("explained", "usable")},
    }


MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "explained": "pairs with a rationale that passed every check",
        "usable": "rationales that passed every check",
        "contradicts": "rationales that lead to the rejected answer",
        "unconfirmed": "rationales that lead to neither answer",
        "leaks_position": "rationales that name a letter or a place",
        "copies": "general rationales that repeat an answer",
        "quotes_nothing": "detailed rationales that name nothing in an answer",
        "misquotes": "detailed rationales that quote what nobody wrote",
    }
)
"""What each share says, in the order to read them."""
