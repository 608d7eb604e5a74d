"""The data files of a hand-off, in each format: written from a view's rows, and read back as SQL.

| format | files | read by |
|---|---|---|
| `duckdb` | `data.duckdb`: tables `train`, `test`, `manifest` | any DuckDB from 1.0 on; messages are lists of structs, or JSON |
| `parquet` | `train.parquet`, `test.parquet` | `datasets.load_dataset("parquet", …)`, which finds the features in the file |
| `jsonl` | `train.jsonl`, `test.jsonl` | everything; give `datasets` the features of handoff.json, or it makes up its own |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import duckdb

from storage.columns import literal
from storage.extensions import connect
from storage.views.reading import TYPES, features_of
from storage.views.rows import Rows

Format = Literal["duckdb", "parquet", "jsonl"]
FORMATS: tuple[Format, ...] = ("duckdb", "parquet", "jsonl")
DUCKDB = "data.duckdb"
MAX_LINE_BYTES = 64 * 1024 * 1024


def attach(connection: duckdb.DuckDBPyConnection, root: Path, format: Format, *, read_only: bool) -> None:
    """Make the tables of a `.duckdb` file known to a connection; the other formats need nothing."""
    if format == "duckdb":
        connection.execute(f"ATTACH {literal(str(root / DUCKDB))} AS handoff{' (READ_ONLY)' if read_only else ''}")


def reader(root: Path, format: Format) -> duckdb.DuckDBPyConnection:
    """A connection in which `select_split` works."""
    connection = connect()
    attach(connection, root, format, read_only=True)
    return connection


def write_split(connection: duckdb.DuckDBPyConnection, root: Path, format: Format, split: str, rows: Rows) -> None:
    """One split in the order of its row ids.

    By one thread: two that sort a million rows of a kilobyte run out of the connection's memory.
    """
    connection.execute("SET threads = 1")
    select = rows.of_split(split)
    if format == "duckdb":
        connection.execute(f"CREATE TABLE handoff.{split} AS {select}")
        return
    if format == "jsonl":
        connection.execute(f"COPY ({select}) TO {literal(str(root / f'{split}.jsonl'))} (FORMAT json)")
        return
    write_parquet(connection, select, root / f"{split}.parquet", rows.columns)


def write_parquet(connection: duckdb.DuckDBPyConnection, select: str, to: Path, columns: Mapping[str, str]) -> None:
    """The rows of a query as a Parquet file that tells `datasets` their features."""
    # JSON columns keep Parquet's logical type JSON: with plain text `datasets` would not believe the features beside it.
    features = literal(json.dumps({"info": {"features": features_of(columns)}}))
    connection.execute(f"COPY ({select}) TO {literal(str(to))} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{huggingface: {features}}})")


def write_manifest(connection: duckdb.DuckDBPyConnection, format: Format, about: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """The table `manifest` of a `.duckdb` file, one row: `handoff` (handoff.json but for the files), `version` (the version's manifest)."""
    if format == "duckdb":
        values = [json.dumps(dict(about)), json.dumps(dict(manifest))]
        connection.execute("CREATE TABLE handoff.manifest AS SELECT $1::JSON AS handoff, $2::JSON AS version", values)
        connection.execute("DETACH handoff")


def select_split(root: Path, format: Format, split: str, columns: Mapping[str, str]) -> str:
    """SQL for the rows of a split, in order. JSON in a JSONL file stays the text that it is."""
    if format == "duckdb":
        return f"SELECT * FROM handoff.{split}"
    path = literal(str(root / f"{split}.{format}"))
    if format == "parquet":
        return f"SELECT * FROM read_parquet({path})"
    types = ", ".join(f"{name}: {literal(TYPES[kind])}" for name, kind in columns.items())
    return (
        f"""SELECT * FROM read_json({path}, format = 'newline_delimited', maximum_object_size = {MAX_LINE_BYTES}, columns = {{{types}}})"""
    )
