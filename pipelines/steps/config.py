"""The configuration of flow `steps`. What its parameters mean is said where they are used: `curators.stepsearch`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from pipelines.config import PromptsConfig, Strict, engine_spec
from pipelines.judging import config as judging


def _preset(value: Any) -> Any:
    """A bare name is the preset's."""
    return {"preset": value} if isinstance(value, str) else value


class WeightsConfig(Strict):
    """How much the parts of a value count; one of weight 0 is not asked for."""

    verifier: NonNegativeFloat = 1.0
    self_eval: NonNegativeFloat = 1.0
    reward: NonNegativeFloat = 1.0


class RatingConfig(Strict):
    """How a model is asked what a step is worth. `channel` auto: option log-probabilities where the engine gives them, else votes."""

    rubric: str = Field("step", description="a shipped pointwise rubric's name or the path of a .md file")
    channel: Literal["auto", "options", "text"] = "auto"
    votes: int = Field(5, ge=1)
    temperature: float = Field(1.0, ge=0)
    max_tokens: int = Field(16, ge=1)


class SelfEvalConfig(RatingConfig):
    """The policy's own judgement of its steps."""


class RewardConfig(judging.RewardConfig, RatingConfig):
    """A reward model, or any engine with a pointwise rubric."""


RewardField = Annotated[RewardConfig, BeforeValidator(engine_spec)]


class SearchPresetConfig(Strict):
    """How a tree is searched: a preset, and what is to be other than in it. Null: as in the preset.

    `curators.stepsearch.config` explains.
    """

    preset: Literal["default", "paper", "ref"] = "default"
    simulations: PositiveInt | None = Field(None, description="before each commit to a step")
    root_multiplier: PositiveInt | None = Field(None, description="times as many before the first")
    first_children: PositiveInt | None = Field(None, description="steps sampled below the prompt")
    children: PositiveInt | None = Field(None, description="steps sampled below every other node")
    depth_limit: PositiveInt | Literal["unlimited"] | None = Field(None, description="steps below the current root")
    max_depth: PositiveInt | Literal["unlimited"] | None = Field(None, description="steps of an answer")
    c_puct: NonNegativeFloat | None = None
    gamma: Annotated[float, Field(ge=0, le=1)] | None = None
    prior_mode: Literal["sibling_softmax", "ref", "paper"] | None = None
    length_power: float | None = None
    prior_temperature: PositiveFloat | None = None
    backup_weights: Literal["visits", "at_least_one"] | None = None
    root_visits: Literal[1, 2] | None = None
    tie_rule: Literal["prior", "index"] | None = None
    commit_rule: Literal["visits_range", "visits", "q"] | None = None
    virtual_loss: NonNegativeFloat | None = None
    weights: WeightsConfig = WeightsConfig()
    truncated_outcome: float | Literal["ungraded"] | None = Field(None, description="of an answer that was cut off")
    adjustments: Literal["none", "ref"] | None = None


def _pattern(text: str | None) -> str | None:
    try:
        re.compile(text or "")
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return text


class StepSamplingConfig(Strict):
    """How the steps below a node are sampled and answers recognised."""

    delimiter: str = Field("\n", min_length=1, description="ends a step, and is part of it")
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(128, ge=1, description="of one step")
    answer: Annotated[str | None, AfterValidator(_pattern)] = Field(
        None, description="a step in which this regular expression is found ends the answer; null: only the model's own end does"
    )
    right_from: float = Field(1.0, description="the verifier's score from which an answer is right")
    in_flight: int = Field(1, ge=1, description="simulations of one tree at a time; with 1 the tree does not depend on timing")


class TreeLimitsConfig(Strict):
    """Where one tree ends with what there is; null: nowhere. Answers from the ledger count."""

    calls: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1, description="sampled ones")
    seconds: float | None = Field(None, gt=0)
    verifier_timeout_s: float | None = Field(None, gt=0, description="null: the verifiers' own")


class TreePairsConfig(Strict):
    """Which pairs are made of the trees: a preset, and what is to be other than in it. Null: as in the preset.

    `curators.stepsearch.extraction` explains. Of kind `response` only `max_per_prompt`, `use_unfinished` and `test_share` count.
    """

    kind: Literal["step", "response"] = Field("step", description="sibling steps, or whole answers of the same trees as a baseline")
    preset: Literal["default", "paper", "ref"] = "default"
    use_unfinished: bool = Field(True, description="may a tree that a cap ended early give pairs?")
    parents: Literal["all", "path"] | None = None
    rejected: Literal["lowest_q", "second_best", "random_nonbest", "hardest"] | None = None
    label_value: Literal["q", "w_mean", "w_max"] | None = None
    min_gap: NonNegativeFloat | None = None
    min_visits: Annotated[int, Field(ge=0)] | None = None
    require_outcomes: bool | None = None
    signs_agree: bool | None = None
    allow_injected: bool | None = None
    solved_only: bool | None = None
    max_per_parent: PositiveInt | None = None
    max_per_prompt: PositiveInt | Literal["unlimited"] | None = None
    alpha_mode: Literal["visits", "q", "paper", "ref"] | None = None
    kappa: NonNegativeFloat | None = None
    tau: PositiveFloat | None = None
    test_share: float = Field(0.1, ge=0, lt=1, description="share of prompts, by hash of their id")


class StepsConfig(PromptsConfig):
    """prompts → searched trees → pairs of steps → gates → a published version."""

    verifier: str | None = Field(None, description="a shipped check or module:function: grades the answers")
    self_eval: SelfEvalConfig | None = Field(None, description="ask the policy itself whether a step is right; null: do not")
    reward: RewardField | None = Field(None, description="a reward model that rates every step; a bare string is its engine")
    reward_function: str | None = Field(None, description="module:function that rates every step, in place of a reward model")
    search: Annotated[SearchPresetConfig, BeforeValidator(_preset)] = SearchPresetConfig()
    steps: StepSamplingConfig = StepSamplingConfig()
    limits: TreeLimitsConfig = TreeLimitsConfig()
    pairs: Annotated[TreePairsConfig, BeforeValidator(_preset)] = TreePairsConfig()
    concurrent_trees: int = Field(512, ge=1, description="trees searched at a time, over all shards")

    @model_validator(mode="after")
    def _something_has_a_value(self) -> StepsConfig:
        if not (self.verifier or self.self_eval or self.reward or self.reward_function):
            raise ValueError("no step has a value: give `verifier` (a check or module:function), `self_eval`, or a reward")
        if self.reward and self.reward_function:
            raise ValueError("there are two rewards: give `reward` (a model) or `reward_function` (module:function)")
        return self
