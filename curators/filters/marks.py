"""What a filter is given and gives back: rows of text in, one mark a row out. A filter drops nothing; a flow does, with the reason.

Rows have `row_id` (different, not null) and `text` (null: there is none). Marks have `row_id`, `keep`, `reason` (a short name; null where
the row is kept) and `detail` (what was found; null: nothing to say), one for every row, in the order of the rows. What a mark says never
depends on that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson
import polars as pl

from curators.errors import SchemaError
from curators.funnel import Funnel

MARKS = {"row_id": pl.String(), "keep": pl.Boolean(), "reason": pl.String(), "detail": pl.String()}
NO_TEXT = "no_text"

Fault = tuple[str, str | None]
"""Reason and detail of a row that is not to be kept."""


def check_rows(rows: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The rows, or what is wrong with them.

    Raises:
        SchemaError: a column is missing, or `row_id` is null or stands twice.
    """
    wanted = ["row_id", *columns]
    if missing := [column for column in wanted if column not in rows.columns]:
        raise SchemaError(f"filter rows: columns {missing} are missing; there are {rows.columns}")
    if rows["row_id"].null_count() or rows["row_id"].is_duplicated().any():
        raise SchemaError("filter rows: row_id must be there in every row and different in every row")
    return rows


def mark(rows: pl.DataFrame, faults: Mapping[str, Fault]) -> pl.DataFrame:
    """Marks from the faults by row id; a row that has none is kept.

    >>> rows = pl.DataFrame({"row_id": ["a", "b"]})
    >>> mark(rows, {"b": ("too_short", "1 word; at least 3")}).rows()
    [('a', True, None, None), ('b', False, 'too_short', '1 word; at least 3')]
    """
    found = [faults.get(row_id) for row_id in rows["row_id"]]
    columns = {
        "row_id": rows["row_id"],
        "keep": [fault is None for fault in found],
        "reason": [fault[0] if fault else None for fault in found],
        "detail": [fault[1] if fault else None for fault in found],
    }
    return pl.DataFrame(columns, schema=MARKS)


def without_text(rows: pl.DataFrame) -> dict[str, Fault]:
    """The faults of rows that have no text: nothing can be said about them, and that is no reason to keep them."""
    return dict.fromkeys(rows.filter(pl.col("text").is_null())["row_id"], (NO_TEXT, None))


def first_fault(marks: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Several filters' marks of the same rows as one: the first filter that does not keep a row gives its reason.

    Raises:
        SchemaError: the marks are of different rows, or there are none.
    """
    if not marks or any(not one["row_id"].equals(marks[0]["row_id"]) for one in marks):
        raise SchemaError("marks: give one frame or more, all of the same rows in the same order")
    faults: dict[str, Fault] = {}
    for one in reversed(marks):
        faults |= {row_id: (reason, detail) for row_id, keep, reason, detail in one.iter_rows() if not keep}
    return mark(marks[0], faults)


def marks_funnel(marks: pl.DataFrame, *, stage: str, unit: str) -> Funnel:
    """The funnel of rows, with the counts of every reason.

    >>> marks_funnel(mark(pl.DataFrame({"row_id": ["a", "b"]}), {"b": ("refusal", None)}), stage="filter", unit="pairs").dropped
    {'refusal': 1}
    """
    dropped = dict(marks.filter(~pl.col("keep"))["reason"].value_counts().iter_rows())
    return Funnel(stage=stage, unit=unit, n_in=marks.height, n_kept=int(marks["keep"].sum()), dropped=dropped)


def message_text(messages: str | None) -> str | None:
    """The text of a JSON list of chat turns, turns parted by a blank line; null where there is none.

    >>> message_text('[{"role": "user", "content": "Hi"}, {"role": "user", "content": [{"type": "text", "text": "there"}]}]')
    'Hi\\n\\nthere'
    """
    if messages is None:
        return None
    contents = (turn.get("content") for turn in orjson.loads(messages))
    texts = [content if isinstance(content, str) else _parts(content) for content in contents if content]
    return "\n\n".join(texts) if any(text.strip() for text in texts) else None


def _parts(content: Iterable[Mapping[str, str]]) -> str:
    return "\n".join(part.get("text") or "" for part in content)


def rows_of(data: pl.DataFrame, *, row_id: str, messages: str) -> pl.DataFrame:
    """Filter rows from a column of JSON messages: `rows_of(prompts, row_id="prompt_id", messages="messages")`, or a side of pairs."""
    texts = pl.Series("text", [message_text(each) for each in data[messages]], dtype=pl.String)
    return pl.DataFrame([data[row_id].alias("row_id"), texts])
