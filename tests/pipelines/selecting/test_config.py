"""The configuration of flow `select`: bare names, budgets, and mistakes that are one line."""

from __future__ import annotations

import pytest

from curators.errors import ConfigError
from pipelines.config_files import load_config
from pipelines.selecting.config import SelectionConfig

ENOUGH = ["dataset=small", "source=big", "budget=0.1"]


def config(*assignments: str) -> SelectionConfig:
    found = load_config("select", None, [*ENOUGH, *assignments])
    assert isinstance(found, SelectionConfig)
    return found


def test_a_selector_and_filters_may_be_bare_names() -> None:
    found = config("selector=margin", "selector.direction=largest", "filters=[language, refusal]")
    assert (found.selector.selector, found.selector.direction) == ("margin", "largest")
    assert found.filters == {"language": {}, "refusal": {}}
    assert config("filters.refusal.within_chars=100").filters == {"refusal": {"within_chars": 100}}


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("1.0", 1.0), ("0.25", 0.25), ("300", 300)])
def test_a_point_decides_what_a_budget_is(text: str, expected: float) -> None:
    found = config(f"budget={text}").budget
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "0.0", "true", "ten", ".nan", "[0.1, 0.5]"])
def test_other_budgets_are_refused_with_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^budget: is a whole number of pairs from 1, or a share with a point, [^\n]*$"):
        config(f"budget={text}")


def test_a_dataset_is_no_selection_of_its_newest_self() -> None:
    with pytest.raises(ConfigError, match="name a version"):
        config("source=small")
    assert config("source=small@1").source == "small@1"


def test_an_unknown_key_of_the_selector_is_named() -> None:
    with pytest.raises(ConfigError, match=r"selector\.ordre: no such key .*did you mean 'order'"):
        config("selector.ordre=abs")
