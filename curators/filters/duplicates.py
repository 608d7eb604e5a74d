"""Rows that say the same: exact, by character 5-grams, or by embedding. One row of each group is kept.

| filter | two rows are of one group when |
|---|---|
| `exact_duplicate` | their texts are equal, case and runs of white space aside (Unicode NFKC) |
| `near_duplicate` | the Jaccard similarity of their 5-grams is at least .8, found by MinHash (`curators.filters.minhash`) |
| `embedding_duplicate` | the cosine of their embeddings is at least .95 |

Groups are the connected components: a chain of near pairs is one group, so that its ends may be less alike than the threshold. Kept is the
row with the highest `score` where rows have that column, else, and of equals, the one with the smallest `row_id`.

Embeddings are compared all with all, in blocks: exact, in time n² (100,000 rows of 384 numbers are 4 * 10^12 multiplications). Deliberately
not here: an approximate index, whose misses nobody counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from curators.errors import ConfigError, SchemaError
from curators.filters.marks import check_rows, mark, without_text
from curators.filters.minhash import components, near_groups

Floats = npt.NDArray[np.float32]
_BLOCK = 2048


def exact_duplicate(rows: pl.DataFrame) -> pl.DataFrame:
    """Marks of rows whose text another row has.

    >>> exact_duplicate(pl.DataFrame({"row_id": ["b", "a"], "text": ["Hi  there", "hi there"]})).rows()
    [('b', False, 'exact_duplicate', 'of a'), ('a', True, None, None)]
    """
    return mark_duplicates(rows, exact_groups(rows), "exact_duplicate")


def near_duplicate(rows: pl.DataFrame, *, threshold: float = 0.8, seed: int = 0) -> pl.DataFrame:
    """Marks of rows of which a nearly equal one is kept; exact duplicates are among them."""
    return mark_duplicates(rows, near_duplicate_groups(rows, threshold=threshold, seed=seed), "near_duplicate")


def embedding_duplicate(rows: pl.DataFrame, *, threshold: float = 0.95) -> pl.DataFrame:
    """Marks by the column `embedding` (a list or array of numbers); a row without a usable one has the reason `no_embedding`."""
    groups, unusable = embedding_groups(rows, threshold=threshold)
    marks = mark_duplicates(rows, groups, "embedding_duplicate", text=False)
    return marks.with_columns(
        keep=pl.col("keep") & ~pl.col("row_id").is_in(unusable),
        reason=pl.when(pl.col("row_id").is_in(unusable)).then(pl.lit("no_embedding")).otherwise("reason"),
    )


def exact_groups(rows: pl.DataFrame) -> pl.DataFrame:
    """`row_id` and `group` (a number), of the rows that have a text."""
    known = check_rows(rows, "text").filter(pl.col("text").is_not_null())
    return known.select("row_id", group=plain("text").rank("dense").cast(pl.Int64))


def near_duplicate_groups(rows: pl.DataFrame, *, threshold: float = 0.8, seed: int = 0) -> pl.DataFrame:
    """As `exact_groups`: equal texts are compared once."""
    known = check_rows(rows, "text").filter(pl.col("text").is_not_null()).select("row_id", text=plain("text"))
    texts = known.select(pl.col("text").unique().sort())
    groups = near_groups(texts["text"].to_list(), threshold=threshold, seed=seed)
    return known.join(texts.with_columns(group=pl.Series(groups, dtype=pl.Int64)), on="text").select("row_id", "group")


def embedding_groups(rows: pl.DataFrame, *, threshold: float = 0.95) -> tuple[pl.DataFrame, list[str]]:
    """As `exact_groups`, and the ids of rows whose embedding is null, not finite or zero, which belong to no group.

    Raises:
        ConfigError: the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"embedding duplicates: threshold is {threshold}, must be in (0, 1]")
    rows = check_rows(rows, "embedding").sort("row_id")
    vectors, usable = unit_vectors(rows["embedding"])
    edges = [np.empty((0, 2), dtype=np.int64)]
    for begin in range(0, len(vectors), _BLOCK):
        block = vectors[begin : begin + _BLOCK]
        for other in range(begin, len(vectors), _BLOCK):
            near = np.argwhere(block @ vectors[other : other + _BLOCK].T >= threshold - 1e-6) + np.array([begin, other])
            edges.append(_sparse(near[near[:, 0] < near[:, 1]]))
    ids = rows["row_id"].filter(pl.Series(usable))
    groups = components(len(vectors), np.concatenate(edges))
    return pl.DataFrame({"row_id": ids, "group": pl.Series(groups, dtype=pl.Int64)}), rows["row_id"].filter(pl.Series(~usable)).to_list()


def _sparse(near: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of many pairs in a block, as few as leave the same groups: where all rows are alike, a block has two million."""
    if len(near) <= _BLOCK:
        return near
    places, compact = np.unique(near, return_inverse=True)
    labels = components(len(places), compact.reshape(near.shape))
    _, first = np.unique(labels, return_index=True)
    return np.column_stack([places[first][labels], places])


def unit_vectors(embeddings: pl.Series) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The usable embeddings at length 1 (float32), and which are: there, finite, not zero.

    Raises:
        SchemaError: embeddings have different lengths.
    """
    given = embeddings.is_not_null().to_numpy().copy()
    vectors = [np.asarray(vector, dtype=np.float32) for vector in embeddings.drop_nulls().to_numpy()]
    if len({len(vector) for vector in vectors}) > 1:
        raise SchemaError(f"embeddings have {sorted({len(vector) for vector in vectors})} numbers; all must have the same")
    if not vectors:
        return np.empty((0, 1), dtype=np.float32), given
    matrix = np.stack(vectors)
    length = np.linalg.norm(matrix, axis=1)
    fine = np.isfinite(length) & (length > 0)
    given[given] = fine
    return matrix[fine] / length[fine, None], given


def plain(column: str) -> pl.Expr:
    """A text with case, Unicode's ways to write the same, and runs of white space aside."""
    return pl.col(column).str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars(" ")


def mark_duplicates(rows: pl.DataFrame, groups: pl.DataFrame, reason: str, *, text: bool = True) -> pl.DataFrame:
    """Marks: of every group all but one row are its duplicates. Rows in no group are kept, or have no text."""
    score = pl.col("score").cast(pl.Float64).fill_nan(None) if "score" in rows.columns else pl.lit(0.0)
    ordered = (
        rows.join(groups, on="row_id")
        .select("row_id", "group", score=score)
        .sort("score", "row_id", descending=[True, False], nulls_last=True)
    )
    others = ordered.with_columns(kept=pl.col("row_id").first().over("group")).filter(pl.col("row_id") != pl.col("kept"))
    faults = {row_id: (reason, f"of {kept}") for row_id, kept in others.select("row_id", "kept").iter_rows()}
    return mark(rows, faults | (without_text(rows) if text else {}))
