"""A version and a lineage as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from rich.markup import escape

from pipelines.commands.output import console, print_rows
from storage import Release


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
    """Every fact behind a pair, in the order in which it happened."""
    out = console()
    for name, facts in found.items():
        for fact in facts if isinstance(facts, list) else [facts]:
            out.print(f"[bold]{name.rstrip('s')}[/bold]")
            for key, value in fact.items() if isinstance(fact, Mapping) else [("", fact)]:
                if value not in (None, "", []):
                    out.print(f"  [dim]{key}[/dim] {escape(str(value))[:2000]}", highlight=False)
