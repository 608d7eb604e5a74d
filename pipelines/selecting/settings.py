"""From the configuration of flow `select` to the parameters of curators, checked against the version before anything is computed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from curators.errors import ConfigError
from curators.filters import filter_named
from curators.selection.config import SelectConfig
from curators.selection.selectors import selector_of
from pipelines.runs import file_digest
from pipelines.selecting.config import SelectionConfig
from pipelines.selecting.texts import PARTS, TEXT_OF

BY_EMBEDDING = ("embedding_duplicate", "embedding_overlap")
"""The filters that are given vectors."""


def select_config(config: SelectionConfig) -> SelectConfig:
    """How the rows are selected.

    >>> select_config(SelectionConfig(dataset="small", source="big", budget=0.1, selector={"dimensions": "all"})).dimensions is None
    True

    Raises:
        ConfigError: a value that is not allowed.
    """
    given = {name: value for name, value in config.selector if value is not None}
    return SelectConfig(**given | ({"dimensions": None} if given.get("dimensions") == "all" else {}), seed=config.seed)


def score_column(config: SelectionConfig) -> str | None:
    """The column of pairs that the selector goes by, or null."""
    if ":" in config.selector.selector:
        return config.scores
    its = selector_of(select_config(config)).scores
    return its and (config.scores or its)


def selects_by_vectors(config: SelectionConfig) -> bool:
    """Whether the selector is given embeddings; one of the user's own is, unless there is no encoder."""
    return config.encoder is not None if ":" in config.selector.selector else selector_of(select_config(config)).vectors


def filters_by_vectors(config: SelectionConfig) -> bool:
    """Whether some filter is."""
    return any(name in BY_EMBEDDING for name in config.filters)


def check_columns(config: SelectionConfig, ref: str, schema: Mapping[str, pl.DataType]) -> None:
    """Refuse what the version's pairs cannot be selected by.

    Raises:
        ConfigError: no such column of scores or strata, or one of another type; embeddings are needed and there is no encoder.
    """
    if config.encoder is None and (selects_by_vectors(config) or filters_by_vectors(config)):
        raise ConfigError(
            f"encoder: is null, and selector {config.selector.selector!r} or a filter needs embeddings; give `bundled` or a path"
        )
    column = score_column(config)
    if column is not None and not (column in schema and schema[column].is_numeric()):
        numeric = [name for name, dtype in schema.items() if dtype.is_numeric()]
        what = f"is {schema[column]}, no number" if column in schema else "is not there"
        who = f"selector {config.selector.selector!r} goes by a numeric column of pairs"
        raise ConfigError(f"scores: {who}, and {column!r} {what} in {ref}; there are {numeric}")
    stratum = config.selector.stratum
    if stratum is not None and (stratum not in schema or schema[stratum].is_nested()):
        plain = [name for name, dtype in schema.items() if not dtype.is_nested()]
        raise ConfigError(f"selector.stratum: there is no column {stratum!r} of single values in {ref}; there are {plain}")


def text_of(config: SelectionConfig, name: str) -> str:
    """What of a pair a filter reads."""
    return str(config.filters[name].get("text", TEXT_OF.get(name, config.text)))


def own_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A filter's settings without what the flow itself reads."""
    return {name: value for name, value in settings.items() if name != "text"}


def own_code(config: SelectionConfig) -> dict[str, str]:
    """sha256 of the modules of the user's own selector and filters, by what they are; all are there and take their settings.

    Raises:
        ConfigError: a selector, filter or setting that is not there.
    """
    selector_of(select_config(config))
    for name, settings in config.filters.items():
        filter_named(name, own_settings(settings))
        if text_of(config, name) not in PARTS:
            raise ConfigError(f"filters.{name}.text: is {settings['text']!r}; allowed are {list(PARTS)}")
    names = {"selector": config.selector.selector, **{f"filters.{name}": name for name in config.filters}}
    return {what: _module_digest(name) for what, name in names.items() if ":" in name}


def _module_digest(name: str) -> str:
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    if file is None or not Path(file).is_file():
        raise ConfigError(f"{name}: the source of its module cannot be read, so its code has no digest")
    return file_digest(file)


def against_files(config: SelectionConfig) -> dict[str, str]:
    """The evaluation sets that filters compare with, by what they are.

    Raises:
        ConfigError: one is not there.
    """
    found = {f"filters.{name}.against": settings["against"] for name, settings in config.filters.items() if "against" in settings}
    for what, file in found.items():
        if not isinstance(file, str) or not Path(file).is_file():
            raise ConfigError(f"{what}: no file {file!r}; give a .jsonl[.gz], .parquet or .csv file")
    return found
