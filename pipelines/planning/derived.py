"""The plans of flows that start from a published version: `select` asks no model but an encoder, `contrast` a writer and a judge."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from curators.embeddings import vector_key
from pipelines.contrasting import pairs as contrast_pairs
from pipelines.contrasting.config import ContrastConfig
from pipelines.contrasting.methods import roles_used, settings_of
from pipelines.contrasting.synthesis import contrast_run, synthesiser
from pipelines.planning.engines import Case, Place, case
from pipelines.planning.forecast import NOTHING, Range, exactly, predicted
from pipelines.planning.opening import PlannedRun, planned_lake, planned_run
from pipelines.planning.outcomes import begun, decided, expected_version, lacking, priced
from pipelines.planning.plan import Plan
from pipelines.runs import Run
from pipelines.selecting import choosing, filtering
from pipelines.selecting.config import SelectionConfig
from pipelines.selecting.opening import opened
from pipelines.selecting.settings import BY_EMBEDDING, selects_by_vectors, text_of
from pipelines.selecting.texts import evaluation_rows, pair_texts
from storage import find_by_commit
from storage.vectors import open_vectors

WHOLE = 99_999


async def plan_contrast(config: ContrastConfig) -> Plan:
    """What a run of this configuration would do. First requests are counted; the checks and retries that they lead to are bounded."""
    async with contrast_run(config, planned_run) as run:
        assert isinstance(run, PlannedRun)
        plan = begun(run, "contrast")
        if run.release is not None:
            return plan
        with case() as found:
            await _synthesised(run, config)
        if found.complete:
            contrast_pairs.build(run)
            return decided(priced(plan, run, {}), run)
        priced(plan, run, _contrast_calls(run, config, found))
        plan.rows, plan.rows_by = Range(None, 0, None), "attempts that pass their check become pairs; those are not there yet"
        if len(plan.lines) > 1 or plan.calls.low != plan.calls.high:
            plan.notes.append("checks of texts that are not written yet, and retries, are bounds")
        return expected_version(plan, config.lake_root)


async def _synthesised(run: PlannedRun, config: ContrastConfig) -> None:
    made = await synthesiser(run)
    n = len(made.prompt_ids)
    for number, start in enumerate(range(0, n, config.shard_prompts)):
        run.write(f"{number:05d}.contrasts", await made(start, min(start + config.shard_prompts, n), False))
    if made.has_whole:
        run.write(f"{WHOLE:05d}.contrasts", await made(0, n, True))


def _contrast_calls(run: PlannedRun, config: ContrastConfig, found: Case) -> dict[Place, Range]:
    """Requests that the ledger lacks, with what may follow them. A tournament's later matches hang on its first ones."""
    judge = run.engines.get("judge")
    judging = Place(judge.spec, judge.fingerprint, "judge") if judge else None
    calls = lacking(run)
    checks = NOTHING
    for name in config.methods:
        settings = settings_of(name, config.methods[name], seed=run.seed)
        for place, its in [*calls.items()]:
            if place.kind != name or place == judging:
                continue
            retries = getattr(settings, "retries", 0)
            calls[place] = its + predicted(its, [], most=float(retries), unknown=0.0)
            if "judge" in roles_used(config, name) and config.judge is not None:
                each = (2 if config.judge.both_orders else 1) / (2 if retries else 1)  # a check is of both sides of an attempt
                checks += predicted(its, [], most=each * _most(config), unknown=each)
    if judging is not None:
        sure = calls.get(judging, NOTHING)
        matches = Range(sure.expected, sure.low / 3 if config.scores == "judge" else sure.low, sure.high)
        calls[judging] = matches + predicted(sure, [], most=_most(config) - 1, unknown=0.0) + checks
    return calls


def _most(config: ContrastConfig) -> float:
    """Requests that one presentation to the judge can take: its votes, their repairs, and once more for a reply that was cut off."""
    assert config.judge is not None
    votes = max(config.judge.votes, config.judge.max_votes or 0)
    return 1.0 + votes * (1 + config.judge.repairs) + (votes - config.judge.votes)


def plan_select(config: SelectionConfig) -> Plan:
    """What a run of this configuration would do: no calls; texts that are still to be embedded, and where there are none the selection."""
    with TemporaryDirectory(prefix="pairmill-plan-") as temporary:
        lake, _ = planned_lake(config.lake_root, Path(temporary), create=False)
        with lake:
            run = opened(config, lake)
            run.directory, run.release = Path(temporary), find_by_commit(lake, run.key)
            plan = begun(run, "select")
            plan.seconds = None
            if run.release is not None:
                plan.seconds = exactly(0)
                return plan
            assert isinstance(run.config, SelectionConfig)
            return _selected(plan, run, run.config)


def _selected(plan: Plan, run: Run, config: SelectionConfig) -> Plan:
    texts, to_embed = _to_embed(run, config)
    plan.more = {"texts": {"known": texts - to_embed, "to_embed": to_embed}}
    if to_embed:
        plan.rows, plan.rows_by = _budget(run, config), "the budget; the filters may leave fewer"
        plan.notes.append("the selection itself is known once every text is embedded, which no plan does")
        return expected_version(plan, config.lake_root)
    filtering.filter_pairs(run, lambda done, n: None)
    choosing.embed_pairs(run, lambda done, n: None)
    choosing.select_pairs(run)
    plan.seconds = NOTHING
    return decided(plan, run)


def _to_embed(run: Run, config: SelectionConfig) -> tuple[int, int]:
    """Different texts that the run would ask its encoder for, before any filter, and how many of them the cache lacks."""
    pairs, asked = run.parents[0].frozen / "pairs.parquet", set[str]()
    for name in config.filters:
        if name in BY_EMBEDDING:
            asked |= _texts(text for _, text in pair_texts(pairs, text_of(config, name)))
            if "against" in config.filters[name]:
                asked |= _texts(evaluation_rows(config.filters[name]["against"])["text"])
    if selects_by_vectors(config):
        asked |= _texts(text for _, text in pair_texts(pairs, config.text))
    if not asked:
        return 0, 0
    keys = [vector_key(run.fingerprints["encoder"], text) for text in sorted(asked)]
    file = run.lake.root / "vectors.sqlite"
    if not file.exists():
        return len(keys), len(keys)
    with open_vectors(file) as cache:
        known = sum(len(cache.get_many(keys[start : start + 10_000])) for start in range(0, len(keys), 10_000))
    return len(keys), len(keys) - known


def _texts(texts: Iterable[Any]) -> set[str]:
    return {text for text in texts if isinstance(text, str) and text.strip()}


def _budget(run: Run, config: SelectionConfig) -> Range:
    n = run.parents[0].n_pairs
    most = min(n, config.budget) if isinstance(config.budget, int) else round(n * config.budget)
    return Range(None if config.filters else most, 0, most)
