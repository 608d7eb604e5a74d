"""Logistic regression of soft outcomes, as this package needs it: ridge by coefficient, weights by row, no intercept of its own.

Outcomes are probabilities in 0..1 (0 and 1 where an outcome is certain). Deliberately not here: anything with more than two outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse
from scipy.special import expit

from curators.statistics.intervals import Floats, Ints, places

Design = Any
"""Rows by coefficients: a numpy array or a scipy.sparse CSR array."""


def fit_logistic(
    design: Design, outcome: Floats, *, penalty: Floats | float = 0.0, weight: Floats | None = None, start: Floats | None = None
) -> Floats:
    """The coefficients that make sum w (y log p + (1 - y) log (1 - p)) - penalty / 2 * |coefficients|^2 greatest, by Newton's method.

    A tenth of a millionth is the least penalty, so that separable data has a finite (huge) answer.

    >>> x = np.array([[1.0], [1.0], [1.0], [1.0]])
    >>> round(float(fit_logistic(x, np.array([1.0, 1.0, 1.0, 0.0]))[0]), 4)  # ln 3
    1.0986
    """
    x = sparse.csr_array(design)
    ridge = np.broadcast_to(np.maximum(penalty, 1e-7), x.shape[1])
    w = np.ones(len(outcome)) if weight is None else weight
    beta = np.zeros(x.shape[1]) if start is None else start
    loss = _loss(x, outcome, w, ridge, beta)
    for _ in range(100):
        p = expit(x @ beta)
        gradient = x.T @ (w * (outcome - p)) - ridge * beta
        curvature = (x.T @ sparse.diags_array(w * p * (1 - p)) @ x).toarray() + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        while (moved := _loss(x, outcome, w, ridge, beta + step)) > loss and np.abs(step).max() > 1e-12:
            step = step / 2
        beta, loss = beta + step, moved
        if np.abs(step).max() < 1e-9:
            break
    return np.asarray(beta, dtype=np.float64)


def log_loss(p: Floats, outcome: Floats) -> float:
    """Mean of -(y log p + (1 - y) log(1 - p)), p clipped away from 0 and 1 by 1e-12.

    >>> round(log_loss(np.array([0.9, 0.8, 0.7, 0.6, 0.4]), np.array([1.0, 1.0, 0.0, 1.0, 0.0])), 5)
    0.51083
    """
    inside = np.clip(p, 1e-12, 1 - 1e-12)
    return float(-(outcome * np.log(inside) + (1 - outcome) * np.log1p(-inside)).mean())


def folds(groups: pl.Series, n_folds: int = 5, seed: int = 0) -> Ints:
    """The fold of each row; a group is never divided, and the order of rows does not matter."""
    place = places(groups)
    return np.asarray((np.random.default_rng(seed).permutation(int(place.max()) + 1) % n_folds)[place])


def choose_penalty(
    design: Design, outcome: Floats, groups: pl.Series, *, penalty: Callable[[float], Floats], grid: Sequence[float], seed: int = 0
) -> float:
    """The strength of the grid with the least held-out log loss over five folds of whole groups; the greater of equals."""
    fold, x = folds(groups, seed=seed), sparse.csr_array(design)
    used = np.unique(fold)
    if len(used) < 2:
        return max(grid)

    def held_out(strength: float) -> float:
        total = 0.0
        for one in used:
            inside = fold != one
            beta = fit_logistic(x[inside], outcome[inside], penalty=penalty(strength))
            total += log_loss(expit(x[~inside] @ beta), outcome[~inside]) * (~inside).sum()
        return total

    return min(sorted(grid, reverse=True), key=held_out)


def _loss(x: Design, outcome: Floats, weight: Floats, ridge: Floats, beta: Floats) -> float:
    logit = x @ beta
    return float((weight * (np.logaddexp(0, logit) - outcome * logit)).sum() + (ridge * beta * beta).sum() / 2)
