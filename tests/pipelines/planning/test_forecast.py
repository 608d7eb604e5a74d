from __future__ import annotations

import math
import random

from pipelines.planning.forecast import Range, exactly, predicted, total


def test_a_ratio_and_its_interval_are_those_of_the_formula() -> None:
    # R = 40 / 64 = 0.625; residuals -1 and 1, so s² = 8 / 7 and mean(b) = 8. Of B = 80 come 50; m = 10 new clusters:
    # half = t_7 sqrt(10 * 8 / 7 + 80² * (8 / 7) / (8 * 64)), and t_7 = 2.364624
    found = predicted(exactly(80), [(4, 8), (6, 8)] * 4)
    assert found.expected == 50
    assert math.isclose((found.high or 0) - 50, 2.364624 * math.sqrt(80 / 7 + 6400 * 8 / 7 / 512), rel_tol=1e-6)
    assert found.low == 50 - ((found.high or 0) - 50)


def test_intervals_hold_what_comes_as_often_as_they_say() -> None:
    rng, held = random.Random(0), 0
    for _ in range(400):
        groups = [(sum(rng.random() < 0.6 for _ in range(12)), 12.0) for _ in range(70)]
        found = predicted(exactly(30 * 12), groups[:40])
        held += found.low <= sum(x for x, _ in groups[40:]) <= (found.high or 0)
    assert 0.92 <= held / 400 <= 0.98


def test_bounds_hold_and_what_is_unknown_stays_so() -> None:
    assert predicted(exactly(10), [(9, 1), (1, 1), (2, 1)]).high == 10
    assert predicted(exactly(10), [], most=3, unknown=0.0) == Range(0, 0, 30)
    assert predicted(exactly(10), [], most=None, unknown=None) == Range(None, 0, None)
    assert predicted(exactly(0), []) == exactly(0)
    assert total([exactly(2), Range(None, 1, 5), Range(3, 3, None)]) == Range(None, 6, None)
    assert predicted(Range(5, 4, None), [(2, 1), (2, 1)], most=None) == Range(10, 8, None)
