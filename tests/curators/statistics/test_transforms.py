"""Transforms keep the order and the nulls, and say what their formulas say."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curators.statistics.transforms import and_sum, label_smoothing, log_sigmoid_gain, pair_weight, prompt_quantile, z_score


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30))
def test_monotone_transforms_keep_the_order(values: list[int]) -> None:
    rows = pl.DataFrame({"prompt_id": ["p"] * len(values), "r": [v / 5 for v in values], "ref": [0.0] * len(values)})
    for transform in (prompt_quantile("r"), z_score("r"), z_score("r", by="prompt_id"), log_sigmoid_gain("r", "ref")):
        mapped = rows.with_columns(out=transform).sort("r", "out")
        assert (mapped["out"].diff().drop_nulls() >= -1e-12).all()
        apart = mapped.filter(pl.col("r").diff() > 0)
        assert apart.height < 1 or mapped["out"].n_unique() >= min(2, mapped["r"].n_unique())


def test_quantiles_of_uniform_samples_are_uniform() -> None:
    rewards = np.random.default_rng(0).normal(3, 9, size=2000)
    quantiles = pl.DataFrame({"prompt_id": ["p"] * 2000, "r": rewards}).select(q=prompt_quantile("r"))["q"]
    assert stats.kstest(quantiles.to_numpy(), "uniform").pvalue > 0.99


def test_missing_rewards_stay_missing_and_do_not_count() -> None:
    rows = pl.DataFrame({"prompt_id": ["p", "p", "p", "q"], "r": [1.0, None, 3.0, 7.0], "ref": [0.0, 0.0, None, 7.0]})
    assert rows.select(q=prompt_quantile("r"))["q"].to_list() == [0.25, None, 0.75, 0.5]
    assert rows.select(z=z_score("r", by="prompt_id"))["z"].to_list() == pytest.approx([-1 / math.sqrt(2), None, 1 / math.sqrt(2), 0.0])
    assert rows.select(g=log_sigmoid_gain("r", "ref"))["g"].to_list()[1:3] == [None, None]
    assert rows.with_columns(g=log_sigmoid_gain("r", "ref")).select(s=and_sum(["g", "r"]))["s"].to_list()[1:3] == [None, None]


def test_and_sum_is_the_product_of_probabilities() -> None:
    rows = pl.DataFrame({"help": [1.0, -2.0], "harm": [0.5, 3.0], "ref": [0.0, 0.0]})
    gains = rows.select(help=log_sigmoid_gain("help", "ref"), harm=log_sigmoid_gain("harm", "ref"))
    product = [1 / (1 + math.exp(-h)) / (1 + math.exp(-s)) for h, s in zip(rows["help"], rows["harm"], strict=True)]
    assert gains.select(both=and_sum(["help", "harm"]).exp())["both"].to_list() == pytest.approx(product)
    assert pl.DataFrame({"r": [-800.0], "f": [0.0]}).select(g=log_sigmoid_gain("r", "f"))["g"].to_list() == [-800.0]


def test_weights_of_pairs() -> None:
    weights = pl.DataFrame({"m": [0.0, 1.0, 100.0, -3.0, None]}).select(w=pair_weight("m"))["w"].to_list()
    assert weights == pytest.approx([0, 2 / (1 + math.exp(-1)) - 1, 1, 0, None])
    assert pl.DataFrame({"w": [9, 0], "l": [1, 5]}).select(s=label_smoothing("w", "l"))["s"].to_list() == pytest.approx([0.1, 5 / 6])
