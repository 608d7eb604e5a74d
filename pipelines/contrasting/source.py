"""What contrasts are made from, prompts, answers, rejected answers or pairs, and what answers are worth.

They are the rows of a published version, or the prompts and answers of a file that `pairmill import` could read. A run opens its source
once: every table lies in the run's directory in the order of prompts, so that a shard, which is a range of them, reads its own rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from curators.contrast.candidates import answers
from curators.contrast.checkers import scores_of
from curators.errors import ConfigError
from curators.funnel import Funnel, count_states
from curators.importing import import_facts
from curators.judging.verdicts import VerdictConfig, group_scores, verdicts
from curators.schema import GENERATIONS, JOINT_PAIRS, JUDGMENTS, PROMPTS, Schema
from curators.verifiers import Verifier
from pipelines.contrasting.config import ContrastConfig
from pipelines.contrasting.methods import METHODS, Rows
from pipelines.runs import Run
from storage.files import read_rows

SCORES = {"generation_id": pl.String, "score": pl.Float64}
TABLES: Mapping[str, Schema] = {"prompts": PROMPTS, "generations": GENERATIONS, "judgments": JUDGMENTS, "pairs": JOINT_PAIRS}
ROW_GROUP = 16_384

Span = tuple[str, str]
"""The first and the last prompt id of a shard."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What answers are worth: by a verifier, by the recorded judgments of `judge`, or nothing (both null: matches decide)."""

    verifier: Verifier | None = None
    judge: str | None = None

    @property
    def label_source(self) -> str | None:
        return self.verifier.judge if self.verifier else self.judge


@dataclass(frozen=True, kw_only=True)
class Source:
    """Tables by name, each in the order of prompts; what they are called, for errors; and who says what answers are worth."""

    name: str
    tables: Mapping[str, Path]
    scores: Scores = Scores()

    def table(self, name: str, span: Span | None = None) -> pl.DataFrame:
        """The rows of one table, or those of a span of prompts, with nulls in the columns that it was published without."""
        schema, file = TABLES[name], self.tables.get(name)
        rows = pl.scan_parquet(file) if file else pl.LazyFrame(schema=dict(schema))
        found = (rows.filter(pl.col("prompt_id").is_between(pl.lit(span[0]), pl.lit(span[1]))) if span else rows).collect()
        return found.with_columns(
            pl.lit(None, dtype=dtype).alias(column) for column, dtype in schema.items() if column not in found.columns
        )

    def rows(self, kind: Rows, span: Span | None = None) -> pl.DataFrame:
        """What a method starts from; of a span of prompts, or of all."""
        if kind in ("prompts", "pairs"):
            found = self.table(kind, span)
            return found.filter(pl.col("state") == "ok") if kind == "prompts" else found
        prompts, generations = self.table("prompts", span), self.table("generations", span)
        if kind == "scored answers" and self.scores.judge is not None:
            judged = self.table("judgments", span).filter(pl.col("judge") == self.scores.judge)
            return answers(prompts, generations, recorded_scores(judged, generations))
        found = answers(prompts, generations)
        if kind == "scored answers" and self.scores.verifier is not None:
            return answers(prompts, generations, verified_scores(found, self.scores.verifier))
        if kind != "rejected answers":
            return found
        pairs = self.table("pairs", span)
        rejected, chosen = (pairs[side].drop_nulls().implode() for side in ("rejected_id", "chosen_id"))
        return found.filter(pl.col("generation_id").is_in(rejected) & ~pl.col("generation_id").is_in(chosen))

    @cached_property
    def prompt_ids(self) -> list[str]:
        """Every prompt of the source, in order: a shard is a range of them."""
        return sorted({*self.rows("prompts")["prompt_id"], *self.splits})

    @cached_property
    def splits(self) -> Mapping[str, str]:
        """The split of every prompt with a pair: what is made of it stays there. A prompt with pairs in both is one of `test`."""
        return dict(self.table("pairs").group_by("prompt_id").agg(pl.col("split").min()).iter_rows())  # "test" < "train"

    def known_bad(self) -> list[str]:
        """The texts of all answers that are rejected in a pair of the source and chosen in none."""
        return sorted(self.rows("rejected answers")["text"].drop_nulls().unique())

    def funnel(self, kind: Rows) -> Funnel:
        """What of the source's rows a method starts from."""
        if kind == "prompts":
            return count_states(self.table("prompts"), stage="source", unit=kind)
        n = self.rows("answers" if kind == "scored answers" else kind).height
        if kind == "pairs":
            return Funnel(stage="source", unit=kind, n_in=n, n_kept=n)
        states = count_states(self.table("generations"), stage="source", unit="answers")
        if kind == "rejected answers":
            return Funnel(stage="source", unit=kind, n_in=states.n_in, n_kept=n, dropped={"not_only_rejected": states.n_in - n})
        dropped = {**states.dropped, "no_prompt": states.n_kept - n}
        return Funnel(stage="source", unit="answers", n_in=states.n_in, n_kept=n, dropped=dropped)


