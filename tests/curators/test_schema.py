"""Frames from rows."""

from __future__ import annotations

import polars as pl
import pytest

from curators.errors import SchemaError
from curators.schema import frame

SCHEMA = {"name": pl.String(), "ids": pl.List(pl.Int32()), "scores": pl.List(pl.Float64())}


def test_lists_of_numbers_are_what_polars_itself_makes_of_them() -> None:
    rows = [
        {"name": "tuple", "ids": (1, -2, 2**31 - 1), "scores": [0.1]},
        {"name": "empty", "ids": [], "scores": []},
        {"name": "null", "ids": None, "scores": None},
        {"name": "missing"},
        {"name": "null inside", "ids": [None, 3], "scores": [None]},
    ]
    found = frame(rows, SCHEMA)
    assert found.equals(pl.DataFrame(rows, schema=SCHEMA))
    assert found.schema == pl.Schema(SCHEMA)
    assert frame([], SCHEMA).schema == pl.Schema(SCHEMA)
    assert rows[0]["ids"] == (1, -2, 2**31 - 1)  # rows are not changed


def test_a_column_that_the_schema_lacks_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"columns \['other'\] are not in the schema"):
        frame([{"other": 1}], SCHEMA)
