"""A judge tried on gold pairs: `pairmill judge-check`, and flow `curate` before it samples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

from curators.engines.base import Engine
from curators.engines.budget import Budget
from curators.errors import ConfigError
from curators.gates import GATES, Candidate, GateResult
from curators.importing import import_facts
from curators.judging.bias import length_effect
from curators.judging.gold import Gold, calls_needed, gold_pairs, try_judge
from curators.judging.health import judge_health
from curators.judging.verdicts import VerdictConfig, verdicts
from curators.sampling import gather_all
from curators.schema import PAIRS, empty
from pipelines.engines import budget, engines_open
from pipelines.judging.config import CheckConfig, CurateConfig, GoldConfig, PanelConfig, TrialConfig
from pipelines.judging.labelling import Judge, asking, judges_of, open_judge
from pipelines.judging.panels import measured_verdicts, members_verdicts, panel_health, panel_verdicts
from pipelines.runs import Run
from storage import Lake, open_lake, resolve
from storage.calls import open_ledger
from storage.errors import DatasetNotFound
from storage.files import read_rows


def read_gold(config: GoldConfig, lake: Lake | None = None, *, seed: int = 0) -> Gold:
    """Gold pairs from a file, or from a published version of the lake (`NAME@V`).

    Raises:
        ConfigError: there is neither such a file nor such a version.
    """
    if Path(config.source).exists():
        files = {Path(config.source).name: islice(read_rows(config.source), config.rows)}
        found = import_facts(files, name="gold", columns=config.columns or None)
        dropped = dict(found.funnel.dropped)
        if not found.judgments.height:
            first = found.prompts.filter(pl.col("state") != "ok")["reason"].drop_nulls().head(1).to_list()
            raise ConfigError(f"gold: {config.source}: no row holds a label ({dropped}; the first: {(first or ['no reason'])[0]})")
        facts = (found.prompts.filter(pl.col("state") == "ok"), found.generations, found.judgments)
        return replace(gold_pairs(*facts, limit=config.limit, seed=seed), dropped=dropped)
    if Path(config.source).suffix or "/" in config.source:
        raise ConfigError(
            f"gold: no file {config.source!r}; give labelled pairs as `pairmill import` reads them, or NAME@VERSION of the lake"
        )
    try:
        if lake is None:
            raise DatasetNotFound("there is no lake")
        release = resolve(lake, config.source)
    except DatasetNotFound as error:
        raise ConfigError(f"gold: {config.source!r} is neither a file nor a version of the lake ({error})") from error
    prompts, generations, judgments = (
        pl.read_parquet(release.frozen / f"{name}.parquet") for name in ("prompts", "generations", "judgments")
    )
    return gold_pairs(prompts, generations, _believed(judgments), limit=config.limit, seed=seed)


def _believed(judgments: pl.DataFrame) -> pl.DataFrame:
    """Of a version's judgments those that can be believed: recorded labels, else its verifier's."""
    for channel in ("recorded", "verifier"):
        if (believed := judgments.filter(pl.col("channel") == channel)).height:
            return believed
    raise ConfigError("gold: the version has neither recorded labels nor a verifier's; its own judge is no gold")


async def trial(judge: Judge, gold: Gold, *, on_done: Callable[[int], None] | None = None) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The judge's judgments of the gold pairs and its health on them."""
    judged = await try_judge(gold, judge.engine, rubric=judge.rubric, config=judge.config, on_done=on_done)
    found = _of_gold(verdicts(judged, VerdictConfig(both_orders=judge.config.both_orders)), gold)
    health = judge_health(judged, found, gold.generations, gold=gold.truth, policy=judge.engine.fingerprint)
    return judged, health | {"length_effect": _length_effect(judged, found, gold)}


def _length_effect(judged: pl.DataFrame, found: pl.DataFrame, gold: Gold) -> dict[str, Any]:
    """What length does to the judge with the gold side held equal; null with the reason where the two cannot be told apart."""
    sizes = gold.generations.select("generation_id", size=pl.col("text").str.len_chars())
    pairwise = judged.height and judged["protocol"][0] == "pairwise"
    return asdict(length_effect(judged if pairwise else found, sizes, gold.truth))


