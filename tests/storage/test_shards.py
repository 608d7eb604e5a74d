"""The folder that goes to the Hub: shards, splits, views by default, and that the same order gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from storage.errors import DatasetExists, StorageError, ViewError
from storage.handoff import open_handoff, write_handoff
from storage.shards import Order, request_of, write_folder

ORDER = Order(repo="ann/sums")


@pytest.fixture
def frozen(make_frozen: Callable[..., Path], rows: Any) -> Path:
    pairs = [rows.pair(f"{n} + 1?", f"{n + 1}", f"{n}", split="test" if n % 4 == 0 else "train", margin=0.5) for n in range(40)]
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    pairs.append(rows.pair("time?", rows.answer("noon", reasoning_content="sun"), "no", tools=tools))
    generations, judgments = rows.scored(pairs[:40])
    return make_frozen(pairs, generations=generations, judgments=judgments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_views_that_the_version_has_rows_for(frozen: Path, tmp_path: Path) -> None:
    about = write_folder(frozen, tmp_path / "out", ORDER)
    assert list(about["views"]) == ["dpo", "group"]
    assert set(about["without"]) == {"joint", "step", "stepwise", "rationale"}
    written = contents(tmp_path / "out")
    assert set(written) == {
        "README.md",
        "pairmill.json",
        *(f"{view}/{split}-00000-of-00001.parquet" for view in ("dpo", "group") for split in ("train", "test")),
    }
    assert json.loads(written["pairmill.json"]) == about
    assert set(about["files"]) == set(written) - {"pairmill.json"}
    assert about["views"]["dpo"]["splits"]["train"]["rows"] == 31  # of 40 pairs every fourth is of test, and one more
    assert not list(tmp_path.glob(".*")), "nothing is left beside the folder"


def test_views_asked_for_are_there_or_an_error(frozen: Path, tmp_path: Path) -> None:
    assert list(write_folder(frozen, tmp_path / "kto", Order(repo="ann/sums", views=("kto", "sft", "kto")))["views"]) == ["kto", "sft"]
    with pytest.raises(ViewError, match="view stepwise needs nodes, and sums@1 has no nodes"):
        write_folder(frozen, tmp_path / "out", Order(repo="ann/sums", views=("dpo", "stepwise")))
    with pytest.raises(ViewError, match="there is no view 'dpoo'; there are prompt-only"):
        write_folder(frozen, tmp_path / "out", Order(repo="ann/sums", views=("dpoo",)))
    with pytest.raises(ViewError, match="there is no form 'chat'"):
        request_of(frozen, Order(repo="ann/sums", form="chat"))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_rows_that_the_form_cannot_hold_are_an_error_also_in_a_default_view(frozen: Path, tmp_path: Path) -> None:
    with pytest.raises(ViewError, match="view dpo, form standard: 1 rows do not fit"):
        write_folder(frozen, tmp_path / "out", Order(repo="ann/sums", form="standard"))
    assert not (tmp_path / "out").exists()


def test_shards_are_the_split_in_its_order_and_none_is_too_large(frozen: Path, tmp_path: Path) -> None:
    limit = 2_500
    about = write_folder(frozen, tmp_path / "out", Order(repo="ann/sums", views=("dpo",)), shard_bytes=limit)
    handoff = open_handoff(write_handoff(frozen, tmp_path / "whole", view="dpo", format="parquet"))
    for split, told in about["views"]["dpo"]["splits"].items():
        whole = duckdb.sql(f"SELECT pair_id FROM '{handoff.path / split}.parquet'").fetchall()
        files = [str(tmp_path / "out" / "dpo" / name) for name in told["files"]]
        assert [row for file in files for row in duckdb.sql(f"SELECT pair_id FROM '{file}'").fetchall()] == whole
        assert told["digest"] == handoff.about["splits"][split]["digest"]
        heads = {pq.read_schema(file).metadata[b"huggingface"] for file in files}
        assert json.loads(heads.pop())["info"]["features"] == handoff.about["features"]
        assert not heads
        counts = [pq.read_metadata(file).num_rows for file in files]
        assert max(counts) - min(counts) <= 1
    assert about["views"]["dpo"]["splits"]["train"]["files"][0] == "train-00000-of-00002.parquet"


def test_the_same_order_gives_the_same_bytes_and_is_written_once(frozen: Path, tmp_path: Path) -> None:
    quality = [{"measure": "readable", "share": "99%"}]
    first = write_folder(frozen, tmp_path / "a", ORDER, quality=quality, shard_bytes=3_000)
    write_folder(frozen, tmp_path / "b", ORDER, quality=quality, shard_bytes=3_000)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert write_folder(frozen, tmp_path / "a", ORDER, quality=quality) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


def test_a_split_without_rows_has_no_file(make_frozen: Callable[..., Path], rows: Any, tmp_path: Path) -> None:
    frozen = make_frozen([rows.pair("a?", "yes", "no")])
    about = write_folder(frozen, tmp_path / "out", ORDER)
    assert list(about["views"]["dpo"]["splits"]) == ["train"]
    assert [path.name for path in (tmp_path / "out" / "dpo").iterdir()] == ["train-00000-of-00001.parquet"]


def test_a_version_without_any_rows_is_one_error(make_frozen: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ViewError, match=r"sums@1 has rows for none of the views dpo, joint.*view dpo: none of the pairs becomes a row"):
        write_folder(make_frozen([]), tmp_path / "out", ORDER)


@pytest.mark.parametrize("how", ["another order", "a changed file", "a file more", "something else", "a file"])
def test_a_place_that_holds_something_else_is_refused_and_kept(frozen: Path, tmp_path: Path, how: str) -> None:
    to = tmp_path / "out"
    if how == "a file":
        to.write_text("x")
    elif how == "something else":
        to.mkdir()
        (to / "mine.txt").write_text("x")
    else:
        write_folder(frozen, to, Order(repo="ann/other") if how == "another order" else ORDER)
        if how != "another order":
            (to / ("README.md" if how == "a changed file" else "more.md")).write_text("x")
    before = contents(to) if to.is_dir() else to.read_text()
    with pytest.raises(DatasetExists, match="give a new directory"):
        write_folder(frozen, to, ORDER)
    assert (contents(to) if to.is_dir() else to.read_text()) == before


def test_a_place_that_refuses_is_one_error(frozen: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"nothing was written\. Give another directory"):
        write_folder(frozen, tmp_path / "file" / "out", ORDER)
