"""A training from its configuration to an open run: version resolved, policy found, key known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from curators.engines.base import digest
from curators.errors import ConfigError
from curators.sampling import mark_duplicates
from curators.schema import PROMPTS, frame
from curators.verifiers import Verifier, load_verifier
from pipelines.candidates import prompt_row
from pipelines.config import EngineConfig, EvaluationConfig, TrainConfig
from pipelines.engines import concrete_spec, connect
from pipelines.runs import NOT_IN_ENGINE_KEY, code_digest, file_digest
from pipelines.training import evaluate
from pipelines.training.job import code_of
from storage import Lake, Release, open_lake, resolve, scan
from storage.checkpoints import Checkpoint, measurements
from storage.files import read_rows


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What the policy is graded by before and after: loaded and checked when the run opens, so that a mistake in it costs no training."""

    prompts: pl.DataFrame
    verifier: Verifier
    digest: str  # of the file and of all code that grades


@dataclass(kw_only=True)
class TrainingRun:
    """What the tasks of one training share.

    The directory is named by what decides the weights: version, policy, view, trainer and its code, parameters. The key holds beside it
    what decides the evaluation: another evaluation is another run, on the weights that are there.
    """

    key: str
    config: TrainConfig
    lake: Lake
    release: Release
    policy: EngineConfig
    policy_fingerprint: str
    policy_path: str
    directory: Path
    exam: Exam | None = None
    handoff: Path | None = None
    trained: Path | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    stale: str | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        return self.config.checkpoint or self.release.name

    def outcome(self, outcome: str) -> dict[str, Any]:
        """What the training came to, as JSON: the last line of `pairmill run train`."""
        found = self.checkpoint
        return {
            "outcome": outcome,
            "dataset": self.release.ref,
            "digest": self.release.digest,
            "checkpoint": found.ref if found else None,
            "path": str(found.path) if found else None,
            "fingerprint": found.fingerprint if found else None,
            "parent": self.policy_fingerprint,
            "evaluation": self.evaluation or (found.metrics.get("evaluation") if found else None),
            "training": self.metrics or (found.metrics.get("training") if found else None),
            **({"stale": self.stale} if self.stale else {}),
            "seconds": round(time.monotonic() - self.started, 2),
            "run_key": self.key,
        }


TRAININGS: dict[str, TrainingRun] = {}
"""The trainings that are open in this process, by key."""


@asynccontextmanager
async def training(config: TrainConfig, version: int | None) -> AsyncIterator[TrainingRun]:
    """The open run of a training, registered under its key. A training whose checkpoint is registered answers with it.

    Raises:
        ConfigError: no policy that can be trained, no such verifier or evaluation file, or prompts among its that the version holds.
    """
    ref = config.dataset if version is None else f"{config.dataset.partition('@')[0]}@{version}"
    with await asyncio.to_thread(open_lake, config.lake_root, create=False) as lake:
        release = await asyncio.to_thread(resolve, lake, ref)
        exam = await asyncio.to_thread(exam_of, config.evaluation, release) if config.evaluation else None
        policy = policy_of(config, release, lake.root)
        policy_path = await asyncio.to_thread(_policy_path, policy, config.command)
        fingerprint = await asyncio.to_thread(_fingerprint, policy, lake.root)
        stale = _stale(config, release, fingerprint)
        weights = await asyncio.to_thread(_weights_key, config, release, fingerprint)
        key = _run_key(config, weights, policy, exam)
        run = TrainingRun(
            key=key,
            config=config,
            lake=lake,
            release=release,
            policy=policy,
            policy_fingerprint=fingerprint,
            policy_path=policy_path,
            directory=(lake.root / "runs" / f"train-{weights}").absolute(),
            exam=exam,
            stale=stale,
        )
        run.directory.mkdir(parents=True, exist_ok=True)
        known = measurements(lake.root, run.name)
        run.checkpoint = next((c for c in known if c.metrics.get("run_key") == key and c.path.exists()), None)
        TRAININGS[key] = run
        try:
            yield run
        finally:
            del TRAININGS[key]


