"""Was the training worth it? The same unseen prompts, sampled before and after, graded by a verifier, compared in pairs.

    d_i = sum over samples j of prompt i of (score after - score before)     gain = sum d_i / sum n_i

The samples of one prompt are not independent, so the unit of uncertainty is the prompt: the interval is the percentile bootstrap over
prompts, and beside it the normal one with the cluster-robust standard error `sqrt(sum (d_i - n_i * gain)^2) / sum n_i` (Liang & Zeger 1986;
for language models: Miller 2024, arXiv:2411.00640). Pairing removes what both policies find hard.

A sample that failed (transport, budget) or that the verifier cannot decide takes its pair out and is counted; it is never a wrong answer.
An answer cut off by `max_tokens` did arrive and is graded as it stands. Not here: which prompts to use, and whether to keep the result.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from curators.engines.base import Engine, Sampling
from curators.errors import ConfigError, CurationError, SchemaError
from curators.sampling import sample
from curators.schema import check as check_frame
from curators.statistics.intervals import Z95, bootstrap_interval, cluster_se
from curators.verifiers import Check, Verifier, verify_rows

ARRIVED = ("ok", "truncated", "empty")
_GRADED = {
    "prompt_id": pl.String,
    "sample_index": pl.Int32,
    "arrived": pl.Boolean,
    "score": pl.Float64,
    "n_tokens": pl.Int32,
    "truncated": pl.Boolean,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Accuracies are mean scores over the pairs of samples that count: the share of right answers where the check says right or wrong. The
    interval is 95 %, in the same unit (0.01 is one point).

    `n_samples` pairs count of `n_prompts` prompts; `n_failed` were lost to failures and `n_unscored` to a verifier that could not decide.
    `low` and `high` come from the bootstrap, `normal_low` and `normal_high` from `se`; `before_low` to `after_high` are those of the
    accuracies. Tokens are null where an engine does not count them.
    """

    n_prompts: int
    n_samples: int
    n_failed: int
    n_unscored: int
    accuracy_before: float
    accuracy_after: float
    gain: float
    low: float
    high: float
    se: float
    normal_low: float
    normal_high: float
    tokens_before: float | None
    tokens_after: float | None
    truncated_before: float
    truncated_after: float
    before_low: float
    before_high: float
    after_low: float
    after_high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the bootstrap interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def as_record(self) -> dict[str, Any]:
        """JSON values, for a manifest, an artifact or `--json`."""
        return {**asdict(self), "excludes_zero": self.excludes_zero}


async def evaluate(
    engine_before: Engine,
    engine_after: Engine,
    prompts: pl.DataFrame,
    check: Check | Verifier,
    *,
    sampling: Sampling,
    n_samples: int = 4,
    trained_on: Collection[str] = (),
) -> Evaluation:
    """Sample both policies on `prompts` and compare them. To keep the samples as facts, call `sample` and `compare` instead.

    Args:
        prompts: a `prompts` frame; rows whose state is not `ok` are left out.
        sampling: its seed is shared by both sides, and draws the bootstrap too.
        trained_on: ids of the prompts that the training saw.

    Raises:
        ConfigError: a prompt is among `trained_on`, or there are fewer than two.
        CurationError: fewer than two prompts have a pair of graded answers.
    """
    chosen = unseen(prompts, trained_on)
    before = await sample(chosen, engine_before, n=n_samples, sampling=sampling)
    after = await sample(chosen, engine_after, n=n_samples, sampling=sampling)
    return compare(before, after, chosen, check, seed=sampling.seed)


def unseen(prompts: pl.DataFrame, trained_on: Collection[str], *, drop: bool = False) -> pl.DataFrame:
    """The usable prompts, none of which the training saw. With `drop` those that it saw are left out in place of an error.

    Raises:
        ConfigError: prompts of the training are among them (without `drop`), or fewer than two are left.
    """
    usable = prompts.filter(pl.col("state") == "ok")
    known = set(trained_on)
    seen = [prompt_id for prompt_id in usable["prompt_id"] if prompt_id in known]
    if seen and not drop:
        raise ConfigError(
            f"contaminated: {len(seen)} of {len(usable)} evaluation prompts were trained on, such as {seen[0]}; evaluate on other prompts"
        )
    usable = usable.filter(~pl.col("prompt_id").is_in(seen))
    if len(usable) < 2:
        raise ConfigError(f"an evaluation needs at least two unseen prompts, there are {len(usable)} of {len(prompts)} rows")
    return usable


