"""The plan of flow `steps`: trees that the lake has, or that the ledger can grow again to their end; what the others ask is forecast.

How many requests a tree makes hangs on what comes back, so that no plan is exact: it goes by earlier trees of the same search, else by the
bounds that the configuration sets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import polars as pl

from curators.stepsearch.config import SearchConfig
from pipelines import candidates
from pipelines.planning.engines import Case, Place, case
from pipelines.planning.forecast import Range, exactly, predicted
from pipelines.planning.history import PastTree, past_trees
from pipelines.planning.opening import PlannedRun, ReadOnlyLake, planned_run
from pipelines.planning.outcomes import begun, decided, expected_version, newest_pairs, priced
from pipelines.planning.plan import Plan
from pipelines.steps import pairs as tree_pairs
from pipelines.steps.config import StepsConfig
from pipelines.steps.searching import search_run
from pipelines.steps.settings import search_config
from pipelines.steps.trees import Row, Searcher, usable_prompts


class PlannedSearcher(Searcher):
    """Keeps every tree's case, by prompt."""

    def __init__(self, run: PlannedRun) -> None:
        super().__init__(run)
        self.cases: dict[str, Case] = {}

    async def _search(self, prompt: Row) -> None:
        with case() as found:
            await super()._search(prompt)
        self.cases[prompt["prompt_id"]] = found


async def plan_steps(config: StepsConfig) -> Plan:
    """What a run of this configuration would do."""
    async with search_run(config, planned_run) as run:
        assert isinstance(run, PlannedRun)
        plan = begun(run, "steps")
        if run.release is not None:
            return plan
        candidates.read_prompts(run)
        run.slots = asyncio.Semaphore(config.concurrent_trees)
        prompts, missing = usable_prompts(run), dict[str, Case]()
        for number, start in enumerate(range(0, prompts.height, config.shard_prompts)):
            missing |= await _searched(run, number, prompts[start : start + config.shard_prompts])
        plan.more = {"trees": {"known": prompts.height - len(missing), "to_search": len(missing)}}
        past = _past(run, prompts, missing)
        calls = {place: _calls(place, config, run, missing, past) for place in _places(run, config, missing)}
        n_known = prompts.height - len(missing)
        if n_known:
            tree_pairs.build(run)
        plan.rows, plan.rows_by = _rows(run, n_known, len(missing))
        priced(plan, run, calls)
        if missing:
            plan.notes.append(f"{len(past):,} earlier trees of this search tell how many calls one takes" if len(past) > 1 else NO_TREES)
            return expected_version(plan, config.lake_root)
        return decided(plan, run)


NO_TREES = "the lake has no two finished trees of this search: the calls are bounds of its configuration"


async def _searched(run: PlannedRun, number: int, prompts: pl.DataFrame) -> dict[str, Case]:
    """The cases of the trees that the ledger cannot finish; the others are in the lake, or in the plan's memory beside it."""
    searcher = PlannedSearcher(run)
    await searcher(number, prompts)
    missing = {prompt_id: found for prompt_id, found in searcher.cases.items() if not found.complete}
    name = f"{number:05d}.trees"
    run.write(name, run.read(name).filter(~pl.col("prompt_id").is_in(list(missing))))
    return missing


def _past(run: PlannedRun, prompts: pl.DataFrame, missing: Mapping[str, Case]) -> list[PastTree]:
    if not missing or run.first or not isinstance(run.lake, ReadOnlyLake):
        return []
    search = run.lake.added["nodes"][0]["search"][0]
    return past_trees(run.lake, search, run.fingerprints["policy"], prompts["prompt_id"])


def _places(run: PlannedRun, config: StepsConfig, missing: Mapping[str, Case]) -> dict[Place, bool]:
    """Who is asked for steps and, `rating`, for their values."""
    if not missing:
        return {}
    policy, weights = run.engines["policy"], search_config(config.search).weights
    found = {Place(policy.spec, policy.fingerprint, "step"): False}
    if config.self_eval is not None and weights.self_eval:
        found[Place(policy.spec, policy.fingerprint, "judge")] = True
    if config.reward is not None and weights.reward:
        engine = run.engines["reward"]
        found[Place(engine.spec, engine.fingerprint, "reward" if "scores" in engine.capabilities else "judge")] = True
    return found


def _calls(place: Place, config: StepsConfig, run: PlannedRun, missing: Mapping[str, Case], past: list[PastTree]) -> Range:
    """Requests of one kind that the missing trees make beyond what the ledger answers. A tree that is missing makes one at least."""
    rating = place.kind != "step"
    policy = run.engines["policy"]
    each = 1 if "n" in policy.capabilities or rating else search_config(config.search).children
    there = sum(found.first[place] + found.further[place] for found in missing.values()) - run.tally.ask(place, "sure").calls
    clusters = [(float(tree.rated if rating else tree.expanded * each), 1.0) for tree in past]
    most = most_calls(search_config(config.search), config.limits.calls)
    if rating and most is not None:
        most *= max(search_config(config.search).first_children, search_config(config.search).children)
    needed = predicted(exactly(len(missing)), clusters, most=None if most is None else most * each, unknown=None)
    least = 0 if rating else len(missing)
    return Range(
        None if needed.expected is None else needed.expected - there,
        needed.low - there,
        None if needed.high is None else needed.high - there,
    ).within(least, None)


def most_calls(config: SearchConfig, cap: int | None) -> int | None:
    """Requests for steps that one tree can make: every simulation opens at most one node a depth; null: nothing bounds it.

    >>> most_calls(SearchConfig(simulations=2, root_multiplier=1, depth_limit=2, max_depth=3), None), most_calls(SearchConfig(), 40)
    (12, 40)
    """
    if config.max_depth is None:
        return cap
    simulations = config.simulations * (config.root_multiplier + config.max_depth - 1)
    most = simulations * min(config.depth_limit or config.max_depth, config.max_depth)
    return most if cap is None else min(most, cap)


def _rows(run: PlannedRun, n_known: int, n_missing: int) -> tuple[Range, str]:
    counts: dict[Any, int] = dict(run.read("pairs").group_by("prompt_id").len().iter_rows()) if n_known else {}
    clusters, by = [(n, 1.0) for n in [*counts.values(), *[0] * (n_known - len(counts))]], f"{n_known:,} trees that are known"
    if n_known < 2 and not run.first:
        clusters, by = newest_pairs(run)
    found = exactly(sum(counts.values())) + predicted(exactly(n_missing), clusters, most=None, unknown=None)
    return found, by if len(clusters) > 1 else "nothing is known yet"
