"""The trainings of an evidence run, and what they say together.

Every training has a seed of its own, also those of two versions that are the same, so that what chance alone does is in the interval. Two
things are drawn by chance, the trainings and the prompts of the exam, which all trainings share:

    d          mean over prompts of d_i, the difference of prompt i's mean scores over the seeds
    trainings  se^2 = s1^2 / n1 + s2^2 / n2 over the accuracies of n1 and n2 seeds, with Welch's t
    prompts    se^2 = var(d_i) / prompts
    interval   d -+ sqrt((t * se_trainings)^2 + (1.96 * se_prompts)^2)      a little too wide, as chance in sampling is in both
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from curators.engines.base import digest
from curators.errors import CurationError
from curators.statistics.intervals import Z95
from pipelines.config import EngineConfig, TrainConfig
from pipelines.engines import concrete_spec
from pipelines.evidence.config import EvidenceConfig
from pipelines.training.params import read_params
from storage import Release, open_lake, resolve, scan

Scores = Mapping[str, float]
"""Mean score by prompt, of one training."""

Table = npt.NDArray[np.float64]


@dataclass(kw_only=True)
class Evidence:
    """What is to be trained: the versions, the steps that each training takes, and the accuracies so far, by version in order."""

    config: EvidenceConfig
    releases: tuple[Release, ...]
    params: Mapping[str, Any]
    policy: EngineConfig | None
    scores: list[list[Scores]] = field(default_factory=list)  # by version, then by seed
    before: Scores = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def page(self) -> Path:
        """Where the report lies."""
        key = digest([each.digest for each in self.releases], self.config.model_dump(mode="json", exclude={"lake"}), size=6)
        return self.config.lake_root / "evidence" / self.config.name / f"{key}.html"

    def training(self, place: int, number: int) -> TrainConfig:
        """One training: of the version at that place, the number from 0. Only a version that stands there again has other seeds."""
        config = self.config
        before = sum(each.ref == self.releases[place].ref for each in self.releases[:place])
        return TrainConfig(
            dataset=self.releases[place].ref,
            lake=config.lake,
            policy=self.policy,
            view=config.view,
            handoff_format=config.handoff_format,
            command=config.command,
            params={**self.params, "seed": before * config.seeds + number},
            timeout_s=config.timeout_s,
            evaluation=config.evaluation,
        )

    def outcome(self) -> dict[str, Any]:
        """What the trainings say, as JSON: the last line of `pairmill run evidence`."""
        *tables, (before,) = tabled([*self.scores, [self.before]])
        told = [
            {"version": each.ref, "digest": each.digest, "pairs": each.n_pairs, "accuracies": table.mean(axis=1).tolist()}
            for each, table in zip(self.releases, tables, strict=True)
        ]
        compared = [
            {"version": each.ref, "than": self.releases[0].ref, **difference(tables[0], table)}
            for each, table in zip(self.releases[1:], tables[1:], strict=True)
        ]
        return {
            "outcome": "measured",
            "name": self.config.name,
            "params": dict(self.params),
            "prompts": tables[0].shape[1],
            "accuracy_before": float(before.mean()),
            "versions": told,
            "differences": compared,
            "report": str(self.page),
            "seconds": round(time.monotonic() - self.started, 2),
        }


def open_evidence(config: EvidenceConfig) -> Evidence:
    """The versions of a run, and one budget for all of them.

    Raises:
        DatasetNotFound: there is no such version.
        ConfigError: a parameter that the built-in trainer does not have.
    """
    with open_lake(config.lake_root, create=False) as lake:
        releases = tuple(resolve(lake, ref) for ref in config.versions)
    params = dict(config.params)
    if config.command is None and params.get("max_steps") is None:
        known = read_params(params)
        a_step = known.batch_size * known.gradient_accumulation
        params["max_steps"] = max(1, math.ceil(known.epochs * min(map(_n_train, releases)) / a_step))
    spec = releases[0].manifest.get("policy_spec")
    policy = config.policy or (EngineConfig(engine=spec) if spec else None)
    if policy is not None:  # a tag that moves meanwhile must not change what is compared
        policy = policy.model_copy(update={"engine": concrete_spec(policy, config.lake_root)})
    return Evidence(config=config, releases=releases, params=params, policy=policy)


def _n_train(release: Release) -> int:
    split = scan(release).select("split").collect()["split"]
    return int((split == "train").sum())


def tabled(scores: Sequence[Sequence[Scores]]) -> list[Table]:
    """Scores of each version as seeds × prompts, of the prompts that every training has a score of.

    Raises:
        CurationError: fewer than two prompts.
    """
    shared = sorted(set.intersection(*(set(each) for version in scores for each in version)))
    if len(shared) < 2:
        raise CurationError(f"{len(shared)} prompts of the exam have a score from every training; at least two are needed")
    return [np.array([[each[prompt] for prompt in shared] for each in version]) for version in scores]


def difference(base: Table, other: Table) -> dict[str, Any]:
    """Mean of the second minus mean of the first, tables of seeds × prompts, with its 95 % interval.

    >>> found = difference(np.array([[0.5, 0.5], [0.6, 0.6]]), np.array([[0.7, 0.7], [0.8, 0.8]]))
    >>> round(found["difference"], 3), round(found["low"], 3), round(found["high"], 3)
    (0.2, -0.104, 0.504)
    """
    gap = float(other.mean() - base.mean())
    parts = [float(table.mean(axis=1).var(ddof=1)) / len(table) for table in (base, other)]
    half = 0.0
    if sum(parts):
        freedom = sum(parts) ** 2 / sum(part**2 / (len(table) - 1) for part, table in zip(parts, (base, other), strict=True))
        half = float(student.ppf(0.975, freedom)) * math.sqrt(sum(parts))
    of_prompts = other.mean(axis=0) - base.mean(axis=0)
    half = math.hypot(half, Z95 * math.sqrt(float(of_prompts.var(ddof=1)) / len(of_prompts)))
    return {"difference": gap, "low": gap - half, "high": gap + half, "verdict": verdict(gap - half, gap + half)}


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says."""
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"
