"""Files that people bring, as rows: JSON lines, JSON lists, Parquet, CSV, and local Hugging Face datasets.

Two kinds of trouble are kept apart. A file that cannot be read (missing, truncated, empty, of an unknown kind) is one
`StorageError`. A bad *row* is a row: `row` is null, `state` and `reason` say why, and reading goes on.

Everything streams, but for a `.json` list, which is one document and is read whole. Rows are numbered from 1: the line for
JSON lines, the record for everything else. Blank lines are not rows; they count as lines only. Deliberately not done: guessing
an encoding other than UTF-8, reading archives, fetching anything from a network.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson

from storage.errors import StorageError

ALLOWED = ".jsonl[.gz], .ndjson[.gz], .json[.gz], .csv[.gz], .parquet, or the directory of a Hugging Face dataset"
MAX_LINE_BYTES = 64 * 1024 * 1024
BATCH_ROWS = 1024

_MAGIC = {
    b"\x1f\x8b": "gzip: name it FILE.gz",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"PAR1": "Parquet: name it FILE.parquet",
    b"\xfd7zXZ\x00": "xz: unpack it",
    b"\x28\xb5\x2f\xfd": "zstd: unpack it",
    b"BZh": "bzip2: unpack it",
}


class FileRow(NamedTuple):
    """One row of a file. `state` is ok, not_utf8, not_json, wrong_type or too_long; when not ok, `row` is null and `reason` is set."""

    number: int
    row: dict[str, Any] | None
    state: str = "ok"
    reason: str | None = None


def read_rows(path: str | Path) -> Iterator[FileRow]:
    """The rows of one file or dataset directory, in order.

    What can be told from the name and the first bytes is refused here; a gzip that ends early, or a file without rows, is
    refused when the reading gets there: keep nothing of a file whose iterator raised.

    Raises:
        StorageError: the file is missing, unreadable, empty, truncated, or of a kind that is not read.
    """
    path = Path(path)
    if path.is_dir():
        return _at_least_one(path, _guarded(path, _directory_rows(path)))
    if not path.exists():
        raise StorageError(f"{path}: no such file; give a path that ends in {ALLOWED}")
    name = path.name.lower()
    compressed = name.endswith(".gz")
    reader = _READERS.get(Path(name.removesuffix(".gz")).suffix)
    if reader is None or (compressed and reader is _parquet_rows):
        raise StorageError(f"{path}: files of this kind are not read; allowed are {ALLOWED}")
    _refuse_disguise(path, expected=b"\x1f\x8b" if compressed else b"PAR1" if reader is _parquet_rows else b"")
    return _at_least_one(path, _guarded(path, reader(path)))


def _refuse_disguise(path: Path, *, expected: bytes) -> None:
    """Compare the first bytes with what the name promises, so that one line explains it and not one error a row."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    if not head:
        raise StorageError(f"{path}: the file is empty (0 bytes); give a file with at least one row")
    if expected and not head.startswith(expected):
        raise StorageError(f"{path}: the name promises {_MAGIC[expected].split(':')[0]} but the content is not; rename or rewrite the file")
    for magic, advice in _MAGIC.items():
        if not expected and head.startswith(magic):
            raise StorageError(f"{path}: the content is {advice}; allowed are {ALLOWED}")


def _at_least_one(path: Path, rows: Iterator[FileRow]) -> Iterator[FileRow]:
    row = None
    for row in rows:
        yield row
    if row is None:
        raise StorageError(f"{path}: no rows; give a file with at least one row")


def _guarded(path: Path, rows: Iterator[FileRow]) -> Iterator[FileRow]:
    """What libraries raise about a broken file, as one error that says what to do."""
    number = 0
    try:
        for row in rows:
            number = row.number
            yield row
    except EOFError as error:
        raise StorageError(f"{path}: the gzip file ends early, after row {number}: it is truncated; copy it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise StorageError(f"{path}: the gzip file is damaged after row {number} ({error}); copy it again") from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}; check the path and its permissions") from error


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


