"""Commands about judges: can this one be believed?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from curators.errors import ConfigError
from pipelines.commands.datasets import lake_option
from pipelines.commands.output import json_option, one_line_errors, print_json, print_rows

REFUSED = 3


@click.command(name="judge-check")
@click.option("--judge", "spec", required=True, help="Engine spec: hf:PATH, openai:MODEL@http://host:port/v1, replay:FILE …")
@click.option("--gold", required=True, help="File of labelled pairs (as `pairmill import` reads it), or NAME@V of the lake.")
@click.option("--rubric", default="pairwise", show_default=True, help="A shipped rubric's name or the path of a .md file.")
@click.option("--map", "columns", multiple=True, metavar="TARGET=SOURCE", help="Where a column of the gold file comes from.")
@click.option("--limit", type=int, default=200, show_default=True, help="Pairs at most; 0: all.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="judge.votes=3, bounds.min_judge_agreement=.8, caps.usd=2 …")
@click.option("--to", "page", help="HTML file to write the report to.")
@lake_option
@json_option
@one_line_errors
def judge_check(
    spec: str,
    gold: str,
    rubric: str,
    columns: tuple[str, ...],
    limit: int,
    assignments: tuple[str, ...],
    page: str | None,
    lake: str,
    as_json: bool,
) -> None:
    """Try a judge on pairs with known labels: agreement, flip rate, position, ties, calibration, cost. Exit code 3: refused by a bound."""
    from pipelines.config import CheckConfig
    from pipelines.config_files import assigned
    from pipelines.progress import showing
    from pipelines.trials import judge_check as check

    if wrong := [column for column in columns if "=" not in column]:
        raise ConfigError(f"--map {wrong[0]!r}: must be TARGET=SOURCE, such as output_a=response1")
    given = {
        "judge": {"engine": spec, "rubric": rubric},
        "gold": {"source": gold, "columns": dict(column.split("=", 1) for column in columns), "limit": limit or None},
        "lake": lake,
    }
    config = assigned(CheckConfig, given, assignments)
    with showing() as advance:
        found = asyncio.run(check(config, advance))
    if page:
        from pipelines.report.judge import write_judge_report

        click.echo(f"report: {write_judge_report(found, Path(page)).absolute()}", err=True)
    print_json(found) if as_json else print_check(found)
    sys.exit(0 if found["outcome"] == "passed" else REFUSED)


def print_check(found: Mapping[str, Any]) -> None:
    """The health as a table, then the gates, what could not be read, and what it cost."""
    from curators.judging.health import health_rows

    health, calls = found["health"], found["calls"]
    click.echo(f"{found['engine']} with rubric {found['rubric']['name']} on {found['gold']['pairs']} pairs of {found['gold']['source']}")
    click.echo(f"read by {', '.join(f'{channel} ({n})' for channel, n in health['channels'].items()) or 'nothing'}\n")
    print_rows(health_rows(health), as_json=False, empty="nothing could be judged")
    if unread := found["unread"]:
        click.echo("\nnot understood:")
        print_rows([{name: row[name] for name in ("state", "reason", "raw")} for row in unread], as_json=False, most_rows=5, widest=60)
    if found["gates"]:
        click.echo()
        shown = [{"gate": g["name"], "passed": "yes" if g["passed"] else "NO", "detail": g["detail"]} for g in found["gates"]]
        print_rows(shown, as_json=False)
    price = "" if calls["usd"] is None else f", {calls['usd']:,.2f} $"
    click.echo(f"\n{calls['requests']:,} requests ({calls['hits']:,} samples from the ledger), {calls['prompt_tokens']:,} + ", nl=False)
    click.echo(f"{calls['completion_tokens']:,} tokens{price}")
    if found["capped"]:
        click.echo(f"ended early by the cap on {found['capped']}")


COMMANDS = (judge_check,)
