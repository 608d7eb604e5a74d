"""Commands about judges: can this one be believed?"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pipelines.commands.datasets import lake_option
from pipelines.commands.output import json_option, one_line_errors, print_cost, print_json, print_rows, replies_kept

REFUSED = 3
TRIED = 200
"""Pairs that a judge is tried on where --limit says nothing."""

LIVE_ONLY = ("spec", "rubric", "columns", "assignments", "page", "lake")
"""Options about a judge that is to be asked; of replies that are recorded they would change nothing."""

LEGEND = {
    "flips": "pairs whose two orders disagree",
    "kept": "pairs with a verdict for one side; accuracy of kept: how many of those are right",
    "votes alike": "answers to which all votes give the same score",
    "as the file": "replies (of ratings: pairs) that the file's own reader takes as ours does",
    "else": "gated: needs no judge; neither: no reader found a verdict; only_file, only_ours: one of them did; differs: both, unlike",
}
ROUNDS = "(round 1, overruled): pairs that the judge was asked about again as its orders disagreed; the line without it is the end of it"


@click.command(name="judge-check")
@click.option("--judge", "spec", help="Engine spec: hf:PATH, openai:MODEL@http://host:port/v1, replay:FILE …")
@click.option("--gold", help="File of labelled pairs (as `pairmill import` reads it), or NAME@V of the lake; the texts of --transcripts.")
@click.option("--transcripts", help="In place of --judge: file of replies that judges gave elsewhere, read again and compared.")
@click.option("--rubric", default="pairwise", show_default=True, help="A shipped rubric's name or the path of a .md file.")
@click.option("--map", "columns", multiple=True, metavar="TARGET=SOURCE", help="Where a column of the gold file comes from.")
@click.option("--limit", type=click.IntRange(min=0), show_default=f"{TRIED}; of --transcripts all", help="Pairs at most; 0: all.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="judge.votes=3, bounds.min_judge_agreement=.8, caps.usd=2 …")
@click.option("--to", "page", help="HTML file to write the report to.")
@lake_option
@json_option
@one_line_errors
def judge_check(
    spec: str | None,
    gold: str | None,
    transcripts: str | None,
    rubric: str,
    columns: tuple[str, ...],
    limit: int | None,
    assignments: tuple[str, ...],
    page: str | None,
    lake: str,
    as_json: bool,
) -> None:
    """Try a judge on pairs with known labels: agreement, flip rate, position, ties, calibration, cost. Exit code 3: refused by a bound."""
    if transcripts is not None:
        refuse_live_options(click.get_current_context())
        check_recorded(transcripts, gold, limit, as_json=as_json)
        return
    if spec is None or gold is None:
        raise click.UsageError("give --judge and --gold, or --transcripts.")
    from curators.importing import parse_columns
    from pipelines.config_files import assigned
    from pipelines.judging.config import CheckConfig
    from pipelines.judging.trials import judge_check as check
    from pipelines.progress import showing

    given = {
        "judge": {"engine": spec, "rubric": rubric},
        "gold": {
            "source": gold,
            "columns": parse_columns(columns),
            "limit": (TRIED if limit is None else limit) or None,
        },
        "lake": lake,
    }
    config = assigned(CheckConfig, given, assignments)
    with replies_kept(), showing() as advance:
        found = asyncio.run(check(config, advance))
    if page:
        from pipelines.report.judge import write_judge_report

        click.echo(f"report: {write_judge_report(found, Path(page)).absolute()}", err=True)
    print_json(found) if as_json else print_check(found)
    sys.exit(0 if found["outcome"] == "passed" else REFUSED)


def refuse_live_options(context: click.Context) -> None:
    """One usage error about all options that were given and do not apply to --transcripts."""
    given = [
        option.opts[0]
        for option in context.command.params
        if option.name in LIVE_ONLY and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"not for --transcripts, whose judges have been asked already: {', '.join(given)}")


def check_recorded(file: str, texts: str | None, limit: int | None, *, as_json: bool) -> None:
    """Judges that somebody else has asked: their replies read by our grammars."""
    from pipelines.judging.transcripts import check_transcripts
    from pipelines.progress import showing

    with showing() as advance:
        found = asyncio.run(check_transcripts(file, texts, advance, limit=limit or None))
    print_json(found) if as_json else print_recorded(found)


def print_recorded(found: Mapping[str, Any]) -> None:
    """A line a recording and what its columns mean, then the replies not understood, then those that the file reads as something else."""
    every = found["recordings"]
    dropped = found["rows"]["dropped"] or "none"
    click.echo(f"{found['file']}: layout {found['layout']}, {found['rows']['read']:,} rows read, dropped {dropped}")
    click.echo(f"{len(every)} recordings of {found['judges']} pairs of judge and strategy, on {found['items']:,} {found['what']}")
    if found["without_texts"]:
        click.echo(f"the texts of {found['without_texts']:,} of the {found['what']} are not known (--gold FILE)")
    click.echo()
    print_recordings([recorded_row(one) for one in every])
    for name, what in (("unread", "not understood"), ("differing", "read as something else by the file")):
        rows = [{"judge": one["judge"], "strategy": one["strategy"]} | row for one in every for row in one[name]]
        if rows:
            click.echo(f"\n{what}: {len(rows):,}")
            columns = ("judge", "strategy", *(("state", "reason") if name == "unread" else ("shown", "ours", "file")), "raw")
            print_rows([{column: row[column] for column in columns} for row in rows], as_json=False, most_rows=20, widest=60)


def print_recordings(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table without the columns that are empty in every row, and a legend of those that do not speak for themselves."""
    shown = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    print_rows([{column: row[column] for column in shown} for row in rows], as_json=False)
    meanings = [f"{column}: {what}" for column, what in LEGEND.items() if column in shown]
    overruled = [ROUNDS] if any("overruled)" in row["strategy"] for row in rows) else []
    click.echo("\n" + "\n".join([*meanings, *overruled]))