def _stale(config: TrainConfig, release: Release, fingerprint: str) -> str | None:
    """Why a version is not on-policy for the weights to train; null where it is, or where nobody knows who wrote it."""
    sampled = str(release.manifest.get("policy") or "").partition("+")[0]
    if not sampled or sampled == fingerprint:
        return None
    told = f"{release.ref} was sampled by {sampled}, and the policy to train is {fingerprint}"
    if config.on_stale == "refuse":
        raise ConfigError(f"{told}: off-policy; sample that policy anew, or allow it: --set on_stale=flag")
    return told


def exam_of(config: EvaluationConfig, release: Release) -> Exam:
    """The evaluation of a training on a version.

    Raises:
        ConfigError: no such file or verifier, or prompts in it that the version holds.
    """
    verifier = load_verifier(config.verifier)
    if not Path(config.prompts).is_file():
        raise ConfigError(f"evaluation.prompts: no file {config.prompts!r}; give a .jsonl[.gz], .parquet or .csv file")
    name = Path(config.prompts).name
    rows = mark_duplicates(prompt_row(row, name) for row in islice(read_rows(config.prompts), config.n_prompts))
    trained_on = pl.read_parquet(release.frozen / "pairs.parquet", columns=["prompt_id"])["prompt_id"].to_list()
    prompts = evaluate.unseen(frame(rows, PROMPTS), trained_on)
    code = [verifier.judge, file_digest(evaluate.__file__), code_digest()]
    return Exam(prompts=prompts, verifier=verifier, digest=digest(file_digest(config.prompts), code))


def _weights_key(config: TrainConfig, release: Release, fingerprint: str) -> str:
    asked = config.model_dump(mode="json", include={"form", "handoff_format", "command", "params"}) | {"view": view_of(config, release)}
    code = {name: file_digest(file) for name, file in code_of(config.command).items()}
    return digest("weights", release.ref, release.digest, fingerprint, asked, code, size=12)


def view_of(config: TrainConfig, release: Release) -> str:
    """The training format: the configured one, else what the version is made for."""
    if config.view:
        return config.view
    # Also where the steps came through a selection.
    return "step" if release.manifest.get("kind") == "steps" or "chosen_step" in scan(release).collect_schema() else "dpo"


def _run_key(config: TrainConfig, weights: str, policy: EngineConfig, exam: Exam | None) -> str:
    """The identity of a run: its weights, the name that they get, and how they are evaluated."""
    sampled = policy.model_dump(mode="json", exclude=NOT_IN_ENGINE_KEY)
    evaluated = [sampled, config.evaluation.model_dump(mode="json"), exam.digest] if config.evaluation and exam else None
    return digest("train", weights, config.checkpoint, evaluated, size=12)


def policy_of(config: TrainConfig, release: Release, lake_root: Path) -> EngineConfig:
    """The model to train: the configured one, else the one that wrote the version. It must be weights, not an endpoint."""
    spec = release.manifest.get("policy_spec")
    if config.policy is None and not spec:
        raise ConfigError(f"{release.ref} does not say which policy wrote it; give `policy`, such as --set policy=hf:PATH")
    chosen = config.policy or EngineConfig(engine=str(spec))
    concrete = chosen.model_copy(update={"engine": concrete_spec(chosen, lake_root)})
    if not concrete.engine.startswith("hf:") and config.command is None:
        raise ConfigError(
            f"policy is {concrete.engine!r}; the built-in trainer needs weights: --set policy=hf:PATH, or a `command` of your own"
        )
    return concrete


def _policy_path(policy: EngineConfig, command: str | None) -> str:
    """Where the weights lie, `@REV` checked and a hub name resolved; the spec of a policy that only a trainer of your own knows."""
    if not policy.engine.startswith("hf:"):
        return policy.engine
    from curators.engines.models import locate  # torch, which a run over endpoints does not need

    path = locate(policy.engine.removeprefix("hf:")).absolute()
    if path.is_file() and command is None:
        raise ConfigError(
            f"policy is {policy.engine!r}; the built-in trainer takes a model directory, not a .gguf file: "
            "--set policy=hf:DIRECTORY, or a `command` of your own"
        )
    return str(path)


def _fingerprint(policy: EngineConfig, lake_root: Path) -> str:
    """Of the weights: in which numbers they were sampled (`+dtype`) does not make another parent."""
    engine = connect(policy, lake_root)
    try:
        return engine.fingerprint.partition("+")[0]
    finally:
        asyncio.run(engine.aclose())
