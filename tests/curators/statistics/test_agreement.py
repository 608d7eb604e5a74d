"""Coefficients against values worked by hand, against scikit-learn, and on PandaLM's three annotators."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from curators.errors import SchemaError
from curators.statistics.agreement import Agreement, cohen_kappa, fleiss_kappa, krippendorff_alpha, pairwise_kappas

PANDALM = Path(__file__).parents[3] / "../shared/data/pandalm_testset_v1.jsonl.gz"


def long(units: Mapping[str, Sequence[Any]] | Sequence[Sequence[Any]]) -> pl.DataFrame:
    named = units.items() if isinstance(units, Mapping) else ((f"u{i}", values) for i, values in enumerate(units))
    rows = [(unit, f"r{i}", value) for unit, values in named for i, value in enumerate(values)]
    return pl.DataFrame(rows, schema=["unit", "rater", "value"], orient="row")


def value(found: Agreement) -> float | None:
    return found.coefficient.value


def test_cohen_by_hand() -> None:
    """[[20, 5], [10, 15]]: observed .70; by chance .5 * .6 + .5 * .4 = .50; (.70 - .50) / .50."""
    found = cohen_kappa(long([(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15))
    assert (found.raw.value, value(found)) == pytest.approx((0.70, 0.40))
    assert found.prevalence == pytest.approx({0: 0.45, 1: 0.55})
    assert found.coefficient.n == 50
    # large-sample standard error sqrt(po (1 - po) / (n (1 - pe)^2)) = .1296: the interval is about .4 +- .254
    assert (found.coefficient.low, found.coefficient.high) == pytest.approx((0.146, 0.654), abs=0.05)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=40))
def test_cohen_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*[*pairs, (1, 2), (2, 3), (3, 4), (4, 1)], strict=True)
    ratings = long(list(zip(one, other, strict=True)))
    assert value(cohen_kappa(ratings, n_resamples=0)) == pytest.approx(cohen_kappa_score(one, other))
    weighted = cohen_kappa(ratings, weights="quadratic", n_resamples=0)
    assert value(weighted) == pytest.approx(cohen_kappa_score(one, other, weights="quadratic"))


def test_fleiss_by_hand() -> None:
    """Counts (3,0) (2,1) (0,3) (1,2): P = (1 + 1/3 + 1 + 1/3) / 4 = 2/3, both values 1/2 of 12, P_e = 1/2; (2/3 - 1/2) / (1/2) = 1/3."""
    found = fleiss_kappa(long(["aaa", "aab", "bbb", "abb"]))
    assert (found.raw.value, value(found)) == pytest.approx((2 / 3, 1 / 3))
    fewer = fleiss_kappa(long(["aaa", "aab", "bbb", "abb", "ab"]))
    assert (value(fewer), fewer.n_left_out) == (pytest.approx(1 / 3), 1)


def test_krippendorff_by_hand() -> None:
    """AAA / ABA / BB / BBA: D_o = 4/11, D_e = 6/11."""
    assert value(krippendorff_alpha(long(["AAA", "ABA", "BB", "BBA"]))) == pytest.approx(1 / 3)
    interval = krippendorff_alpha(long([(1, 1, 2), (3, 3), (5, 4, 5), (2, 2, 2)]), scale="interval")
    assert value(interval) == pytest.approx(0.90991, abs=5e-6)


def test_krippendorffs_own_example_with_missing_ratings() -> None:
    """Krippendorff 2011, "Computing Krippendorff's alpha-reliability", C: four observers, twelve units; .743, .815, .849."""
    n = None
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
        [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
    ]
    ratings = long(list(zip(*observers, strict=True)))
    found = [krippendorff_alpha(ratings, scale=scale, n_resamples=0) for scale in ("nominal", "ordinal", "interval")]
    assert [value(one) for one in found] == pytest.approx([0.743, 0.815, 0.849], abs=5e-4)
    assert (found[0].n_left_out, found[0].coefficient.n, found[0].n_raters) == (1, 11, 4)


def test_the_order_of_rows_and_the_names_of_values_do_not_matter() -> None:
    ratings = long(["aab", "bbb", "abb", "aaa", "cab", "ccb"])
    renamed = ratings.with_columns(value=pl.col("value").replace({"a": "z", "b": "y", "c": "x"}), rater="r" + pl.col("rater"))
    for coefficient in (fleiss_kappa, krippendorff_alpha):
        first = coefficient(ratings)
        assert coefficient(ratings.sample(fraction=1, shuffle=True, seed=3)) == first
        assert value(coefficient(renamed)) == pytest.approx(value(first))


def test_units_of_one_prompt_hang_together() -> None:
    """Every unit twice under one prompt: the coefficient of Cohen's stays, its interval must not shrink."""
    rng = np.random.default_rng(1)
    pairs = [(a, a if same else 1 - a) for a, same in zip(rng.integers(2, size=60), rng.random(60) < 0.8, strict=True)]
    once = long({f"{i:02}": pair for i, pair in enumerate(pairs)}).with_columns(prompt_id=pl.col("unit"))
    twice = pl.concat([once.with_columns(unit=pl.col("unit") + copy) for copy in "xy"])
    one, naive, clustered = cohen_kappa(once), cohen_kappa(twice), cohen_kappa(twice, cluster="prompt_id")

    def width(found: Agreement) -> float:
        return float(found.coefficient.high or 0) - float(found.coefficient.low or 0)

    assert value(clustered) == pytest.approx(value(one))
    assert width(clustered) == pytest.approx(width(one), rel=0.05)
    assert width(naive) < 0.85 * width(one)


