"""What a planned run's candidate comes to: the version that would be published, or why none would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipelines.candidates import facts_named, own_facts
from pipelines.config import CapsConfig
from pipelines.planning.engines import Place
from pipelines.planning.forecast import Range, exactly, total
from pipelines.planning.opening import PlannedRun
from pipelines.planning.plan import Plan, lines_of
from pipelines.runs import Run
from storage import list_datasets, open_lake, preview, resolve, scan
from storage.errors import DatasetNotFound


def begun(run: Run, flow: str) -> Plan:
    """The plan of an open run, with what it has published already."""
    plan = Plan(flow=flow, dataset=run.config.dataset, run_key=run.key, caps=getattr(run.config, "caps", CapsConfig()))
    if run.release is not None:
        plan.published = plan.version = run.release.ref
        plan.reused, plan.seconds, plan.rows, plan.rows_by = True, exactly(0), exactly(run.release.n_pairs), "published already"
    return plan


def priced(plan: Plan, run: PlannedRun, calls: Mapping[Place, Range]) -> Plan:
    """With a line for every kind of request, and the seconds."""
    plan.lines, plan.seconds = lines_of(run.tally, calls, run.reader)
    return plan


def decided(plan: Plan, run: Run) -> Plan:
    """With the version, or the refusal, of a candidate that lies whole in the run's directory with its gates' results."""
    pairs = run.read("pairs")
    plan.rows, plan.rows_by = exactly(pairs.height), "computed: every reply is there"
    plan.refusal = run.figures.refusal
    found = preview(run.lake, run.config.dataset, pairs, facts=facts_named(own_facts(run), pairs))
    plan.diff, plan.reused = found, found.reused and plan.refusal is None
    plan.version = None if plan.refusal else f"{run.config.dataset}@{found.version}"
    return plan


def expected_version(plan: Plan, root: Path) -> Plan:
    """The number that the version gets if the gates let the candidate through and its content is new."""
    newest = 0
    if (root / "catalog.sqlite").exists():
        with open_lake(root, create=False) as lake:
            newest = next((release.version for release in list_datasets(lake) if release.name == plan.dataset), 0)
    plan.version = f"{plan.dataset}@{newest + 1}"
    plan.notes.append("the version is made if the gates let the candidate through; they are known once every reply is there")
    return plan


def lacking(run: PlannedRun) -> dict[Place, Range]:
    """All requests that the ledger lacks, as they were counted."""
    places = {place for place, _ in run.tally.lacking}
    return {place: total(exactly(ask.calls) for (its, _), ask in run.tally.lacking.items() if its == place) for place in places}


def newest_pairs(run: PlannedRun) -> tuple[list[tuple[int, float]], str]:
    """How many pairs each prompt of the dataset's newest version has, as clusters, and the version; nothing where there is none."""
    try:
        newest = resolve(run.lake, run.config.dataset)
    except DatasetNotFound:
        return [], ""
    counts = scan(newest).group_by("prompt_id").len().collect()["len"].to_list()
    without = max(0, (newest.manifest.get("counts") or {}).get("prompts", 0) - len(counts))
    return [(n, 1.0) for n in [*counts, *[0] * without]], newest.ref
