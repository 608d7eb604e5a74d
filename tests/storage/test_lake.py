from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from storage import Lake, open_lake
from storage.errors import ManifestError, StorageError
from storage.lake import CATALOG, locked

PROMPTS = pl.DataFrame({"prompt_id": ["p1", "p2"], "messages": ["[1]", "[2]"], "tools": [None, None]})


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with open_lake(tmp_path / "lake") as opened:
        yield opened


def commits(lake: Lake) -> list[str]:
    with lake.reading() as con:
        found = con.sql(f"SELECT commit_extra_info FROM {CATALOG}.ducklake_snapshot_changes ORDER BY snapshot_id").fetchall()
    return [row[0] for row in found if row[0]]


def child(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_a_new_lake_has_its_layout_and_a_secret_that_stays(lake: Lake) -> None:
    secret = lake.secret
    assert len(secret) == 32
    assert (lake.root / "secret").stat().st_mode & 0o777 == 0o600
    assert {"catalog.sqlite", "data", "frozen", "secret", "writer.lock"} <= {path.name for path in lake.root.iterdir()}
    with open_lake(lake.root) as again:
        assert again.secret == secret
    (lake.root / "secret").write_text("short")
    with pytest.raises(ManifestError, match="64 hexadecimal digits"):
        _ = lake.secret


def test_a_lake_whose_making_was_killed_is_made_complete(lake: Lake) -> None:
    lake.append("prompts", PROMPTS, commit_id="1")
    lake.close()
    (lake.root / "secret").unlink()
    with open_lake(lake.root) as again:
        assert len(again.secret) == 32
        assert again.facts("prompts").height == 2


def test_what_is_not_a_lake_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ManifestError, match=r"is not a lake: it holds thesis\.tex"):
        open_lake(tmp_path)
    with pytest.raises(ManifestError, match="is a file, not a lake"):
        open_lake(tmp_path / "thesis.tex")
    with pytest.raises(ManifestError, match="there is no lake at"):
        open_lake(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(StorageError, match="lakes are directories on a local disk so far"):
        open_lake("postgresql://host/catalog")


def test_a_broken_catalog_is_named(lake: Lake) -> None:
    lake.close()
    for leftover in lake.root.glob("catalog.sqlite*"):
        leftover.unlink()
    (lake.root / "catalog.sqlite").write_text("not a database, and long enough to have a header of sixteen bytes")
    with pytest.raises(ManifestError, match=r"catalog\.sqlite is not a lake's catalog"):
        lake.facts("prompts")


@pytest.mark.skipif(os.name != "posix", reason="needs /proc")
def test_a_place_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(StorageError, match="cannot make a lake at /proc/pairmill") as caught:
        open_lake("/proc/pairmill")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_a_lake_of_another_user_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "lake"
    open_lake(place).close()
    code = """
import os, sys, traceback
import polars as pl
import storage.publishing
from storage.lake import Lake
from pathlib import Path
from storage.errors import StorageError
lake = Lake(Path(sys.argv[1]))
from storage.extensions import connect, extension_path, load_extension
with connect() as con:
    load_extension(con, extension_path("ducklake")); load_extension(con, extension_path("sqlite_scanner"))
os.setuid(65534)
try:
    lake.append("prompts", pl.DataFrame({"prompt_id": ["a"]}), commit_id="1")
except StorageError as error:
    print(error)
"""
    for folder in [place, *place.parents[:3]]:
        folder.chmod(0o755)
    code_, out, err = finished(child(code, place))
    assert (code_, out.count("\n")) == (0, 1), err
    assert "nothing was written to the lake" in out
    assert "Permission denied" in out


def test_append_takes_each_id_once(lake: Lake) -> None:
    twice = pl.concat([PROMPTS, PROMPTS])
    assert lake.append("prompts", twice, commit_id="run/prompts") == 2
    assert lake.append("prompts", PROMPTS, commit_id="run/prompts") == 0
    assert lake.append("prompts", pl.concat([PROMPTS, PROMPTS.with_columns(prompt_id=pl.lit("p3"))[:1]]), commit_id="next") == 1
    assert lake.facts("prompts")["prompt_id"].to_list() == ["p1", "p2", "p3"]
    assert lake.facts("prompts", pl.Series(["p2", "p9"]))["messages"].to_list() == ["[2]"]
    assert lake.facts("prompts", pl.Series(["p3", "p1"]), columns=["prompt_id"]).rows() == [("p1",), ("p3",)]
    assert lake.facts("prompts", pl.Series([], dtype=pl.String)).columns == lake.facts("prompts").columns
    assert lake.facts("prompts", pl.Series([], dtype=pl.String)).height == 0
    assert commits(lake) == ["run/prompts", "next"]


def test_frames_tables_and_readers_are_stored_alike(lake: Lake) -> None:
    rows = pl.DataFrame(
        {
            "generation_id": ["g1", "g2"],
            "prompt_id": ["p1", "p1"],
            "token_ids": [[1, 2], None],
            "logprobs": pl.Series([[-0.5, None], []], dtype=pl.List(pl.Float32)),
            "seed": pl.Series([1, None], dtype=pl.Int64),
            "text": ["naïve \0 'quoted'\n", ""],
        }
    )
    frames = [rows, rows.to_arrow(), rows.to_arrow().to_reader(max_chunksize=1)]
    for number, frame in enumerate(frames):
        lake.append("generations", rename_ids(frame, number), commit_id=str(number))
    found = lake.facts("generations")
    for number in range(len(frames)):
        same = found.filter(pl.col("generation_id").str.ends_with(f"-{number}")).drop("generation_id")
        assert same.equals(rows.drop("generation_id"))
        assert same.schema == rows.drop("generation_id").schema


def rename_ids(frame: object, number: int) -> object:
    """The same kind of frame with the number behind every id."""
    import pyarrow as pa

    table = frame.read_all() if isinstance(frame, pa.RecordBatchReader) else frame
    renamed = pl.DataFrame(table).with_columns(pl.col("generation_id") + f"-{number}")
    if isinstance(frame, pl.DataFrame):
        return renamed
    return renamed.to_arrow() if isinstance(frame, pa.Table) else renamed.to_arrow().to_reader(max_chunksize=1)


def test_a_later_frame_may_bring_and_lack_columns(lake: Lake) -> None:
    lake.append("prompts", PROMPTS, commit_id="1")
    lake.append("prompts", pl.DataFrame({"reference": [4], "prompt_id": ["p3"]}), commit_id="2")
    found = lake.facts("prompts")
    assert found.columns == ["prompt_id", "messages", "reference"]
    assert found.rows() == [("p1", "[1]", None), ("p2", "[2]", None), ("p3", None, 4)]
    lake.append("prompts", pl.DataFrame({"prompt_id": ["p4"], "reference": pl.Series([1], dtype=pl.Int8)}), commit_id="3")
    with pytest.raises(StorageError, match="prompts: column reference is VARCHAR, the stored column is BIGINT; cast it"):
        lake.append("prompts", pl.DataFrame({"prompt_id": ["p5"], "reference": ["four"], "new": [1]}), commit_id="4")
    assert "new" not in lake.facts("prompts").columns


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("votes", {"vote_id": ["n"]}, "there is no fact table votes; allowed are prompts, generations, judgments, rationales, nodes"),
        ("prompts", {"prompt_id": [1]}, "the id column prompt_id must be text, it is BIGINT"),
        ("prompts", {"prompt_id": ["a", None]}, "1 of 2 rows have no prompt_id"),
        ("prompts", {"text": ["a"]}, "the id column prompt_id must be text, it is missing"),
        ("judgments", {"judgment_id": ["a"]}, "judgments: the column prompt_id is missing"),
    ],
)
def test_frames_that_cannot_be_facts_are_refused(lake: Lake, table: str, columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(StorageError, match=message):
        lake.append(table, pl.DataFrame(columns), commit_id="1")
    assert commits(lake) == []


WRITER = """
import sys
import polars as pl
from storage import open_lake
with open_lake(sys.argv[1]) as lake:
    for turn in range(5):
        ids = [f"{sys.argv[2]}-{turn}-{row}" for row in range(20)] + [f"shared-{turn}"]
        lake.append("prompts", pl.DataFrame({"prompt_id": ids, sys.argv[2]: ["x"] * 21}), commit_id=f"{sys.argv[2]}-{turn}")
"""


def test_writers_in_several_processes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """They start on a lake that does not exist yet, each brings a column of its own, and all bring the same five ids."""
    place = tmp_path / "lake"
    writers = [child(WRITER, place, f"w{number}") for number in range(3)]
    assert [(code, err) for code, _, err in map(finished, writers)] == [(0, "")] * 3
    with open_lake(place) as lake:
        found = lake.facts("prompts")
        assert found.height == found["prompt_id"].n_unique() == 3 * 5 * 20 + 5
        assert {"w0", "w1", "w2"} < set(found.columns)
        assert len(commits(lake)) == 15


def test_threads_of_one_process_take_turns(lake: Lake) -> None:
    def write(number: int) -> None:
        lake.append("prompts", pl.DataFrame({"prompt_id": [f"t{number}", "shared"]}), commit_id=str(number))

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lake.facts("prompts")["prompt_id"].to_list() == ["shared", "t0", "t1", "t2", "t3"]


def test_the_lock_of_a_killed_writer_is_free(lake: Lake) -> None:
    code = """
import sys
from pathlib import Path
from storage.lake import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code, str(lake.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    holder.stdin.close()
    holder.stdout.close()
    with locked(lake.root):
        pass


def test_a_full_disk_is_one_line_and_writes_nothing(lake: Lake) -> None:
    """A limit on the size of files stands for the disk: the operating system refuses the write in the same place."""
    lake.append("prompts", PROMPTS, commit_id="1")
    lake.close()
    code = """
import random, resource, sys
import polars as pl
from storage import open_lake
from storage.errors import StorageError
with open_lake(sys.argv[1]) as lake:
    lake.facts("prompts")
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    texts = [random.randbytes(500).hex() for _ in range(2000)]
    frame = pl.DataFrame({"prompt_id": [text[:20] for text in texts], "messages": texts})
    try:
        lake.append("prompts", frame, commit_id="2")
    except StorageError as error:
        print(error)
    print(lake.append("prompts", frame[:10], commit_id="3"))
"""
    status, out, err = finished(child(code, lake.root))
    message, _, rest = out.partition("\n")
    assert status == 0, err
    assert "append to prompts: nothing was written to the lake" in message
    assert message.endswith("free some space and run it again")
    assert rest == "10\n"
    assert lake.facts("prompts").height == 12


def test_a_full_disk_under_a_large_publish_is_one_line_and_leaves_no_file(lake: Lake) -> None:
    lake.close()
    code = """
import random, resource, sys
import polars as pl
from storage import open_lake, publishing
from storage.errors import StorageError
publishing.SMALL_BYTES = 0  # every frame is a large one
with open_lake(sys.argv[1]) as lake:
    lake.facts("prompts")
    texts = [random.randbytes(500).hex() for _ in range(2000)]
    frame = pl.DataFrame({"pair_id": [text[:20] for text in texts], "prompt_id": "p", "chosen": texts})
    about = {"manifest": {}, "author": "a"}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        publishing.publish(lake, "d", frame, commit_id="1", **about)
    except StorageError as error:
        print(error)
    print(len(list((lake.root / "data").rglob("*.parquet"))))
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    print(publishing.publish(lake, "d", frame, commit_id="2", **about).ref)
"""
    before = len(list((lake.root / "data").rglob("*.parquet")))
    status, out, err = finished(child(code, lake.root))
    message, *rest = out.splitlines()
    assert status == 0, err
    assert "publish d: nothing was written to the lake" in message
    assert message.endswith("free some space and run it again")
    assert rest == [str(before), "d@1"]
