"""The rows of a published version that contrasts are made from: prompts, answers, rejected answers, pairs, and what answers are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from curators.contrast.candidates import answers
from curators.contrast.checkers import scores_of
from curators.errors import ConfigError
from curators.funnel import Funnel, count_states
from curators.judging.verdicts import VerdictConfig, group_scores, verdicts
from curators.schema import GENERATIONS, JOINT_PAIRS, JUDGMENTS, PAIRS, PROMPTS
from curators.verifiers import Verifier
from pipelines.contrasting.methods import Rows
from pipelines.derived import parent_frame
from storage import Release

SCORES = {"generation_id": pl.String, "score": pl.Float64}


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
    """A version, and who says what its answers are worth."""

    version: Release
    scores: Scores

    def rows(self, kind: Rows, prompt_ids: Sequence[str] | None = None) -> pl.DataFrame:
        """What a method starts from; of these prompts, or of all."""
        if kind == "prompts":
            return self._prompts(prompt_ids).filter(pl.col("state") == "ok")
        if kind == "pairs":
            return parent_frame(self.version, "pairs", JOINT_PAIRS, prompt_ids)
        if kind == "scored answers":
            return self._scored(prompt_ids)
        found = answers(self._prompts(prompt_ids), parent_frame(self.version, "generations", GENERATIONS, prompt_ids))
        if kind == "answers":
            return found
        rejected, chosen = (self._sides(prompt_ids)[side].drop_nulls().implode() for side in ("rejected_id", "chosen_id"))
        return found.filter(pl.col("generation_id").is_in(rejected) & ~pl.col("generation_id").is_in(chosen))

    def prompt_ids(self) -> list[str]:
        """Every prompt of the version, in order: a shard is a range of them."""
        return sorted({*self.rows("prompts")["prompt_id"], *self.splits()})

    def splits(self) -> Mapping[str, str]:
        """The split of every prompt with a pair: what is made of it stays there. A prompt with pairs in both is one of `test`."""
        pairs = parent_frame(self.version, "pairs", PAIRS)
        return dict(pairs.group_by("prompt_id").agg(pl.col("split").min()).iter_rows())  # "test" < "train"

    def known_bad(self) -> list[str]:
        """The texts of all answers that are rejected in a pair of the version and chosen in none."""
        return sorted(self.rows("rejected answers")["text"].drop_nulls().unique())

    def funnel(self, kind: Rows) -> Funnel:
        """What of the version's rows a method starts from."""
        if kind == "prompts":
            return count_states(self._prompts(None), stage="source", unit=kind)
        n = self.rows("answers" if kind == "scored answers" else kind).height
        if kind == "pairs":
            return Funnel(stage="source", unit=kind, n_in=n, n_kept=n)
        states = count_states(parent_frame(self.version, "generations", GENERATIONS), stage="source", unit="answers")
        if kind == "rejected answers":
            return Funnel(stage="source", unit=kind, n_in=states.n_in, n_kept=n, dropped={"not_only_rejected": states.n_in - n})
        dropped = {**states.dropped, "no_prompt": states.n_kept - n}
        return Funnel(stage="source", unit="answers", n_in=states.n_in, n_kept=n, dropped=dropped)

    def _prompts(self, prompt_ids: Sequence[str] | None) -> pl.DataFrame:
        return parent_frame(self.version, "prompts", PROMPTS, prompt_ids)

    def _sides(self, prompt_ids: Sequence[str] | None) -> pl.DataFrame:
        return parent_frame(self.version, "pairs", PAIRS, prompt_ids).select("chosen_id", "rejected_id")

    def _scored(self, prompt_ids: Sequence[str] | None) -> pl.DataFrame:
        prompts, generations = self._prompts(prompt_ids), parent_frame(self.version, "generations", GENERATIONS, prompt_ids)
        if self.scores.judge is not None:
            judged = parent_frame(self.version, "judgments", JUDGMENTS, prompt_ids).filter(pl.col("judge") == self.scores.judge)
            return answers(prompts, generations, recorded_scores(judged, generations))
        found = answers(prompts, generations)
        if self.scores.verifier is None:
            return found
        return answers(prompts, generations, verified_scores(found, self.scores.verifier))


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


def open_source(version: Release, *, scores: str, verifier: Verifier | None, kinds: Mapping[str, Rows]) -> Source:
    """The source of a run; `kinds`: what each method starts from.

    Raises:
        ConfigError: the version has no such rows, or nobody whose scores are meant.
    """
    _check_rows(Source(version=version, scores=Scores()), kinds)
    wanted = Scores()
    if "scored answers" in kinds.values():
        wanted = (
            Scores(verifier=verifier) if scores == "verifier" else Scores() if scores == "judge" else Scores(judge=_judge(version, scores))
        )
    return Source(version=version, scores=wanted)


def _check_rows(source: Source, kinds: Mapping[str, Rows]) -> None:
    version = source.version
    for name, kind in kinds.items():
        if source.rows(kind).is_empty():
            there = ", ".join(f"{each['rows']:,} {file.removesuffix('.parquet')}" for file, each in version.manifest["files"].items())
            what = kind if kind != "scored answers" else "answers"
            raise ConfigError(f"methods.{name} starts from {what}, and {version.ref} has none; it has {there}")


def _judge(version: Release, scores: str) -> str:
    """Whose recorded judgments are the scores: the judge that labelled the version's pairs, or the one that is named."""
    judges = sorted(parent_frame(version, "judgments", JUDGMENTS)["judge"].unique())
    labelled = set(parent_frame(version, "pairs", PAIRS)["label_source"])
    found = [judge for judge in judges if judge == scores] if scores != "recorded" else judges
    if scores == "recorded" and len(judges) > 1:
        found = [judge for judge in judges if judge in labelled]
    if len(found) != 1:
        told = f"has judgments of {', '.join(judges)}" if judges else "has no judgments"
        which = f"scores: {scores!r} is none of them" if scores != "recorded" else "scores: recorded needs those of one judge"
        raise ConfigError(f"{which}; {version.ref} {told}; give scores: verifier with a `verifier`, or the name of one of its judges")
    return str(found[0])