async def try_judges(run: Run, *, on_done: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The run's judge, or its panel, on the gold pairs of its configuration; health and gate go into the run's figures.

    The members' verdicts and the gold's stay in the run's directory: a panel may be calibrated on them.
    """
    config = run.config
    assert isinstance(config, CurateConfig)
    assert config.gold is not None
    gold = await asyncio.to_thread(read_gold, config.gold, run.lake, seed=run.seed)
    judges = await judges_of(run)
    trials = await gather_all(try_judge(gold, j.engine, rubric=j.rubric, config=j.config, on_done=on_done) for j in judges)
    judged = pl.concat(trials)
    reading = VerdictConfig(both_orders=all(judge.config.both_orders for judge in judges))
    if config.panel is None:
        health = judge_health(judged, _of_gold(verdicts(judged, reading), gold), gold.generations, gold=gold.truth)
    else:
        members = _of_gold(members_verdicts(judged, gold.generations, config.panel, reading), gold)
        health = _panel_trial(run, config.panel, judged, members, gold)
    bound = config.gates.min_gold_agreement
    run.figures.trial = health
    candidate = Candidate(pairs=empty(PAIRS), health=health, trial=health)
    bounds = {"min_gold_agreement": bound, "max_unscored_share": config.gates.max_unscored_share}
    run.figures.gates = [] if bound is None else [GATES[name](candidate, at) for name, at in bounds.items() if at is not None]
    return health


def _panel_trial(run: Run, config: PanelConfig, judged: pl.DataFrame, members: pl.DataFrame, gold: Gold) -> dict[str, Any]:
    run.write("trial.verdicts", members)
    run.write("trial.gold", gold.truth)
    found = panel_verdicts(members, config, gold=gold.truth)
    measured = measured_verdicts(found, members, config, gold=gold.truth)
    return panel_health(judged, members, found, gold.generations, config, gold=gold.truth, measured=measured)


def _of_gold(found: pl.DataFrame, gold: Gold) -> pl.DataFrame:
    """The verdicts about gold pairs; a list compares others too."""
    return found.join(gold.pairs.select("a_id", "b_id"), on=["a_id", "b_id"], how="semi")


def judge_gates(health: Mapping[str, Any], bounds: Mapping[str, float | None]) -> list[GateResult]:
    """The gates that are about a judge alone, of those that have a bound."""
    candidate = Candidate(pairs=empty(PAIRS), health=health)
    return [GATES[name](candidate, float(bound)) for name, bound in bounds.items() if bound is not None]


@dataclass(kw_only=True)
class Session:
    """A judge that can be asked about gold outside a run. `calls`: what it cost, once the session is closed."""

    config: TrialConfig
    gold: Gold
    engine: Engine
    secret: bytes
    spend: Budget
    calls: dict[str, Any] = field(default_factory=dict)

    async def judge(self) -> Judge:
        """The judge, once it has shown what it can do: the first call that may cost."""
        asked = asking(self.config.judge, seed=self.config.seed, secret=self.secret)
        return await open_judge(self.engine, self.config.judge, asked)


@asynccontextmanager
async def open_session(config: TrialConfig) -> AsyncIterator[Session]:
    """Gold read and the judge's engine open; replies go through the lake's ledger, so that a rerun is free."""
    with open_lake(Path(config.lake)) as lake, open_ledger(lake.root / "calls.sqlite") as ledger:
        gold = read_gold(config.gold, lake, seed=config.seed)
        run_id, spend = uuid4().hex, budget(config.caps)
        async with engines_open({"judge": config.judge}, lake.root, ledger=ledger, spend=spend, run_id=run_id) as engines:
            session = Session(config=config, gold=gold, engine=engines["judge"], secret=lake.secret, spend=spend)
            yield session
        session.calls = ledger.summary(run_id=run_id)


async def judge_check(config: CheckConfig, advance: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Try a judge on gold pairs; what came of it as JSON.

    Raises:
        ConfigError: judge, rubric, channel and gold do not fit together; nothing has been sent then.
    """
    async with open_session(config) as session:
        gold, judge = session.gold, await session.judge()
        n = gold.prompts.height
        judged, health = await trial(judge, gold, on_done=lambda done: advance("prompts", done, n))
        fingerprint, spec = judge.engine.fingerprint, judge.engine.spec
    gates = judge_gates(health, config.bounds.model_dump())
    return {
        "outcome": "passed" if all(gate.passed for gate in gates) else "refused",
        "judge": fingerprint,
        "engine": spec,
        "rubric": {"name": judge.rubric.name, "digest": judge.rubric.digest},
        "gold": {"source": config.gold.source, "pairs": gold.pairs.height, "prompts": n, "dropped": gold.dropped},
        "calls_needed": calls_needed(gold, judge.rubric, judge.config),
        "health": health,
        "gates": [gate.as_dict() for gate in gates],
        "calls": session.calls,
        "capped": session.spend.exhausted,
        "n_unread": judged.filter(~pl.col("state").is_in(["ok", "gated"])).height,
        "unread": judged.filter(~pl.col("state").is_in(["ok", "gated"])).select("state", "reason", "raw").head(20).to_dicts(),
    }
