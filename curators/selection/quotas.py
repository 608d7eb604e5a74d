"""A budget divided over strata (task, language, source …), with any selector within each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from curators.errors import ConfigError
from curators.selection.config import SelectConfig
from curators.selection.pool import Pool, Ranking


def by_stratum(run: Callable[[Pool, int, SelectConfig], Ranking], pool: Pool, k: int, config: SelectConfig, strata: pl.Series) -> Ranking:
    """`run` within each stratum for its part of the budget; the orders are merged so that every beginning is about in proportion.

    Row j of a stratum with q rows stands at (j - 1/2) / q; ties go to the smaller name. Diagnostics: `quotas`, `strata`.
    """
    names = sorted(strata.unique().to_list())
    places = {name: (strata == name).arg_true().to_numpy().astype(np.int64) for name in names}
    parts = shares(k, {name: len(own) for name, own in places.items()}, config.quotas)
    rankings = {name: run(pool.take(places[name]), parts[name], config) for name in names}
    scores = np.full(len(pool), np.nan)
    turns: list[tuple[float, str, int]] = []
    dropped: dict[str, list[int]] = {}
    for name, ranking in rankings.items():
        own = places[name]
        scores[own] = ranking.scores
        turns += [((j + 0.5) / max(parts[name], 1), name, int(own[place])) for j, place in enumerate(ranking.order)]
        for reason, turned_down in ranking.dropped.items():
            dropped.setdefault(reason, []).extend(own[turned_down].tolist())
    degenerate = [f"{config.stratum}={name}: {ranking.degenerate}" for name, ranking in rankings.items() if ranking.degenerate]
    return Ranking(
        order=np.array([place for *_, place in sorted(turns)], dtype=np.int64),
        scores=scores,
        dropped={reason: np.array(found, dtype=np.int64) for reason, found in dropped.items()},
        degenerate="; ".join(degenerate) or None,
        diagnostics={"quotas": parts, "strata": {name: dict(ranking.diagnostics) for name, ranking in rankings.items()}},
    )


def shares(k: int, sizes: Mapping[str, int], weights: Mapping[str, float] | None = None) -> dict[str, int]:
    """`k` rows over strata, by largest remainder (ties: the smaller name), none above its size; what a full one leaves goes to the rest.

    No stratum is a whole row away from its part, except where one is full. Weights are sizes where none are given.

    >>> shares(5, {"de": 50, "en": 40, "fr": 10})
    {'de': 3, 'en': 2, 'fr': 0}
    >>> shares(6, {"de": 1, "en": 40, "fr": 10}, {"de": 1, "en": 1, "fr": 1})
    {'de': 1, 'en': 3, 'fr': 2}

    Raises:
        ConfigError: a weight for a stratum that is not there.
    """
    if weights is not None and (unknown := sorted(weights.keys() - sizes.keys())):
        raise ConfigError(f"select: quotas for {unknown}, but the strata are {sorted(sizes)}")
    weight = {name: float(sizes[name]) if weights is None else float(weights.get(name, 0.0)) for name in sorted(sizes)}
    out = dict.fromkeys(weight, 0)
    open_names = {name for name in weight if weight[name] > 0}
    left = k
    while open_names and left:
        total = sum(weight[name] for name in open_names)
        exact = {name: left * weight[name] / total for name in sorted(open_names)}
        full = {name for name in open_names if exact[name] >= sizes[name]}
        if not full:
            whole = {name: int(part) for name, part in exact.items()}
            ahead = sorted(exact, key=lambda name: (whole[name] - exact[name], name))[: left - sum(whole.values())]
            return out | {name: n + (name in ahead) for name, n in whole.items()}
        for name in full:
            out[name] = sizes[name]
            left -= sizes[name]
        open_names -= full
    return out
