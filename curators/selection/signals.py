"""Scores of preference pairs from rewards and log-probabilities, for the selectors `margin` and `difficulty`: arrays to arrays.

Which end to keep is another matter, and the literature disagrees: BeeS (arXiv 2502.14560) keeps the largest fused margin, SelectiveDPO
(arXiv 2502.09650) the smallest held-out loss, arXiv 2508.04149 the smallest implicit margin. Hence `direction` has no default.
"""

from __future__ import annotations

import numpy as np

from curators.statistics.intervals import Floats


def implicit_margin(chosen: Floats, chosen_ref: Floats, rejected: Floats, rejected_ref: Floats) -> Floats:
    """log(pi/ref) of the chosen minus that of the rejected, from summed log-probabilities under policy and reference, in nats.

    >>> implicit_margin(np.array([-3.0]), np.array([-4.0]), np.array([-6.0]), np.array([-5.0])).tolist()
    [2.0]
    """
    return np.asarray((chosen - chosen_ref) - (rejected - rejected_ref))


def dpo_loss(margin: Floats, beta: float = 0.1) -> Floats:
    """-log sigmoid(beta * implicit margin): difficulty, where policy and reference come from a run that did not see the pair.

    >>> dpo_loss(np.array([2.0, -3, 0])).round(8).tolist()
    [0.59813887, 0.85435524, 0.69314718]
    """
    return np.asarray(np.logaddexp(0.0, -beta * margin))


def likelihood_gap(chosen_mean: Floats, rejected_mean: Floats) -> Floats:
    """|mean log-probability a token of the chosen - that of the rejected|; the same for swapped sides.

    >>> likelihood_gap(np.array([-1.5]), np.array([-1.25])).tolist()
    [0.25]
    """
    return np.asarray(np.abs(chosen_mean - rejected_mean))


def alignment_potential(margin: Floats, gap: Floats, weight: float = 1.0) -> Floats:
    """M_AP (arXiv 2503.01864): z(reward margin) - weight * z(likelihood gap), z with the population's deviation; 0 where all are equal.

    >>> alignment_potential(np.array([1.0, 2, 3, 6]), np.array([0.2, 0.1, 0.5, 0.4])).round(5).tolist()
    [-0.43659, 0.73039, -1.26491, 0.97111]
    """
    return np.asarray(_z(margin) - weight * _z(gap))


def _z(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / (values.std() or 1.0))


def margin_probability(margin: Floats, low: float | None = None, high: float | None = None) -> Floats:
    """A margin clipped to [low, high] and mapped onto [0, 1] (BeeS); the bounds are by default the 5th and 95th percentile, which is ours.

    >>> margin_probability(np.array([5.0, -3, 9, 1]), -2, 8).round(6).tolist()
    [0.7, 0.0, 1.0, 0.3]
    """
    low = float(np.quantile(margin, 0.05)) if low is None else low
    high = float(np.quantile(margin, 0.95)) if high is None else high
    if high <= low:
        return np.full(len(margin), 0.5)
    return np.asarray((np.clip(margin, low, high) - low) / (high - low))


def fuse(first: Floats, second: Floats) -> Floats:
    """BeeS MUL of two probabilities, p q / (p q + (1 - p)(1 - q)): 1/2 is neutral, and certain contradiction (0/0) is 1/2.

    >>> fuse(np.array([0.8, 0.5, 1.0]), np.array([0.7, 0.7, 0.0])).round(8).tolist()
    [0.90322581, 0.7, 0.5]
    """
    both, neither = first * second, (1 - first) * (1 - second)
    total = both + neither
    return np.asarray(np.where(total > 0, both / np.where(total > 0, total, 1.0), 0.5))
