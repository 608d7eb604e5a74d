"""A chain of rounds: what each round starts from, what was measured of it, and whether there is another one.

H = - sum of log p over the tokens of the policy's own samples / number of those tokens     (nats a token, estimated by sampling)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from curators.engines.base import digest
from curators.errors import ConfigError
from curators.verifiers import load_verifier
from pipelines.config import EngineConfig, TrainConfig
from pipelines.engines import concrete_spec
from pipelines.iterating.config import IterateConfig
from pipelines.iterating.replay import mixed
from pipelines.runs import NOT_IN_KEY, file_digest, first_resolution, without_reach
from storage import Release, open_lake, resolve
from storage.checkpoints import resolve_checkpoint
from storage.rounds import Round, add_round, rounds


@dataclass(kw_only=True)
class Chain:
    """The rounds of one configuration and seed, as far as they are done."""

    config: IterateConfig
    done: list[Round] = field(default_factory=list)
    stopped: str | None = None
    new: int = 0  # rounds that this run added
    rejected: bool = False  # the gates refused the next one
    started: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> str:
        """The identity of a round's question: how pairs are made and learned from, by which engines, on which files. How many rounds and
        when to stop may change. Code is not in it: each round's version says by which code it was made.
        """
        asked = [each.model_dump(mode="json", exclude=NOT_IN_KEY | {"timeout_s"}) for each in self.config.stages.values()]
        replay = self.config.replay.model_dump() if self.config.replay else None
        return digest("iterate", without_reach(asked), _engines(asked), self._inputs(), replay, self.config.seed, size=12)

    def _inputs(self) -> list[str]:
        """What decides rounds beside the configuration: prompts, exam and rubrics by their content, verifiers by their code."""
        collect, exam = self.config.collect, self.config.train.evaluation
        assert exam is not None
        rubrics = [judge.rubric for judge in getattr(collect, "judges", {}).values() if judge.rubric.endswith(".md")]
        verifiers = [name for name in (collect.verifier, exam.verifier) if name]
        files = [file_digest(file) for file in (collect.prompts, exam.prompts, *rubrics)]
        return [*files, *(load_verifier(name).judge for name in verifiers)]

    @property
    def root(self) -> Path:
        return self.config.lake_root

    @property
    def page(self) -> Path:
        """Where the report lies."""
        return self.root / "rounds" / self.config.name / "report.html"

    def make_lake(self) -> None:
        """Where there is none yet: nothing else may lie in its directory before."""
        with open_lake(self.root):
            pass

    def recall(self) -> None:
        """Take the rounds that are written down as done, up to the last one that is asked for or that a rule stops at.

        Raises:
            ManifestError: a round is missing or changed.
            ConfigError: the chain's rounds came of another configuration or seed.
        """
        for known in rounds(self.root, self.config.name)[: self.config.rounds]:
            if known.chain != self.key:
                raise ConfigError(
                    f"round {known.number} of {known.name} came of another configuration or seed; give this chain another `name`"
                )
            self._append(known)
            if self.stopped:
                return

    @property
    def unfinished(self) -> bool:
        return self.stopped is None and len(self.done) < self.config.rounds

    def collecting(self) -> Any:
        """How the next round makes its pairs: by the policy that the round before has trained.

        Raises:
            CheckpointNotFound: the checkpoint of the round before is gone.
            ConfigError: it is another one.
        """
        policy = self._first_policy()
        if self.done:
            before = self.done[-1]
            spec = f"checkpoint:{before.checkpoint}"
            if resolve_checkpoint(self.root, before.checkpoint).fingerprint != before.trained:
                raise ConfigError(f"{spec} is not the checkpoint that round {before.number} of {before.name} trained; restore it")
            policy = policy.model_copy(update={"engine": spec})
        update = {"policy": policy, "seed": self.config.seed, "lake": str(self.root), "author": self.config.author}
        return self.config.collect.model_copy(update=update)

    def _first_policy(self) -> EngineConfig:
        """The policy of the first round; a checkpoint is the one that its name meant when the chain was first asked for."""
        policy = self.config.collect.policy
        then = first_resolution(self.root, self.key, {"policy": concrete_spec(policy, self.root)})
        return policy.model_copy(update={"engine": then["policy"]})

    def learning_from(self, made: Mapping[str, Any]) -> str:
        """The version that a round trains on: its own, or, with `replay`, its own with pairs of earlier ones."""
        ref, replay = f"{made['dataset']}@{made['version']}", self.config.replay
        if replay is None or not self.done:
            return ref
        with open_lake(self.root) as lake:
            earlier = [resolve(lake, each.figures["collected"]) for each in self.done[-replay.rounds :]]
            return mixed(lake, resolve(lake, ref), earlier, replay, seed=self.config.seed, author=self.config.author).ref

    def training(self, collected: Any, ref: str) -> TrainConfig:
        """How a round trains: the policy that sampled, on `ref`, into the chain's checkpoints."""
        update = {
            "dataset": ref,
            "lake": str(self.root),
            "policy": collected.policy,
            "checkpoint": self.config.name,
            "on_stale": "refuse",
        }
        return self.config.train.model_copy(update=update)

    def refused(self, made: Mapping[str, Any]) -> None:
        """A round whose pairs the gates refuse is the end of the chain."""
        self.rejected = True
        self.stopped = f"round {len(self.done) + 1} published no version: {made['refusal']}"

    def close(self, made: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
        """Write a round down, and decide whether it was the last."""
        with open_lake(self.root, create=False) as lake:
            version = resolve(lake, trained["dataset"])
        figures = {
            "collected": f"{made['dataset']}@{made['version']}",
            "pairs": version.n_pairs,
            "on_policy_share": version.manifest.get("on_policy_share"),
            "entropy": entropy(version, trained["parent"]),
            "evaluation": trained["evaluation"],
        }
        here = Round(
            name=self.config.name,
            number=len(self.done) + 1,
            chain=self.key,
            parent=self.done[-1].digest if self.done else None,
            policy=trained["parent"],
            dataset=version.ref,
            dataset_digest=version.digest,
            checkpoint=trained["checkpoint"],
            trained=trained["fingerprint"],
            figures=figures,
        )
        self.new += 1
        self._append(add_round(self.root, here))

    def _append(self, done: Round) -> None:
        self.done.append(done)
        self.stopped = self._reason()

    @property
    def best(self) -> Round | None:
        """The round whose checkpoint has the highest accuracy; null where the policy of the first round was better than any."""
        if not self.done:
            return None
        best = max(self.done, key=lambda each: each.figures["evaluation"]["accuracy_after"])
        before = self.done[0].figures["evaluation"]["accuracy_before"]
        return best if best.figures["evaluation"]["accuracy_after"] > before else None

    def outcome(self) -> dict[str, Any]:
        """What the chain came to, as JSON: the last line of `pairmill run iterate`."""
        best = self.best
        return {
            "outcome": "trained" if self.new else "refused" if self.rejected else "reused",
            "name": self.config.name,
            "seed": self.config.seed,
            "rounds": [_told(each) for each in self.done],
            "stopped": self.stopped,
            "best": best.checkpoint if best else None,
            "report": str(self.page),
            "seconds": round(time.monotonic() - self.started, 2),
        }

    def _reason(self) -> str | None:
        """Which rule ends the chain here; null where none does."""
        stop, last = self.config.stop, self.done[-1]
        if last.trained == last.policy:
            return f"round {last.number} changed no weight: every further round would be the same"
        found, number = last.figures["evaluation"], last.number
        interval = f"95% interval {found['low']:+.1%} to {found['high']:+.1%}"
        if stop.stop_when_worse and found["high"] < 0:
            return f"over-optimised: round {number} changed accuracy by {found['gain']:+.1%} ({interval})"
        late = [each.figures["evaluation"]["gain"] for each in self.done[-stop.patience :]]
        if stop.min_gain is not None and len(late) == stop.patience and max(late) <= stop.min_gain:
            gains = ", ".join(f"{gain:+.1%}" for gain in late)
            return f"no gain: {gains} in the last {stop.patience} rounds; above {stop.min_gain:+.1%} is asked for"
        first, now = self.done[0].figures["entropy"], last.figures["entropy"]
        if stop.min_entropy_share is not None and first and now is not None and now < stop.min_entropy_share * first:
            return f"entropy collapse: {now:.3f} nats a token in round {number}, {first:.3f} in the first"
        return None


def entropy(version: Release, policy: str) -> float | None:
    """Nats a token of the policy's own samples that the version holds, which are those of prompts that gave a pair; null where their
    log-probabilities are not known.
    """
    file = version.frozen / "generations.parquet"
    if not file.exists():
        return None
    own = pl.scan_parquet(file).filter(pl.col("policy").str.split("+").list.first() == policy, pl.col("sum_logprob").is_not_null())
    sums = own.select(pl.col("sum_logprob").sum(), pl.col("n_tokens").sum()).collect().row(0)
    return -float(sums[0]) / int(sums[1]) if sums[1] else None


def _engines(asked: Any) -> list[str]:
    """The specs of all engines in a configuration, in order."""
    if isinstance(asked, list):
        return [spec for value in asked for spec in _engines(value)]
    if not isinstance(asked, dict):
        return []
    own = [asked["engine"]] if isinstance(asked.get("engine"), str) else []
    return own + [spec for name in sorted(asked) for spec in _engines(asked[name])]


def _told(each: Round) -> dict[str, Any]:
    return {
        "round": each.number,
        "policy": each.policy,
        "dataset": each.dataset,
        "checkpoint": each.checkpoint,
        "digest": each.digest,
        "parent": each.parent,
        **each.figures,
    }
