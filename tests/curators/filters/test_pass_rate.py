"""The band at its edges, prompts without a known rate, and a control arm of the same size."""

from __future__ import annotations

import polars as pl
import pytest

from curators.errors import ConfigError
from curators.filters.pass_rate import pass_rate_band, pass_rates, random_control
from curators.schema import JUDGMENTS, frame


def graded(prompt: str, generation: str, score: float | None, **other: object) -> dict[str, object]:
    state = "ok" if score is not None else "gated"
    row = {"prompt_id": prompt, "protocol": "verifier", "generation_ids": [generation], "scores": None if score is None else [score]}
    return {**row, "state": state, **other}


def test_rates_are_means_over_generations_and_failures_do_not_count() -> None:
    rows = [graded("p", "g1", 1.0), graded("p", "g2", 0.0), graded("p", "g2", 1.0, judge="other"), graded("p", "g3", None)]
    judged = frame([*rows, graded("q", "g4", None), graded("q", "g5", 1.0, protocol="pointwise")], JUDGMENTS)
    assert pass_rates(judged).rows() == [("p", 0.75, 2)]


def known(**rates: float | None) -> pl.DataFrame:
    return pl.DataFrame(
        {"row_id": list(rates), "pass_rate": pl.Series(list(rates.values()), dtype=pl.Float64), "n_graded": [5] * len(rates)}
    )


def test_the_band_is_inclusive_and_an_unknown_rate_is_not_in_it() -> None:
    marks = pass_rate_band(known(zero=0.0, low=0.2, high=0.8, one=1.0, none=None, nan=float("nan")))
    assert marks["reason"].to_list() == ["too_hard", None, None, "too_easy", "ungraded", "ungraded"]


def test_the_control_has_the_same_size_and_draws_from_graded_prompts_only() -> None:
    marks = pass_rate_band(known(**{f"p{i:03d}": (i % 11) / 10 for i in range(200)}, bad=None))
    controls = [random_control(marks, seed=seed) for seed in range(5)]
    for control in controls:
        assert control["keep"].sum() == marks["keep"].sum()
        assert control.filter(pl.col("row_id") == "bad")["reason"].to_list() == ["ungraded"]
        assert set(control["reason"].drop_nulls()) == {"not_drawn", "ungraded"}
    assert len({tuple(control["keep"]) for control in controls}) == 5
    shuffled = random_control(marks.sample(fraction=1.0, shuffle=True, seed=1), seed=3)
    assert shuffled.sort("row_id").equals(controls[3].sort("row_id"))
    # the band keeps rates of .2 to .8 only, the control any: 7 of 11 kept at random, of which 7 in 11 would be in the band
    both = (controls[0]["keep"] & marks["keep"]).sum() / marks["keep"].sum()
    assert 0.5 < both < 0.8


@pytest.mark.parametrize("wrong", [{"low": 0.9, "high": 0.1}, {"high": 1.2}, {"min_graded": 0}])
def test_an_empty_band_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="pass_rate_band"):
        pass_rate_band(known(a=0.5), **wrong)  # type: ignore[arg-type]
