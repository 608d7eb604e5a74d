"""Bradley–Terry with ties as an outcome of their own, of hard results: a win, a loss or a tie.

Strengths are pi = exp(theta), of geometric mean 1.

* Davidson 1970: P(i wins) : P(j wins) : P(tie) = pi_i : pi_j : nu * sqrt(pi_i pi_j)
* Rao & Kupper 1967: P(i wins) = s(theta_i - theta_j - eta), P(j wins) = s(theta_j - theta_i - eta), s the logistic function: a
  difference within eta is not seen

Half a win for a tie (as in `ratings`) is the way for soft wins. Deliberately not here: ties whose share differs between players.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from curators.errors import SchemaError
from curators.statistics.intervals import Floats
from curators.statistics.ratings import connected, read_contests

_LOG_TIE = (-20.0, 20.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TieRatings:
    """`theta` by player; `tie` is nu of Davidson or eta of Rao and Kupper. `probabilities(one, other)`: wins, loses, ties."""

    model: Literal["davidson", "rao_kupper"]
    theta: dict[str, float]
    tie: float
    log_likelihood: float
    pseudo_wins: float
    n: int
    n_ties: int

    def probabilities(self, one: str, other: str) -> tuple[float, float, float]:
        difference, log_tie = np.array([self.theta[one] - self.theta[other]]), math.log(self.tie)
        won, tied = MODELS[self.model](difference, log_tie)
        lost, _ = MODELS[self.model](-difference, log_tie)
        return float(np.exp(won.log_p[0])), float(np.exp(lost.log_p[0])), float(np.exp(tied.log_p[0]))


class Outcome(NamedTuple):
    """The log-probability of an outcome, and its slopes by the difference of thetas and by the logarithm of the tie parameter."""

    log_p: Floats
    by_difference: Floats
    by_tie: Floats


def davidson(difference: Floats, log_tie: float) -> tuple[Outcome, Outcome]:
    """A win and a tie."""
    total = np.logaddexp(np.logaddexp(difference / 2, -difference / 2), log_tie)
    won, lost, tied = (np.exp(x - total) for x in (difference / 2, -difference / 2, log_tie))
    lean = (won - lost) / 2
    return Outcome(difference / 2 - total, 0.5 - lean, -tied), Outcome(log_tie - total, -lean, 1 - tied)


def rao_kupper(difference: Floats, log_tie: float) -> tuple[Outcome, Outcome]:
    """A win and a tie."""
    eta = math.exp(log_tie)
    not_won, not_lost = expit(eta - difference), expit(eta + difference)
    won, lost = log_expit(difference - eta), log_expit(-difference - eta)
    tied = won + lost + 2 * eta + math.log(-math.expm1(-2 * eta))
    slope = eta * (2 / -math.expm1(-2 * eta) - not_won - not_lost)
    return Outcome(won, not_won, -eta * not_won), Outcome(tied, not_won - not_lost, slope)


MODELS: Mapping[str, Callable[[Floats, float], tuple[Outcome, Outcome]]] = {"davidson": davidson, "rao_kupper": rao_kupper}


def tie_ratings(contests: pl.DataFrame, model: Literal["davidson", "rao_kupper"] = "davidson") -> TieRatings:
    """Fit one of the two models by maximum likelihood; `contests` as in `ratings`, with `win` 1, 0 or 1/2 (a tie).

    >>> results = [1.0] * 5 + [0.0] * 3 + [0.5] * 2
    >>> rows = [{"prompt_id": str(i), "a": "new", "b": "old", "win": win} for i, win in enumerate(results)]
    >>> found = tie_ratings(pl.DataFrame(rows))
    >>> round(found.tie, 4), [round(p, 3) for p in found.probabilities("new", "old")]
    (0.5164, [0.5, 0.3, 0.2])

    Raises:
        SchemaError: a `win` is something else, or no contest ended in a tie (use `bradley_terry`).
    """
    given = read_contests(contests)
    if stray := sorted(set(given.win) - {0.0, 0.5, 1.0})[:3]:
        raise SchemaError(f"ties need hard results, win 0, 1/2 or 1, not {stray}; use bradley_terry, which takes soft wins")
    tied = (given.win == 0.5).astype(np.float64)
    wins, ties = given.wins(1 - tied), given.wins(2 * tied)
    if not ties.any():
        raise SchemaError(f"none of {len(given.win)} contests is a tie; use bradley_terry")
    pseudo = connected(wins + ties / 2) - wins - ties / 2
    k = len(wins)
    solved = minimize(
        _loss,
        np.zeros(k + 1),
        args=(wins + pseudo, ties, MODELS[model]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(None, None)] * k + [_LOG_TIE],
        options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-8},
    )
    theta = solved.x[:-1] - solved.x[:-1].mean()
    return TieRatings(
        model=model,
        theta=dict(zip(given.players, theta.tolist(), strict=True)),
        tie=math.exp(solved.x[-1]),
        log_likelihood=-float(solved.fun),
        pseudo_wins=float(pseudo.max()),
        n=len(given.win),
        n_ties=int(tied.sum()),
    )


def _loss(x: Floats, wins: Floats, ties: Floats, model: Callable[[Floats, float], tuple[Outcome, Outcome]]) -> tuple[float, Floats]:
    """Minus the log-likelihood and its gradient; a tie stands on both sides of `ties`."""
    won, tied = model(x[:-1][:, None] - x[:-1][None, :], float(x[-1]))
    value = (wins * won.log_p).sum() + (ties * tied.log_p).sum() / 2
    by_difference = wins * won.by_difference + ties * tied.by_difference / 2
    by_tie = (wins * won.by_tie).sum() + (ties * tied.by_tie).sum() / 2
    return -float(value), -np.append(by_difference.sum(axis=1) - by_difference.sum(axis=0), by_tie)
