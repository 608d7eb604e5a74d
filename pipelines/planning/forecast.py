"""How many, how much and how long, from what earlier calls and groups came to. Every number is an interval.

A ratio forecast: of a cluster (a prompt, a tree) with base b_i, such as the judge calls that its protocol allows, x_i came about. Then a
base of B in m = B / mean(b) new clusters gives R B with R = sum x / sum b, and its 95 % prediction interval is

    R B ± t sqrt(m s² + B² var(R)),   s² = sum (x_i - R b_i)² / (k - 1),   var(R) = s² / (k mean(b)²)

(the ratio estimator of survey sampling, Cochran 1977, chapter 6; Student's t with k - 1 degrees of freedom). Without two clusters nothing
is known but bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit


@dataclass(frozen=True, slots=True)
class Range:
    """A forecast with its interval. `expected` null: only the bounds are known; `high` null: nothing bounds it."""

    expected: float | None
    low: float
    high: float | None

    def __add__(self, other: Range) -> Range:
        """Bounds add up: the sum of two intervals is wide enough, whatever the two have to do with each other."""
        return Range(_sum(self.expected, other.expected), self.low + other.low, _sum(self.high, other.high))

    def times(self, factor: float) -> Range:
        return Range(*(None if each is None else each * factor for each in (self.expected, self.low, self.high)))  # type: ignore[arg-type]

    def within(self, low: float, high: float | None) -> Range:
        """No part of it outside these bounds."""

        def clip(value: float) -> float:
            return max(low, value if high is None else min(value, high))

        top = high if self.high is None else clip(self.high)
        return Range(None if self.expected is None else clip(self.expected), clip(self.low), top)

    def told(self, digits: int = 0) -> dict[str, Any]:
        """As JSON, whole numbers unless `digits` are asked for; the interval is rounded outwards.

        >>> Range(10.4, 8.6, None).told()
        {'expected': 10, 'low': 8, 'high': None}
        """
        scale = 10**digits
        low = math.floor(self.low * scale + 1e-9) / scale
        high = None if self.high is None else math.ceil(self.high * scale - 1e-9) / scale
        expected = None if self.expected is None else round(self.expected, digits)
        values = {"expected": expected, "low": low, "high": high}
        return values if digits else {name: None if value is None else int(value) for name, value in values.items()}


NOTHING = Range(0, 0, 0)


def exactly(n: float) -> Range:
    return Range(n, n, n)


def total(ranges: Iterable[Range]) -> Range:
    return sum(ranges, NOTHING)


Clusters = Sequence[tuple[float, float]]
"""What came about and the base, of each cluster."""


def predicted(base: Range, clusters: Clusters, *, most: float | None = 1.0, unknown: float | None = 1.0) -> Range:
    """What a new base comes to; at most `most` of it, null: no bound. `unknown`: the share that is expected without two clusters.

    >>> predicted(exactly(100), [(4, 8), (6, 8)] * 8).told()
    {'expected': 62, 'low': 52, 'high': 73}
    >>> predicted(exactly(100), []).told(), predicted(exactly(100), [(8, 8)] * 9).told()
    ({'expected': 100, 'low': 0, 'high': 100}, {'expected': 100, 'low': 100, 'high': 100})
    """
    top = None if base.high is None or most is None else base.high * most
    if base.high == 0 or top == 0:
        return NOTHING
    whole = sum(b for _, b in clusters)
    if len(clusters) < 2 or not whole or base.expected is None:
        return Range(None if unknown is None or base.expected is None else base.expected * unknown, 0, top)
    k, ratio = len(clusters), sum(x for x, _ in clusters) / whole
    s2 = sum((x - ratio * b) ** 2 for x, b in clusters) / (k - 1)
    mean = whole / k
    t = float(stdtrit(k - 1, 0.975))

    def half(n: float) -> float:
        return t * math.sqrt(n / mean * s2 + n * n * s2 / (k * mean * mean))

    low = base.low * ratio - half(base.low)
    high = None if base.high is None else base.high * ratio + half(base.high)
    return Range(base.expected * ratio, low, high).within(0, top)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
