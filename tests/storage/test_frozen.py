from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from storage import Lake, Release, open_lake, publish, resolve, scan, verify
from storage.errors import DigestMismatch, ManifestError, StorageError
from storage.frozen import file_digest

ROWS = 300_000


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with open_lake(tmp_path / "lake") as opened:
        yield opened


def published(lake: Lake, rows: int = 100) -> Release:
    pairs = pl.DataFrame(
        {"pair_id": [f"{i * 7919 % rows:06}" for i in range(rows)], "prompt_id": ["p1"] * rows, "chosen": ["é", None] * (rows // 2)}
    )
    lake.append("prompts", pl.DataFrame({"prompt_id": ["p1", "p2"]}), commit_id="facts")
    return publish(lake, "math", pairs, manifest={}, author="ada", commit_id="run")


def unlocked(path: Path) -> Path:
    path.chmod(0o644)
    return path


def test_the_bytes_are_the_same_whenever_they_are_made(lake: Lake) -> None:
    """More rows than a row group holds, and other numbers of threads: what could change the order of writing."""
    release = published(lake, ROWS)
    first = release.manifest["files"]
    content = (release.frozen / "manifest.json").read_bytes()
    for threads in (1, 4):
        shutil.rmtree(release.frozen)
        with lake.reading() as con:
            con.execute(f"SET threads = {threads}")
        assert resolve(lake, "math").manifest["files"] == first
        assert (release.frozen / "manifest.json").read_bytes() == content
    assert {name: file_digest(release.frozen / name) for name in first} == {name: said["sha256"] for name, said in first.items()}


def test_frozen_files_are_sorted_read_only_and_complete(lake: Lake) -> None:
    release = published(lake)
    rows = scan(release).collect()
    assert rows["pair_id"].is_sorted()
    assert release.manifest["files"]["pairs.parquet"]["rows"] == rows.height == 100
    assert {path.stat().st_mode & 0o777 for path in release.frozen.iterdir()} == {0o444}
    assert [path.name for path in release.frozen.parent.iterdir()] == ["v1"]


def test_a_torn_manifest_is_an_error_that_says_what_to_do(lake: Lake) -> None:
    release = published(lake)
    path = unlocked(release.frozen / "manifest.json")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ManifestError, match=r"manifest\.json: torn or not JSON .* move .*v1 away and it is made again from the catalog"):
        resolve(lake, "math")
    path.write_bytes(json.dumps({"format": "something else"}).encode())
    with pytest.raises(ManifestError, match="not a manifest of the format pairmill-version-1"):
        resolve(lake, "math")
    path.write_bytes(whole.replace(release.digest.encode(), b"0" * 64))
    with pytest.raises(DigestMismatch, match="digest is '0000"):
        resolve(lake, "math")
    release.frozen.rename(release.frozen.with_name("away"))
    assert resolve(lake, "math") == release


def test_verify_names_the_file_that_changed(lake: Lake) -> None:
    release = published(lake)
    assert verify(lake, "math") == {
        "name": "math",
        "version": 1,
        "digest": release.digest,
        "files": {"pairs.parquet": 100, "prompts.parquet": 1},
        "ok": True,
    }
    path = unlocked(release.frozen / "prompts.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    with pytest.raises(DigestMismatch, match=r"prompts\.parquet: its bytes are not those of the manifest"):
        verify(lake, "math")
    path.unlink()
    with pytest.raises(DigestMismatch, match=r"prompts\.parquet: the file is missing; the manifest lists it with 1 rows"):
        verify(lake, "math")


def test_verify_compares_rows_and_not_only_bytes(lake: Lake) -> None:
    """Someone who changes a file and its hash in the manifest is found by the content digest."""
    release = published(lake)
    path = unlocked(release.frozen / "pairs.parquet")
    pl.read_parquet(path).with_columns(chosen=pl.lit("forged")).write_parquet(path)
    manifest = json.loads((release.frozen / "manifest.json").read_bytes())
    manifest["files"]["pairs.parquet"].update(sha256=file_digest(path), bytes=path.stat().st_size)
    unlocked(release.frozen / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DigestMismatch, match=r"pairs\.parquet: its rows do not have the digest"):
        verify(lake, "math")


def test_verify_finds_damage_in_the_catalogs_files(lake: Lake) -> None:
    published(lake)
    (path,) = (lake.root / "data/datasets/math").glob("*.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:10] + b"\xff\xff\xff\xff" + content[14:])
    with pytest.raises(StorageError, match="math@1"):
        verify(lake, "math")


def test_a_lake_that_was_moved_is_the_same_lake(lake: Lake) -> None:
    release = published(lake)
    lake.close()
    moved = lake.root.rename(lake.root.with_name("moved"))
    with open_lake(moved) as again:
        assert verify(again, "math")["ok"]
        assert resolve(again, "math").digest == release.digest
        assert again.append("prompts", pl.DataFrame({"prompt_id": ["p3"]}), commit_id="2") == 1
    assert not lake.root.exists()


def test_a_frozen_copy_that_cannot_be_written_says_that_the_version_is_there(lake: Lake) -> None:
    (lake.root / "frozen/math").write_text("in the way")
    with pytest.raises(StorageError, match=r"math@1 is published, but its frozen copy cannot be written .* \(the next use tries again\)"):
        published(lake)
    os.unlink(lake.root / "frozen/math")
    assert resolve(lake, "math").manifest["files"]["pairs.parquet"]["rows"] == 100
