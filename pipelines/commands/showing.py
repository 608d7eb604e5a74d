"""A run's outcome, a version and a lineage as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.markup import escape

from pipelines.commands.output import console, print_rows
from storage import Release


def print_outcome(outcome: Mapping[str, Any]) -> None:
    """What came in, what was kept and why not the rest, then a line for everything else that a person asks next."""
    if outcome.get("rounds"):
        from pipelines.report.rounds import round_rows  # here: it brings the pictures

        print_rows(round_rows(outcome), as_json=False)
        click.echo()
    if outcome.get("differences"):
        from pipelines.report.evidence import difference_rows  # likewise

        print_rows(difference_rows(outcome), as_json=False)
        click.echo()
    if outcome.get("stages"):
        print_rows([_stage_row(each) for each in outcome["stages"]], as_json=False)
        click.echo()
    if outcome.get("funnel"):
        print_rows(funnel_rows(outcome["funnel"]), as_json=False)
        click.echo()
    lines = dict(_outcome_lines(outcome))
    width = max(map(len, lines))
    for name, value in lines.items():
        console().print(f"[bold]{name:>{width}}[/bold]  {escape(value)}", highlight=False, soft_wrap=True)


def _stage_row(stage: Mapping[str, Any]) -> dict[str, Any]:
    from pipelines.report.night import gist, made  # here: it brings the pictures

    return {"stage": stage["stage"], "outcome": stage["outcome"], "made": made(stage) or "-", "": gist(stage) or "-"}


def _outcome_lines(outcome: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    digest = str(outcome.get("digest") or "")[:12]
    if "differences" in outcome:
        yield outcome["outcome"], f"{outcome['name']}: {len(outcome['versions'])} versions"
    elif "stages" in outcome or "rounds" in outcome:
        yield outcome["outcome"], f"{outcome['name']} {outcome['seed']}"
    elif outcome["outcome"] == "refused":
        yield "refused", str(outcome.get("refusal"))
    elif "checkpoint" in outcome:
        yield outcome["outcome"], f"{outcome['checkpoint']} from {outcome['dataset']}  {outcome['path']}"
    elif "to" in outcome:
        yield outcome["outcome"], f"{outcome['dataset']}@{outcome['version']} → {outcome['to']}, tag {outcome['tag']}  digest {digest}"
        yield "commit", outcome["commit"] or "none: the Hub has it already"
        yield "url", outcome["url"]
    else:
        yield outcome["outcome"], f"{outcome['dataset']}@{outcome['version']}  digest {digest}"
    if found := outcome.get("selection"):
        kept = f"{found['diagnostics'].get('n_kept', 0):,} of {found['diagnostics'].get('n_rows', 0):,} pairs by {found['selector']}"
        yield "selection", f"{kept}, {found['state']}" + (f": {found['reason']}" if found["reason"] else "")
    if outcome.get("capped"):
        yield "ended early", f"by the cap on {outcome['capped']}"
    if found := outcome.get("evaluation"):
        interval = f"95% interval {found['low']:+.1%} to {found['high']:+.1%}"
        change = f"{found['accuracy_before']:.1%} → {found['accuracy_after']:.1%}, gain {found['gain']:+.1%} ({interval})"
        yield "accuracy", f"{change} on {found['n_prompts']:,} unseen prompts"
    if calls := outcome.get("calls"):
        price = "" if calls["usd"] is None else f", {calls['usd']:,.2f} $"
        tokens = f"{calls['prompt_tokens']:,} + {calls['completion_tokens']:,} tokens"
        yield (
            "calls",
            f"{calls['requests']:,} sent, {calls['failures']:,} failed, {calls['hits']:,} samples from the ledger; {tokens}{price}",
        )
    yield "time", f"{outcome['seconds']:,.0f} s"
    if outcome.get("stopped"):
        yield "stopped", str(outcome["stopped"])
    if outcome.get("stale"):
        yield "off-policy", str(outcome["stale"])
    if outcome.get("report"):
        yield "report", outcome["report"]
    if outcome.get("version") and "to" not in outcome:
        ref = f"{outcome['dataset']}@{outcome['version']}"
        yield "next", f"pairmill report {ref}    pairmill export {ref} --view dpo --to DIRECTORY"


def print_release(release: Release, summary: Mapping[str, Any]) -> None:
    """The summary line by line, then the funnel and the gates."""
    for key, value in summary.items():
        click.echo(f"{key.replace('_', ' '):>16}  {value if value not in (None, []) else '-'}")
    manifest = release.manifest
    click.echo("\nfunnel")
    print_rows(funnel_rows(manifest.get("funnel") or []), as_json=False)
    click.echo("\ngates")
    print_rows(
        [{"gate": g["name"], "passed": "yes" if g["passed"] else "NO", "detail": g["detail"]} for g in manifest.get("gates") or []],
        as_json=False,
    )


def funnel_rows(funnel: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a stage: in, kept, and what was dropped by reason."""
    return [
        {
            "stage": stage["stage"],
            "unit": stage["unit"],
            "in": stage["n_in"],
            "kept": stage["n_kept"],
            "dropped": ", ".join(f"{n} {reason}" for reason, n in stage["dropped"].items()) or "-",
        }
        for stage in funnel
    ]


def print_lineage(found: Mapping[str, Any]) -> None:
    """Every fact behind a pair, in the order in which it happened; of a search tree one line a step."""
    out = console()
    for name, facts in found.items():
        if name == "nodes":
            if facts:
                print_rows(node_rows(facts), as_json=False)
            continue
        for fact in facts if isinstance(facts, list) else [facts]:
            out.print(f"[bold]{name.rstrip('s')}[/bold]")
            for key, value in fact.items() if isinstance(fact, Mapping) else [("", fact)]:
                if value not in (None, "", []):
                    out.print(f"  [dim]{key}[/dim] {escape(str(value))[:2000]}", highlight=False)


def node_rows(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps of a tree in the order of their places, an answer's beginning before what follows it."""
    shown = {"place": "place", "N": "n_visits", "Q": "q", "p": "prior", "outcome": "outcome", "state": "state"}
    ordered = sorted(nodes, key=lambda node: list(node["place"] or []))
    return [{**{name: node[column] for name, column in shown.items()}, "step": " ".join((node["text"] or "").split())} for node in ordered]
