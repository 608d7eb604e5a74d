"""Raters with planted confusions, found without a gold."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from curators.errors import SchemaError
from curators.statistics.latent import dawid_skene


def ratings(confusions: list[list[list[float]]], *, n: int = 3000, seed: int = 0, missing: float = 0.0) -> tuple[pl.DataFrame, list[int]]:
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < 0.3).astype(int)
    rows = [
        (unit, f"r{rater}", "xy"[rng.choice(2, p=confusion[truth[unit]])])
        for rater, confusion in enumerate(confusions)
        for unit in range(n)
        if rng.random() >= missing
    ]
    return pl.DataFrame(rows, schema=["unit", "rater", "value"], orient="row"), truth.tolist()


LENIENT, STRICT, POOR, GOOD = [[0.6, 0.4], [0.02, 0.98]], [[0.98, 0.02], [0.4, 0.6]], [[0.6, 0.4], [0.4, 0.6]], [[0.95, 0.05], [0.1, 0.9]]


def test_confusions_and_prevalence_are_found_again_and_the_majority_is_beaten() -> None:
    rows, truth = ratings([LENIENT, STRICT, POOR, POOR, GOOD], missing=0.1)
    found = dawid_skene(rows)
    for rater, planted in (("r0", LENIENT), ("r1", STRICT), ("r2", POOR), ("r4", GOOD)):
        assert found.confusion[rater] == pytest.approx(np.array(planted), abs=0.06)
    assert found.prevalence == pytest.approx([0.7, 0.3], abs=0.03)
    told = found.posterior.sort("unit").select((pl.col("p1") > 0.5).cast(pl.Int64))["p1"].to_list()
    majority = rows.group_by("unit").agg(y=(pl.col("value") == "y").mean()).sort("unit").select((pl.col("y") > 0.5).cast(pl.Int64))["y"]
    right = np.mean(np.array(told) == truth)
    assert right > np.mean(majority.to_numpy() == truth) + 0.02
    assert right > 0.93


def test_the_order_of_rows_does_not_matter() -> None:
    rows, _ = ratings([GOOD, POOR, STRICT], n=200)
    first, second = (dawid_skene(r).posterior.sort("unit") for r in (rows, rows.sample(fraction=1, shuffle=True, seed=1)))
    assert second["p0"].to_list() == pytest.approx(first["p0"].to_list())


def test_two_raters_do_not_tell_who_errs() -> None:
    rows, _ = ratings([GOOD, POOR], n=20)
    with pytest.raises(SchemaError, match="at least three raters, there are 2"):
        dawid_skene(rows)
