"""The configuration of flow `contrast`. What the settings of a method mean is said where it is: `curators.contrast` (docs/contrast.md)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from curators.errors import ConfigError
from pipelines.config import DerivedConfig, EngineField, ShardedConfig
from pipelines.judging.config import JudgeField


def _named(value: Any) -> Any:
    """A name, a list of names, or names with their settings; no settings are the defaults."""
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list):
        return {str(name): {} for name in names}
    return {name: given or {} for name, given in names.items()} if isinstance(names, dict) else names


class ContrastConfig(DerivedConfig, ShardedConfig):
    """a published version, or a file → contrastive pairs of its prompts, answers or pairs → checked → gates → a published version."""

    source: str = Field(
        description="what they are made from: NAME, NAME@VERSION or NAME@TAG of the same lake, or a file of prompts and answers"
    )
    columns: dict[str, str] = Field(default_factory=dict, description="of a file: target = source; see docs/import.md")
    methods: Annotated[dict[str, dict[str, Any]], BeforeValidator(_named)] = Field(
        min_length=1, description="methods with their settings, or their names alone; see docs/contrast.md"
    )
    writer: EngineField | None = Field(None, description="who writes revisions, sides and anchors, where a method has any written")
    verifier: str | None = Field(None, description="a shipped check or module:function: checks what was made")
    judge: JudgeField | None = Field(None, description="checks what was made, where there is no verifier and the method takes a judge")
    scores: str = Field(
        "recorded",
        description="of which two answers: recorded (the version's judgments), verifier, judge (matches, for west_of_n), "
        "or one of the version's judges by name",
    )

    @property
    def of_file(self) -> bool:
        """Whether the source is a file: the name of a dataset, before `@`, has neither dots nor slashes."""
        name = self.source.partition("@")[0]
        return "." in name or "/" in self.source

    @model_validator(mode="after")
    def _columns_are_of_a_file(self) -> ContrastConfig:
        if self.columns and not self.of_file:
            raise ConfigError(f"columns: are of a file, and source {self.source!r} is a version; leave them out")
        return self

    @model_validator(mode="after")
    def _methods_can_work(self) -> ContrastConfig:
        from pipelines.contrasting.methods import fault, settings_of  # here: they bring every curator, which help does without

        for name, given in self.methods.items():
            settings_of(name, given, seed=0)
        if told := fault(self):
            raise ConfigError(told)
        return self
