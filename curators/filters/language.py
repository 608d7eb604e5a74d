"""The language of a text, by `py3langid` (Lui & Baldwin 2012: naive Bayes over byte n-grams, 97 languages; the model is in the wheel)."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import polars as pl
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from curators.errors import ConfigError
from curators.filters.marks import Fault, check_rows, mark, without_text

_NO_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|\$\$?[^$]{1,500}\$\$?|https?://\S+|<[^>]{1,80}>|[\d\W_]+", re.DOTALL)


def language(rows: pl.DataFrame, *, allowed: Sequence[str] = ("en",), min_probability: float = 0.5, min_letters: int = 20) -> pl.DataFrame:
    """Marks of texts in another language than those allowed (ISO 639-1).

    Code blocks, formulas, addresses and digits do not count. A text of fewer than `min_letters` letters, or one whose likeliest language
    has less than `min_probability`, is kept: that is too little to say that the language is a wrong one.

    >>> texts = ["Der Hund schläft den ganzen Tag im Garten.", "The dog sleeps in the garden all day.", "42"]
    >>> language(pl.DataFrame({"row_id": ["a", "b", "c"], "text": texts})).select("keep", "reason").rows()
    [(False, 'other_language'), (True, None), (True, None)]

    Raises:
        ConfigError: a language that the model does not know.
    """
    if unknown := sorted(set(allowed) - languages()):
        raise ConfigError(f"language: {unknown} are not known; there are {sorted(languages())}")
    faults: dict[str, Fault] = {}
    for row_id, text in check_rows(rows, "text").drop_nulls("text").select("row_id", "text").iter_rows():
        found, probability = identify(text, min_letters=min_letters)
        if found is not None and found not in allowed and probability >= min_probability:
            faults[row_id] = ("other_language", f"{found} with probability {probability:.2f}")
    return mark(rows, without_text(rows) | faults)


def identify(text: str, *, min_letters: int = 20) -> tuple[str | None, float]:
    """The likeliest language and its probability; null where there are too few letters to tell."""
    words = _NO_LANGUAGE.sub(" ", text[:5000]).strip()
    if len(words) - words.count(" ") < min_letters:
        return None, 0.0
    found, probability = _model().classify(words)
    return str(found), float(probability)


def languages() -> frozenset[str]:
    """The codes that the model knows."""
    return frozenset(str(label) for label in _model().labels)


@functools.cache
def _model() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