def test_what_is_not_defined_is_null_and_what_cannot_be_is_refused() -> None:
    alike = krippendorff_alpha(long(["aa", "aa"]))
    assert (value(alike), alike.raw.value) == (None, 1.0)
    nothing = krippendorff_alpha(long(["a", "b"]))
    assert (value(nothing), nothing.n_left_out) == (None, 2)
    with pytest.raises(SchemaError, match="of two raters, there are 3"):
        cohen_kappa(long(["aab"]))
    with pytest.raises(SchemaError, match="'r0' rated unit 'u0' more than once"):
        krippendorff_alpha(pl.concat([long(["ab"]), long(["bb"])]))
    with pytest.raises(SchemaError, match="'interval' needs numbers"):
        krippendorff_alpha(long(["ab"]), scale="interval")


@pytest.mark.skipif(not PANDALM.exists(), reason="the shared data is not here")
def test_pandalms_annotators() -> None:
    """0 tie, 1, 2 on the 496 pairs of 83 instructions that are here; the paper's filtered full set gives kappas .852, .879, .862."""
    raters = ("annotator1", "annotator2", "annotator3")
    with gzip.open(PANDALM, "rt") as lines:
        pairs = [json.loads(line) for line in lines]
    rows = [(i, rater, pair[rater], pair["instruction"]) for i, pair in enumerate(pairs) for rater in raters]
    ratings = pl.DataFrame(rows, schema=["unit", "rater", "value", "prompt_id"], orient="row")
    kappas = pairwise_kappas(ratings, n_resamples=0)
    assert kappas["kappa"].to_list() == pytest.approx([0.8499, 0.8775, 0.8342], abs=5e-5)
    alpha = krippendorff_alpha(ratings, cluster="prompt_id")
    assert value(fleiss_kappa(ratings, n_resamples=0)) == pytest.approx(0.8537, abs=5e-5)
    assert (value(alpha), alpha.raw.value) == pytest.approx((0.8538, 0.9153), abs=5e-5)
    assert (alpha.coefficient.n, alpha.coefficient.n_clusters) == (496, 83)
    assert alpha.prevalence == pytest.approx({0: 0.0921, 1: 0.4395, 2: 0.4684}, abs=5e-5)
    assert (alpha.coefficient.low, alpha.coefficient.high) == pytest.approx((0.802, 0.906), abs=0.005)
