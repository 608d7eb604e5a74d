"""From a preset and what is to be other than in it, as a configuration gives them, to the parameters of curators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from curators.stepsearch.config import SearchConfig, preset
from curators.stepsearch.extraction import EXTRACTIONS, StepPairConfig
from pipelines.config import SearchPresetConfig, Strict, TreePairsConfig

NO_BOUND = ("unlimited", "ungraded")
"""What a configuration says where a parameter is to be null, since null there leaves it to the preset."""


def search_config(given: SearchPresetConfig) -> SearchConfig:
    """How trees are searched.

    >>> search_config(SearchPresetConfig(preset="ref", simulations=8, depth_limit="unlimited")).depth_limit is None
    True

    Raises:
        ConfigError: a value that is not allowed.
    """
    return replace(preset(given.preset), **_changes(given, but=("preset",)))


def extraction(given: TreePairsConfig, *, policy: str, seed: int) -> StepPairConfig:
    """Which pairs are made of them.

    Raises:
        ConfigError: a value that is not allowed.
    """
    changes = _changes(given, but=("preset", "kind", "use_unfinished"))
    return replace(EXTRACTIONS[given.preset], **changes, policy=policy, seed=seed)


def _changes(given: Strict, *, but: tuple[str, ...]) -> Mapping[str, Any]:
    return {name: None if value in NO_BOUND else value for name, value in given if name not in but and value is not None}
