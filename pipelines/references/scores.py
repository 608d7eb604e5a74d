"""Pairs with two more columns: the log-probabilities of both answers under the reference. Synchronous; tasks run it in a thread.

What one model has scored is never scored again: a log-probability is a vector of two in the lake's vector cache, under the content id of
text and model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import polars as pl

from curators.engines.fingerprint import fingerprint
from curators.engines.models import locate
from curators.funnel import Funnel
from curators.likelihood import Scored, Scorer, Text
from pipelines.candidates import weigh
from pipelines.config import EngineConfig
from pipelines.engines import concrete_spec
from pipelines.references.config import ScoreConfig
from pipelines.runs import Run, registered, run_key
from storage import Lake, open_lake, resolve, scan
from storage.vectors import open_vectors

CHUNK = 4096
"""Texts that are scored before what they came to is kept."""

Advance = Callable[[int, int], None]


@asynccontextmanager
async def scoring(config: ScoreConfig) -> AsyncIterator[Run]:
    """The open run of a configuration, registered under its key.

    Raises:
        DatasetNotFound: there is no such version.
        CheckpointNotFound: there is no such checkpoint.
        EngineError: there is no such model.
    """
    with await asyncio.to_thread(open_lake, config.lake_root, create=False) as lake:
        run = await asyncio.to_thread(_opened, config, lake)
        async with registered(run):
            yield run


def _opened(config: ScoreConfig, lake: Lake) -> Run:
    parent = resolve(lake, config.source)
    spec = concrete_spec(EngineConfig(engine=config.reference), lake.root)
    config = config.model_copy(update={"source": parent.ref, "reference": spec})
    reference = fingerprint(locate(spec.removeprefix("hf:")))
    inputs = {"source": parent.digest, "source facts": parent.facts_digest}
    asked = config.model_copy(update={"reference": reference})  # the same weights elsewhere are the same run
    key = run_key("score", asked, seed=0, fingerprints={"reference": reference}, inputs=inputs)
    run = Run(key=key, kind="score", config=config, lake=lake, directory=lake.root / "runs" / key)
    made_by = {role: parent.manifest[role] for role in ("policy", "judge", "reward") if parent.manifest.get(role)}
    run.fingerprints, run.parents = made_by | {"reference": reference}, (parent,)
    return run


def score_pairs(run: Run, advance: Advance) -> dict[str, int]:
    """The pairs with `ref_chosen_logps` and `ref_rejected_logps` as the run's candidate. A pair of which a side cannot be scored is
    dropped with the reason.
    """
    pairs = scan(run.parents[0]).collect().sort("prompt_id", "pair_id")
    texts = [_text(row, side) for row in pairs.iter_rows(named=True) for side in ("chosen", "rejected")]
    found = known_scores(run, texts, advance)
    logps = np.array([np.nan if each.logp is None else each.logp for each in found]).reshape(-1, 2)
    scored = pairs.with_columns(
        ref_chosen_logps=pl.Series(logps[:, 0], dtype=pl.Float64),
        ref_rejected_logps=pl.Series(logps[:, 1], dtype=pl.Float64),
    )
    kept = ~np.isnan(logps).any(axis=1)
    left_out = int((~kept).sum())
    dropped = {"not_scored": left_out} if left_out else {}
    run.figures.funnels = [Funnel(stage="score", unit="pairs", n_in=pairs.height, n_kept=int(kept.sum()), dropped=dropped)]
    run.figures.source = {"reference": run.fingerprints["reference"], "reasons": sorted({each.reason for each in found if each.reason})[:5]}
    return weigh(run, scored.filter(pl.Series(kept)), {"source_pairs": pairs.height})


def known_scores(run: Run, texts: list[Text], advance: Advance) -> list[Scored]:
    """One for each text: from the cache, or by the model, which is loaded when the first one is missing."""
    config = run.config
    assert isinstance(config, ScoreConfig)
    reference = run.fingerprints["reference"]
    keys = [text.key(reference) for text in texts]
    missing = dict(zip(keys, texts, strict=True))
    found: dict[str, Scored] = {}
    with open_vectors(run.lake.root / "vectors.sqlite") as cache:
        for key, value in cache.get_many(list(missing)).items():
            logp, n_tokens = np.frombuffer(value, dtype=np.float64)
            found[key] = Scored(logp=float(logp), n_tokens=int(n_tokens))
            del missing[key]
        run.figures.embedded.update({"known": len(found), "scored": len(missing)})
        scorer = Scorer(locate(config.reference.removeprefix("hf:"))) if missing else None
        todo = sorted(missing)
        for start in range(0, len(todo), CHUNK):
            part = todo[start : start + CHUNK]
            assert scorer is not None
            new = dict(zip(part, scorer.score([missing[key] for key in part]), strict=True))
            cache.put_many({key: np.array([each.logp, each.n_tokens]).tobytes() for key, each in new.items() if each.logp is not None})
            found |= new
            advance(len(found), len(set(keys)))
    return [found[key] for key in keys]


def _text(row: dict[str, str], side: str) -> Text:
    """Of a pair with two prompts each side stands under its own."""
    prompt = row.get("rejected_prompt") or row["prompt"] if side == "rejected" else row["prompt"]
    return Text(prompt=prompt, answer=row[side], tools=row["tools"], chat_template_kwargs=row["chat_template_kwargs"])
