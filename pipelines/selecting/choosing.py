"""What is kept of the pairs that passed the filters: their vectors, the selector, the candidate. Synchronous; tasks run it in a thread."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import orjson
import polars as pl

from curators.gates import GateResult
from curators.selection.quotas import shares
from curators.selection.selectors import Selection, select
from pipelines.candidates import weigh
from pipelines.runs import Run
from pipelines.selecting.config import SelectionConfig
from pipelines.selecting.settings import score_column, select_config, selects_by_vectors
from pipelines.selecting.texts import pair_texts
from pipelines.selecting.vectors import Advance, embed_texts, mapped_vectors, open_encoder
from storage import scan

BINS = 24
OWN_COLUMNS = ("selection_rank", "selection_score")


def embed_pairs(run: Run, advance: Advance) -> dict[str, int]:
    """The vectors of the pairs that passed the filters, in order of id, where the selector goes by vectors.

    Raises:
        ConfigError: quotas of strata of which no pair is left; nothing has been embedded then.
    """
    config = _config(run)
    ids = _kept_ids(run)
    stratum, quotas = config.selector.stratum, config.selector.quotas
    if ids and stratum and quotas:
        shares(1, dict(_rows(run, ids)[stratum].cast(pl.String).fill_null("").value_counts().iter_rows()), quotas)
    if not ids or not selects_by_vectors(config):
        return {"texts": 0}
    assert config.encoder is not None
    texts = (text for _, text in pair_texts(run.parents[0].frozen / "pairs.parquet", config.text, ids))
    encoder = open_encoder(config.encoder, run.lake.root)
    run.vectors = mapped_vectors(run.directory, len(ids), encoder.dimensions)
    run.figures.took_up(embed_texts(run.lake.root, run.vectors, texts, encoder, advance))
    return dict(run.figures.embedded)


def select_pairs(run: Run) -> dict[str, int]:
    """The pairs that the selector keeps as the run's candidate, and what the selection came to in its figures."""
    config, ids = _config(run), _kept_ids(run)
    found = _selected(run, ids) if ids else None
    if found is not None:
        run.figures.funnels.append(replace(found.funnel, unit="pairs"))
    run.figures.selection = _told(run, found)
    counts = {"source_pairs": run.parents[0].n_pairs, "filtered_pairs": len(ids)}
    weighed = weigh(run, _pairs(run, found), counts)
    run.figures.gates.insert(0, _gate(run, found, config))
    return weighed


def _selected(run: Run, ids: set[str]) -> Selection:
    config, rows = _config(run), _rows(run, ids)
    column = score_column(config)
    scores = None if column is None else rows[column].cast(pl.Float64).to_list()
    return select(rows, run.vectors, scores=scores, budget=config.budget, config=select_config(config))


def _kept_ids(run: Run) -> set[str]:
    return set(run.read("marks").filter("keep")["row_id"])


def _rows(run: Run, ids: set[str]) -> pl.DataFrame:
    """Ids, strata and scores of those pairs, in order of id."""
    config = _config(run)
    columns = dict.fromkeys(name for name in ("pair_id", score_column(config), config.selector.stratum) if name)
    return scan(run.parents[0]).select(list(columns)).filter(pl.col("pair_id").is_in(ids)).collect()


def _pairs(run: Run, found: Selection | None) -> pl.DataFrame:
    """The source's rows that are kept, with their place and score; those of an earlier selection are overwritten."""
    pairs = scan(run.parents[0]).drop(OWN_COLUMNS, strict=False)
    if found is None:
        own = pl.DataFrame(schema={"pair_id": pl.String, "selection_rank": pl.Int64, "selection_score": pl.Float64})
    else:
        own = found.rows.drop_nulls("rank").select(pair_id="id", selection_rank="rank", selection_score="score")
    return pairs.join(own.lazy(), on="pair_id", how="inner", maintain_order="left").collect()


def _told(run: Run, found: Selection | None) -> dict[str, Any]:
    """The manifest's `selection`."""
    config = _config(run)
    settings = {name: value for name, value in asdict(select_config(config)).items() if name not in ("selector", "seed", "id")}
    return {
        "selector": config.selector.selector,
        "order": settings.pop("order") if config.selector.selector == "isa" else None,
        "budget": {"asked": config.budget, "rows": found.budget if found else None},
        "seed": config.seed,
        "encoder": run.fingerprints.get("encoder"),
        "text": config.text,
        "scores": score_column(config),
        "state": found.state if found else "refused",
        "reason": found.reason if found else _nothing_left(run),
        "settings": settings,
        "filters": list(config.filters),
        "diagnostics": _plain(found.diagnostics) if found else {},
        "histogram": _histogram(found.rows) if found else None,
    }


def _nothing_left(run: Run) -> str:
    if not run.figures.funnels:
        return f"{run.parents[0].ref} has no pairs"
    return f"no pair of {run.parents[0].ref} is left by the filters: {dict(run.figures.funnels[0].dropped)}"


def _plain(diagnostics: Any) -> Any:
    """As JSON carries it, whatever a user's own selector says."""
    return orjson.loads(orjson.dumps(diagnostics, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))


def _histogram(rows: pl.DataFrame) -> dict[str, list[float]] | None:
    """How the selector scored the pairs that it kept, and the others; null where it gave no scores."""
    scored = rows.filter(pl.col("score").is_finite())
    if scored.is_empty():
        return None
    values, kept = scored["score"].to_numpy(), scored["rank"].is_not_null().to_numpy()
    edges = np.histogram_bin_edges(values, BINS)
    counts = {name: np.histogram(values[which], edges)[0].tolist() for name, which in (("kept", kept), ("not_kept", ~kept))}
    return {"edges": edges.tolist(), **counts}


def _gate(run: Run, found: Selection | None, config: SelectionConfig) -> GateResult:
    """A selection that was refused, or kept nothing, publishes nothing."""
    told, bound = run.figures.selection or {}, select_config(config).max_unusable
    if found is None:
        return GateResult(name="selection", figure=None, bound=bound, passed=False, detail=told["reason"])
    n, usable = found.diagnostics["n_rows"], found.diagnostics["n_usable"]
    detail = told["reason"] or f"{n - usable} of {n} pairs have no usable embedding or score; at most {bound:.1%}"
    return GateResult(name="selection", figure=(n - usable) / n, bound=bound, passed=bool(found.ids), detail=detail)


def _config(run: Run) -> SelectionConfig:
    assert isinstance(run.config, SelectionConfig)
    return run.config
