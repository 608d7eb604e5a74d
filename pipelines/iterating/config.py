"""The configuration of flow `iterate`: how a round makes its pairs and trains on them, and when it is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipelines.config import DATASET_NAME, Strict, TrainConfig, default_lake
from pipelines.judging.config import CurateConfig
from pipelines.steps.config import StepsConfig


class StopConfig(Strict):
    """What ends a chain before its last round; null switches a rule off."""

    min_gain: float | None = Field(0.0, description="no gain: accuracy after a round minus before it, in points of 1, that it must exceed")
    patience: int = Field(1, ge=1, description="rounds in a row without that gain")
    stop_when_worse: bool = Field(True, description="over-optimised: the whole interval of a round's gain is below 0")
    min_entropy_share: float | None = Field(
        0.3, ge=0, le=1, description="entropy collapse: of the first round's entropy a token, estimated from the samples"
    )


class ReplayConfig(Strict):
    """Pairs of earlier rounds that a round trains on beside its own."""

    share: float = Field(gt=0, le=4, description="pairs drawn from earlier rounds for each pair of this one")
    rounds: int = Field(1, ge=1, description="how far back they may come from")


class IterateConfig(Strict):
    """rounds of: the policy's samples → judgments or searches → a published version → training → evaluation → the next policy."""

    name: str = Field(pattern=DATASET_NAME, description="of the chain, its datasets and its checkpoints")
    rounds: int = Field(3, ge=1)
    lake: str | None = Field(None, description="directory of the lake; null: PAIRMILL_LAKE, else ./lake")
    author: str | None = Field(None, description="null: the user's login name")
    seed: int = Field(0, description="of every round; a chain has one")
    curate: CurateConfig | None = Field(None, description="how a round makes its pairs; `policy` is that of the first round")
    steps: StepsConfig | None = Field(None, description="the same by step search")
    train: TrainConfig
    replay: ReplayConfig | None = None
    stop: StopConfig = StopConfig()

    @property
    def lake_root(self) -> Path:
        return Path(self.lake or default_lake())

    @property
    def stages(self) -> dict[str, CurateConfig | StepsConfig | TrainConfig]:
        return {self.making: self.collect, "train": self.train}

    @property
    def making(self) -> Literal["curate", "steps"]:
        """The flow that makes a round's pairs."""
        return "curate" if self.curate is not None else "steps"

    @property
    def collect(self) -> CurateConfig | StepsConfig:
        found = self.curate or self.steps
        assert found is not None
        return found

    @model_validator(mode="after")
    def _a_round_is_whole(self) -> IterateConfig:
        if (self.curate is None) == (self.steps is None):
            raise ValueError("give `curate` or `steps`, one of them: how a round makes its pairs")
        for stage, config in self.stages.items():
            if config.dataset != self.name:
                raise ValueError(
                    f"{stage}.dataset: the rounds of {self.name!r} are its versions; write {self.name}, not {config.dataset!r}"
                )
            if config.lake not in (None, self.lake):
                raise ValueError(f"{stage}.lake: a chain has one lake; give `lake` beside the stages")
        if "seed" in self.collect.model_fields_set and self.collect.seed != self.seed:
            raise ValueError(f"{self.making}.seed: a chain has one seed; give `seed` beside the stages")
        if self.train.evaluation is None:
            raise ValueError("train.evaluation: without it no round knows whether it was worth it; give prompts and a verifier")
        if self.train.policy is not None or self.train.checkpoint is not None:
            raise ValueError("train: policy and checkpoint are those of the chain; leave them out")
        return self