def recorded_row(one: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one recorded judge as a person reads them: shares in percent with their 95 % interval."""
    read = {state: n for state, n in one["states"].items() if state != "ok"}
    against = {name: n for name, n in one["file"].items() if name != "same"}
    columns = {"accuracy": "accuracy", "flip": "flips", "kept": "kept", "accuracy_kept": "accuracy of kept"}
    return {
        "judge": one["judge"],
        "strategy": one["strategy"],
        "replies": one["replies"],
        "read": percent(one["read"]),
        "not read": read or None,
        **{title: percent(one[name]) for name, title in columns.items()},
        "votes alike": percent(one["votes"]["alike"]) if one["votes"] else None,
        "as the file": one["file"].get("same", 0),
        "else": against or None,
    }


def percent(share: Mapping[str, Any] | None) -> str | None:
    """A share with its interval; null where there is nothing to count."""
    if not share or share["share"] is None:
        return None
    return f"{share['share']:.1%} ({share['low']:.0%}-{share['high']:.0%})"


def print_check(found: Mapping[str, Any]) -> None:
    """The health as a table, then the gates, what could not be read, and what it cost."""
    from curators.judging.health import health_rows

    health = found["health"]
    click.echo(f"{found['engine']} with rubric {found['rubric']['name']} on {found['gold']['pairs']} pairs of {found['gold']['source']}")
    if dropped := found["gold"]["dropped"]:
        click.echo(f"rows without a label that can be used: {', '.join(f'{n} {why}' for why, n in dropped.items())}")
    click.echo(f"read by {', '.join(f'{channel} ({n})' for channel, n in health['channels'].items()) or 'nothing'}\n")
    print_rows(health_rows(health), as_json=False, empty="nothing could be judged")
    if unread := found["unread"]:
        click.echo(f"\nnot understood, {min(5, len(unread))} of {found['n_unread']:,}:")
        print_rows([{name: row[name] for name in ("state", "reason", "raw")} for row in unread[:5]], as_json=False, widest=60)
    if found["gates"]:
        click.echo()
        shown = [{"gate": g["name"], "passed": "yes" if g["passed"] else "NO", "detail": g["detail"]} for g in found["gates"]]
        print_rows(shown, as_json=False)
    click.echo()
    print_cost(found["calls"], found["capped"])


COMMANDS = (judge_check,)