def compare(
    before: pl.DataFrame, after: pl.DataFrame, prompts: pl.DataFrame, check: Check | Verifier, *, seed: int = 0, n_resamples: int = 2000
) -> Evaluation:
    """Compare two `generations` frames over the same prompts, sample by sample (by `prompt_id` and `sample_index`).

    Raises:
        SchemaError: the two do not hold the same samples.
        CurationError: fewer than two prompts have a pair of graded answers.
    """
    pairs = _paired(grade(before, prompts, check), grade(after, prompts, check))
    arrived = pairs.filter(pl.col("arrived") & pl.col("arrived_after"))
    graded = arrived.filter(pl.col("score").is_not_null() & pl.col("score_after").is_not_null())
    by_prompt = graded.group_by("prompt_id", maintain_order=True).agg(
        (pl.col("score_after") - pl.col("score")).sum().alias("d"), pl.len().alias("n"), pl.col("score", "score_after").sum()
    )
    if len(by_prompt) < 2:
        raise CurationError(
            f"{len(by_prompt)} prompts have an answer from both policies that the verifier can decide; at least two are needed. "
            f"Of {len(pairs)} pairs of samples {len(pairs) - len(arrived)} failed and {len(arrived) - len(graded)} are undecided"
        )
    sums, counts = by_prompt["d"].to_numpy().astype(np.float64), by_prompt["n"].to_numpy().astype(np.float64)
    gain = float(sums.sum() / counts.sum())
    se = cluster_se(sums, counts)
    low, high = bootstrap_interval(sums, counts, seed=seed, n_resamples=n_resamples)
    before_low, before_high, after_low, after_high = (
        bound
        for side in ("score", "score_after")
        for bound in bootstrap_interval(by_prompt[side].to_numpy().astype(np.float64), counts, seed=seed, n_resamples=n_resamples)
    )
    return Evaluation(
        n_prompts=len(by_prompt),
        n_samples=len(graded),
        n_failed=len(pairs) - len(arrived),
        n_unscored=len(arrived) - len(graded),
        accuracy_before=_mean(graded["score"]) or 0.0,
        accuracy_after=_mean(graded["score_after"]) or 0.0,
        gain=gain,
        low=low,
        high=high,
        se=se,
        normal_low=gain - Z95 * se,
        normal_high=gain + Z95 * se,
        tokens_before=_mean(graded["n_tokens"]),
        tokens_after=_mean(graded["n_tokens_after"]),
        truncated_before=_mean(graded["truncated"]) or 0.0,
        truncated_after=_mean(graded["truncated_after"]) or 0.0,
        before_low=before_low,
        before_high=before_high,
        after_low=after_low,
        after_high=after_high,
    )


def _paired(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    keys = ["prompt_id", "sample_index"]
    pairs = before.join(after, on=keys, how="full", coalesce=True, suffix="_after").sort(keys)
    if len(pairs) != len(before) or len(pairs) != len(after):
        raise SchemaError(f"{len(before)} samples before and {len(after)} after are not of the same prompts and indices")
    return pairs


def grade(generations: pl.DataFrame, prompts: pl.DataFrame, check: Check | Verifier) -> pl.DataFrame:
    """One row a generation: `prompt_id, sample_index, arrived, score` (null: failed or undecided), `n_tokens, truncated`. A bare function
    is called in this thread, without a time limit.

    An answer that arrived empty is graded like any other: a policy that falls silent must not be excused for it.

    Raises:
        SchemaError: a generation's prompt is not among `prompts`.
    """
    about = {row["prompt_id"]: row for row in check_frame(prompts, "prompts").iter_rows(named=True)}
    verifier = check if isinstance(check, Verifier) else Verifier(name="evaluation", check=check, code_digest="", in_process_chars=math.inf)
    columns = ["generation_id", "prompt_id", "sample_index", "state", "text", "n_tokens"]
    rows = []
    for (prompt_id,), group in generations.select(columns).group_by(["prompt_id"], maintain_order=True):
        if prompt_id not in about:
            raise SchemaError(f"a generation is of prompt {prompt_id}, which is not among the {len(about)} prompts")
        sampled = list(group.iter_rows(named=True))
        arrived = [{**row, "state": "ok"} for row in sampled if row["state"] in ARRIVED]
        verdicts = verify_rows(about[str(prompt_id)], arrived, verifier)
        scores = {verdict["generation_ids"][0]: verdict["scores"][0] for verdict in verdicts if verdict["state"] == "ok"}
        for row in sampled:
            there, cut = row["state"] in ARRIVED, row["state"] == "truncated"
            rows.append((row["prompt_id"], row["sample_index"], there, scores.get(row["generation_id"]), row["n_tokens"], cut))
    return pl.DataFrame(rows, schema=_GRADED, orient="row")


def _mean(column: pl.Series) -> float | None:
    mean = column.cast(pl.Float64).mean()
    return float(mean) if isinstance(mean, float) else None
