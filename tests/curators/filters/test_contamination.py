"""Planted overlaps of known size, at and below the bound."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import polars as pl
import pytest

from curators.errors import ConfigError, SchemaError
from curators.filters.contamination import embedding_overlap, nearest, ngram_overlap

DATA = Path(__file__).parents[3] / "../shared/data"


def frame(**texts: str | None) -> pl.DataFrame:
    return pl.DataFrame({"row_id": list(texts), "text": pl.Series(list(texts.values()), dtype=pl.String)})


def numbered(begin: int, end: int) -> str:
    return " ".join(f"w{i}" for i in range(begin, end))


def test_the_share_of_the_test_that_runs_cover_decides() -> None:
    # of the 20 words, rows share the first 10 (two runs of 9: words 0..9), the first 9, and 8: below a run of 9
    tests = frame(t=numbered(0, 20))
    rows = frame(ten=f"before {numbered(0, 10)} after", nine=numbered(0, 9), eight=numbered(0, 8), none=None)
    assert ngram_overlap(rows, against=tests, n=9, min_share=0.5).rows() == [
        ("ten", False, "contaminated", "50% of t"),
        ("nine", True, None, None),
        ("eight", True, None, None),
        ("none", False, "no_text", None),
    ]
    assert ngram_overlap(rows, against=tests, n=9, min_share=0.0)["keep"].to_list() == [False, False, True, False]


def test_pieces_of_one_test_add_up_and_pieces_of_two_do_not() -> None:
    tests = frame(t=numbered(0, 20), u=numbered(100, 120))
    together = frame(a=f"{numbered(0, 6)} x {numbered(10, 16)}", b=f"{numbered(0, 6)} x {numbered(100, 106)}")
    assert ngram_overlap(together, against=tests, n=5, min_share=0.6)["keep"].to_list() == [False, True]


def test_case_and_punctuation_do_not_hide_a_test() -> None:
    found = ngram_overlap(frame(a="WHAT, is the-capital of\nFRANCE?!"), against=frame(t="What is the capital of France?"))
    assert found["reason"].to_list() == ["contaminated"]


def test_short_tests_stand_in_a_row_as_a_whole_or_are_the_row() -> None:
    tests = frame(short="who wrote hamlet and when", tiny="Continue.")
    rows = frame(a="Tell me: who wrote Hamlet, and when?", b="who wrote hamlet and why", c="continue", d="Please continue.")
    assert ngram_overlap(rows, against=tests, min_words=5)["detail"].to_list() == ["100% of short", None, "100% of tiny", None]


def test_the_order_of_rows_and_tests_does_not_matter() -> None:
    tests = frame(t1=numbered(0, 12), t2=numbered(0, 12), t3=numbered(4, 30))
    rows = frame(a=numbered(0, 12), b=numbered(2, 30), c="nothing")
    there = ngram_overlap(rows, against=tests)
    assert there["detail"].to_list() == ["100% of t1", "100% of t3", None]
    assert ngram_overlap(rows.reverse(), against=tests.reverse()).sort("row_id").equals(there)


def test_nothing_to_test_with_contaminates_nothing() -> None:
    assert ngram_overlap(frame(a="x"), against=frame())["keep"].all()
    assert ngram_overlap(frame(a=""), against=frame(t=""))["keep"].all()


@pytest.mark.parametrize("wrong", [{"n": 0}, {"min_share": 1.5}, {"min_words": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        ngram_overlap(frame(a="x"), against=frame(t="x"), **wrong)  # type: ignore[arg-type]


def vectors(**angles: float | None) -> pl.DataFrame:
    points = [None if a is None else [math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles.values()]
    return pl.DataFrame({"row_id": list(angles), "embedding": pl.Series(points, dtype=pl.List(pl.Float64))})


def test_cosine_with_the_nearest_test_decides() -> None:
    rows, tests = vectors(near=10.0, far=60.0, none=None), vectors(t0=0.0, t90=120.0)
    found = nearest(rows, tests)
    assert found["nearest"].to_list()[::2] == ["t0", None]
    assert found["cosine"][0] == pytest.approx(math.cos(math.radians(10)), abs=1e-6)
    marks = embedding_overlap(rows, against=tests, threshold=0.9)
    assert marks["reason"].to_list() == ["contaminated", None, "no_embedding"]
    assert marks["detail"][0] == "cosine 0.985 with t0"


def test_tests_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"\['t'\] have no usable embedding"):
        embedding_overlap(vectors(a=1.0), against=vectors(t=None))
    longer = pl.DataFrame({"row_id": ["t"], "embedding": [[1.0, 0.0, 0.0]]})
    with pytest.raises(SchemaError, match="rows have 2 numbers, of evaluation texts 3"):
        embedding_overlap(vectors(a=1.0), against=longer)
    with pytest.raises(ConfigError, match="threshold is 2"):
        embedding_overlap(vectors(a=1.0), against=vectors(t=1.0), threshold=2)


@pytest.mark.skipif(not DATA.exists(), reason="the real rows are not here")
def test_verbatim_tests_are_found_wherever_they_stand_and_paraphrases_are_not_by_long_runs() -> None:
    with gzip.open(DATA / "decontam_gsm8k_rephrased.jsonl.gz", "rt") as lines:
        pairs = [json.loads(line) for line in lines][:200]
    tests = frame(**{f"t{i:03d}": pair["original"] for i, pair in enumerate(pairs)})
    copied = frame(**{f"r{i:03d}": f"Solve this.\n\n{pair['original'].upper()}\n\nThink first." for i, pair in enumerate(pairs)})
    found = ngram_overlap(copied, against=tests)
    assert found["detail"].to_list() == [f"100% of t{i:03d}" for i in range(len(pairs))]
    paraphrased = frame(**{f"r{i:03d}": pair["rephrased"] for i, pair in enumerate(pairs)})
    assert ngram_overlap(paraphrased, against=tests)["keep"].all()
