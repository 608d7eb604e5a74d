"""Every kind of file gives the same rows; every broken one gives one line that says what to do."""

from __future__ import annotations

import csv
import gzip
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import files
from storage.errors import StorageError
from storage.files import FileRow, read_rows

ROWS = [{"prompt": "2 + 2?", "n": 4}, {"prompt": "naïve — 你好", "n": None}, {"prompt": 'a "quote",\nand a line', "n": -1}]


def lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.JSONL", "x.jsonl.gz", "x.json", "x.json.gz", "lines.json", "x.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        content = json.dumps(ROWS).encode() if name.startswith("x.json") and "jsonl" not in name else lines(ROWS)
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert list(read_rows(path)) == [FileRow(i, row) for i, row in enumerate(ROWS, 1)]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_csv_is_text_and_an_empty_cell_is_null(tmp_path: Path, name: str) -> None:
    opener = gzip.open if name.endswith("gz") else open
    with opener(tmp_path / name, "wt", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "n"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert [row.row for row in read_rows(tmp_path / name)] == [row | {"n": None if row["n"] is None else str(row["n"])} for row in ROWS]


def test_a_saved_dataset_and_a_folder_of_parquet(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "folder" / "data").mkdir(parents=True)
    for part in (0, 1):
        pq.write_table(pa.Table.from_pylist(ROWS[part * 2 : part * 2 + 2]), tmp_path / "folder" / "data" / f"train-{part}-of-2.parquet")
    expected = [FileRow(i, row) for i, row in enumerate(ROWS, 1)]
    assert list(read_rows(tmp_path / "saved")) == expected
    assert list(read_rows(tmp_path / "folder")) == expected
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(StorageError, match=r"splits \['train', 'test'\]; give the directory of one, such as .*splits/train"):
        list(read_rows(tmp_path / "splits"))
    assert list(read_rows(tmp_path / "splits" / "test")) == expected


def test_bad_lines_are_rows_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\n\n \r\n{"a":"\xff"}\n{"a":\n[1]\n3\n{"a":NaN}\n{"a":"\\ud800"}\n{"a":2}')
    rows = list(read_rows(path))
    assert [(row.number, row.state) for row in rows] == [
        (1, "ok"), (4, "not_utf8"), (5, "not_json"), (6, "wrong_type"), (7, "wrong_type"), (8, "not_json"), (9, "not_json"), (10, "ok"),
    ]  # fmt: skip
    assert rows[1].reason == "byte 6 of the line is 0xff: invalid start byte"
    assert rows[3].reason == "the line is a list, must be an object"
    assert all((row.row is None) == bool(row.reason) for row in rows)


def test_bad_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n1,2\n1\n\n1,2,3\n\xff,2\n")
    assert [(row.number, row.state) for row in read_rows(path)] == [(1, "ok"), (2, "wrong_type"), (3, "wrong_type"), (4, "not_utf8")]


def test_parquet_values_without_a_form_in_json(tmp_path: Path) -> None:
    rows = [{"t": b"text", "x": 1.5}, {"t": b"\xff", "x": float("nan")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert [(row.state, row.row) for row in read_rows(tmp_path / "x.parquet")] == [("ok", {"t": "text", "x": 1.5}), ("not_utf8", None)]


def test_a_long_line_is_one_row_and_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":"' + b"x" * 5000 + b'"}\n{"a":1}\n')
    assert [(row.number, row.state) for row in read_rows(path)] == [(1, "too_long"), (2, "ok")]


def test_two_megabytes_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines([{"prompt": "y" * 2_000_000}, *ROWS]))
    assert [len(row.row["prompt"]) for row in read_rows(path) if row.row][:2] == [2_000_000, 6]


@pytest.mark.parametrize("name", ["big.jsonl.gz", "big.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    """6 MB of rows are read while Python holds under 2.5 MB: a reader that kept them would need more than the file."""
    rows = [{"text": f"{i:06d}" * 200} for i in range(5_000)]
    if name.endswith("gz"):
        (tmp_path / name).write_bytes(gzip.compress(lines(rows), 1))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name, row_group_size=256)
    del rows
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(tmp_path / name)) == 5_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_500_000


def broken(tmp_path: Path, name: str, content: bytes) -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


GZ = gzip.compress(lines([{"a": os.urandom(40).hex()} for _ in range(5000)]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", r"empty\.jsonl: the file is empty \(0 bytes\)"),
        ("empty.jsonl.gz", gzip.compress(b"", mtime=0), "no rows; give a file with at least one row"),
        ("blank.jsonl", b"\n \n", "no rows"),
        ("empty.json", b"[]", "no rows"),
        ("header.csv", b"a,b\n", "no rows"),
        ("x.txt", b"{}\n", r"files of this kind are not read; allowed are \.jsonl\[\.gz\]"),
        ("x.zip", b"PK\x03\x04....", "files of this kind are not read"),
        ("x.parquet.gz", GZ, "files of this kind are not read"),
        ("noext", b"{}\n", "files of this kind are not read"),
        ("zip.jsonl", b"PK\x03\x04....", "a zip archive: unpack it"),
        ("gz.jsonl", GZ, r"gzip: name it FILE\.gz"),
        ("plain.jsonl.gz", b'{"a":1}\n', "the name promises gzip but the content is not"),
        ("plain.parquet", b'{"a":1}\n', "the name promises Parquet but the content is not"),
        ("cut.jsonl.gz", GZ[: len(GZ) // 2], r"ends early, after row \d+: it is truncated; copy it again"),
        ("tail.jsonl.gz", GZ[:-4], "ends early"),
        ("damaged.jsonl.gz", GZ[:3000] + b"\0" * 3000 + GZ[6000:], "damaged after row"),
        ("cut.parquet", b"PAR1" + b"x" * 100, r"not a whole Parquet file \("),
        ("x.json", b'[{"a":1}, {"a"', "not JSON: .* at line 1, column 15; a .json file is one list"),
        ("scalar.json", b"3", r"the document is a number, must be a list of objects"),
        ("open.csv", b'a,b\n1,2\n"1,2\n', r"not CSV after row 1 \(line 3\): .*is a quote left open\?"),
        ("twice.csv", b"a,a\n1,2\n", "every column needs a name of its own"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        list(read_rows(broken(tmp_path, name, content)))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.jsonl: no such file"):
        read_rows(tmp_path / "gone.jsonl")
    with pytest.raises(StorageError, match=r"a directory without state\.json"):
        list(read_rows(tmp_path))
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(StorageError, match="not a whole saved dataset"):
        list(read_rows(tmp_path))
    archive = tmp_path / "x.jsonl.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.jsonl", "{}")
    with pytest.raises(StorageError, match="not read"):
        read_rows(archive)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_permission(tmp_path: Path) -> None:
    path = broken(tmp_path, "x.jsonl", b"{}\n")
    path.chmod(0)
    with pytest.raises(StorageError, match="Permission denied; check the path and its permissions"):
        read_rows(path)
