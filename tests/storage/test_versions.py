from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from storage import Lake, Release, list_datasets, log, open_lake, publish, query, resolve, tag
from storage.errors import DatasetNotFound, StorageError


def published(lake: Lake, name: str, version: int) -> Release:
    pairs = pl.DataFrame({"pair_id": [f"{version}"], "prompt_id": ["p"]})
    return publish(lake, name, pairs, manifest={}, author="ada", commit_id=f"{name}/{version}")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """math@1..3 and code-2@1."""
    with open_lake(tmp_path_factory.mktemp("versions") / "lake") as opened:
        for version in (1, 2, 3):
            published(opened, "math", version)
        published(opened, "code-2", 1)
        yield opened


def test_tags_move_and_versions_do_not(lake: Lake) -> None:
    assert resolve(lake, "math").ref == "math@3"
    assert resolve(lake, "math@2").version == 2
    assert tag(lake, "math@1", "prod").tags == ("prod",)
    assert tag(lake, "math@1", "gold.v-1").tags == ("gold.v-1", "prod")
    assert resolve(lake, "math@prod").ref == "math@1"
    assert tag(lake, "math", "prod").ref == "math@3"
    assert tag(lake, "math@prod", "prod").ref == "math@3"
    assert resolve(lake, "math@prod").tags == ("prod",)
    assert resolve(lake, "math@1").tags == ("gold.v-1",)
    moves = query(lake, "SELECT version FROM tags WHERE tag = 'prod' ORDER BY move")
    assert moves["version"].to_list() == [1, 3]


def test_what_there_is_is_listed(lake: Lake) -> None:
    assert [release.ref for release in list_datasets(lake)] == ["code-2@1", "math@3"]
    assert [release.ref for release in log(lake, "math")] == ["math@3", "math@2", "math@1"]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("maths", r"there is no dataset 'maths' in the lake: there are code-2, math; did you mean math\?"),
        ("math@4", r"there is no math@4; of math there are versions 1 to 3"),
        ("math@0", r"there is no math@0"),
        ("math@produ", r"there is no math@produ; of math there are versions 1 to 3"),
        ("math@", r"'math@' names no version; write math, math@1 or math@TAG"),
        ("@1", r"there is no dataset ''"),
        ("x' OR '1'='1", r"there is no dataset"),
    ],
)
def test_what_there_is_not_says_what_there_is(lake: Lake, ref: str, message: str) -> None:
    with pytest.raises(DatasetNotFound, match=message):
        resolve(lake, ref)


def test_the_history_of_nothing_is_an_error(lake: Lake) -> None:
    with pytest.raises(DatasetNotFound, match="there is no dataset 'nothing'"):
        log(lake, "nothing")


@pytest.mark.parametrize("name", ["3", "", "Prod", "a b", "-x"])
def test_tags_that_could_be_taken_for_something_else_are_refused(lake: Lake, name: str) -> None:
    with pytest.raises(StorageError, match="cannot be a tag"):
        tag(lake, "math", name)


def test_an_empty_lake_says_so(tmp_path: Path) -> None:
    with open_lake(tmp_path / "lake") as empty:
        assert list_datasets(empty) == []
        with pytest.raises(DatasetNotFound, match="no dataset 'math': the lake is empty"):
            resolve(empty, "math")
