"""Command `audit`: can the labels of a version be predicted without reading its answers?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipelines.commands.datasets import lake_option
from pipelines.commands.output import json_option, one_line_errors, print_json, print_rows

REFUSED = 3


@click.command()
@click.argument("name")
@click.option("--bound", type=click.FloatRange(0.5, 1), default=0.65, show_default=True, help="Labels that a shortcut may predict.")
@click.option("--limit", type=click.IntRange(min=1), help="Pairs at most, drawn by a hash of their ids; default all.")
@click.option("--to", "page", help="HTML file to write the report to.")
@lake_option
@json_option
@one_line_errors
def audit(name: str, bound: float, limit: int | None, page: str | None, lake: str, as_json: bool) -> None:
    """How far trivial rules (longer, more digits, …) and a bag of words predict the labels. Exit code 3: further than --bound."""
    from curators.diagnostics import audit_shortcuts
    from curators.gates import Candidate, max_shortcut_accuracy
    from curators.pairs import unit_hash
    from pipelines.report.shortcuts import figures, rules, write_audit
    from storage import open_lake, read_at, resolve

    with open_lake(lake, create=False) as opened:
        release = resolve(opened, name)
        pairs = read_at(opened, release)
    if limit is not None and pairs.height > limit:
        pairs = pairs[sorted(range(pairs.height), key=lambda i: unit_hash("audit", pairs["pair_id"][i]))[:limit]]
    summary = audit_shortcuts(pairs).summary
    gate = max_shortcut_accuracy(Candidate(pairs=pairs, audit=summary), bound)
    if page:
        click.echo(f"report: {write_audit(release.ref, summary, gate, Path(page)).absolute()}", err=True)
    if as_json:
        print_json({"dataset": release.ref, "digest": release.digest, **summary, "gate": gate.as_dict()})
    else:
        click.echo(f"{release.ref}: {summary['n_pairs']:,} pairs of {summary['n_prompts']:,} prompts\n")
        print_rows(rules(summary), as_json=False)
        click.echo()
        print_rows(figures(summary), as_json=False)
        click.echo(f"\n{'passed' if gate.passed else 'refused'}: {gate.detail}")
    sys.exit(0 if gate.passed else REFUSED)


COMMANDS = (audit,)