def recorded_scores(judgments: pl.DataFrame, generations: pl.DataFrame) -> pl.DataFrame:
    """`generation_id` and `score` by one judge's recorded judgments: its scores, else the mean probability to win."""
    both_orders = bool((judgments["order"] == 1).any())
    found = verdicts(judgments, VerdictConfig(both_orders=both_orders))
    return group_scores(found, generations, judgments).select("generation_id", "score")


def verified_scores(rows: pl.DataFrame, verifier: Verifier) -> pl.DataFrame:
    """The same by a verifier; one that cannot tell gives no score."""
    made = []
    for row in rows.iter_rows(named=True):
        (judged,) = scores_of(verifier, row, [row["text"]])
        made.append((row["generation_id"], judged["scores"][0] if judged["state"] == "ok" else None))
    return pl.DataFrame(made, schema=SCORES, orient="row")


def open_source(run: Run, verifier: Verifier | None) -> Source:
    """The source of a run, its tables written into the run's directory.

    Raises:
        ConfigError: it lacks the rows that a method starts from, or has nobody whose scores are meant.
    """
    config = run.config
    assert isinstance(config, ContrastConfig)
    source = (
        Source(name=run.parents[0].ref, tables=_of_version(run))
        if run.parents
        else Source(name=Path(config.source).name, tables=_of_file(run))
    )
    kinds = {METHODS[name].rows: name for name in reversed(config.methods)}
    for kind, name in kinds.items():
        if source.rows(kind).is_empty():
            raise ConfigError(f"methods.{name} starts from {kind.removeprefix('scored ')}, and {source.name} has none; {_there(source)}")
    if "scored answers" not in kinds or config.scores == "judge":
        return source
    by = Scores(verifier=verifier) if config.scores == "verifier" else Scores(judge=_judge(source, config.scores))
    return replace(source, scores=by)


def _of_version(run: Run) -> dict[str, Path]:
    """The tables of the version that the run starts from, copied in the order of prompts."""
    found = {}
    for name in TABLES:
        if (file := run.parents[0].frozen / f"{name}.parquet").exists():
            found[name] = run.path(f"source.{name}.parquet")
            pl.scan_parquet(file).sort("prompt_id", maintain_order=True).sink_parquet(found[name], row_group_size=ROW_GROUP)
    return found


def _of_file(run: Run) -> dict[str, Path]:
    """The facts of a file, which become the run's own: no version holds them."""
    config = run.config
    assert isinstance(config, ContrastConfig)
    name = Path(config.source).name
    found = import_facts({name: read_rows(config.source)}, name=Path(name).name.partition(".")[0], columns=config.columns or None)
    for file, rows in (("prompts", found.prompts), ("00000.generations", found.generations), ("00000.judgments", found.judgments)):
        run.write(file, rows.sort("prompt_id", maintain_order=True))
    run.figures.source = {"layouts": {file: layout.layout for file, layout in found.layouts.items()}, "notes": dict(found.notes)}
    return {
        name: run.path(f"{prefix}{name}.parquet") for name, prefix in (("prompts", ""), ("generations", "00000."), ("judgments", "00000."))
    }


def _there(source: Source) -> str:
    found = [f"{source.table(name).height:,} {name}" for name in sorted(source.tables)]
    return f"it has {', '.join(found)}"


def _judge(source: Source, scores: str) -> str:
    """Whose recorded judgments are the scores: the judge that labelled the source's pairs, or the one that is named."""
    judges = sorted(source.table("judgments")["judge"].unique())
    labelled = set(source.table("pairs")["label_source"])
    found = [judge for judge in judges if judge == scores] if scores != "recorded" else judges
    if scores == "recorded" and len(judges) > 1:
        found = [judge for judge in judges if judge in labelled]
    if len(found) != 1:
        told = f"has judgments of {', '.join(judges)}" if judges else "has no judgments"
        which = f"scores: {scores!r} is none of them" if scores != "recorded" else "scores: recorded needs those of one judge"
        raise ConfigError(f"{which}; {source.name} {told}; give scores: verifier with a `verifier`, or the name of one of its judges")
    return str(found[0])
