"""Imports without a server: which files are read under which names, and which pairs come of their rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from curators.errors import ConfigError
from pipelines.config import ImportConfig
from pipelines.imports import import_candidate, importation


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": "yes", "rejected": "no", **more}


async def sources(config: ImportConfig) -> tuple[str, list[str]]:
    """The run's key and the sources of its prompts."""
    async with importation(config) as run:
        import_candidate(run)
        return run.key, sorted(run.read("prompts")["source"])


async def test_files_of_one_name_are_all_read_under_their_paths(tmp_path: Path, lake_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = ("a/part.jsonl", "b/part.jsonl", "c/other.jsonl")
    for number, file in enumerate(files):
        write(Path(file), pair(f"p{number}"))
    _, found = await sources(ImportConfig(dataset="said", lake=str(lake_root), files=files))
    assert found == ["a/part.jsonl:1", "b/part.jsonl:1", "other.jsonl:1"]


async def test_a_file_given_twice_is_refused(tmp_path: Path, lake_root: Path) -> None:
    file = write(tmp_path / "rows.jsonl", pair("p"))
    for again in (file, f"{tmp_path}/./rows.jsonl"):
        with pytest.raises(ConfigError, match=r"rows\.jsonl' is given twice \(first as '.*; give every file once"):
            await sources(ImportConfig(dataset="said", lake=str(lake_root), files=(file, again)))


async def test_every_file_of_a_directory_is_part_of_the_key(tmp_path: Path, lake_root: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        pl.DataFrame([pair(folder)]).write_parquet(tmp_path / "data" / folder / "part.parquet")
    config = ImportConfig(dataset="said", lake=str(lake_root), files=(str(tmp_path / "data"),))
    before, _ = await sources(config)
    assert (await sources(config))[0] == before
    pl.DataFrame([pair("another")]).write_parquet(tmp_path / "data" / "a" / "part.parquet")
    assert (await sources(config))[0] != before


async def test_scored_pairs_are_taken_as_recorded(tmp_path: Path, lake_root: Path) -> None:
    """Three rows of one prompt: two pairs with their own margins and a tie; the best of one row never meets the worst of another."""
    said = [("a", 9, "b", 7), ("c", 4, "d", 1), ("e", 5, "f", 5)]
    rows = [pair("p", chosen=one, score_chosen=s, rejected=other, score_rejected=t) for one, s, other, t in said]
    config = ImportConfig(dataset="said", lake=str(lake_root), files=(write(tmp_path / "rows.jsonl", *rows),))
    async with importation(config) as run:
        import_candidate(run)
        pairs = run.read("pairs")
        shown = [json.loads(text)[0]["content"] for side in ("chosen", "rejected") for text in pairs[side]]
        assert sorted(zip(shown[:2], shown[2:], pairs["margin"], strict=True)) == [("a", "b", 2.0), ("c", "d", 3.0)]
        assert set(pairs["pair_policy"]) == {"recorded"}
        funnel = run.figures.funnels[-1]
        assert (funnel.unit, funnel.n_in, funnel.n_kept, funnel.dropped) == ("candidate pairs", 3, 2, {"tie": 1})


async def test_what_was_guessed_and_what_was_missing_is_said(tmp_path: Path, lake_root: Path) -> None:
    """The layout decides the labels, so the result names it; a repeated prompt is no lost row, and is counted."""
    file = write(tmp_path / "rows.jsonl", pair("p"), pair("p", chosen="yes!"), pair("q"))
    async with importation(ImportConfig(dataset="said", lake=str(lake_root), files=(file,))) as run:
        import_candidate(run)
        source = run.outcome()["source"]
    assert list(source["layouts"]) == ["rows.jsonl"]
    assert source["notes"]["duplicate_prompt"] == 1
