"""The page of a night: what became of every stage, what was made of what, and the figures of each."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pipelines.report.charts import funnel_chart
from pipelines.report.layout import funnel_table, gates_table, page_html, page_section, page_table
from pipelines.report.lineage import lineage_chart

BAD = frozenset({"refused", "failed", "skipped"})


def build_night(outcome: Mapping[str, Any]) -> str:
    """The whole page as text, of what a night came to."""
    stages = outcome["stages"]
    title = f"{outcome['name']} {outcome['seed']}"
    head = f"<h1>{escape(title)}: {escape(outcome['outcome'])}</h1>"
    table = page_table(("stage", "", "made", "what of it", "calls", "samples from the ledger", "seconds"), map(_row, stages))
    return page_html(
        title, head + table + page_section("What was made of what", _lineage(stages)) + "".join(_stage(each) for each in stages)
    )


def made(stage: Mapping[str, Any]) -> str | None:
    """The version that a stage published, or the checkpoint as an engine names it; null where there is none."""
    if stage.get("checkpoint"):
        return f"checkpoint:{stage['checkpoint']}"
    return f"{stage['dataset']}@{stage['version']}" if stage.get("version") else None


def gist(stage: Mapping[str, Any]) -> str | None:
    """A line about what a stage came to: pairs, accuracy, or why there is nothing."""
    if reason := stage.get("refusal") or stage.get("reason"):
        return str(reason)
    if found := stage.get("evaluation"):
        interval = f"({found['low']:+.1%}, {found['high']:+.1%})"
        return f"{found['accuracy_before']:.1%} → {found['accuracy_after']:.1%}, gain {found['gain']:+.1%} {interval}"
    counts = stage.get("counts") or {}
    return f"{counts['pairs']:,} pairs" if "pairs" in counts else None


def _row(stage: Mapping[str, Any]) -> tuple[Any, ...]:
    calls = stage["calls"] or {}
    return stage["stage"], stage["outcome"], made(stage), gist(stage), calls.get("requests"), calls.get("hits"), stage["seconds"]


def _lineage(stages: list[dict[str, Any]]) -> str:
    nodes: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    for stage in stages:
        name = made(stage) or stage["stage"]
        parents = [stage["dataset"]] if stage.get("checkpoint") else [each["ref"] for each in stage.get("parents") or []]
        for parent in parents:
            nodes.setdefault(parent, parent)
            edges.append((parent, name))
        nodes[name] = f"{name}\n{stage['stage']}: {stage['outcome']}"
    return lineage_chart(nodes, edges, bad=frozenset(made(each) or each["stage"] for each in stages if each["outcome"] in BAD))


def _stage(stage: Mapping[str, Any]) -> str:
    """Funnel and gates of a stage that came to a candidate, and where the whole of it is shown."""
    if not stage.get("funnel"):
        return ""
    name = made(stage)
    whole = f"<p class=meta>pairmill report {escape(name)}</p>" if name and not stage.get("checkpoint") else ""
    funnel = funnel_chart(stage["funnel"]) + funnel_table(stage["funnel"])
    return page_section(f"{escape(stage['stage'])}: {escape(name or stage['outcome'])}", whole + funnel + gates_table(stage["gates"] or []))
