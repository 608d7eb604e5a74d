"""One row of a group is kept, whichever order the rows come in; what cannot be compared has a reason."""

from __future__ import annotations

import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.errors import ConfigError, SchemaError
from curators.filters import duplicates
from curators.filters.duplicates import embedding_duplicate, embedding_groups, exact_duplicate, near_duplicate, unit_vectors


def rows(*texts: str | None, **columns: list[object]) -> pl.DataFrame:
    return pl.DataFrame({"row_id": [f"r{i:05d}" for i in range(len(texts))], "text": pl.Series(texts, dtype=pl.String), **columns})


def kept(marks: pl.DataFrame) -> list[str]:
    return sorted(marks.filter(pl.col("keep"))["row_id"])


def test_case_space_and_ways_to_write_the_same_do_not_part_texts() -> None:
    marks = exact_duplicate(rows("Ａ  Café\n", "a cafe\u0301", "a cafe", None))
    assert marks["reason"].to_list() == [None, "exact_duplicate", None, "no_text"]
    assert marks["detail"].to_list() == [None, "of r00000", None, None]


def test_the_best_scored_row_is_kept_and_a_score_that_is_missing_is_no_score() -> None:
    given_rows = rows("same", "same", "same", "same", score=[None, 0.2, 0.7, float("nan")])
    assert kept(exact_duplicate(given_rows)) == ["r00002"]
    assert kept(near_duplicate(given_rows)) == ["r00002"]


def test_near_duplicates_are_marked_and_others_are_not() -> None:
    sentence = "write a short poem about the sea and the old lighthouse that stands on the cliff"
    marks = near_duplicate(rows(sentence, sentence + "!", sentence.upper(), "name three rivers in france"))
    assert marks["keep"].to_list() == [True, False, False, True]
    assert set(marks["detail"].drop_nulls()) == {"of r00000"}


words = st.lists(st.sampled_from(["sea", "old", "light", "house", "cliff", "river"]), max_size=8).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), words), max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_and_every_row_has_a_mark(texts: list[str | None], draw: random.Random) -> None:
    given_rows = rows(*texts)
    shuffled = given_rows.sample(fraction=1.0, shuffle=True, seed=draw.randrange(1000))
    for fltr in (exact_duplicate, near_duplicate):
        marks = fltr(given_rows)
        assert marks["row_id"].equals(given_rows["row_id"])
        assert fltr(shuffled).sort("row_id").equals(marks.sort("row_id"))


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)


def test_embedding_neighbours_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", 64)
    x = vectors(150)
    x[71] = 3 * x[5] + 0.01
    frame = pl.DataFrame({"row_id": [f"{i:05d}" for i in range(len(x))], "embedding": x})
    marks = embedding_duplicate(frame, threshold=0.99)
    assert marks.filter(~pl.col("keep")).rows() == [("00071", False, "embedding_duplicate", "of 00005")]


def test_all_identical_embeddings_are_one_group_and_stay_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", 64)
    frame = pl.DataFrame({"row_id": [f"{i:05d}" for i in range(150)], "embedding": np.ones((150, 4), dtype=np.float32)})
    groups, unusable = embedding_groups(frame)
    assert (groups["group"].n_unique(), unusable) == (1, [])
    assert embedding_duplicate(frame)["keep"].sum() == 1


def test_embeddings_that_say_nothing_have_a_reason() -> None:
    given_rows = pl.DataFrame({"row_id": list("abcde"), "embedding": [[1.0, 0.0], None, [float("nan"), 1.0], [0.0, 0.0], [0.0, 1.0]]})
    marks = embedding_duplicate(given_rows)
    assert marks["reason"].to_list() == [None, "no_embedding", "no_embedding", "no_embedding", None]
    none = pl.DataFrame({"row_id": ["a"], "embedding": pl.Series([None], dtype=pl.List(pl.Float32))})
    assert embedding_duplicate(none)["reason"].to_list() == ["no_embedding"]


def test_embeddings_of_different_lengths_and_bad_thresholds_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"have \[1, 2\] numbers"):
        unit_vectors(pl.Series([[1.0], [1.0, 2.0]]))
    with pytest.raises(ConfigError, match="threshold is 0"):
        embedding_groups(pl.DataFrame({"row_id": ["a"], "embedding": [[1.0]]}), threshold=0)


def test_rows_without_an_id_of_their_own_are_refused() -> None:
    with pytest.raises(SchemaError, match="different in every row"):
        exact_duplicate(pl.DataFrame({"row_id": ["a", "a"], "text": ["x", "y"]}))
    with pytest.raises(SchemaError, match=r"columns \['text'\] are missing"):
        exact_duplicate(pl.DataFrame({"row_id": ["a"]}))


def test_embedding_marks_do_not_depend_on_the_order_of_rows() -> None:
    x = vectors(60)
    x[30:] = x[:30] + 0.02 * vectors(30, seed=1)
    frame = pl.DataFrame({"row_id": [f"{i:05d}" for i in range(60)], "embedding": x, "score": np.arange(60) % 7})
    there = embedding_duplicate(frame, threshold=0.98)
    assert there["keep"].sum() == 30
    again = embedding_duplicate(frame.sample(fraction=1.0, shuffle=True, seed=5), threshold=0.98)
    assert again.sort("row_id").equals(there)
