"""The content digest of a table: equal for the same rows in any order, different for one changed character.

Rows are taken in the order of their id (text, by bytes; ids are unique), so the order in which they came does not count. A column is
three streams of bytes: one byte a row (1: a value, 0: null), one little-endian uint32 a value (its length in bytes, or in items for a
list; only where values vary in length), and the values end to end. Each stream has its own SHA-256, so the batches in which the rows
arrive do not count, and no separator can be imitated by a value. The children of lists and structs are columns of their own.

Numbers are widened first (integers to int64, floats to float64, -0.0 to 0.0, any NaN to one NaN) and times counted in microseconds, so
a wider column with the same values is the same content. A column that is null in every row is left out: adding one changes nothing.

The digest is the SHA-256 of the JSON `["pairmill-rows-1", rows, {column: [kind, valid, lengths, values, children]}]`. SHA-256 over
long streams runs in hardware and outside Python's global lock; a hash per row was measured at five times (DuckDB's) and twice (hashlib's)
the cost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from storage.errors import StorageError

FORMAT = "pairmill-rows-1"
THREADS = 2
SLICE_ROWS = 1 << 17


class ColumnDigest:
    """The running hashes of one column; feed it Arrow arrays in row order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind: str | None = None
        self.valid, self.lengths, self.values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self.children: dict[str, ColumnDigest] = {}

    def update(self, array: pa.Array) -> None:
        """Raises: StorageError: a type that versions cannot hold (maps, decimals, durations, times between microseconds)."""
        self.valid.update(_buffer(pc.cast(pc.is_valid(array), pa.uint8())))
        if array.null_count == len(array):
            return  # a batch of nulls may come as any type: it must not settle the column's kind
        present = array.drop_null() if array.null_count else array
        kind = self._feed(present.dictionary_decode() if pt.is_dictionary(present.type) else present)
        if self.kind not in (None, kind):
            raise StorageError(f"column {self.name} is {self.kind} in some batches and {kind} in others; give it one type")
        self.kind = kind

    def _feed(self, array: pa.Array) -> str:
        """Hash values without nulls and return their kind."""
        kind = array.type
        if _is_text(kind) or _is_binary(kind):
            offsets, data = _text_buffers(array)
            self.lengths.update(np.diff(offsets).astype("<u4").tobytes())
            self.values.update(data[offsets[0] : offsets[-1]])
            return "text" if _is_text(kind) else "bytes"
        if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
            self.lengths.update(_buffer(pc.cast(pc.list_value_length(array), pa.uint32())))
            self._child("item", array.flatten())
            return "list"
        if pt.is_struct(kind):
            for field, values in zip(kind, array.flatten(), strict=True):
                self._child(field.name, values)
            return "struct"
        name, numbers = _numbers(array, self.name)
        self.values.update(numbers)
        return name

    def _child(self, name: str, array: pa.Array) -> None:
        self.children.setdefault(name, ColumnDigest(f"{self.name}.{name}")).update(array)

    def summary(self) -> list[Any]:
        children = {name: child.summary() for name, child in sorted(self.children.items())}
        return [self.kind, self.valid.hexdigest(), self.lengths.hexdigest(), self.values.hexdigest(), children]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind) or pt.is_fixed_size_binary(kind))


def _text_buffers(array: pa.Array) -> tuple[np.ndarray[Any, np.dtype[np.int64]], memoryview]:
    """Offsets (one more than values) and the bytes that they point into."""
    if not pt.is_large_binary(array.type):
        array = array.cast(pa.large_string() if _is_text(array.type) else pa.large_binary())
    _, offsets, data = array.buffers()
    return np.frombuffer(offsets, np.int64, len(array) + 1, array.offset * 8), memoryview(data or b"").cast("B")


def _numbers(array: pa.Array, column: str) -> tuple[str, Any]:
    """The kind's name and fixed-width little-endian values."""
    kind = array.type
    if pt.is_boolean(kind):
        return "bool", _buffer(array.cast(pa.uint8()))
    if pt.is_uint64(kind):
        return "uint64", _buffer(array)
    if pt.is_integer(kind):
        return "int", _buffer(array.cast(pa.int64()))
    if pt.is_floating(kind):
        # Not to_numpy, which imports pandas. + 0.0 turns -0.0 into 0.0, which equal each other in SQL.
        values = np.frombuffer(_buffer(array.cast(pa.float64())), np.float64) + 0.0
        values[np.isnan(values)] = np.nan
        return "float", values
    if pt.is_date(kind):
        return "date", _buffer(array.cast(pa.date32()).cast(pa.int32()))
    try:
        if pt.is_timestamp(kind):
            return "instant" if kind.tz else "datetime", _buffer(array.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64()))
        if pt.is_time(kind):
            return "time", _buffer(array.cast(pa.time64("us")).cast(pa.int64()))
    except pa.ArrowInvalid as error:
        raise StorageError(f"column {column} is {kind} with values between microseconds; round them to microseconds") from error
    raise StorageError(
        f"column {column} is {kind}; allowed are text, bytes, numbers, booleans, dates, times, and lists and structs of them"
    )


def _buffer(array: pa.Array) -> memoryview:
    """The values of a fixed-width array without nulls."""
    width = array.type.bit_width // 8
    data = array.buffers()[1]
    return memoryview(data).cast("B")[array.offset * width : (array.offset + len(array)) * width] if data else memoryview(b"")


def _finish(rows: int, columns: Iterable[ColumnDigest]) -> str:
    summaries = {column.name: column.summary() for column in columns if column.kind is not None}
    return hashlib.sha256(json.dumps([FORMAT, rows, summaries], sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_sorted(batches: Iterable[pa.RecordBatch]) -> str:
    """The digest of rows that come in the order of their id, as hexadecimal; one batch is held at a time.

    >>> rows = pa.record_batch({"pair_id": ["a", "b"], "chosen": ["yes", None]})
    >>> digest_sorted([rows]) == digest_sorted([rows.slice(0, 1), rows.slice(1)]) == digest_frame(pl.DataFrame(rows)[::-1], "pair_id")
    True
    """
    columns: dict[str, ColumnDigest] = {}
    rows = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in batches:
            rows += batch.num_rows
            fed = [(columns.setdefault(name, ColumnDigest(name)), batch.column(name)) for name in batch.schema.names]
            list(pool.map(lambda pair: pair[0].update(pair[1]), fed))
    return _finish(rows, columns.values())


def digest_frame(frame: pl.DataFrame, key: str) -> str:
    """The same digest for a frame in any order; a sorted copy of one column a thread is held at a time."""
    order = frame[key].arg_sort()

    def column_digest(name: str) -> ColumnDigest:
        column = ColumnDigest(name)
        for start in range(0, frame.height, SLICE_ROWS):
            column.update(frame[name].gather(order[start : start + SLICE_ROWS]).to_arrow())
        return column

    with ThreadPoolExecutor(THREADS) as pool:
        return _finish(frame.height, pool.map(column_digest, frame.columns))
