"""Which filters there are, by name; a user's own is `module:function`.

A filter is called with rows and its settings by name, and returns their marks (`curators.filters.marks`). `against`, the evaluation set of
the two overlap filters, is a setting like any other.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from curators.errors import ConfigError
from curators.filters import contamination, duplicates, language, pass_rate, private, wording
from curators.filters.marks import MARKS, first_fault

Filter = Callable[..., pl.DataFrame]

FILTERS: Mapping[str, Filter] = {
    "length": wording.length,
    "language": language.language,
    "refusal": wording.refusal,
    "personal_data": private.personal_data,
    "credentials": private.credentials,
    "exact_duplicate": duplicates.exact_duplicate,
    "near_duplicate": duplicates.near_duplicate,
    "embedding_duplicate": duplicates.embedding_duplicate,
    "ngram_overlap": contamination.ngram_overlap,
    "embedding_overlap": contamination.embedding_overlap,
    "pass_rate_band": pass_rate.pass_rate_band,
}
"""By name, cheapest first."""


def load_filter(name: str) -> Filter:
    """A shipped filter by name, or `module:function`.

    >>> load_filter("lenght")
    Traceback (most recent call last):
    ...
    curators.errors.ConfigError: filter 'lenght' is not shipped; there are ['credentials', ...]; your own is module:function

    Raises:
        ConfigError: no such filter, module or function.
    """
    if name in FILTERS:
        return FILTERS[name]
    if ":" not in name:
        raise ConfigError(f"filter {name!r} is not shipped; there are {sorted(FILTERS)}; your own is module:function")
    module_name, _, function = name.partition(":")
    try:
        found: Filter | None = getattr(importlib.import_module(module_name), function, None)
    except ImportError as error:
        raise ConfigError(f"filter {name!r}: cannot import {module_name!r}: {error}; is its folder on PYTHONPATH?") from error
    if not callable(found):
        raise ConfigError(f"filter {name!r}: {module_name!r} has no function {function!r}")
    return found


def apply_filters(rows: pl.DataFrame, wanted: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """The marks of several filters, name to settings, as one: a row's reason is that of the first filter that does not keep it.

    Every filter sees every row, so that the marks of a filter do not depend on which others run.

    >>> rows = pl.DataFrame({"row_id": ["a", "b"], "text": ["I cannot help with that.", "Of course: 4."]})
    >>> apply_filters(rows, {"length": {"min_words": 2}, "refusal": {}})["reason"].to_list()
    ['refusal', None]

    Raises:
        ConfigError: an unknown filter or setting, or marks that are none.
    """
    return first_fault([_marks(name, rows, settings) for name, settings in wanted.items()])


def filter_named(name: str, settings: Mapping[str, Any]) -> Filter:
    """The filter, which takes these settings.

    Raises:
        ConfigError: an unknown filter or setting, or one that is required and missing.
    """
    chosen = load_filter(name)
    try:
        inspect.signature(chosen).bind(pl.DataFrame(), **settings)
    except TypeError as error:
        raise ConfigError(f"filter {name!r} with settings {sorted(settings)}: {error}") from error
    return chosen


def _marks(name: str, rows: pl.DataFrame, settings: Mapping[str, Any]) -> pl.DataFrame:
    marks = filter_named(name, settings)(rows, **settings)
    if not isinstance(marks, pl.DataFrame) or marks.schema != MARKS or not marks["row_id"].equals(rows["row_id"]):
        raise ConfigError(f"filter {name!r} must return one mark a row with the columns {MARKS}")
    return marks
