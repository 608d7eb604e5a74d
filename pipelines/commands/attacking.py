"""The command that attacks a judge."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipelines.commands.datasets import lake_option
from pipelines.commands.output import json_option, one_line_errors, print_cost, print_json, print_rows, replies_kept

FOOLED = 3


@click.command(name="judge-attack")
@click.option("--judge", "spec", required=True, help="Engine spec: hf:PATH, openai:MODEL@http://host:port/v1, replay:FILE …")
@click.option("--gold", help="File of labelled pairs (as `pairmill import` reads it), or NAME@V of the lake; default the built-in items.")
@click.option("--rubric", default="pairwise", show_default=True, help="A shipped rubric's name or the path of a .md file.")
@click.option("--map", "columns", multiple=True, metavar="TARGET=SOURCE", help="Where a column of the gold file comes from.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=80,
    show_default=True,
    help="Pairs at most; 0: all. A bar of 5 % takes 73 to decide, 1 % 381.",
)
@click.option("--attacks", default="", metavar="NAME,NAME", help="Names or kinds of attacks, default all; or: factorial.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="judge.max_tokens=512, judge.votes=3, caps.usd=2 …")
@click.option("--to", "page", help="HTML file to write the report to.")
@click.option("--strict", is_flag=True, help="Exit code 3 where an attack is not caught.")
@lake_option
@json_option
@one_line_errors
def judge_attack(as_json: bool, page: str | None, strict: bool, **given: Any) -> None:
    """Attack a judge: empty answers, injected verdicts and orders, padding, false sources. Reports what is caught and what is not."""
    from pipelines.judging.attacks import judge_attack as attack
    from pipelines.progress import showing

    config = _config(**given)
    with replies_kept(), showing() as advance:
        found = asyncio.run(attack(config, advance))
    if page:
        from pipelines.report.attacks import write_attack_report

        click.echo(f"report: {write_attack_report(found, Path(page)).absolute()}", err=True)
    print_json(found) if as_json else print_attacks(found)
    sys.exit(FOOLED if strict and found["outcome"] == "fooled" else 0)


def _config(
    *, spec: str, gold: str | None, rubric: str, columns: tuple[str, ...], limit: int, attacks: str, assignments: tuple[str, ...], lake: str
) -> Any:
    from curators.importing import parse_columns
    from pipelines.config_files import assigned
    from pipelines.judging.attacks import BUILT_IN
    from pipelines.judging.config import AttackConfig

    given = {
        "judge": {"engine": spec, "rubric": rubric},
        "gold": {"source": gold or BUILT_IN, "columns": parse_columns(columns), "limit": limit or None},
        "attacks": [name.strip() for name in attacks.split(",") if name.strip()],
        "lake": lake,
    }
    return assigned(AttackConfig, given, assignments)


def print_attacks(found: Mapping[str, Any]) -> None:
    """One line for every attack, then why those that are not caught are not, what it cost, and what the suite does not show."""
    gold = found["gold"]
    click.echo(f"{found['engine']} with rubric {found['rubric']['name']} on {gold['items']} items, {gold['source']}")
    click.echo(f"read by {', '.join(f'{channel} ({n})' for channel, n in found['channels'].items())}\n")
    print_effects(found) if found["factorial"] else print_suite(found)
    print_cost(found["calls"], found["capped"])
    click.echo(f"\n{found['limits']}")


def print_suite(found: Mapping[str, Any]) -> None:
    """A line an attack, why those that are not caught are not, and how many came to what."""
    from curators.judging.attacks import attack_line

    print_rows([attack_line(row) for row in found["attacks"]], as_json=False)
    for status in ("not caught", "not decided"):
        if rows := [row for row in found["attacks"] if row["status"] == status]:
            click.echo(f"\n{status}:")
            for row in rows:
                click.echo(f"  {row['attack']}: {row['why']}")
    click.echo(f"\n{', '.join(f'{n} {status}' for status, n in found['statuses'].items()) or 'no attack was made'}")


def print_effects(found: Mapping[str, Any]) -> None:
    """The effects of a factorial design, by how far they reach, what their statuses mean, and the reversals."""
    from curators.judging.attacks.factorial import STATUSES, effect_lines, reversal_lines

    factorial = found["factorial"]
    alone = ", ".join(f"{n} {outcome}" for outcome, n in found["attacks"][0]["held"].items())
    click.echo(f"without a toggle: {alone}")
    click.echo(f"effects on how far the judge leans to the attacked answer ({factorial['unit']}), {factorial['n_items']} items, ", nl=False)
    click.echo(f"{factorial['n_left_out']} left out; a main effect may reach {factorial['bar']:g}\n")
    print_rows(effect_lines(factorial), as_json=False)
    click.echo(f"\n{STATUSES}\n")
    click.echo("\n".join(reversal_lines(factorial)))
    click.echo(f"main effects: {', '.join(f'{n} {status}' for status, n in found['statuses'].items())}")


COMMANDS = (judge_attack,)
