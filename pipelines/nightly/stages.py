"""A night's stages one after the other: each starts from what an earlier one published, and what became of each is kept."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curators.errors import CurationError
from pipelines.nightly.config import NightlyConfig, StageName, prepared, source_of
from storage.errors import StorageError

SUM = ("samples", "hits", "requests", "failures", "prompt_tokens", "completion_tokens")
KEPT = ("dataset", "version", "digest", "parents", "counts", "funnel", "gates", "refusal", "capped", "checkpoint", "evaluation", "run_key")
FINE = ("published", "reused", "trained")


@dataclass(kw_only=True)
class Night:
    """What the stages of one night came to. `done` holds their outcomes in order, with the stage's name."""

    config: NightlyConfig
    seed: int
    done: list[dict[str, Any]] = field(default_factory=list)
    bug: Exception | None = None  # what a stage raised that no one raises on purpose
    started: float = field(default_factory=time.monotonic)

    @property
    def page(self) -> Path:
        """Where the report lies; nights of one name and seed (the date, for a scheduled one) have one."""
        return self.config.lake_root / "nights" / self.config.name / f"{self.seed}.html"

    async def run(self, stage: StageName, flow: Callable[[Any], Awaitable[dict[str, Any]]]) -> None:
        """One stage, where it is on and has something to start from. A stage that fails leaves the others be."""
        given = self.config.stages.get(stage)
        if given is None:
            return
        begun = time.monotonic()
        try:
            found = self._skipped(stage, given) or await flow(self._prepared(stage, given))
        except (CurationError, StorageError) as error:
            found = {"outcome": "failed", "reason": str(error)}
        except Exception as error:  # a bug, which is told when the other stages have done what they can
            self.bug = error
            found = {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"}
        told = {name: found[name] for name in (*KEPT, "reason") if found.get(name) is not None}
        seconds = round(time.monotonic() - begun, 2)
        self.done.append({"stage": stage, "outcome": found["outcome"], **told, "calls": found.get("calls"), "seconds": seconds})

    def outcome(self) -> dict[str, Any]:
        """What the night came to, as JSON: the last line of `pairmill run nightly`."""
        outcomes = {each["outcome"] for each in self.done}
        worst = next((each for each in ("failed", "refused", "published", "trained") if each in outcomes), "reused")
        calls = [each["calls"] for each in self.done if each["calls"]]
        usd = [each["usd"] for each in calls]
        return {
            "outcome": "published" if worst == "trained" else worst,
            "name": self.config.name,
            "seed": self.seed,
            "stages": self.done,
            "calls": {**{name: sum(each[name] for each in calls) for name in SUM}, "usd": None if None in usd else sum(usd)},
            "report": str(self.page),
            "seconds": round(time.monotonic() - self.started, 2),
        }

    def problems(self) -> list[str]:
        """A line for every stage that failed."""
        return [f"{each['stage']}: {each['reason']}" for each in self.done if each["outcome"] == "failed"]

    def _made(self, dataset: str) -> Mapping[str, Any] | None:
        """The stage that publishes a dataset tonight; null where none does."""
        return next((each for each in self.done if each["stage"] != "train" and self.config.stages[each["stage"]].dataset == dataset), None)

    def _skipped(self, stage: StageName, given: Any) -> dict[str, Any] | None:
        source = source_of(stage, given)
        made = self._made(source) if source else None
        if made is None or made["outcome"] in FINE:
            return None
        return {"outcome": "skipped", "reason": f"{made['stage']} published no version of {source} to start from"}

    def _prepared(self, stage: StageName, given: Any) -> Any:
        source = source_of(stage, given)
        made = self._made(source) if source else None
        return prepared(self.config, stage, given, seed=self.seed, version=made["version"] if made else None)
