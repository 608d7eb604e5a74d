"""The configuration of flow `score`."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipelines.config import DerivedConfig


class ScoreConfig(DerivedConfig):
    """a published version → the same pairs with their log-probabilities under a reference policy → gates → a published version."""

    reference: str = Field(description="hf:PATH[@REV] or checkpoint:NAME[@VERSION|TAG]: the weights that score, in float32")

    @field_validator("reference")
    @classmethod
    def _has_weights(cls, value: str) -> str:
        if not value.startswith(("hf:", "checkpoint:")):
            raise ValueError("needs weights, which an endpoint does not give: hf:PATH or checkpoint:NAME")
        return value
