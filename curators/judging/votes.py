"""When another vote about a pair cannot change anything.

A judge that is asked at a temperature above 0 gives votes. Each order is asked at least once; a further vote in both orders is worth its
price only while the pair is open. It is settled when

* the votes leave little doubt: with k of n votes for A (a tie is half a vote), P(p > 1/2) under Beta(k + 1/2, n - k + 1/2), the
  posterior of Jeffreys' prior, lies outside [1 - c, c]; or
* no outcome of the votes that are left would give another verdict.

An order that nobody could read yet leaves the pair open. Source: sequential testing with a Beta posterior; capping votes where they cannot
change the label is the usual stopping rule of majority voting.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from scipy.special import betainc

from curators.judging.verdicts import ROUNDING, VerdictConfig

CONFIDENCE = 0.95
"""Four votes that agree reach it (.985). At .9 two do (.924): more labels a call, and more wrong ones (docs/log.md)."""


def posterior(k: float, n: int) -> float:
    """P(p > 1/2) after k of n votes.

    >>> round(posterior(2, 2), 3), round(posterior(1, 2), 3), round(posterior(0, 2), 3)
    (0.924, 0.5, 0.076)
    """
    return 1.0 - float(betainc(k + 0.5, n - k + 0.5, 0.5))


def outcome(ab: float, ba: float, config: VerdictConfig) -> str:
    """The verdict of two orders' mean votes for A, as `verdicts` decides it.

    >>> [outcome(ab, ba, VerdictConfig()) for ab, ba in ((1, 1), (0, 0.5), (1, 0), (0.5, 0.5))]
    ['a', 'b', 'inconsistent', 'tie']
    """
    away_ab, away_ba = ab - 0.5, ba - 0.5
    if away_ab * away_ba < 0 and min(abs(away_ab), abs(away_ba)) > config.disagreement + ROUNDING:
        return "inconsistent"
    mean = (away_ab + away_ba) / 2
    bound = config.indifference - ROUNDING
    return "a" if mean >= bound else "b" if mean <= -bound else "tie"


def settled(ab: Sequence[float], ba: Sequence[float] | None, *, left: int, config: VerdictConfig, confidence: float = CONFIDENCE) -> bool:
    """Whether no further vote is needed. `ab`, `ba`: votes for A (1, 1/2, 0) by order; `ba` null where one order alone is asked. `left`:
    votes that may still be asked in each order.

    >>> config = VerdictConfig()
    >>> settled([1], [1], left=4, config=config), settled([1], [1], left=4, config=config, confidence=0.9)
    (False, True)
    >>> settled([1, 1], [1, 1], left=3, config=config), settled([1, 1], [], left=3, config=config)
    (True, False)
    >>> settled([1, 0, 1], [0, 0.5, 1], left=0, config=config)
    True
    """
    if left == 0:
        return True
    orders = [ab] if ba is None else [ab, ba]
    if not all(orders):
        return False
    votes = [vote for order in orders for vote in order]
    doubt = posterior(sum(votes), len(votes))
    if not 1 - confidence <= doubt <= confidence:
        return True
    ends = [[(sum(order) + extra) / (len(order) + left) for extra in (0, left)] for order in orders]
    reachable = {outcome(means[0], means[-1], config) for means in product(*ends)}
    return len(reachable) == 1
