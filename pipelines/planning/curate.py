"""The plan of flow `curate`: its own code on the ledger, prompt by prompt; what hangs on samples that are not drawn yet is forecast.

A prompt whose samples are all in the ledger is judged by what is there, so that what its judges lack is counted exactly. For another one
texts are made up, and the requests about them are those that the protocol allows (orders, votes, pairs of n answers). Fewer may come: two
equal samples, an empty or a cut-off one cost no call. How many do is taken from groups whose samples are known, of this run or of earlier
ones on the same prompts; their re-asks and further votes likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from curators.sampling import Row, gather_all
from curators.schema import GENERATIONS, JUDGMENTS, RATIONALES, frame
from curators.verifiers import verify_group
from pipelines import candidates
from pipelines.config import PairsConfig
from pipelines.curation import curation
from pipelines.judging import pairs as judged_pairs
from pipelines.judging import trials
from pipelines.judging.config import CurateConfig
from pipelines.judging.labelling import Annotator, annotator
from pipelines.judging.rationales import explainer, rubrics_of, weigh_again
from pipelines.planning.engines import Case, Place, PlanningEngine, case
from pipelines.planning.forecast import NOTHING, Clusters, Range, exactly, predicted
from pipelines.planning.history import past_groups
from pipelines.planning.opening import PlannedRun, planned_run
from pipelines.planning.outcomes import begun, decided, expected_version, newest_pairs, priced
from pipelines.planning.plan import Plan

AT_ONCE = 256  # prompts whose requests are in the making
ENOUGH = 200  # groups that a forecast is made from


@dataclass(kw_only=True)
class Known:
    """What the ledger has of a run: the case of every prompt, by id, and of every pair that was explained."""

    prompts: pl.DataFrame
    cases: dict[str, Case] = field(default_factory=dict)
    explained: list[Case] = field(default_factory=list)

    @property
    def complete(self) -> list[str]:
        """The prompts of which nothing is missing."""
        return [prompt_id for prompt_id, case in self.cases.items() if case.complete]

    @property
    def whole(self) -> bool:
        return len(self.complete) == len(self.cases)


async def plan_curate(config: CurateConfig) -> Plan:
    """What a run of this configuration would do."""
    async with curation(config, planned_run) as run:
        assert isinstance(run, PlannedRun)
        plan = begun(run, "curate")
        if run.release is not None:
            return plan
        candidates.read_prompts(run)
        tried = await _tried(run, config)
        if run.figures.refusal is not None:
            plan.refusal, plan.rows = run.figures.refusal, NOTHING
            return priced(plan, run, {})
        annotate = await annotator(run)
        known = await _annotated(run, annotate)
        counts = await _built(run, config, known) if tried and known.complete else {}
        plan.rows, plan.rows_by = _rows(run, config, known, counts)
        calls = await _calls(run, config, annotate, known, plan.rows)
        priced(plan, run, calls)
        if tried and known.whole and all(each.complete for each in known.explained):
            return decided(plan, run)
        return expected_version(plan, config.lake_root)


async def _tried(run: PlannedRun, config: CurateConfig) -> bool:
    """Whether the judges' trial on gold, where there is one, is known to its end; its gates stand in the run's figures then."""
    if config.gold is None:
        return True
    with case() as found:
        await trials.try_judges(run)
    if not found.complete:
        run.figures.gates, run.figures.trial = [], None
    return found.complete


async def _annotated(run: PlannedRun, annotate: Annotator) -> Known:
    """Every prompt by what the ledger has; the facts of the complete ones lie in the run's directory, as those of a run would."""
    known = Known(prompts=run.read("prompts").filter(pl.col("state") == "ok"))
    for number, start in enumerate(range(0, known.prompts.height, AT_ONCE)):
        rows = known.prompts[start : start + AT_ONCE].to_dicts()
        made = await gather_all(_case(prompt, annotate) for prompt in rows)
        known.cases |= {prompt["prompt_id"]: found for prompt, (found, _, _) in zip(rows, made, strict=True)}
        whole = [(generations, judgments) for found, generations, judgments in made if found.complete]
        run.write(f"{number:05d}.generations", frame([row for rows, _ in whole for row in rows], GENERATIONS))
        run.write(f"{number:05d}.judgments", frame([row for _, rows in whole for row in rows], JUDGMENTS))
    return known


