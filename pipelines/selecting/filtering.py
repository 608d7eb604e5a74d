"""The filters of flow `select`: a mark for every pair of the source. Synchronous; a task runs it in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from curators.filters import apply_filters, marks_funnel
from curators.filters.marks import first_fault, mark
from curators.filters.pass_rate import pass_rates
from pipelines.runs import Run
from pipelines.selecting.config import SelectionConfig
from pipelines.selecting.settings import BY_EMBEDDING, own_settings, text_of
from pipelines.selecting.texts import evaluation_rows, text_rows
from pipelines.selecting.vectors import Advance, embed_texts, open_encoder
from storage import scan


def filter_pairs(run: Run, advance: Advance) -> dict[str, int]:
    """Marks of all pairs into `marks.parquet` of the run's directory, and the filters' funnel.

    Raises:
        ConfigError: a setting that a filter does not allow, or an evaluation set without text.
    """
    config, source = run.config, run.parents[0]
    assert isinstance(config, SelectionConfig)
    rows = cache(lambda text: text_rows(source.frozen / "pairs.parquet", text))
    found = [_marks(run, name, settings, rows, advance) for name, settings in config.filters.items()]
    marks = first_fault(found) if found else mark(scan(source).select(row_id="pair_id").collect(), {})
    run.write("marks", marks)
    run.figures.funnels = [marks_funnel(marks, stage="filter", unit="pairs")] if found else []
    return {"kept": int(marks["keep"].sum())}


def _marks(run: Run, name: str, settings: Mapping[str, Any], rows: Callable[[str], pl.DataFrame], advance: Advance) -> pl.DataFrame:
    config = run.config
    assert isinstance(config, SelectionConfig)
    its, given = rows(text_of(config, name)), dict(own_settings(settings))
    if "against" in given:
        given["against"] = evaluation_rows(given["against"])
    if name in BY_EMBEDDING:
        its = _with_vectors(run, its, advance)
        given |= {"against": _with_vectors(run, given["against"], advance)} if "against" in given else {}
    if name == "pass_rate_band":
        its = _with_pass_rates(run, its)
    return apply_filters(its, {name: given})


def _with_vectors(run: Run, rows: pl.DataFrame, advance: Advance) -> pl.DataFrame:
    config = run.config
    assert isinstance(config, SelectionConfig)
    assert config.encoder is not None
    encoder = open_encoder(config.encoder, run.lake.root)
    vectors = np.empty((rows.height, encoder.dimensions), dtype=np.float32)
    run.figures.took_up(embed_texts(run.lake.root, vectors, rows["text"], encoder, advance))
    return rows.with_columns(embedding=pl.Series(vectors))


def _with_pass_rates(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """The rate of each pair's prompt, over the judgments of a verifier that the source has; null where it has none."""
    source = run.parents[0]
    file, columns = source.frozen / "judgments.parquet", ["prompt_id", "protocol", "state", "generation_ids", "scores"]
    if not file.exists():
        return rows.with_columns(pass_rate=pl.lit(None, dtype=pl.Float64), n_graded=pl.lit(0, dtype=pl.Int64))
    rates = pass_rates(pl.read_parquet(file, columns=columns)).rename({"row_id": "prompt_id"})
    prompts = scan(source).select("prompt_id", row_id="pair_id").collect()
    known = prompts.join(rates, on="prompt_id", how="left").drop("prompt_id")
    return rows.join(known, on="row_id", how="left", maintain_order="left")
