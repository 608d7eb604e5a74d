from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from storage import Lake, gc, open_lake, publish, read_at, resolve, tag, verify
from storage.errors import StorageError

OLD = time.time() - 3 * 86_400


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    """Three versions between appends, an orphan, an unfinished frozen copy, and a lake that believes all of it to be three days old."""
    with open_lake(tmp_path / "lake") as opened:
        for number in range(3):
            opened.append("prompts", pl.DataFrame({"prompt_id": [f"p{number}"]}), commit_id=f"append {number}")
            pairs = pl.DataFrame({"pair_id": ["a", f"b{number}"], "prompt_id": ["p0", "p1"], "margin": [number, 0]})
            publish(opened, "math", pairs, manifest={}, author="ada", commit_id=f"publish {number}")
        tag(opened, "math@1", "prod")
        tag(opened, "math@2", "prod")
        opened.close()
        orphan = opened.root / "data/main/prompts/ducklake-orphan.parquet"
        pl.DataFrame({"prompt_id": ["lost"]}).write_parquet(orphan)
        draft = opened.root / "frozen/math/.v3.dead"
        draft.mkdir()
        (draft / "pairs.parquet").write_bytes(b"half")
        for path in (orphan, draft):
            os.utime(path, (OLD, OLD))
        yield opened


def age(lake: Lake) -> None:
    catalog = sqlite3.connect(lake.root / "catalog.sqlite")
    with catalog:
        catalog.execute("UPDATE ducklake_snapshot SET snapshot_time = '2020-01-01 00:00:00+00'")
    catalog.close()


def test_versions_survive_and_the_rest_goes(lake: Lake) -> None:
    age(lake)
    kept = {resolve(lake, f"math@{version}").snapshot for version in (1, 2, 3)}
    planned = gc(lake)
    assert planned["dry_run"]
    assert not kept & set(planned["snapshots"])
    assert len(planned["snapshots"]) >= 4
    assert [Path(path).name for path in planned["orphans"]] == ["ducklake-orphan.parquet"]
    assert planned["drafts"] == ["frozen/math/.v3.dead"]
    assert gc(lake) == planned
    done = gc(lake, dry_run=False)
    assert (done["snapshots"], done["orphans"], done["drafts"]) == (planned["snapshots"], planned["orphans"], planned["drafts"])
    assert not (lake.root / "frozen/math/.v3.dead").exists()
    assert not (lake.root / "data/main/prompts/ducklake-orphan.parquet").exists()
    left = gc(lake)
    assert (left["snapshots"], left["orphans"], left["drafts"]) == ([], [], [])
    for version in (1, 2, 3):
        assert verify(lake, f"math@{version}")["ok"]
        assert read_at(lake, resolve(lake, f"math@{version}"))["pair_id"].to_list() == ["a", f"b{version - 1}"]
    assert resolve(lake, "math@prod").version == 2
    assert lake.facts("prompts").height == 3
    assert lake.append("prompts", pl.DataFrame({"prompt_id": ["p9"]}), commit_id="after") == 1


def test_young_things_are_left_alone(lake: Lake) -> None:
    orphan = lake.root / "data/main/prompts/ducklake-orphan.parquet"
    os.utime(orphan)
    os.utime(lake.root / "frozen/math/.v3.dead")
    found = gc(lake, dry_run=False)
    assert (found["snapshots"], found["files"], found["orphans"], found["drafts"]) == ([], [], [], [])
    assert orphan.exists()
    with pytest.raises(StorageError, match=r"min_age_days is 0\.5, must be at least 1"):
        gc(lake, min_age_days=0.5)
