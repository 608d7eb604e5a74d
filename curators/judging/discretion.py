"""What a label follows where principles disagree: discretion, as in Buyl et al. 2025 (arXiv:2502.10441).

Each principle votes on a pair: 1 for a, -1 for b, 0 where it does not care. A pair is `consensus` where all that care agree, `conflict`
where both sides have a vote, else `indifferent`. Arbitrariness is the share of consensus pairs whose label goes against it. The priority of
principle c over c' is the share of their conflicts that c wins, and a Bradley–Terry fit of these conflicts ranks them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import polars as pl

from curators.errors import SchemaError
from curators.statistics.intervals import Estimate, cluster_ratio
from curators.statistics.ratings import Ratings, bradley_terry


@dataclass(frozen=True, kw_only=True, slots=True)
class Discretion:
    """`kinds`: pairs by kind. `priorities`: `principle`, `other`, `n` conflicts, `share` won by the first, `low`, `high`. `ratings` ranks
    the principles, best first; null where no two are ever in conflict.
    """

    kinds: dict[str, int]
    arbitrariness: Estimate
    priorities: pl.DataFrame
    ratings: Ratings | None


def discretion(votes: pl.DataFrame, labels: pl.DataFrame, *, n_resamples: int = 200, seed: int = 0) -> Discretion:
    """`votes`: `pair_id`, `principle`, `vote` (1, 0, -1; null: none); `labels`: `pair_id`, `prompt_id`, `side` (1 for a, -1 for b).

    Raises:
        SchemaError: fewer than two principles, a vote or side that is something else, or a principle that votes twice on a pair.
    """
    cast = votes.drop_nulls("vote").join(labels, on="pair_id")
    if cast["principle"].n_unique() < 2:
        raise SchemaError(f"discretion is between principles, there are {cast['principle'].n_unique()}; at least two are needed")
    if not cast["vote"].is_in([-1, 0, 1]).all() or not cast["side"].is_in([-1, 1]).all():
        raise SchemaError("a principle's vote is 1, 0 or -1 and a label's side 1 or -1")
    if cast.select("pair_id", "principle").is_duplicated().any():
        raise SchemaError("a principle votes twice on a pair")
    least, most = pl.col("vote").min(), pl.col("vote").max()
    pairs = cast.group_by("pair_id").agg(pl.col("prompt_id", "side").first(), least=least, most=most)
    conflict, indifferent = (pl.col("least") == -1) & (pl.col("most") == 1), (pl.col("least") == 0) & (pl.col("most") == 0)
    kind = pl.when(conflict).then(pl.lit("conflict")).when(indifferent).then(pl.lit("indifferent")).otherwise(pl.lit("consensus"))
    # of a consensus pair one of least and most is 0 or they are equal: their sum has the sign of the votes
    pairs = pairs.with_columns(kind=kind, against=(pl.col("least") + pl.col("most")).sign() != pl.col("side"))
    contests = _conflicts(cast)
    return Discretion(
        kinds=dict(sorted(pairs["kind"].value_counts().iter_rows())),
        arbitrariness=cluster_ratio(pairs.filter(kind="consensus"), "against", seed=seed),
        priorities=_priorities(contests, seed),
        ratings=bradley_terry(contests, n_resamples=n_resamples, seed=seed) if contests.height else None,
    )


def _conflicts(cast: pl.DataFrame) -> pl.DataFrame:
    """A contest for every two principles with opposite votes on a pair; the label says who won."""
    cared = cast.filter(pl.col("vote") != 0)
    met = cared.join(cared.select("pair_id", b="principle", other="vote"), on="pair_id")
    met = met.filter((pl.col("principle") < pl.col("b")) & (pl.col("vote") != pl.col("other")))
    return met.select("prompt_id", a="principle", b="b", win=(pl.col("vote") == pl.col("side")).cast(pl.Float64))


def _priorities(contests: pl.DataFrame, seed: int) -> pl.DataFrame:
    rows = []
    for (one, other), own in sorted(contests.group_by("a", "b")):
        found = cluster_ratio(own, "win", seed=seed)
        rows.append((one, other, found.n, found.value, found.low, found.high))
    share = {name: pl.Float64() for name in ("share", "low", "high")}
    return pl.DataFrame(rows, schema={"principle": pl.String(), "other": pl.String(), "n": pl.Int64(), **share}, orient="row")


def ranking_distance(one: Sequence[str], other: Sequence[str]) -> float | None:
    """The share of pairs of names that two rankings of the same names order differently (Kendall); null below two names in both.

    >>> ranking_distance(["honest", "kind", "short"], ["kind", "honest", "short"])
    0.3333333333333333
    """
    places = [{name: i for i, name in enumerate(ranking)} for ranking in (one, other)]
    pairs = list(combinations(sorted(places[0].keys() & places[1].keys()), 2))
    differ = sum((places[0][a] < places[0][b]) != (places[1][a] < places[1][b]) for a, b in pairs)
    return differ / len(pairs) if pairs else None
