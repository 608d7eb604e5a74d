"""A panel is measured on prompts that did not calibrate it."""

from __future__ import annotations

from typing import Any

import polars as pl

from curators.judging.verdicts import gold_verdicts
from curators.schema import GENERATIONS, JUDGMENTS, VERDICTS, empty, frame
from pipelines.judging.config import PanelConfig
from pipelines.judging.panels import measured_verdicts, panel_health, panel_verdicts

RIGHT = [True, True, True, False, False]
"""Where judge `one` is right; `other` is right where it is not."""


def members(right: list[bool] = RIGHT) -> pl.DataFrame:
    """The gold prefers a everywhere."""
    pairs = [{"prompt_id": f"p{i}", "a_id": f"{i}a", "b_id": f"{i}b", "n_judgments": 2, "n_ok": 2} for i in range(len(right))]
    sides = {"one": right, "other": [not one for one in right]}
    rows = [
        pair | {"judge": judge, "verdict": "a" if good else "b"} for judge, s in sides.items() for pair, good in zip(pairs, s, strict=True)
    ]
    return frame(rows, VERDICTS)


def gold(n: int = len(RIGHT)) -> pl.DataFrame:
    shared: dict[str, Any] = {"protocol": "pairwise", "judge": "people", "channel": "recorded", "vote": 0, "attempt": 0, "state": "ok"}
    return frame([shared | {"prompt_id": f"p{i}", "generation_ids": [f"{i}a", f"{i}b"], "p_first": 1.0} for i in range(n)], JUDGMENTS)


def config(method: str) -> PanelConfig:
    return PanelConfig.model_validate({"judges": ["fake:judge", "fake:"], "method": method, "quorum": 1, "exclude_own": False})


def agreement(method: str, n: int = len(RIGHT)) -> tuple[int, int]:
    voted, truth = members(RIGHT[:n]), gold_verdicts(gold(n))
    found = panel_verdicts(voted, config(method), gold=truth)
    measured = measured_verdicts(found, voted, config(method), gold=truth)
    args = (empty(JUDGMENTS), voted, found, empty(GENERATIONS), config(method))
    health = panel_health(*args, gold=truth, measured=measured)
    return health["agreement"]["hits"], health["agreement"]["n"]


def test_a_calibrated_panel_agrees_with_the_gold_on_prompts_that_its_weights_did_not_see() -> None:
    """All five prompts give `one` a weight and `other` none: 3 of 5 are right. Without a prompt that `one` has right, both have 2 of 4 and
    no weight; without one that it has wrong, `one` alone has a weight, and is wrong.
    """
    truth = gold_verdicts(gold())
    assert (panel_verdicts(members(), config("weighted"), gold=truth)["p_a"] > 0.5).sum() == 3
    assert agreement("weighted") == (0, 2)
    assert agreement("majority") == (0, 5)  # level everywhere


def test_gold_of_one_prompt_shows_nothing_of_the_panel_that_it_calibrates() -> None:
    assert agreement("weighted", n=1) == (0, 0)


def test_a_pair_that_is_both_gold_and_labelled_has_one_verdict_of_each_member() -> None:
    truth = gold_verdicts(gold())
    labelled = members().filter(pl.col("prompt_id").is_in(["p0", "p3"]))
    found = panel_verdicts(labelled, config("weighted"), gold=truth, tried=members())
    assert found["prompt_id"].to_list() == ["p0", "p3"]
    assert (found["p_a"] > 0.5).to_list() == [True, False]
