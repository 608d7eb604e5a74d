"""The configuration of flow `select`. What a selector's parameters mean is said where they are used: `curators.selection.config`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from pipelines.config import DerivedConfig, Strict

Text = Literal["prompt", "chosen", "rejected", "prompt+chosen", "chosen+rejected", "all"]


class SelectorConfig(Strict):
    """A selector and what it is asked; a bare string is its name. Null: the default of `curators.selection.config`."""

    selector: str = Field("isa", description="a shipped selector's name, see docs/selection.md, or module:function")
    order: Literal["signed", "abs", "normalized"] | None = Field(None, description="isa")
    n_components: PositiveInt | None = Field(None, description="isa: of the mixture")
    covariance: Literal["auto", "full", "diag"] | None = Field(None, description="isa")
    dimensions: PositiveInt | Literal["all"] | None = Field(None, description="isa: principal components at most")
    fit_rows: PositiveInt | None = Field(None, description="isa: rows that the mixture is fitted on")
    n_init: PositiveInt | None = Field(None, description="isa: starts of the fit")
    direction: Literal["largest", "smallest", "middle"] | None = Field(None, description="margin, difficulty: required there")
    stratum: str | None = Field(None, description="a column of the pairs; the budget is divided over its values")
    quotas: dict[str, float] | None = Field(None, description="weight of each stratum; null: in proportion to its rows")
    max_similarity: float | None = Field(None, ge=-1, le=1, description="deita")
    neighbours: PositiveInt | None = Field(None, description="facility_location")
    quality: float | None = Field(None, description="log_det: weight of the scores")
    ridge: float | None = Field(None, ge=0, description="log_det")
    max_unusable: float | None = Field(None, ge=0, le=1, description="share of rows without a finite embedding or score")


def _named(value: Any) -> Any:
    return {"selector": value} if isinstance(value, str) else value


def _filters(value: Any) -> Any:
    """A name, a list of names, or names with their settings; no settings are the defaults."""
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list):
        return {name: {} for name in names}
    return {name: {} if settings is None else settings for name, settings in value.items()} if isinstance(value, dict) else value


def _budget(value: Any) -> Any:
    whole, share = isinstance(value, int) and not isinstance(value, bool) and value >= 1, isinstance(value, float) and 0 < value <= 1
    if not (whole or share):
        raise ValueError("is a whole number of pairs from 1, or a share with a point, above 0 and up to 1.0")
    return value


class SelectionConfig(DerivedConfig):
    """a published version → filters → embeddings → selection → gates → a published version."""

    selector: Annotated[SelectorConfig, BeforeValidator(_named)] = SelectorConfig()
    budget: Annotated[int | float, BeforeValidator(_budget)] = Field(
        description="pairs to keep, or their share of those that pass the filters: 1 is one pair, 1.0 all of them"
    )
    seed: int = Field(0, description="of what is drawn by chance")
    text: Text = Field("prompt+chosen", description="what of a pair is embedded, and filtered where the filter's own `text` does not say")
    encoder: str | None = Field(
        "bundled",
        description="bundled (all-MiniLM-L6-v2), a sentence-transformers directory, or last-token: with a policy's directory or "
        "checkpoint:NAME[@VERSION]; null: a selector of your own gets no embeddings",
    )
    scores: str | None = Field(None, description="the numeric column of pairs that a selector by scores goes by; null: its own")
    filters: Annotated[dict[str, dict[str, Any]], BeforeValidator(_filters)] = Field(
        default_factory=dict, description="name = settings, see docs/filters.md; also `text`, and `against` as the path of a file"
    )
