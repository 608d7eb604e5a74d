"""From the configuration of flow `steps` to the parameters of curators: presets with what is to be other than in them, and raters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from curators.engines.base import Engine
from curators.errors import ConfigError
from curators.judging.protocol import JudgeConfig
from curators.judging.rubric import load_rubric
from curators.stepsearch.config import SearchConfig, ValueWeights, preset
from curators.stepsearch.driver import TreeLimits
from curators.stepsearch.evaluation import Checked, Judged, Scored, Source, Values
from curators.stepsearch.extraction import EXTRACTIONS, StepPairConfig
from curators.verifiers import load_verifier
from pipelines.config import Strict
from pipelines.steps.config import RatingConfig, SearchPresetConfig, StepsConfig, TreeLimitsConfig, TreePairsConfig

NO_BOUND = ("unlimited", "ungraded")
"""What a configuration says where a parameter is to be null, since null there leaves it to the preset."""


def search_config(given: SearchPresetConfig) -> SearchConfig:
    """How trees are searched.

    >>> search_config(SearchPresetConfig(preset="ref", simulations=8, depth_limit="unlimited")).depth_limit is None
    True

    Raises:
        ConfigError: a value that is not allowed.
    """
    weights = ValueWeights(**given.weights.model_dump())
    return replace(preset(given.preset), **_changes(given, but=("preset", "weights")), weights=weights)


def tree_limits(given: TreeLimitsConfig) -> TreeLimits:
    """Where a tree ends."""
    timeout = {} if given.verifier_timeout_s is None else {"verifier_timeout_s": given.verifier_timeout_s}
    return TreeLimits(max_calls=given.calls, max_tokens=given.tokens, max_s=given.seconds, **timeout)


def values_of(config: StepsConfig, engines: Mapping[str, Engine], *, seed: int, secret: bytes) -> Values:
    """Who is asked what steps are worth, beside the verifier.

    Raises:
        ConfigError: no such rubric or function, or a rubric that is not pointwise.
    """

    def judged(engine: Engine, given: RatingConfig) -> Judged:
        asked = JudgeConfig(
            channel=given.channel, votes=given.votes, temperature=given.temperature, max_tokens=given.max_tokens, seed=seed, secret=secret
        )
        return Judged(engine=engine, rubric=load_rubric(given.rubric), config=asked)

    reward: Source | None = None
    if config.reward is not None:
        scores = "scores" in engines["reward"].capabilities
        reward = Scored(engines["reward"], config.reward.weights) if scores else judged(engines["reward"], config.reward)
    if config.reward_function is not None:
        reward = Checked(verifier=load_verifier(config.reward_function))
    return Values(self_eval=judged(engines["policy"], config.self_eval) if config.self_eval else None, reward=reward)


def extraction(given: TreePairsConfig, *, policy: str, seed: int) -> StepPairConfig:
    """Which pairs are made of them.

    Raises:
        ConfigError: a value that is not allowed.
    """
    changes = _changes(given, but=("preset", "kind", "use_unfinished"))
    return replace(EXTRACTIONS[given.preset], **changes, policy=policy, seed=seed)


def check_pairs(config: StepsConfig) -> None:
    """Refuse pairs that no tree of this search can give.

    Raises:
        ConfigError: they take graded answers, and nobody grades.
    """
    rule = extraction(config.pairs, policy="", seed=0)
    if config.verifier is None and (config.pairs.kind == "response" or rule.require_outcomes):
        how = "kind response pairs" if config.pairs.kind == "response" else "require_outcomes asks for"
        raise ConfigError(f"pairs: {how} right and wrong answers, and nobody grades them; give `verifier`, or pairs.require_outcomes=false")


def _changes(given: Strict, *, but: tuple[str, ...]) -> Mapping[str, Any]:
    return {name: None if value in NO_BOUND else value for name, value in given if name not in but and value is not None}
