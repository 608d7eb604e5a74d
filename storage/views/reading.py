"""A view's rows as `datasets.Dataset`s, memory-mapped, with the same features from every file format.

Rows stream from DuckDB into Arrow files in the cache of `datasets` (`HF_DATASETS_CACHE`, below `pairmill/`), under a key that says what is
in them; a file that is there is used as it is. The loaders of `datasets` are not used: its JSON loader rounds floats to ten decimals.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from storage.digests import digest_sorted
from storage.errors import StorageError

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_ROWS = 8192

_TEXT = {"dtype": "string", "_type": "Value"}
_NUMBER = {"dtype": "float64", "_type": "Value"}
_FLAG = {"dtype": "bool", "_type": "Value"}
_MESSAGES = {"feature": {"role": _TEXT, "content": _TEXT}, "_type": "List"}
FEATURES: Mapping[str, Any] = {
    "messages": _MESSAGES,
    "message_lists": {"feature": _MESSAGES, "_type": "List"},
    "json": {"_type": "Json"},
    "text": _TEXT,
    "texts": {"feature": _TEXT, "_type": "List"},
    "number": _NUMBER,
    "numbers": {"feature": _NUMBER, "_type": "List"},
    "number_lists": {"feature": {"feature": _NUMBER, "_type": "List"}, "_type": "List"},
    "integer": {"dtype": "int64", "_type": "Value"},
    "integers": {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"},
    "flag": _FLAG,
    "flags": {"feature": _FLAG, "_type": "List"},
}
"""What a column holds, as `datasets.Features.to_dict` says it."""

TYPES: Mapping[str, str] = {
    "messages": "STRUCT(role VARCHAR, content VARCHAR)[]",
    "message_lists": "STRUCT(role VARCHAR, content VARCHAR)[][]",
    "json": "JSON",
    "text": "VARCHAR",
    "texts": "VARCHAR[]",
    "number": "DOUBLE",
    "numbers": "DOUBLE[]",
    "number_lists": "DOUBLE[][]",
    "integer": "BIGINT",
    "integers": "INTEGER[]",
    "flag": "BOOLEAN",
    "flags": "BOOLEAN[]",
}
"""The same as DuckDB stores it."""


def features_of(columns: Mapping[str, str]) -> dict[str, Any]:
    """The features of a view's columns, as JSON."""
    return {name: FEATURES[kind] for name, kind in columns.items()}


def batches(connection: duckdb.DuckDBPyConnection, select: str, columns: Mapping[str, str]) -> pa.RecordBatchReader:
    """The rows of a query in Arrow, in order; JSON is text."""
    shown = ", ".join(f"{name}::VARCHAR AS {name}" if kind == "json" else name for name, kind in columns.items())
    return connection.sql(f"SELECT {shown} FROM ({select})").to_arrow_reader(BATCH_ROWS)


def rows_digest(connection: duckdb.DuckDBPyConnection, select: str, columns: Mapping[str, str]) -> str:
    """The content digest of rows in their order: the same from every file format."""
    return digest_sorted(batches(connection, select, columns))


def read_dataset(connection: duckdb.DuckDBPyConnection, select: str, columns: Mapping[str, str], *, key: str, split: str) -> Dataset:
    """The rows of a query as a Dataset over its Arrow file in the cache, written now unless it is there.

    Raises:
        StorageError: the cache cannot be written.
    """
    from datasets import Dataset, Features, NamedSplit, config
    from datasets.info import DatasetInfo

    features = Features.from_dict(features_of(columns))
    path = Path(config.HF_DATASETS_CACHE) / "pairmill" / key / f"{split}.arrow"
    try:
        if not path.exists():
            _write_arrow(batches(connection, select, columns), features, path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}; set HF_DATASETS_CACHE to a directory with room") from error
    return Dataset.from_file(str(path), info=DatasetInfo(features=features), split=NamedSplit(split))


def _write_arrow(rows: pa.RecordBatchReader, features: Any, path: Path) -> None:
    from datasets.arrow_writer import ArrowWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part-{uuid.uuid4().hex}")
    try:
        with ArrowWriter(path=str(part), features=features) as writer:
            for batch in rows:
                writer.write_table(pa.Table.from_batches([batch]))
            writer.finalize()
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
