"""How rows are selected: one frozen record, so that a manifest can hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from curators.errors import ConfigError

Order = Literal["signed", "abs", "normalized"]
Covariance = Literal["auto", "full", "diag"]
Direction = Literal["largest", "smallest", "middle"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """A selector and what it is asked. A field that the selector does not know has no effect.

    Args:
        selector: a name of `selectors.SELECTORS`, or `module:function` of that signature.
        seed: of what is drawn: `random`, `density`, the start of a mixture's fit, the rows that it is fitted on.
        id: the column of content ids; ties go to the smaller id.
        stratum: a column; the budget is divided over its values, and the selector runs within each. Required by `stratified`.
        quotas: the weight of each stratum; null: in proportion to its rows.
        max_unusable: the largest share of rows whose embedding or score is not finite; beyond it nothing is selected.
        order: `isa`: see `selection.isa`.
        n_components: `isa`: of the Gaussian mixture.
        covariance: `isa`: `auto` is full where 20 rows a dimension are there, else diagonal.
        dimensions: `isa`: full covariances are fitted after a projection on at most so many principal components; null: on all.
        fit_rows: `isa`: the mixture is fitted on so many rows, drawn by hash of id and seed, and scores all.
        n_init: `isa`: starts of the fit; the best is taken.
        direction: `margin`, `difficulty`: which scores to keep. There is no default, as the literature disagrees.
        max_similarity: `deita`: a row as similar as that to a kept one may still be kept, by cosine.
        neighbours: `facility_location`: similarities that count of each row, where all would take more than `coverage.DENSE_ROWS`.
        quality: `log_det`: a row's weight is exp(quality * score); 0: scores are not asked for.
        ridge: `log_det`: added to the kernel's diagonal, so that more rows than dimensions can be told apart.
    """

    selector: str = "random"
    seed: int = 0
    id: str = "pair_id"
    stratum: str | None = None
    quotas: Mapping[str, float] | None = None
    max_unusable: float = 0.01
    order: Order = "signed"
    n_components: int = 2
    covariance: Covariance = "auto"
    dimensions: int | None = 128
    fit_rows: int = 20_000
    n_init: int = 5
    direction: Direction | None = None
    max_similarity: float = 0.9
    neighbours: int = 64
    quality: float = 0.0
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        choices = {"order": Order, "covariance": Covariance, "direction": Direction}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) is not None and value not in get_args(allowed):
                raise ConfigError(f"select: {name} is {value!r}; allowed are {list(get_args(allowed))}")
        for name in ("n_components", "fit_rows", "n_init", "neighbours"):
            if getattr(self, name) < 1:
                raise ConfigError(f"select: {name} is {getattr(self, name)}, must be at least 1")
        if self.dimensions is not None and self.dimensions < 1:
            raise ConfigError(f"select: dimensions is {self.dimensions}, must be at least 1, or null for all")
        if not 0 <= self.max_unusable <= 1 or not -1 <= self.max_similarity <= 1 or not self.ridge >= 0:
            values = f"max_unusable {self.max_unusable}, max_similarity {self.max_similarity}, ridge {self.ridge}"
            raise ConfigError(f"select: {values}; they are in [0, 1], in [-1, 1] and at least 0")
        if self.quotas is not None and (self.stratum is None or min(self.quotas.values(), default=-1) < 0 or not sum(self.quotas.values())):
            raise ConfigError(f"select: quotas {dict(self.quotas)} need a `stratum` column and weights ≥ 0 that are not all 0")
