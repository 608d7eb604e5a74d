"""The texts of pairs and of evaluation sets: what filters read and encoders embed."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow.parquet as pq

from curators.errors import ConfigError
from curators.filters.marks import message_text
from storage.files import read_rows

PARTS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "prompt+chosen": ("prompt", "chosen"),
    "chosen+rejected": ("chosen", "rejected"),
    "all": ("prompt", "chosen", "rejected_prompt", "rejected"),
}
"""The columns of each; one that a version lacks, or that is null, is left out."""

TEXT_OF = {"refusal": "chosen"}
"""The filters that are about one side, whatever is embedded: who is asked does not decline."""


def pair_texts(pairs: Path, text: str, ids: Container[str] | None = None) -> Iterator[tuple[str, str | None]]:
    """Id and text of each pair of a Parquet file, in its order; null: there is none. `ids`: of these pairs only.

    A thousand rows are held at a time, and no other column is read.
    """
    with pq.ParquetFile(pairs) as file:
        columns = [name for name in PARTS[text] if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=1024, columns=["pair_id", *columns]):
            for row in batch.to_pylist():
                if ids is None or row["pair_id"] in ids:
                    yield row["pair_id"], joined(row[name] for name in columns)


def joined(messages: Iterator[str | None]) -> str | None:
    """The texts of several lists of messages, parted by a blank line.

    >>> joined(iter(['[{"role": "user", "content": "Hi"}]', None, '[{"role": "assistant", "content": "Hello"}]']))
    'Hi\\n\\nHello'
    """
    return "\n\n".join(filter(None, map(message_text, messages))) or None


def text_rows(pairs: Path, text: str) -> pl.DataFrame:
    """`row_id` and `text` of every pair, as filters take them."""
    return pl.DataFrame(list(pair_texts(pairs, text)), schema={"row_id": pl.String, "text": pl.String}, orient="row")


def evaluation_rows(file: str) -> pl.DataFrame:
    """`row_id` (the row's number) and `text` of an evaluation set: of a file's `text`, `prompt`, `question` or `messages`.

    Raises:
        ConfigError: no row has a text, or some have none: nothing would be found for them.
    """
    found = [(str(row.number), _evaluation_text(row.row or {})) for row in read_rows(file)]
    if without := [number for number, text in found if text is None]:
        raise ConfigError(
            f"against: {len(without)} of {len(found)} rows of {file} have no text, the first is row {without[0]}; "
            f"give `text`, `prompt`, `question` or `messages` in every row"
        )
    return pl.DataFrame(found, schema={"row_id": pl.String, "text": pl.String}, orient="row")


def _evaluation_text(row: Mapping[str, Any]) -> str | None:
    value = next((row[name] for name in ("text", "prompt", "question", "messages") if row.get(name)), None)
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        return message_text(orjson.dumps(value).decode())
    return value if isinstance(value, str) and value.strip() else None
