"""Rows that hold what a model will be tested with.

| filter | a row is contaminated when |
|---|---|
| `ngram_overlap` | runs of `n` words that it shares with an evaluation text cover at least `min_share` of that text's words |
| `embedding_overlap` | its embedding's cosine with that of an evaluation text is at least `threshold` |

Words are runs of letters and digits, lower case. `n` = 13 and any single run: Brown et al. 2020 (GPT-3), appendix C. `n` = 8 and half of
the words: Lambert et al. 2024 (Tulu 3). An evaluation text of fewer than `n` words must stand in the row as a whole, one of fewer than
`min_words` words must be the row. Rephrased tests share no long runs: Yang et al. 2023 (arXiv:2311.04850). What each method finds of
those, and what it wrongly accuses, is measured in docs/filters.md.

`against` has `row_id` and `text` (or `embedding`), the evaluation set.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from curators.errors import ConfigError, SchemaError
from curators.filters.duplicates import unit_vectors
from curators.filters.marks import Fault, check_rows, mark, without_text

_WORD = re.compile(r"\w+")
_BLOCK = 4096

Gram = tuple[str, ...]
Places = dict[int, dict[Gram, list[tuple[str, int]]]]
"""By length: a run of words, and in which evaluation texts it stands where."""


def ngram_overlap(rows: pl.DataFrame, *, against: pl.DataFrame, n: int = 8, min_share: float = 0.5, min_words: int = 5) -> pl.DataFrame:
    """Marks; the detail names the evaluation text of which the row holds most (of equals the smaller id), and how much.

    >>> tests = pl.DataFrame({"row_id": ["t1"], "text": ["What is the capital of France?"]})
    >>> rows = pl.DataFrame({"row_id": ["a", "b"], "text": ["Q: what is the capital of France", "What is the capital of Spain?"]})
    >>> ngram_overlap(rows, against=tests).rows()
    [('a', False, 'contaminated', '100% of t1'), ('b', True, None, None)]

    Raises:
        ConfigError: `n` or `min_words` is less than one, or `min_share` not in 0..1.
    """
    if n < 1 or min_words < 1 or not 0 <= min_share <= 1:
        raise ConfigError(f"ngram_overlap: n is {n} and min_words {min_words}, must be ≥ 1; min_share is {min_share}, must be in 0..1")
    places, sizes, whole = _index(check_rows(against, "text"), n, min_words)
    faults: dict[str, Fault] = {}
    for row_id, text in check_rows(rows, "text").drop_nulls("text").select("row_id", "text").iter_rows():
        words = _words(text)
        if (test := whole.get(tuple(words))) is not None:
            faults[row_id] = ("contaminated", f"100% of {test}")
            continue
        shares = ((len(covered) / sizes[test], test) for test, covered in _covered(words, places).items())
        share, test = min(shares, key=lambda found: (-found[0], found[1]), default=(-1.0, ""))
        if share >= min_share:
            faults[row_id] = ("contaminated", f"{share:.0%} of {test}")
    return mark(rows, without_text(rows) | faults)


def embedding_overlap(rows: pl.DataFrame, *, against: pl.DataFrame, threshold: float = 0.8) -> pl.DataFrame:
    """Marks by the column `embedding` of both; a row without a usable one has the reason `no_embedding`.

    Raises:
        ConfigError: the threshold is not in (0, 1].
        SchemaError: an evaluation text has no usable embedding (nothing would be found for it), or embeddings differ in length.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"embedding_overlap: threshold is {threshold}, must be in (0, 1]")
    found = nearest(rows, against)
    faults: dict[str, Fault] = dict.fromkeys(found.filter(pl.col("cosine").is_null())["row_id"], ("no_embedding", None))
    near = found.filter(pl.col("cosine") >= threshold)
    faults |= {row_id: ("contaminated", f"cosine {cosine:.3f} with {test}") for row_id, test, cosine in near.iter_rows()}
    return mark(rows, faults)


def nearest(rows: pl.DataFrame, against: pl.DataFrame) -> pl.DataFrame:
    """`row_id`, `nearest` and `cosine` of the evaluation text closest to each row; both null where the row has no usable embedding."""
    tests = check_rows(against, "embedding").sort("row_id")
    theirs, usable = unit_vectors(tests["embedding"])
    if not usable.all():
        raise SchemaError(f"evaluation texts {tests['row_id'].filter(pl.Series(~usable)).to_list()[:5]} have no usable embedding")
    mine, known = unit_vectors(check_rows(rows, "embedding")["embedding"])
    if len(mine) and len(theirs) and mine.shape[1] != theirs.shape[1]:
        raise SchemaError(f"embeddings of rows have {mine.shape[1]} numbers, of evaluation texts {theirs.shape[1]}")
    names: list[str | None] = [None] * rows.height
    cosines: list[float | None] = [None] * rows.height
    places = np.flatnonzero(known)
    for begin in range(0, len(mine) if len(theirs) else 0, _BLOCK):
        cosine = mine[begin : begin + _BLOCK] @ theirs.T
        for place, best, value in zip(places[begin : begin + _BLOCK], cosine.argmax(axis=1), cosine.max(axis=1), strict=True):
            names[place], cosines[place] = tests["row_id"][int(best)], float(value)
    columns = {"row_id": rows["row_id"], "nearest": names, "cosine": cosines}
    return pl.DataFrame(columns, schema={"row_id": pl.String, "nearest": pl.String, "cosine": pl.Float64})


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[int, Gram]]:
    return ((i, tuple(words[i : i + n])) for i in range(len(words) - n + 1))


def _index(against: pl.DataFrame, n: int, min_words: int) -> tuple[Places, dict[str, int], dict[Gram, str]]:
    """Where each run of words stands; how many words each text has; texts that are too short to be looked for in others."""
    places: Places = defaultdict(lambda: defaultdict(list))
    sizes: dict[str, int] = {}
    whole: dict[Gram, str] = {}
    for test, text in against.drop_nulls("text").select("row_id", "text").sort("row_id").iter_rows():
        words = _words(text)
        if words and len(words) < min_words:
            whole.setdefault(tuple(words), test)
        elif words:
            sizes[test] = len(words)
            for i, gram in _grams(words, min(n, len(words))):
                places[len(gram)][gram].append((test, i))
    return places, sizes, whole


def _covered(words: Sequence[str], places: Places) -> dict[str, set[int]]:
    """Which words of each evaluation text the row shares in runs."""
    covered: dict[str, set[int]] = defaultdict(set)
    for n, known in places.items():
        for gram in {gram for _, gram in _grams(words, n)} & known.keys():
            for test, i in known[gram]:
                covered[test].update(range(i, i + n))
    return covered
