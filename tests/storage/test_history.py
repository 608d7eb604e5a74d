from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from storage import Lake, diff, lineage, open_lake, publish, read_at, resolve
from storage.errors import DatasetNotFound, StorageError


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with open_lake(tmp_path / "lake") as opened:
        yield opened


def published(lake: Lake, rows: dict[str, str], name: str = "math") -> None:
    pairs = pl.DataFrame({"pair_id": list(rows), "prompt_id": ["p1"] * len(rows), "chosen": list(rows.values())})
    publish(lake, name, pairs, manifest={}, author="ada", commit_id=f"{name}/{random.random()}")


def plain_diff(before: dict[str, str], after: dict[str, str]) -> list[tuple[str, str]]:
    both = before.keys() & after.keys()
    changes = dict.fromkeys(after.keys() - both, "added") | dict.fromkeys(before.keys() - both, "removed")
    return sorted((changes | {each: "changed" for each in both if before[each] != after[each]}).items())


def test_any_two_versions_differ_as_their_rows_do(lake: Lake) -> None:
    """Six versions of sixteen ids with few values: rows leave, come back as they were or otherwise, and change back and forth."""
    draw = random.Random(5)
    versions = [{f"id{i}": draw.choice("ab") for i in range(16) if draw.random() < 0.7} for _ in range(6)]
    for rows in versions:
        published(lake, rows)
    for a in (0, 2, 5):
        for b in range(6):
            found = diff(lake, f"math@{a + 1}", f"math@{b + 1}", full=True)
            expected = plain_diff(versions[a], versions[b])
            assert found.changes.rows() == expected
            assert found.n_added + found.n_removed + found.n_changed == len(expected)
            sides = {
                (row["pair_id"], row["side"]): row["chosen"]
                for row in (found.rows if found.rows is not None else pl.DataFrame()).to_dicts()
            }
            wanted = {(each, "before"): versions[a][each] for each, change in expected if change != "added"}
            assert sides == wanted | {(each, "after"): versions[b][each] for each, change in expected if change != "removed"}
        assert read_at(lake, resolve(lake, f"math@{a + 1}"))["pair_id"].to_list() == sorted(versions[a])


def test_a_diff_of_megabytes_comes_to_an_end(lake: Lake) -> None:
    """Fetching such a change feed as a stream hangs for ever; this would time out."""
    text = "x" * 1000
    published(lake, {f"id{i:05}": f"{text}{i}" for i in range(8000)})
    published(lake, {f"id{i:05}": f"{text}{i}!" for i in range(8000)})
    found = diff(lake, "math@1", "math@2", full=True)
    assert (found.n_changed, found.n_added, found.n_removed) == (8000, 0, 0)
    assert found.rows is not None
    assert found.rows.height == 16_000


def test_a_column_that_came_later_is_null_before(lake: Lake) -> None:
    published(lake, {"a": "x", "b": "y"})
    pairs = pl.DataFrame({"pair_id": ["a", "b"], "prompt_id": ["p1", "p1"], "chosen": ["x", "y"], "judge": [None, "j"]})
    publish(lake, "math", pairs, manifest={}, author="ada", commit_id="wider")
    found = diff(lake, "math@1", "math@2", full=True)
    assert found.changes.rows() == [("b", "changed")]
    assert found.rows is not None
    assert found.rows["judge"].to_list() == [None, "j"]
    assert diff(lake, "math@2", "math").changes.rows() == []


def test_versions_of_different_datasets_are_not_compared(lake: Lake) -> None:
    published(lake, {"a": "x"})
    published(lake, {"a": "x"}, name="code")
    with pytest.raises(StorageError, match="math@1 and code@1 are versions of different datasets"):
        diff(lake, "math", "code")


def test_the_lineage_of_a_pair_is_every_fact_of_its_prompt_at_the_version(lake: Lake) -> None:
    lake.append("prompts", pl.DataFrame({"prompt_id": ["p1", "p2"], "messages": ["[1]", "[2]"]}), commit_id="1")
    generations = {"generation_id": ["g2", "g1", "g3"], "prompt_id": ["p1", "p1", "p2"], "logprobs": [[-1.0], None, []]}
    lake.append("generations", pl.DataFrame(generations), commit_id="2")
    published(lake, {"a": "x"})
    lake.append("judgments", pl.DataFrame({"judgment_id": ["j1"], "prompt_id": ["p1"], "generation_ids": [["g1", "g2"]]}), commit_id="3")
    published(lake, {"a": "y", "o'brien": "z"})
    first = lineage(lake, "math@1", "a")
    assert first["pair"] == {"pair_id": "a", "prompt_id": "p1", "chosen": "x"}
    assert first["prompt"] == {"prompt_id": "p1", "messages": "[1]"}
    assert [each["generation_id"] for each in first["generations"]] == ["g1", "g2"]
    assert first["judgments"] == []
    second = lineage(lake, "math", "o'brien")
    assert second["version"] == "math@2"
    assert second["judgments"] == [{"judgment_id": "j1", "prompt_id": "p1", "generation_ids": ["g1", "g2"]}]
    with pytest.raises(DatasetNotFound, match="math@1 has no pair 'zz'; it has 1 pairs"):
        lineage(lake, "math@1", "zz")


def test_a_pair_without_facts_has_empty_parts(lake: Lake) -> None:
    published(lake, {"a": "x"})
    assert lineage(lake, "math", "a") == {
        "version": "math@1",
        "pair": {"pair_id": "a", "prompt_id": "p1", "chosen": "x"},
        "prompt": None,
        "generations": [],
        "judgments": [],
        "rationales": [],
        "nodes": [],
        "contrasts": [],
    }
