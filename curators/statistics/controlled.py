"""Ratings with length and style held equal, as LMSYS' style control and length-controlled AlpacaEval (Dubois et al. 2024) do.

    logit P(a beats b) = theta_a - theta_b + sum_f gamma_f * z_f

z are the differences a - b of each feature, divided by their root mean square (never centred: a and b may be swapped). The gammas are
shared over all pairs, because one fitted for each player takes the player's worth for an effect of length, and shrunk by
lambda * |gamma|^2 / 2, lambda by five-fold cross-validation over prompts. The controlled rating is theta: the rating at z = 0.

Where one player is longer in more than 90 % of its contests there is nothing to hold equal: the raw ratings stand alone, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse
from scipy.special import expit

from curators.statistics.intervals import Floats, resamples
from curators.statistics.logistic import choose_penalty, fit_logistic
from curators.statistics.ratings import Contests, bradley_terry, read_contests

LAMBDAS = (0.1, 1.0, 10.0, 100.0, 1000.0)
MOST_ONE_SIDED = 0.9
LARGE_SHIFT = 0.1
_THETA_RIDGE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlledRatings:
    """`table`: `player`, `theta` (raw), `win_rate` (raw, mean against all others), `controlled`, `controlled_low`, `controlled_high` (of
    theta; null where resamples do not differ), `controlled_win_rate`, best first; all controlled columns are null where `reason` says why.

    `effects`: `feature`, `gamma` (logits per unit of the feature), `low`, `high`. `large_shift`: a win rate moves by more than 10 points.
    """

    table: pl.DataFrame
    effects: pl.DataFrame
    penalty: float | None
    reason: str | None
    large_shift: bool
    n: int


def relative_difference(a: str, b: str) -> pl.Expr:
    """(a - b) / (a + b) of two columns, 0 where both are 0: how length is usually held equal.

    >>> pl.DataFrame({"a": [300, 0], "b": [100, 0]}).select(length=relative_difference("a", "b"))["length"].to_list()
    [0.5, 0.0]
    """
    one, other = pl.col(a).cast(pl.Float64), pl.col(b).cast(pl.Float64)
    return pl.when(one + other == 0).then(0.0).otherwise((one - other) / (one + other))


def controlled_ratings(
    contests: pl.DataFrame, features: Sequence[str] = ("length",), *, n_resamples: int = 200, seed: int = 0
) -> ControlledRatings:
    """Ratings raw and controlled; `contests` as in `ratings`, with a column for each feature: what a has more than b. The first feature
    is the one whose overlap is checked. Rows without a feature do not count.

    Raises:
        SchemaError: as `read_contests`.
    """
    given_rows = contests.drop_nulls(list(features)).filter(pl.col("win").is_not_null() & (pl.col("a") != pl.col("b")))
    given = read_contests(given_rows)
    raw = bradley_terry(given_rows, n_resamples=0).table
    if reason := one_sided(given, given_rows[features[0]].cast(pl.Float64).to_numpy(), features[0]):
        return _result(given, raw, None, features, reason)
    differences = given_rows.select(pl.col(name).cast(pl.Float64) for name in features).to_numpy()
    scale = np.sqrt(np.square(differences).mean(axis=0))
    scale[scale == 0] = 1.0
    design, k = _design(given, differences / scale), len(given.players)

    def penalty(strength: float) -> Floats:
        return np.append(np.full(k, _THETA_RIDGE), np.full(len(features), strength))

    strength = choose_penalty(design, given.win, given.prompts, penalty=penalty, grid=LAMBDAS, seed=seed)
    units = np.append(np.ones(k), scale)

    def fitted(weight: Floats | None, start: Floats | None) -> Floats:
        return fit_logistic(design, given.win, penalty=penalty(strength), weight=weight, start=start)

    beta = fitted(None, None)
    again = [fitted(weight, beta) / units for weight in resamples(given.prompts, n_resamples=n_resamples, seed=seed)]
    bounds = np.quantile(again, [0.025, 0.975], axis=0) if again else np.full((2, len(units)), np.nan)
    bounds[:, bounds[0] == bounds[1]] = np.nan  # prompts that do not differ say nothing of how much they might
    return _result(given, raw, np.vstack([beta / units, bounds]), features, None, strength)


def one_sided(given: Contests, longer: Floats, feature: str) -> str | None:
    """Why the feature cannot be held equal: a player that nearly always has more of it, or less."""
    for place, player in enumerate(given.players):
        own = np.concatenate([longer[given.a == place], -longer[given.b == place]])
        own = own[own != 0]
        if len(own) and max((own > 0).mean(), (own < 0).mean()) > MOST_ONE_SIDED:
            way = "more" if (own > 0).mean() > 0.5 else "less"
            return f"{player!r} has {way} {feature} in {max((own > 0).mean(), (own < 0).mean()):.0%} of its contests: nothing to hold equal"
    return None


def _design(given: Contests, features: Floats) -> sparse.csr_array:
    n = len(given.win)
    rows = np.arange(n)
    signs = np.concatenate([np.ones(n), -np.ones(n)])
    players = sparse.csr_array((signs, (np.tile(rows, 2), np.concatenate([given.a, given.b]))), shape=(n, len(given.players)))
    return sparse.hstack([players, sparse.csr_array(features)], format="csr")


def _result(
    given: Contests, raw: pl.DataFrame, found: Floats | None, features: Sequence[str], reason: str | None, strength: float | None = None
) -> ControlledRatings:
    k = len(given.players)
    nothing = np.full((3, k + len(features)), np.nan) if found is None else found
    theta = raw.sort("player")["theta"].to_numpy()
    controlled = nothing[:, :k] - nothing[0, :k].mean()
    columns = {
        "player": given.players,
        "theta": theta,
        "win_rate": win_rates(theta),
        "controlled": controlled[0],
        "controlled_low": controlled[1],
        "controlled_high": controlled[2],
        "controlled_win_rate": win_rates(controlled[0]),
    }
    table = pl.DataFrame(columns).fill_nan(None)
    effects = pl.DataFrame({"feature": list(features), **{name: nothing[i, k:] for i, name in enumerate(("gamma", "low", "high"))}})
    shift = (table["win_rate"] - table["controlled_win_rate"]).abs().max()
    return ControlledRatings(
        table=table.sort(pl.coalesce("controlled", "theta"), "player", descending=[True, False]),
        effects=effects.fill_nan(None),
        penalty=strength,
        reason=reason,
        large_shift=isinstance(shift, float) and shift > LARGE_SHIFT,
        n=len(given.win),
    )


def win_rates(theta: Floats) -> Floats:
    """The mean probability of each player to beat each other one."""
    p = expit(theta[:, None] - theta[None, :])
    return np.asarray((p.sum(axis=1) - 0.5) / max(len(theta) - 1, 1))
