"""A funnel adds up or cannot be made."""

from __future__ import annotations

import orjson
import pytest

from curators.errors import CurationError
from curators.funnel import Funnel, count_states, merge, to_frame
from curators.schema import GENERATIONS, frame


@pytest.mark.parametrize("counts", [{"n_in": 3, "n_kept": 2}, {"n_in": 1, "n_kept": 2, "dropped": {"tie": -1}}])
def test_what_does_not_add_up_is_refused(counts: dict[str, int]) -> None:
    with pytest.raises(CurationError, match=r"funnel pairs \(prompts\)"):
        Funnel(stage="pairs", unit="prompts", **counts)  # type: ignore[arg-type]


def test_shards_add_up_to_the_whole() -> None:
    shards = [
        Funnel(stage="sample", unit="generations", n_in=4, n_kept=3, dropped={"empty": 1}),
        Funnel(stage="pairs", unit="prompts", n_in=1, n_kept=1),
        Funnel(stage="sample", unit="generations", n_in=4, n_kept=2, dropped={"empty": 1, "truncated": 1}),
    ]
    total = merge(shards)
    assert [funnel.as_dict() for funnel in total] == [
        {"stage": "sample", "unit": "generations", "n_in": 8, "n_kept": 5, "dropped": {"empty": 2, "truncated": 1}},
        {"stage": "pairs", "unit": "prompts", "n_in": 1, "n_kept": 1, "dropped": {}},
    ]
    assert merge(shards[::-1])[0] == total[0]


def test_json_carries_a_funnel_there_and_back() -> None:
    funnel = Funnel(stage="sample", unit="generations", n_in=2, n_kept=1, dropped={"empty": 1, "refused": 0})
    assert Funnel(**orjson.loads(orjson.dumps(funnel.as_dict()))) == funnel


def test_states_are_counted_by_what_is_kept() -> None:
    rows = frame([{"state": state} for state in ("ok", "ok", "truncated", "empty")], GENERATIONS)
    assert count_states(rows, stage="sample", unit="generations").dropped == {"empty": 1, "truncated": 1}
    assert count_states(rows, stage="sample", unit="generations", kept=("ok", "truncated")).n_kept == 3


def test_the_table_has_a_row_for_every_reason() -> None:
    funnels = [
        Funnel(stage="sample", unit="generations", n_in=3, n_kept=1, dropped={"empty": 1, "refused": 1}),
        Funnel(stage="pairs", unit="prompts", n_in=1, n_kept=1),
    ]
    assert to_frame(funnels).select("stage", "n_dropped", "reason").rows() == [
        ("sample", 1, "empty"),
        ("sample", 1, "refused"),
        ("pairs", 0, None),
    ]
