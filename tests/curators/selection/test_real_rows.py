"""Every selector over real preference pairs, embedded by the bundled model: no selector needs made-up data to hold its promises."""

from __future__ import annotations

import gzip
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from curators.embeddings import SentenceEncoder, bundled_model, embed_into
from curators.engines.base import digest
from curators.selection.config import SelectConfig
from curators.selection.ladders import ladder
from curators.selection.selectors import SELECTORS, select

FILE = Path(__file__).parents[3] / "../shared/data/ultrafeedback_binarized_sample.jsonl.gz"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FILE.exists(), reason="the shared data is not here")]
OPTIONS: dict[str, dict[str, Any]] = {
    "stratified": {"stratum": "long"},
    "margin": {"direction": "largest"},
    "difficulty": {"direction": "smallest"},
}


@pytest.fixture(scope="module")
def pool() -> tuple[pl.DataFrame, np.ndarray]:
    with gzip.open(FILE) as lines:
        read = [orjson.loads(line) for line in islice(lines, 100)]
    rows = pl.DataFrame(
        [
            {
                "pair_id": digest(row["prompt"], row["chosen"], row["rejected"]),
                "score": row["score_chosen"],
                "margin": row["score_chosen"] - row["score_rejected"],
                "difficulty": row["score_rejected"],
                "long": str(len(row["prompt"]) > 500),
                "text": f"{row['prompt']}\n{row['chosen']}",
            }
            for row in read
        ]
    ).unique("pair_id", maintain_order=True)
    vectors = np.zeros((rows.height, 384), dtype=np.float32)
    told = embed_into(vectors, rows["text"], SentenceEncoder(bundled_model(), device="cpu"))
    assert (told.n_texts, told.n_empty, told.n_impossible) == (rows.height, 0, 0)
    return rows, vectors


@pytest.mark.parametrize("name", SELECTORS)
def test_a_tenth_of_ultrafeedback(name: str, pool: tuple[pl.DataFrame, np.ndarray]) -> None:
    rows, vectors = pool
    found = select(rows, vectors, budget=0.1, config=SelectConfig(selector=name, **OPTIONS.get(name, {})))
    assert (found.state, len(found.ids)) == ("ok", int(0.1 * rows.height + 0.5))
    assert found.funnel.n_in == rows.height
    for small, large in pairwise(ladder(found)):
        assert set(small.ids) < set(large.ids)


def test_coverage_selectors_keep_rows_that_differ_more_than_chance_does(pool: tuple[pl.DataFrame, np.ndarray]) -> None:
    rows, vectors = pool
    place = {each: i for i, each in enumerate(rows["pair_id"])}

    def similarity(name: str) -> float:
        kept = vectors[[place[each] for each in select(rows, vectors, budget=20, config=SelectConfig(selector=name)).ids]]
        return float((kept @ kept.T)[np.triu_indices(20, 1)].mean())

    chance = similarity("random")
    assert similarity("k_center") < chance
    assert similarity("log_det") < chance
