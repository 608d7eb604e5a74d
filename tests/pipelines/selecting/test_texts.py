"""The texts of pairs and of evaluation sets."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from curators.errors import ConfigError
from pipelines.selecting.texts import evaluation_rows, pair_texts


def turn(text: str) -> str:
    return f'[{{"role": "user", "content": "{text}"}}]'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt", "P"),
        ("prompt+chosen", "P\n\nC"),
        ("chosen+rejected", "C\n\nR"),
        ("all", "P\n\nC\n\nQ\n\nR"),
    ],
)
def test_the_parts_of_a_pair(tmp_path: Path, text: str, expected: str) -> None:
    row = {"pair_id": "a", "prompt": turn("P"), "chosen": turn("C"), "rejected_prompt": turn("Q"), "rejected": turn("R")}
    empty = {**row, "pair_id": "b", "prompt": turn(" "), "chosen": turn(""), "rejected_prompt": None, "rejected": None}
    pl.DataFrame([row, empty]).write_parquet(tmp_path / "pairs.parquet")
    assert list(pair_texts(tmp_path / "pairs.parquet", text)) == [("a", expected), ("b", None)]
    assert list(pair_texts(tmp_path / "pairs.parquet", text, {"a"})) == [("a", expected)]


def test_an_evaluation_set_has_a_text_in_every_row(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text('{"text": "one"}\n{"question": "two"}\n{"messages": [{"role": "user", "content": "three"}]}\n{"prompt": "four"}\n')
    assert evaluation_rows(str(file)).rows() == [("1", "one"), ("2", "two"), ("3", "three"), ("4", "four")]
    file.write_text('{"text": "one"}\n{"answer": "two"}\nno json\n')
    with pytest.raises(ConfigError, match=r"against: 2 of 3 rows of .*test\.jsonl have no text, the first is row 2"):
        evaluation_rows(str(file))
