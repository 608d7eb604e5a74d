"""From comparisons to ratings: the matrix of wins, Bradley–Terry by the MM algorithm, and how sure each rating is.

A *contest* is one row: `a`, `b` (the players: policies, models, texts), `win` (what a got of the one win at stake, 0..1; null does not
count) and `prompt_id`. With strengths pi = exp(theta), P(i beats j) = pi_i / (pi_i + pi_j), and w_i all that i won (Hunter 2004):

    pi_i ← w_i / sum_j n_ij / (pi_i + pi_j)         scaled to a geometric mean of 1

A player that never lost (or never won) has no finite rating. Where the graph of wins is not strongly connected, half a win is added both
ways to every two players that met, and the result says so. Players that no chain of contests connects cannot be compared: they
have other numbers in `component`, and each component has its own mean. Elo = 1000 + 400 / ln 10 * theta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse.csgraph import connected_components

from curators.errors import SchemaError
from curators.statistics.intervals import Floats, Ints, resamples

PSEUDO_WIN = 0.5
ELO_PER_LOGIT = 400 / math.log(10)
_TOLERANCE = 1e-10


@dataclass(frozen=True, kw_only=True, slots=True)
class Contests:
    """Contests by the players' places in `players` (sorted by name). `n_left_out` had no result, or a player against itself."""

    players: list[str]
    a: Ints
    b: Ints
    win: Floats
    prompts: pl.Series
    n_left_out: int = 0

    def wins(self, weight: Floats | float = 1.0) -> Floats:
        """`wins[i, j]`: what i won of j, each contest by its weight."""
        k = len(self.players)
        for_a = np.bincount(self.a * k + self.b, weights=self.win * weight, minlength=k * k)
        for_b = np.bincount(self.b * k + self.a, weights=(1 - self.win) * weight, minlength=k * k)
        return np.asarray((for_a + for_b).reshape(k, k), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratings:
    """`table` has a row a player, best first: `player`, `theta`, `se`, `low`, `high` (of theta; null without resamples or where they do not
    differ), `elo`, `n` (contests), `wins`, `component`.

    `se` takes contests for independent, `low` and `high` prompts. `pseudo_wins` is what was added both ways, 0 where nothing was needed;
    `n_pseudo` resamples needed it.
    """

    table: pl.DataFrame
    covariance: Floats
    log_likelihood: float
    pseudo_wins: float
    n_pseudo: int
    n_prompts: int
    n_left_out: int

    def probability(self, one: str, other: str) -> float:
        """P(one beats the other)."""
        theta = dict(self.table.select("player", "theta").iter_rows())
        return float(1 / (1 + math.exp(theta[other] - theta[one])))

    def difference_se(self, one: str, other: str) -> float:
        """Standard error of the difference of two thetas, from the Fisher information."""
        names = sorted(self.table["player"])
        i, j = names.index(one), names.index(other)
        c = self.covariance
        return math.sqrt(max(float(c[i, i] + c[j, j] - 2 * c[i, j]), 0.0))


def read_contests(contests: pl.DataFrame) -> Contests:
    """The frame as numbers.

    Raises:
        SchemaError: a `win` is outside 0..1, or no contest has a result.
    """
    counted = contests.filter(pl.col("win").is_not_null() & (pl.col("a") != pl.col("b")))
    if not counted.height:
        raise SchemaError(f"none of {contests.height} contests has a result between two players")
    if not counted["win"].is_between(0, 1).all():
        raise SchemaError(f"contests.win goes from {counted['win'].min()!r} to {counted['win'].max()!r}, must be in 0..1")
    players = pl.concat([counted["a"], counted["b"]]).unique().sort().to_list()
    places = {name: counted[name].replace_strict(players, range(len(players)), return_dtype=pl.Int64).to_numpy() for name in "ab"}
    win = counted["win"].cast(pl.Float64).to_numpy()
    left_out = contests.height - counted.height
    return Contests(players=players, a=places["a"], b=places["b"], win=win, prompts=counted["prompt_id"], n_left_out=left_out)


def verdict_contests(verdicts: pl.DataFrame, players: pl.DataFrame, *, soft: bool = True) -> pl.DataFrame:
    """Contests from one judge's `verdicts`; `players` names the player of every `generation_id` (column `player`).

    A win is `p_a`; where the judge states no probability, or without `soft`, it is 1, 1/2 or 0 by the verdict, and null for an inconsistent
    or unscored one.
    """
    by_label = pl.col("verdict").replace_strict({"a": 1.0, "tie": 0.5, "b": 0.0}, default=None, return_dtype=pl.Float64)
    win = pl.coalesce("p_a", by_label) if soft else by_label
    named = players.select("generation_id", "player")
    joined = verdicts.join(named, left_on="a_id", right_on="generation_id").join(
        named, left_on="b_id", right_on="generation_id", suffix="_b"
    )
    return joined.select("prompt_id", "verdict", a="player", b="player_b", win=win)


def bradley_terry(contests: pl.DataFrame, *, n_resamples: int = 1000, seed: int = 0) -> Ratings:
    """Ratings of all players, with intervals over resampled prompts.

    >>> rows = [{"prompt_id": str(i), "a": "new", "b": "old", "win": won} for i, won in enumerate([1.0, 1.0, 1.0, 0.0])]
    >>> found = bradley_terry(pl.DataFrame(rows), n_resamples=0)
    >>> round(found.table["elo"][0] - found.table["elo"][1], 2), round(found.probability("new", "old"), 2)
    (190.85, 0.75)

    Raises:
        SchemaError: as `read_contests`.
    """
    given = read_contests(contests)
    wins = given.wins()
    padded = connected(wins)
    theta = fit(padded)
    p = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
    covariance: Floats = np.asarray(np.linalg.pinv(_information(padded + padded.T, p), hermitian=True), dtype=np.float64)
    resampled, n_pseudo = _resampled(given, theta, n_resamples, seed)
    table = pl.DataFrame(
        {
            "player": given.players,
            "theta": theta,
            "se": np.sqrt(np.maximum(np.diag(covariance), 0)),
            **_bounds(resampled),
            "elo": 1000 + ELO_PER_LOGIT * theta,
            "n": np.bincount(np.concatenate([given.a, given.b]), minlength=len(theta)),
            "wins": wins.sum(axis=1),
            "component": connected_components(wins + wins.T > 0, directed=False)[1],
        }
    )
    return Ratings(
        table=table.sort("theta", "player", descending=[True, False]),
        covariance=covariance,
        log_likelihood=float((padded * np.log(p)).sum()),
        pseudo_wins=PSEUDO_WIN if padded is not wins else 0.0,
        n_pseudo=n_pseudo,
        n_prompts=given.prompts.n_unique(),
        n_left_out=given.n_left_out,
    )


def connected(wins: Floats) -> Floats:
    """The same wins where the graph of wins is strongly connected in every component, else with pseudo-wins."""
    met = (wins + wins.T) > 0
    n_strong = connected_components(wins > 0, directed=True, connection="strong")[0]
    return wins if n_strong == connected_components(met, directed=False)[0] else wins + PSEUDO_WIN * met


def fit(wins: Floats, start: Floats | None = None, *, max_steps: int = 10_000) -> Floats:
    """The thetas of greatest likelihood, of mean 0 in every component; `wins` as `connected` returns them.

    MM steps always climb, but slowly along chains of contests; a Newton step is taken in place of ten where it climbs higher.
    """
    games, won = wins + wins.T, wins.sum(axis=1)
    component = connected_components(games > 0, directed=False)[1]
    theta = np.zeros(len(wins)) if start is None else start
    for _ in range(max_steps):
        before = theta
        for _ in range(10 if start is None else 2):
            strength = np.exp(theta)
            rate = (games / (strength[:, None] + strength[None, :])).sum(axis=1)
            theta = _centred(np.log(won / np.where(rate > 0, rate, 1), where=rate > 0, out=np.zeros(len(won))), component)
        theta = _newton(theta, wins, games, won, component)
        if np.abs(theta - before).max() < _TOLERANCE:
            break
    return theta


def _newton(theta: Floats, wins: Floats, games: Floats, won: Floats, component: Ints) -> Floats:
    p = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
    # the information is singular along each component's mean, where the gradient is 0 too: fix those directions
    fixed = _information(games, p) + (component[:, None] == component[None, :])
    step = np.linalg.solve(fixed, won - (games * p).sum(axis=1))
    moved = _centred(theta + step, component)
    if np.abs(step).max() < 0.5:  # a short step: the curvature hardly changes on the way
        return moved
    return moved if _likelihood(moved, wins) >= _likelihood(theta, wins) else theta


def _likelihood(theta: Floats, wins: Floats) -> float:
    return float(-(wins * np.logaddexp(0, theta[None, :] - theta[:, None])).sum())


def _information(games: Floats, p: Floats) -> Floats:
    off = games * p * (1 - p)
    return np.asarray(np.diag(off.sum(axis=1)) - off)


def _centred(theta: Floats, component: Ints) -> Floats:
    return theta - (np.bincount(component, weights=theta) / np.bincount(component))[component]


def _resampled(given: Contests, theta: Floats, n_resamples: int, seed: int) -> tuple[Floats, int]:
    """Thetas by resample; NaN for a player that a resample does not connect to all that the whole connects it to."""
    if not n_resamples or given.prompts.n_unique() < 2:
        return np.empty((0, len(theta))), 0
    component = connected_components(given.wins() > 0, directed=False)[1]
    found, n_pseudo = [], 0
    for weight in resamples(given.prompts, n_resamples=n_resamples, seed=seed):
        wins = given.wins(weight)
        padded = connected(wins)
        n_pseudo += padded is not wins
        parts = connected_components(padded + padded.T > 0, directed=False)[1]
        n_parts = np.bincount(np.unique(np.stack([component, parts]), axis=1)[0])
        found.append(np.where(n_parts[component] == 1, fit(padded, theta), np.nan))
    return np.array(found), n_pseudo


def _bounds(resampled: Floats) -> dict[str, pl.Series]:
    k = resampled.shape[1]
    bounds = np.full((2, k), np.nan)
    if (seen := ~np.isnan(resampled).all(axis=0)).any() and len(resampled):
        bounds[:, seen] = np.nanquantile(resampled[:, seen], [0.025, 0.975], axis=0)
    bounds[:, bounds[0] == bounds[1]] = np.nan  # prompts that do not differ say nothing of how much they might
    return {name: pl.Series(row).fill_nan(None) for name, row in zip(("low", "high"), bounds, strict=True)}
