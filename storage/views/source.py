"""The frozen copy of a version as tables: what every view is made from. No catalog is opened.

A frozen copy is a directory with `manifest.json`, `pairs.parquet` and the facts of its prompts as Parquet. Connections are in memory, hold
about a gigabyte and spill beside what they write. Rows are worked on 2048 at a time, so that rows of hundreds of kilobytes need more than
that: the threads then become fewer, and DuckDB's own limit holds. Memory never grows with the number of rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from storage.columns import literal
from storage.errors import DigestMismatch, ManifestError, StorageError, ViewError
from storage.extensions import connect

MEMORY = 1_000_000_000
VECTOR_ROWS = 2048
MAY_LACK = frozenset({"contrasts"})  # an empty table stands for one that a version does not have
COPIES = 8  # of a vector that one thread may hold: as read, parsed, as lists, sorted; four were not enough for rows of 450 KB

# Pairs of somebody's own making need not say what they are pairs of, who wrote them or what they scored; most have one prompt and no tree.
_IMPLIED = {
    "kind": "'response'",
    "chosen_score": "NULL::DOUBLE",
    "rejected_score": "NULL::DOUBLE",
} | dict.fromkeys(("rejected_prompt", "chosen_policy", "rejected_policy"), "NULL::VARCHAR")
# Answers are built as `curators.pairs.assistant_turn` builds them, so that equal answers are equal text.
_MACROS = """
    CREATE MACRO open_turn(messages) AS json_extract_string(messages, '$[#-1].role') = 'assistant';
    CREATE MACRO request_hash(messages, tools, kwargs) AS md5(md5(messages) || md5(coalesce(tools, '')) || md5(coalesce(kwargs, '')));
    CREATE MACRO assistant_turn(text, reasoning, tool_calls) AS '[{"role":"assistant","content":' || to_json(coalesce(text, ''))
        || CASE WHEN coalesce(reasoning, '') = '' THEN '' ELSE ',"reasoning_content":' || to_json(reasoning) END
        || CASE WHEN coalesce(tool_calls, '') = '' THEN '' ELSE ',"tool_calls":' || tool_calls END || '}]';
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """Which version a directory holds: its manifest, and the SHA-256 of that file."""

    root: Path
    name: str
    version: int
    digest: str
    manifest: Mapping[str, Any]
    manifest_sha256: str

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


def read_frozen(root: Path) -> Frozen:
    """The identity of a frozen copy.

    Raises:
        ManifestError: there is no manifest, or it does not say name, version and digest.
    """
    path = Path(root) / "manifest.json"
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        name, version, digest = manifest["name"], manifest["version"], manifest["digest"]
    except OSError as error:
        raise ManifestError(
            f"{path}: cannot be read ({error.strerror or error}); give the frozen directory of a published version"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{path}: not the manifest of a version ({error!r}); it must be an object with name, version and digest"
        ) from error
    return Frozen(
        root=Path(root), name=name, version=version, digest=digest, manifest=manifest, manifest_sha256=hashlib.sha256(content).hexdigest()
    )


@contextmanager
def tables(frozen: Frozen, needs: Mapping[str, tuple[str, ...]], *, view: str, spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the Parquet files that a view needs as tables of the same names.

    Raises:
        ViewError: a file or column is not there, or a pair is in another split than train or test.
        DigestMismatch: a file is not the one that was published.
        StorageError: DuckDB could not read, compute or write: the message says what.
    """
    try:
        with connect() as connection:
            connection.execute(f"SET temp_directory = {literal(str(spill))}")
            connection.execute(_MACROS)
            for table, columns in needs.items():
                _attach(connection, frozen, table, columns, view)
            _size(connection, [path for table in needs if (path := frozen.root / f"{table}.parquet").is_file()])
            _check_splits(connection, frozen, view)
            yield connection
    except duckdb.Error as error:
        raise StorageError(f"{frozen.ref}, view {view}: {str(error).splitlines()[0]} (frozen copy {frozen.root})") from error


def _attach(connection: duckdb.DuckDBPyConnection, frozen: Frozen, table: str, columns: tuple[str, ...], view: str) -> None:
    path = frozen.root / f"{table}.parquet"
    if table in MAY_LACK and not path.is_file():
        nothing = ", ".join(f"NULL::VARCHAR AS {column}" for column in columns)
        connection.execute(f"CREATE VIEW {table} AS SELECT {nothing} WHERE FALSE")
        return
    if not path.is_file():
        raise ViewError(f"view {view} needs {table}, and {frozen.ref} has no {path.name}; there are {_files(frozen.root)}")
    said = frozen.manifest.get("files", {}).get(path.name, {}).get("sha256")
    with path.open("rb") as file:
        if said is not None and said != (found := hashlib.file_digest(file, "sha256").hexdigest()):
            raise DigestMismatch(f"{path} has SHA-256 {found}, the manifest of {frozen.ref} says {said}; restore the frozen copy")
    rows = f"read_parquet({literal(str(path))})"
    there = [row[0] for row in connection.execute(f"DESCRIBE FROM {rows}").fetchall()]
    implied = _IMPLIED if table == "pairs" else {}
    more = "".join(f", {value} AS {name}" for name, value in implied.items() if name not in there)
    connection.execute(f"CREATE VIEW {table} AS SELECT *{more} FROM {rows}")
    if missing := [column for column in columns if column not in there]:
        raise ViewError(
            f"view {view} needs {table}.{missing[0]}, and {frozen.ref} does not have it ({len(missing)} of its columns are missing); "
            f"there are {', '.join(there)}. Publish a version that has it: views compute nothing that is not stored"
        )


def _size(connection: duckdb.DuckDBPyConnection, files: list[Path]) -> None:
    """Give the connection the memory and the threads that its rows need; for very wide ones, DuckDB's own limit: 80 % of the machine's."""
    width = 0
    for file in files:
        found = pq.read_metadata(file)
        stored = sum(found.row_group(group).total_byte_size for group in range(found.num_row_groups))
        width = max(width, stored // max(found.num_rows, 1))
    a_thread = max(VECTOR_ROWS * width * COPIES, 1)
    connection.execute(f"SET threads = {max(1, min(os.cpu_count() or 1, MEMORY // a_thread))}")
    if a_thread <= MEMORY:
        connection.execute(f"SET memory_limit = '{MEMORY}B'")


def _files(root: Path) -> str:
    return ", ".join(sorted(path.name for path in root.glob("*.parquet"))) or "no Parquet files"


def _check_splits(connection: duckdb.DuckDBPyConnection, frozen: Frozen, view: str) -> None:
    wrong = connection.execute(
        "SELECT split, count(*), min(pair_id) FROM pairs WHERE split IS NULL OR split NOT IN ('train', 'test') GROUP BY 1"
    )
    if found := wrong.fetchone():
        raise ViewError(
            f"view {view}: {found[1]} pairs of {frozen.ref} have the split {found[0]!r} (first: {found[2]}), must be train or test"
        )