async def _case(prompt: Mapping[str, Any], annotate: Annotator) -> tuple[Case, list[Row], list[Row]]:
    """One prompt's case and facts. A verifier costs nothing, and is asked about real answers only."""
    with case() as found:
        generations, judgments = await replace(annotate, verifier=None)(prompt)
    if annotate.verifier is not None and found.complete:
        judgments += await verify_group(prompt, generations, annotate.verifier, use_truncated=annotate.use_truncated)
    return found, generations, judgments


async def _built(run: PlannedRun, config: CurateConfig, known: Known) -> dict[str, int]:
    """The candidate of the complete prompts, explained as far as the ledger goes; how many pairs each of those prompts has."""
    prompts = run.read("prompts")
    run.write("prompts", prompts.filter((pl.col("state") != "ok") | pl.col("prompt_id").is_in(known.complete)))
    judged_pairs.build(run)
    pairs = run.read("pairs").sort("pair_id")
    if known.whole and config.rationale is not None and run.figures.refusal is None and pairs.height:
        explain, rows = explainer(run, config.rationale), list[Row]()
        for pair in pairs.iter_rows(named=True):
            with case() as found:
                rows += await explain(pair)
            known.explained.append(found)
        if all(each.complete for each in known.explained):
            run.write("00000.rationales", frame(rows, RATIONALES))
            weigh_again(run)
    return dict.fromkeys(known.complete, 0) | dict(pairs.group_by("prompt_id").len().iter_rows())


def _rows(run: PlannedRun, config: CurateConfig, known: Known, counts: Mapping[str, int]) -> tuple[Range, str]:
    """Pairs: those of complete prompts, and for the others what complete ones have, else those of the dataset's newest version."""
    there, missing = exactly(sum(counts.values())), len(known.cases) - len(counts)
    clusters, by = [(n, 1.0) for n in counts.values()], f"{len(counts):,} prompts that the ledger has whole"
    if len(clusters) < 2 and not run.first:
        clusters, by = newest_pairs(run)
    if len(clusters) < 2:
        by = "no more than the pair policy allows: nothing is known yet"
    return there + predicted(exactly(missing), clusters, most=most_pairs(config.pairs, config.sampling.n), unknown=None), by


def most_pairs(pairs: PairsConfig, n: int) -> int:
    """Pairs that one prompt with n answers can have."""
    most = n * (n - 1) // 2 if pairs.policy == "all_pairs" else int(n > 1)
    return most if pairs.max_per_prompt is None else min(most, pairs.max_per_prompt)


async def _calls(run: PlannedRun, config: CurateConfig, annotate: Annotator, known: Known, rows: Range) -> dict[Place, Range]:
    """Requests to buy by kind and engine."""
    firsts, furthers, alike = await _experience(run, annotate, known)
    calls: dict[Place, Range] = {}
    for place in {place for place, _ in run.tally.lacking}:
        asks = {sort: exactly(run.tally.ask(place, sort).calls) for sort in ("sure", "dependent", "further")}
        dependent = predicted(asks["dependent"], firsts.get(place, []))
        # Of more samples more are equal, so that groups of another size say what comes at most.
        first = asks["sure"] + (dependent if alike else replace(dependent, low=0))
        most = most_further(config, annotate, place)
        calls[place] = first + predicted(first, furthers.get(place, []), most=most, unknown=0.0)
    return _with_rationales(run, config, known, rows, calls)


def most_further(config: CurateConfig, annotate: Annotator, place: Place) -> float:
    """Re-asks and further votes that one first request can lead to: one for a reply that was cut off, and the repairs of each vote."""
    if place.kind == "rationale":
        return 1.0 + (config.rationale.repairs if config.rationale else 0)
    if place.kind != "judge":
        return 0.0
    most = [1.0 + 1] if config.rationale is not None and config.rationale.check_agreement else [0.0]
    for judge in annotate.judges:
        if judge.engine.fingerprint == place.fingerprint:
            more = max(0, (judge.config.max_votes or 0) - judge.config.votes)
            most.append(judge.config.votes * (1 + judge.config.repairs) + more * (2 + judge.config.repairs))
    return float(max(most))


