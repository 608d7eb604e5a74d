"""The configuration of flow `evidence`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.config import DATASET_NAME, EngineField, EvaluationConfig, Strict, default_lake


class EvidenceConfig(Strict):
    """published versions → the same policy trained on each, over seeds, with one budget → the differences with their intervals."""

    name: str = Field("evidence", pattern=DATASET_NAME, description="of the report and the artifacts")
    versions: tuple[str, ...] = Field(min_length=2, description="NAME@VERSION or NAME@TAG; the others are compared with the first")
    seeds: int = Field(5, ge=2, description="trainings of each version")
    lake: str | None = Field(None, description="directory of the lake; null: PAIRMILL_LAKE, else ./lake")
    policy: EngineField | None = Field(None, description="the model to train; null: the one that the first version was sampled from")
    view: str | None = Field(None, description="a training format, see docs/views.md; null: what each version is made for")
    handoff_format: Literal["duckdb", "parquet", "jsonl"] = "duckdb"
    command: str | None = Field(None, description="a trainer of your own, as for flow train; it finds its seed in {params}")
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="of the trainer; without max_steps the built-in one takes as many steps as the smallest version gives",
    )
    timeout_s: float = Field(86_400, gt=0)
    evaluation: EvaluationConfig

    @property
    def lake_root(self) -> Path:
        return Path(self.lake or default_lake())

    @model_validator(mode="after")
    def _seeds_are_ours(self) -> EvidenceConfig:
        if "seed" in self.params:
            raise ValueError("params.seed: every training has one of its own; give `seeds`, how many")
        return self
