"""What a run would do: plan."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from pipelines.commands.output import json_option, one_line_errors, print_json, print_rows
from pipelines.config_files import FLOW_CONFIGS, load_config


@click.command()
@click.argument("flow", type=click.Choice(sorted(FLOW_CONFIGS)))
@click.option("--config", "file", help="YAML file with the flow's configuration.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One value, such as sampling.n=8; may be repeated.")
@click.option("--lake", help="The lake's directory; the same as --set lake=DIR.")
@json_option
@one_line_errors
def plan(flow: str, file: str | None, assignments: tuple[str, ...], lake: str | None, as_json: bool) -> None:
    """Say what a run would buy and publish, without buying or writing anything; see docs/plan.md."""
    from pipelines.planning.flows import plan_of

    sys.path.insert(0, str(Path.cwd()))  # a user's verifier is a module beside the configuration
    told = plan_of(flow, load_config(flow, file, [*assignments, *([f"lake={lake}"] if lake else [])])).told()
    print_json(told) if as_json else print_plan(told)


def print_plan(told: Mapping[str, Any]) -> None:
    """Who is asked how often, then a line for everything else that a person asks next; stage by stage where there are stages."""
    for stage in told.get("stages", []):
        click.echo(f"— {stage['flow']} {stage['dataset']}")
        print_plan(stage)
        click.echo()
    if told["lines"] and not told.get("stages"):
        print_rows([_row(line) for line in told["lines"]], as_json=False, widest=60)
        click.echo()
    lines = list(_lines(told))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        click.echo(f"{name:>{width}}  {value}")


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "for": line["for"],
        "engine": line["engine"],
        "in ledger": f"{line['in_ledger']:,}",
        "calls to buy": number(line["calls"]),
        "tokens": number(line["tokens"]),
        "$": "-" if line["usd"] is None else number(line["usd"]),
        "tokens by": line["by"],
    }


def _lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if told["published"]:
        yield "published", f"{told['published']} already; the run buys nothing and answers with it"
    price = "price unknown" if told["usd"] is None else f"{number(told['usd'])} $"
    yield (
        "calls",
        f"{number(told['calls'])} to buy; {number(told['tokens'])} tokens, {price}; {told['in_ledger']:,} samples are in the ledger",
    )
    yield "time", "unknown: no earlier run asked the same" if told["seconds"] is None else f"{number(told['seconds'])} s"
    for name, counts in ((name, told[name]) for name in ("trees", "texts") if name in told):
        yield name, ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items())
    for stop in told["stops"]:
        sure = "ends" if stop["surely"] else "may end"
        yield "cap", f"the run {sure} early, at {stop['limit']:,} {stop['cap']} of {number(stop['needed'])} that it needs"
    if told["rows"]:
        yield "rows", f"{number(told['rows'])} ({told['rows']['by']})"
    if told["refusal"]:
        yield "refused", told["refusal"]
    elif told["version"] and not told["published"]:
        yield "version", f"{told['version']}, which has these rows already" if told["reused"] else told["version"]
    if diff := told["diff"]:
        yield "changes", f"{diff['added']:,} added, {diff['removed']:,} removed, {diff['changed']:,} changed against {diff['before']}"
    for note in told["notes"]:
        yield "note", note


def number(found: Mapping[str, Any]) -> str:
    """A forecast with its interval.

    >>> number({"expected": 1200, "low": 1200, "high": 1200}), number({"expected": 1200, "low": 1000, "high": None})
    ('1,200', '1,200 (1,000 or more)')
    >>> number({"expected": None, "low": 0, "high": 9}), number({"expected": None, "low": 0, "high": None})
    ('0 to 9', 'unknown')
    """
    expected, low, high = found["expected"], found["low"], found["high"]
    if expected is None:
        return f"{low:,} to {high:,}" if high is not None else f"{low:,} or more" if low else "unknown"
    if low == expected == high:
        return f"{expected:,}"
    return f"{expected:,} ({low:,} to {high:,})" if high is not None else f"{expected:,} ({low:,} or more)"


COMMANDS = (plan,)
