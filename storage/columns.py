"""Frames as DuckDB sees them: bring one in, and line its columns up with those of a stored table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import duckdb
import polars as pl
import pyarrow as pa

from storage.errors import StorageError

Frame: TypeAlias = pl.DataFrame | pa.Table | pa.RecordBatchReader
"""What can be written. A reader is streamed through DuckDB, which spills to disk: no frame holds the table."""

Columns = Mapping[str, str]
"""Column name to DuckDB type, in order."""

SMALL_BYTES = 64_000_000

WIDENS: Mapping[str, frozenset[str]] = {
    "SMALLINT": frozenset({"TINYINT"}),
    "INTEGER": frozenset({"TINYINT", "SMALLINT"}),
    "BIGINT": frozenset({"TINYINT", "SMALLINT", "INTEGER"}),
    "DOUBLE": frozenset({"FLOAT"}),
}
"""What a column of the key's type takes beside its own type: what loses nothing and leaves the content digest as it is."""


def identifier(name: str) -> str:
    """The name as quoted SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | int) -> str:
    """The value as quoted SQL, for the table functions of DuckLake, whose named arguments take no parameters."""
    return str(text) if isinstance(text, int) else "'" + text.replace("'", "''") + "'"


def bring_in(con: duckdb.DuckDBPyConnection, frame: Frame, view: str = "incoming") -> Columns:
    """Bring the frame in under that name; returns its columns.

    Small frames and readers, which can be read once only, become a temporary table; a large frame is scanned where it lies. Columns of
    type null say nothing and are left out: DuckDB would take them for integers.
    """
    if isinstance(frame, pa.RecordBatchReader):
        kept = [name for name, kind in zip(frame.schema.names, frame.schema.types, strict=True) if not pa.types.is_null(kind)]
    elif isinstance(frame, pl.DataFrame | pa.Table):
        frame = (pl.DataFrame(frame) if isinstance(frame, pa.Table) else frame).select(pl.exclude(pl.Null))
        if frame.estimated_size() > SMALL_BYTES:
            con.register(view, frame)
            return columns_of(con, view)
        kept = frame.columns
    else:
        raise StorageError(f"cannot store a {type(frame).__name__}; give a polars DataFrame, a pyarrow Table or a RecordBatchReader")
    # As a bare stream: to scan a frame itself DuckDB imports pyarrow.dataset, and that pandas, half a second and 45 MB.
    con.register(f"{view}_stream", frame.__arrow_c_stream__())
    con.execute(f"CREATE TEMP TABLE {view} AS SELECT {', '.join(map(identifier, kept)) or 'NULL'} FROM {view}_stream")
    con.unregister(f"{view}_stream")
    return columns_of(con, view)


def columns_of(con: duckdb.DuckDBPyConnection, source: str) -> Columns:
    """Columns of a table, a view or a table with an `AT` clause."""
    return {str(name): str(kind) for name, kind, *_ in con.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()}


def check_rows(con: duckdb.DuckDBPyConnection, what: str, columns: Columns, key: str, *, view: str = "incoming") -> tuple[int, int]:
    """How many rows there are, and how many different ids; a missing, null or non-text id column is refused."""
    if columns.get(key) != "VARCHAR":
        raise StorageError(f"{what}: the id column {key} must be text, it is {columns.get(key, 'missing')}; there are {list(columns)}")
    found = con.sql(f"SELECT count(*), count({key}), count(DISTINCT {key}) FROM {view}").fetchone()
    rows, named, different = found or (0, 0, 0)
    if rows != named:
        raise StorageError(f"{what}: {rows - named} of {rows} rows have no {key}; every row needs one")
    return int(rows), int(different)


def line_up(what: str, stored: Columns, incoming: Columns) -> Columns:
    """The columns that the stored table lacks. A column that it has with a type which cannot take the incoming one is refused."""
    for name, kind in incoming.items():
        have = stored.get(name, kind)
        if kind != have and kind not in WIDENS.get(have, frozenset()):
            raise StorageError(f"{what}: column {name} is {kind}, the stored column is {have}; cast it, or give it another name")
    return {name: kind for name, kind in incoming.items() if name not in stored}
