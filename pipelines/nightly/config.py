"""The configuration of flow `nightly`: that of every stage, as the stage's own flow takes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.config import DATASET_NAME, Strict, TrainConfig, default_lake
from pipelines.contrasting.config import ContrastConfig
from pipelines.judging.config import CurateConfig
from pipelines.selecting.config import SelectionConfig
from pipelines.steps.config import StepsConfig

StageName = Literal["curate", "steps", "select", "contrast", "train"]
STAGES: tuple[StageName, ...] = ("curate", "steps", "select", "contrast", "train")
"""The stages in the order in which they run."""


class NightlyConfig(Strict):
    """sample and annotate → step search → subsample → contrast → train; a version of every stage but the last, and one report.

    A stage that is null is switched off. Where a stage starts from the dataset that an earlier one publishes, it starts from the version
    of this night, and is left out when there is none.
    """

    name: str = Field("nightly", pattern=DATASET_NAME, description="of the night's report and artifacts")
    lake: str | None = Field(None, description="directory of the lake; null: PAIRMILL_LAKE, else ./lake")
    author: str | None = Field(None, description="null: the user's login name")
    seed: int | Literal["scheduled-date"] = Field("scheduled-date", description="of every stage that does not say its own")
    curate: CurateConfig | None = Field(None, description="prompts → answers → judgments → pairs")
    steps: StepsConfig | None = Field(None, description="prompts → searched trees → pairs of steps")
    select: SelectionConfig | None = Field(None, description="the informative few of a version's pairs")
    contrast: ContrastConfig | None = Field(None, description="contrastive pairs made from a version")
    train: TrainConfig | None = Field(None, description="a version → a checkpoint, evaluated before and after")

    @property
    def lake_root(self) -> Path:
        return Path(self.lake or default_lake())

    @property
    def stages(self) -> Mapping[StageName, Any]:
        """The configurations of the stages that are on, in order."""
        return {stage: config for stage in STAGES if (config := getattr(self, stage)) is not None}

    @model_validator(mode="after")
    def _stages_follow_each_other(self) -> NightlyConfig:
        if not self.stages:
            raise ValueError(f"every stage is switched off: give one of {', '.join(STAGES)}")
        made: dict[str, StageName] = {}
        for stage, config in self.stages.items():
            if config.lake not in (None, self.lake):
                raise ValueError(f"{stage}.lake: all stages share the night's lake; give `lake` beside the stages")
            if stage != "train" and (twice := made.setdefault(config.dataset, stage)) != stage:
                raise ValueError(f"{stage}.dataset: {config.dataset!r} is what {twice} publishes; name another")
        before: set[str] = set()
        for stage, config in self.stages.items():
            if (source := source_of(stage, config)) in made and source not in before:
                raise ValueError(
                    f"{stage} starts from {source!r}, which {made[source]} publishes after it; the order is {', '.join(STAGES)}"
                )
            before.add(config.dataset)
        return self


def source_of(stage: StageName, config: Any) -> str | None:
    """The dataset that a stage starts from, as it is named; null for one that starts from prompts, or from one version for good."""
    named = config.dataset if stage == "train" else getattr(config, "source", None)
    return named if named and "@" not in named else None


def prepared(config: NightlyConfig, stage: StageName, given: Any, *, seed: int, version: int | None) -> Any:
    """A stage's configuration with the night's lake, author and seed, and, where there is one, tonight's version of what it starts from."""
    update: dict[str, Any] = {"lake": str(config.lake_root)}
    if "author" in type(given).model_fields and given.author is None:
        update["author"] = config.author
    if "seed" in type(given).model_fields and ("seed" not in given.model_fields_set or given.seed == "scheduled-date"):
        update["seed"] = seed
    if version is not None and (source := source_of(stage, given)):
        update["dataset" if stage == "train" else "source"] = f"{source}@{version}"
    return given.model_copy(update=update)
