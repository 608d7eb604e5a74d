"""`select`: any selector over any rows. A row that is not kept has a reason, and a selection that is not what was asked says why.

Rows are sorted by id before a selector sees them, so that their order cannot matter. A user's own selector is `module:function`, of the
signature `(pool, k, config) -> Ranking`; it is given embeddings and scores if they are there.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import polars as pl

from curators.errors import ConfigError, SchemaError
from curators.funnel import Funnel
from curators.selection.config import SelectConfig
from curators.selection.controls import by_score, density, random
from curators.selection.coverage import facility_location, k_center
from curators.selection.determinant import log_det
from curators.selection.diversity import deita
from curators.selection.isa import isa
from curators.selection.pool import Pool, Ranking, Vectors, all_the_same, finite_rows, ranked
from curators.selection.quotas import by_stratum
from curators.statistics.intervals import Floats, Ints

State = Literal["ok", "short", "degenerate", "refused"]
Select = Callable[[Pool, int, SelectConfig], Ranking]


@dataclass(frozen=True, kw_only=True)
class Selector:
    """`vectors`, `scores`: what it must be given; `scores` names the column taken where none are passed. `spread`: it can tell nothing
    where all embeddings are the same. `directed`: the configuration must say which end of the scores to keep."""

    run: Select
    vectors: bool = False
    spread: bool = False
    scores: str | None = None
    directed: bool = False


SELECTORS: Mapping[str, Selector] = MappingProxyType(
    {
        "random": Selector(run=random),
        "stratified": Selector(run=random),
        "isa": Selector(run=isa, vectors=True, spread=True),
        "density": Selector(run=density, vectors=True, spread=True),
        "k_center": Selector(run=k_center, vectors=True, spread=True),
        "facility_location": Selector(run=facility_location, vectors=True, spread=True),
        "log_det": Selector(run=log_det, vectors=True, spread=True),
        "deita": Selector(run=deita, vectors=True, scores="score"),
        "margin": Selector(run=by_score, scores="margin", directed=True),
        "difficulty": Selector(run=by_score, scores="difficulty", directed=True),
    }
)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """`ids` in the order of selection, so that every beginning of it is a selection too.

    `rows` has one row a given row, sorted by id: the id; `rank` from 1, null: not kept; `score` as the selector defines it, null: none;
    `state`: kept, over_budget, not_finite_embedding, not_finite_score, or a selector's own (too_similar, adds_nothing), refused.
    `state` of the whole: ok; short (fewer than the budget); degenerate (full, but by id or score alone); refused (nothing kept). `reason`
    says why it is not ok. `budget` is the number of rows asked for.
    """

    ids: Sequence[str]
    rows: pl.DataFrame
    budget: int
    state: State
    reason: str | None
    diagnostics: Mapping[str, Any]

    @property
    def funnel(self) -> Funnel:
        """Every row given: kept, or dropped with its reason."""
        fates = Counter(self.rows["state"].to_list())
        return Funnel(stage="select", unit="rows", n_in=self.rows.height, n_kept=fates.pop("kept", 0), dropped=dict(fates))


def select(
    rows: pl.DataFrame,
    embeddings: Vectors | None = None,
    *,
    scores: Sequence[float | None] | Floats | None = None,
    budget: int | float,
    config: SelectConfig | None = None,
) -> Selection:
    """The rows to keep.

    Args:
        rows: with the id column, and the columns of stratum and scores if asked for.
        embeddings: float32, one row a row; it may be memory-mapped. A row with NaN or infinity is unusable.
        scores: one number a row, larger is better or as `direction` says; null or not finite is unusable. By default a column of `rows`.
        budget: a number of rows, or as a float above 0 and up to 1.0 a share of the rows, rounded half up, at least one row.

    Raises:
        ConfigError: no such selector, a budget that is none, or embeddings or scores that are missing or of another length.
        SchemaError: ids are missing or not unique.

    >>> rows = pl.DataFrame({"pair_id": ["a", "b", "c", "d"], "margin": [0.3, 0.1, 0.2, None]})
    >>> found = select(rows, budget=2, config=SelectConfig(selector="margin", direction="largest", max_unusable=0.5))
    >>> found.ids, found.state, found.funnel.dropped
    (['a', 'c'], 'ok', {'not_finite_score': 1, 'over_budget': 1})
    """
    config = config or SelectConfig()
    selector = _selector(config, embeddings, scores)
    order, ids = _sorted_ids(rows, config.id)
    k = n_rows(budget, len(ids))
    given = _given_scores(rows, scores, selector, config)
    vectors = _checked_vectors(embeddings, len(ids)) if selector.vectors else None
    states = _usable(vectors, given, len(ids))[order]
    usable = np.flatnonzero(states == "over_budget")
    where = order[usable]
    in_order = len(usable) == len(ids) and bool((order[:-1] < order[1:]).all())
    pool = Pool(
        ids=ids[usable],
        vectors=vectors if vectors is None or in_order else np.asarray(vectors[where]),
        scores=None if given is None else given[where],
    )
    n_bad = len(ids) - len(usable)
    if n_bad > config.max_unusable * len(ids):
        what = f"{n_bad} of {len(ids)} rows have no usable embedding or score; at most {config.max_unusable:.1%} may (max_unusable)"
        states[usable] = "refused"
        return _selection(ids, states, k=k, usable=usable, ranking=_nothing(len(usable)), refused=what)
    strata = rows[config.stratum].cast(pl.String).fill_null("").gather(where) if config.stratum else None
    return _selection(ids, states, k=k, usable=usable, ranking=_run(selector, pool, min(k, len(pool)), config, strata))


def n_rows(budget: int | float, n: int) -> int:
    """How many rows a budget asks for: a whole number is rows, a float a share of `n`.

    >>> n_rows(3, 10), n_rows(0.25, 10), n_rows(0.001, 10), n_rows(30, 10)
    (3, 3, 1, 30)

    Raises:
        ConfigError: it is below one row, or a share that is not above 0 and at most 1.
    """
    if isinstance(budget, float) and 0 < budget <= 1:
        return min(max(int(budget * n + 0.5), 1), max(n, 1))
    if isinstance(budget, float) or budget < 1:
        raise ConfigError(f"select: budget is {budget!r}; it is a whole number of rows from 1, or a share as a float above 0 and up to 1.0")
    return budget


def selector_of(config: SelectConfig) -> Selector:
    """What a configuration selects by, and what that must be given; of a user's own nothing is known.

    Raises:
        ConfigError: no such selector, or one that needs a `stratum` or a `direction` and has none.
    """
    name = config.selector
    if ":" in name:
        return Selector(run=_imported(name))
    if name not in SELECTORS:
        raise ConfigError(f"select: there is no selector {name!r}; there are {sorted(SELECTORS)}, or give module:function")
    if name == "stratified" and config.stratum is None:
        raise ConfigError("select: selector 'stratified' needs `stratum`, the column whose values share the budget")
    if SELECTORS[name].directed and config.direction is None:
        raise ConfigError(f"select: selector {name!r} needs a `direction`: largest, smallest or middle; no default is safe")
    if name == "log_det" and config.quality:
        return Selector(run=log_det, vectors=True, spread=True, scores="score")
    return SELECTORS[name]


def _selector(config: SelectConfig, embeddings: Vectors | None, scores: object) -> Selector:
    found = selector_of(config)
    if ":" in config.selector:
        return replace(found, vectors=embeddings is not None, scores=None if scores is None else "")
    if found.vectors and embeddings is None:
        raise ConfigError(f"select: selector {config.selector!r} needs embeddings, and there are none")
    return found


def _imported(name: str) -> Select:
    module_name, _, function_name = name.partition(":")
    try:
        run: Select | None = getattr(importlib.import_module(module_name), function_name, None)
    except ImportError as error:
        raise ConfigError(f"select: cannot import {module_name!r}: {error}; is its folder on PYTHONPATH?") from error
    if run is None or not callable(run):
        raise ConfigError(f"select: {module_name!r} has no function {function_name!r}")
    return run


def _sorted_ids(rows: pl.DataFrame, column: str) -> tuple[Ints, pl.Series]:
    if column not in rows.columns:
        raise SchemaError(f"select: there is no column {column!r} to take ids from; there are {rows.columns}")
    ids = rows[column].cast(pl.String)
    if ids.null_count() or ids.is_duplicated().any():
        raise SchemaError(
            f"select: {column} must be there and unique in every row; {ids.null_count()} null, {len(ids) - ids.n_unique()} again"
        )
    order = ids.arg_sort().to_numpy().astype(np.int64)
    return order, ids[order]


def _given_scores(rows: pl.DataFrame, scores: object, selector: Selector, config: SelectConfig) -> Floats | None:
    if selector.scores is None:
        return None
    if scores is None:
        if selector.scores not in rows.columns:
            raise ConfigError(f"select: selector {config.selector!r} needs scores; pass them, or a column {selector.scores!r}")
        scores = rows[selector.scores]
    if isinstance(scores, pl.Series):
        scores = scores.cast(pl.Float64).to_list()
    given = np.array(scores, dtype=np.float64)
    if given.shape != (rows.height,):
        raise ConfigError(f"select: scores have the shape {given.shape}, must be one number for each of {rows.height} rows")
    return given


def _checked_vectors(embeddings: Vectors | None, n: int) -> Vectors:
    assert embeddings is not None
    if embeddings.ndim != 2 or len(embeddings) != n or not embeddings.shape[1]:
        raise ConfigError(f"select: embeddings have the shape {embeddings.shape}, must be {n} rows and at least one dimension")
    return embeddings


def _usable(vectors: Vectors | None, scores: Floats | None, n: int) -> np.ndarray[Any, np.dtype[np.object_]]:
    """What is wrong with each row; those that may be kept are `over_budget` until they are."""
    states = np.full(n, "over_budget", dtype=object)
    if scores is not None:
        states[~np.isfinite(scores)] = "not_finite_score"
    if vectors is not None:
        states[~finite_rows(vectors)] = "not_finite_embedding"
    return states


def _run(selector: Selector, pool: Pool, k: int, config: SelectConfig, strata: pl.Series | None) -> Ranking:
    def run(part: Pool, n: int, config: SelectConfig) -> Ranking:
        if not n or not len(part):
            return _nothing(len(part))
        if selector.spread and part.vectors is not None and all_the_same(part.vectors):
            scores = np.zeros(len(part)) if part.scores is None else part.scores
            return ranked(scores, n, degenerate="all embeddings are the same")
        return selector.run(part, n, config)

    return run(pool, k, config) if strata is None else by_stratum(run, pool, k, config, strata)


def _nothing(n: int) -> Ranking:
    return Ranking(order=np.zeros(0, dtype=np.int64), scores=np.full(n, np.nan))


def _selection(
    ids: pl.Series, states: np.ndarray[Any, np.dtype[np.object_]], *, k: int, usable: Ints, ranking: Ranking, refused: str | None = None
) -> Selection:
    """The frame of every row, and what the whole amounts to."""
    for fate, places in ranking.dropped.items():
        states[usable[places]] = fate
    chosen = usable[ranking.order]
    states[chosen] = "kept"
    rank, scores = np.zeros(len(ids), dtype=np.int64), np.full(len(ids), np.nan)
    rank[chosen] = np.arange(1, len(chosen) + 1)
    scores[usable] = ranking.scores
    frame = pl.DataFrame({"id": ids, "rank": rank, "score": scores, "state": pl.Series(states.tolist(), dtype=pl.String)})
    frame = frame.with_columns(pl.when(pl.col("rank") > 0).then("rank").alias("rank"), pl.col("score").fill_nan(None))
    unkept = dict(Counter(fate for fate in states if fate != "kept"))
    short = f"{len(chosen)} of the {k} rows asked for; the others are {unkept}" if len(chosen) < k else None
    state: State = "refused" if refused else "degenerate" if ranking.degenerate else "short" if short else "ok"
    reason = refused or "; ".join(filter(None, [ranking.degenerate, short])) or None
    told = {"n_rows": len(ids), "n_usable": len(usable), "n_kept": len(chosen), "budget": k} | dict(ranking.diagnostics)
    return Selection(ids=ids[chosen].to_list(), rows=frame, budget=k, state=state, reason=reason, diagnostics=told)