def _line_rows(path: Path) -> Iterator[FileRow]:
    """JSON lines. A line over `MAX_LINE_BYTES` is skipped without being held."""
    with _open(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield FileRow(number, None, "too_long", f"the line has over {MAX_LINE_BYTES:,} bytes")
            elif not line.isspace():
                yield _parsed(number, line)


def _parsed(number: int, line: bytes) -> FileRow:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _not_json(number, line, error)
    if not isinstance(value, dict):
        return FileRow(number, None, "wrong_type", f"the line is {_kind(value)}, must be an object")
    return FileRow(number, value)


def _not_json(number: int, line: bytes, error: orjson.JSONDecodeError) -> FileRow:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad:
        return FileRow(number, None, "not_utf8", f"byte {bad.start} of the line is 0x{line[bad.start]:02x}: {bad.reason}")
    return FileRow(number, None, "not_json", f"{error.msg} at character {error.pos}")


def _kind(value: object) -> str:
    names = {
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true or false",
        type(None): "null",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _json_rows(path: Path) -> Iterator[FileRow]:
    """One JSON list of objects, or JSON lines under the name .json, as many data sets are published."""
    with _open(path) as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if head.startswith(b"{"):
            yield from _line_rows(path)
            return
        content = head + file.read()
    try:
        values = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise StorageError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}; a .json file is one list"
        ) from error
    if not isinstance(values, list):
        raise StorageError(f"{path}: the document is {_kind(values)}, must be a list of objects (or name it .jsonl for one object a line)")
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield FileRow(number, value)
        else:
            yield FileRow(number, None, "wrong_type", f"the entry is {_kind(value)}, must be an object")


def _csv_rows(path: Path) -> Iterator[FileRow]:
    """CSV with a header line; every value is text, and an empty cell is null."""
    csv.field_size_limit(MAX_LINE_BYTES)  # the module's default, 128 KiB a cell, is less than one long answer
    with _open(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        number = 0
        try:
            header = next(reader, [])
            if len(set(header)) != len(header) or not all(header):
                raise StorageError(f"{path}: the header line is {header}; every column needs a name of its own")
            for number, cells in enumerate((cells for cells in reader if cells), 1):
                yield _csv_row(number, header, cells)
        except csv.Error as error:
            raise StorageError(f"{path}: not CSV after row {number} (line {reader.line_num}): {error}; is a quote left open?") from error


def _csv_row(number: int, header: list[str], cells: list[str]) -> FileRow:
    if len(cells) != len(header):
        return FileRow(number, None, "wrong_type", f"{len(cells)} cells, the header has {len(header)}")
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        return FileRow(number, None, "not_utf8", "a cell holds bytes that are not UTF-8")
    return FileRow(number, {name: cell or None for name, cell in zip(header, cells, strict=True)})


def _parquet_rows(path: Path) -> Iterator[FileRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            batches = (row for batch in file.iter_batches(batch_size=BATCH_ROWS) for row in batch.to_pylist())
            yield from (_plain_row(number, row) for number, row in enumerate(batches, 1))
    except pa.ArrowException as error:
        raise StorageError(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]}); write or copy it again") from error


def _plain_row(number: int, row: dict[str, Any]) -> FileRow:
    """Times, decimals and bytes as the JSON that a JSON-lines file would have held; NaN is null."""
    try:
        plain = orjson.loads(orjson.dumps(row, default=_as_text, option=orjson.OPT_NON_STR_KEYS))
    except UnicodeDecodeError as bad:
        return FileRow(number, None, "not_utf8", f"a binary column is not text: {bad.reason}")
    except (orjson.JSONEncodeError, orjson.JSONDecodeError) as error:
        if isinstance(error.__cause__, UnicodeDecodeError):
            return FileRow(number, None, "not_utf8", f"a binary column is not text: {error.__cause__.reason}")
        return FileRow(number, None, "wrong_type", f"a value has no form in JSON: {error}")
    return FileRow(number, plain)


def _as_text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _directory_rows(path: Path) -> Iterator[FileRow]:
    """What `datasets.save_to_disk` wrote, or every Parquet file below the directory, in order of name."""
    if (path / "dataset_dict.json").is_file():
        splits = orjson.loads((path / "dataset_dict.json").read_bytes()).get("splits", [])
        raise StorageError(
            f"{path}: a dataset with the splits {splits}; give the directory of one, such as {path / (splits or ['train'])[0]}"
        )
    if (path / "state.json").is_file():
        yield from _saved_rows(path)
        return
    files = sorted(path.rglob("*.parquet"))
    if not files:
        raise StorageError(f"{path}: a directory without state.json (datasets.save_to_disk) or .parquet files; allowed are {ALLOWED}")
    rows = (row for file in files for row in _parquet_rows(file))
    for number, row in enumerate(rows, 1):
        yield row._replace(number=number)


def _saved_rows(path: Path) -> Iterator[FileRow]:
    import datasets

    try:
        rows = datasets.load_from_disk(str(path)).with_format(None)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: not a whole saved dataset ({error}); save it again with datasets.save_to_disk") from error
    for number, row in enumerate(rows, 1):
        yield _plain_row(number, dict(row))


_READERS: dict[str, Callable[[Path], Iterator[FileRow]]] = {
    ".jsonl": _line_rows,
    ".ndjson": _line_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
