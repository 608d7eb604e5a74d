"""The rationales of a candidate's pairs: who writes and who reads them back, one shard of pairs, and what they come to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curators.engines.base import Engine
from curators.errors import ConfigError
from curators.funnel import count_states
from curators.rationales.checks import CheckBounds
from curators.rationales.health import final_rationales, rationale_health
from curators.rationales.prompts import KINDS, RationaleRubric, load_rationale_rubric
from curators.rationales.writing import RationaleConfig, write_rationale
from curators.sampling import Row, gather_all
from curators.schema import RATIONALES, frame
from pipelines.candidates import weigh
from pipelines.config import EngineConfig
from pipelines.judging.config import CurateConfig
from pipelines.judging.config import RationaleConfig as RationaleSettings
from pipelines.runs import Run


def writers(config: CurateConfig) -> dict[str, EngineConfig]:
    """The engines that rationales need, by role."""
    if config.rationale is None:
        return {}
    return {"rationale": config.rationale, **({"rationale.judge": config.rationale.judge} if config.rationale.judge else {})}


def rubrics_of(settings: RationaleSettings) -> list[RationaleRubric]:
    """One rubric a kind.

    Raises:
        ConfigError: the rubric cannot be read, or is of another kind than the configuration says.
    """
    kinds = KINDS if settings.kind == "both" else (settings.kind,)
    rubrics = [load_rationale_rubric(settings.rubric or kind) for kind in kinds]
    if settings.rubric and rubrics[0].kind != settings.kind:
        raise ConfigError(f"rationale.kind is {settings.kind}, the rubric {settings.rubric} is {rubrics[0].kind}; make them agree")
    return rubrics


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """Everything that one pair needs."""

    writer: Engine
    reader: Engine | None
    rubrics: Sequence[RationaleRubric]
    config: RationaleConfig

    async def __call__(self, pair: Mapping[str, Any]) -> list[Row]:
        """The pair's rows of `rationales`, of every kind that is asked for."""
        asked = (write_rationale(pair, self.writer, rubric=r, config=self.config, checker=self.reader) for r in self.rubrics)
        return [row for rows in await gather_all(asked) for row in rows]


def explainer(run: Run, settings: RationaleSettings) -> Explainer:
    """Who explains in this run."""
    config = RationaleConfig(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=run.seed,
        repairs=settings.repairs,
        check_agreement=settings.check_agreement,
        bounds=CheckBounds(min_words=settings.min_words, max_words=settings.max_words),
        secret=run.lake.secret,
    )
    reader = run.engines.get("rationale.judge")
    return Explainer(writer=run.engines["rationale"], reader=reader, rubrics=rubrics_of(settings), config=config)


async def write_shard(run: Run, number: int, start: int, stop: int) -> dict[str, int]:
    """Explain the pairs of one shard and leave the rows in the run's directory."""
    pairs = await asyncio.to_thread(lambda: run.read("pairs").sort("pair_id")[start:stop])
    groups = await gather_all(_explained(run, pair) for pair in pairs.iter_rows(named=True))
    rows = [row for group in groups for row in group]
    await asyncio.to_thread(run.write, f"{number:05d}.rationales", frame(rows, RATIONALES))
    return {"rationales": len(rows)}


async def _explained(run: Run, pair: Mapping[str, Any]) -> list[Row]:
    rows = await run.explain(pair)
    run.advance(pair["pair_id"])
    return rows


def weigh_again(run: Run) -> dict[str, int]:
    """The rationales' funnel and health, and the gates with them."""
    assert isinstance(run.config, CurateConfig)
    assert run.config.rationale is not None
    rows, pairs, figures = run.read_shards("rationales", RATIONALES), run.read("pairs"), run.figures
    n_kinds = len(KINDS) if run.config.rationale.kind == "both" else 1
    figures.funnels.append(count_states(final_rationales(rows), stage="rationales", unit="rationales"))
    figures.rationales = rationale_health(rows, pairs, n_kinds)
    return weigh(run, pairs, figures.counts | {"rationales": rows.height})