async def _experience(run: PlannedRun, annotate: Annotator, known: Known) -> tuple[dict[Place, Clusters], dict[Place, Clusters], bool]:
    """What groups with known samples took: first requests against those that the protocol allows, further ones against first ones; and
    whether all groups have as many samples as this run's.
    """
    if not any(sort == "dependent" or place.kind == "judge" for place, sort in run.tally.lacking):
        return {}, {}, True
    drawn = {prompt_id: found for prompt_id, found in known.cases.items() if not found.made_up}
    groups = [
        (prompt_id, annotate.n, found.first, found.further if found.complete else None) for prompt_id, found in [*drawn.items()][:ENOUGH]
    ]
    if len(groups) < ENOUGH and not run.first:
        past = past_groups(run.lake, annotate, known.prompts["prompt_id"])
        groups += [(group.prompt_id, group.n, group.first, group.further) for group in past if group.prompt_id not in drawn][:ENOUGH]
    rows = {row["prompt_id"]: row for row in known.prompts.iter_rows(named=True)}
    asked = sorted({(prompt_id, n) for prompt_id, n, _, _ in groups})
    allowed = dict(zip(asked, await gather_all(_allowed(rows[prompt_id], n, annotate) for prompt_id, n in asked), strict=True))
    firsts: dict[Place, list[tuple[float, float]]] = {}
    furthers: dict[Place, list[tuple[float, float]]] = {}
    for prompt_id, n, first, further in groups:
        for place, base in allowed[prompt_id, n].items():
            firsts.setdefault(place, []).append((first[place], base))
            if further is not None:
                furthers.setdefault(place, []).append((further[place], first[place]))
    return dict(firsts), dict(furthers), all(n == annotate.n for _, n, _, _ in groups)


async def _allowed(prompt: Mapping[str, Any], n: int, annotate: Annotator) -> Mapping[Place, int]:
    """The first requests that the protocol allows about n different answers to a prompt."""
    with case() as found:
        await replace(_without_ledger(annotate), n=n)(prompt)
    return found.first


def _without_ledger(annotate: Annotator) -> Annotator:
    """One that knows nothing, so that it asks for all that its protocol allows."""

    def blank(engine: Any) -> Any:
        assert isinstance(engine, PlanningEngine)
        return engine.without_ledger()

    judges = [replace(judge, engine=blank(judge.engine)) for judge in annotate.judges]
    reward = replace(annotate.reward, engine=blank(annotate.reward.engine)) if annotate.reward else None
    return replace(annotate, policy=blank(annotate.policy), judges=judges, reward=reward, verifier=None)


def _with_rationales(run: PlannedRun, config: CurateConfig, known: Known, rows: Range, calls: Mapping[Place, Range]) -> dict[Place, Range]:
    """With the rationales of pairs that are not known yet, and the readings of rationales that are not written yet."""
    if config.rationale is None:
        return dict(calls)
    writer, reader = run.engines["rationale"], run.engines.get("rationale.judge", run.engines["rationale"])
    writing = Place(writer.spec, writer.fingerprint, "rationale")
    reading = Place(reader.spec, reader.fingerprint, "judge")
    found = dict(calls)
    if not known.whole:
        found[writing] = rows.times(len(rubrics_of(config.rationale)))
        found[writing] += predicted(found[writing], [], most=1.0 + config.rationale.repairs, unknown=0.0)
    if config.rationale.check_agreement and (to_write := found.get(writing, NOTHING)).high != 0:
        past: Sequence[tuple[float, float]] = [(each.first[reading], each.first[writing]) for each in known.explained if each.complete]
        found[reading] = found.get(reading, NOTHING) + predicted(to_write, past, most=6.0, unknown=2.0)
    return found
