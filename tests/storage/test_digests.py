from __future__ import annotations

import hashlib
import json
import struct

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.digests import digest_frame, digest_sorted
from storage.errors import StorageError

CELLS = {
    "text": st.none() | st.text(max_size=5),
    "number": st.none() | st.integers(-(2**62), 2**62),
    "score": st.none() | st.floats(),
    "flag": st.none() | st.booleans(),
    "names": st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3),
}
SCHEMA = {"text": pl.String(), "number": pl.Int64(), "score": pl.Float64(), "flag": pl.Boolean(), "names": pl.List(pl.String())}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    n = draw(st.integers(0, 12))
    columns = {name: draw(st.lists(cells, min_size=n, max_size=n)) for name, cells in CELLS.items()}
    return pl.DataFrame({"pair_id": [f"id{i:03}" for i in range(n)], **columns}, schema={"pair_id": pl.String(), **SCHEMA})


def digest(frame: pl.DataFrame) -> str:
    return digest_frame(frame, "pair_id")


@settings(max_examples=60, deadline=None)
@given(frames(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_order_and_batches_do_not_count(frame: pl.DataFrame, random: object, size: int) -> None:
    order = list(range(frame.height))
    random.shuffle(order)  # type: ignore[attr-defined]
    batches = frame.to_arrow().to_batches(max_chunksize=size)
    assert digest(frame[order]) == digest(frame.select(reversed(frame.columns))) == digest(frame) == digest_sorted(batches)


@settings(max_examples=60, deadline=None)
@given(frames(), frames())
def test_different_rows_differ(one: pl.DataFrame, other: pl.DataFrame) -> None:
    same = one.with_columns(pl.col("score") + 0.0).equals(other.with_columns(pl.col("score") + 0.0))
    assert (digest(one) == digest(other)) == same


def test_the_digest_is_what_the_module_says() -> None:
    """Two rows, one text column with a null, one integer column: every stream written out by hand."""

    def sha(*parts: bytes) -> str:
        return hashlib.sha256(b"".join(parts)).hexdigest()

    ids = ["text", sha(b"\1\1"), sha(struct.pack("<II", 1, 1)), sha(b"ab"), {}]
    chosen = ["text", sha(b"\1\0"), sha(struct.pack("<I", 3)), sha("né".encode()), {}]
    n = ["int", sha(b"\1\1"), sha(), sha(struct.pack("<qq", 7, -1)), {}]
    document = ["pairmill-rows-1", 2, {"chosen": chosen, "n": n, "pair_id": ids}]
    expected = hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()
    assert digest(pl.DataFrame({"pair_id": ["b", "a"], "chosen": [None, "né"], "n": pl.Series([-1, 7], dtype=pl.Int8)})) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": ["ab"], "b": ["c"]}, {"a": ["a"], "b": ["bc"]}),
        ({"a": [["x"], []]}, {"a": [[], ["x"]]}),
        ({"a": [None, ""]}, {"a": ["", None]}),
        ({"a": ["1"]}, {"a": [1]}),
        ({"a": [0]}, {"a": [False]}),
        ({"a": [0]}, {"a": [None]}),
        ({"a": [{"x": 1, "y": None}]}, {"a": [{"x": None, "y": 1}]}),
        ({"a": ["x"]}, {"b": ["x"]}),
    ],
)
def test_values_cannot_imitate_each_other(one: dict[str, list[object]], other: dict[str, list[object]]) -> None:
    first, second = (pl.DataFrame({"pair_id": list("pqr")[: len(next(iter(columns.values())))], **columns}) for columns in (one, other))
    assert digest(first) != digest(second)


def test_widths_and_empty_columns_do_not_count() -> None:
    frame = pl.DataFrame({"pair_id": ["a", "b"], "n": [1, None], "x": [0.5, -0.0]})
    narrow = frame.with_columns(pl.col("n").cast(pl.Int8), pl.col("x").cast(pl.Float32).abs(), tools=pl.lit(None, pl.String))
    assert digest(frame) == digest(narrow)
    assert digest(frame) == digest(frame.with_columns(pl.col("pair_id").cast(pl.Categorical)))


def test_an_unsupported_type_is_refused_by_name() -> None:
    with pytest.raises(StorageError, match=r"column when is duration.*; allowed are text"):
        digest(pl.DataFrame({"pair_id": ["a"], "when": [1]}).with_columns(pl.duration(seconds="when").alias("when")))
    nanoseconds = pa.record_batch({"pair_id": ["a"], "when": pa.array([1], pa.timestamp("ns"))})
    with pytest.raises(StorageError, match="between microseconds"):
        digest_sorted([nanoseconds])


def test_batches_that_disagree_about_a_column_are_refused() -> None:
    batches = [pa.record_batch({"pair_id": ["a"], "n": ["1"]}), pa.record_batch({"pair_id": ["b"], "n": [1]})]
    with pytest.raises(StorageError, match="column n is text in some batches and int in others"):
        digest_sorted(batches)
