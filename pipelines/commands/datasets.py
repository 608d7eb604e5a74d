"""Commands about what is published: list, show, log, diff, lineage, verify, sql, report, gc, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipelines.commands.output import json_option, one_line_errors, print_json, print_rows
from pipelines.config import default_lake

lake_option = click.option("--lake", default=default_lake, show_default="PAIRMILL_LAKE, else ./lake", help="The lake's directory.")


def _summary(release: Any) -> dict[str, Any]:
    manifest = release.manifest
    return {
        "dataset": f"{release.name}@{release.version}",
        "tags": list(release.tags),
        "pairs": manifest.get("n_pairs"),
        "on_policy_share": manifest.get("on_policy_share"),
        "gates": "passed" if all(g["passed"] for g in manifest.get("gates", [])) else "failed",
        "created_at": release.created_at,
        "author": release.author,
        "digest": release.digest[:12],
    }


@click.command()
@lake_option
@json_option
@one_line_errors
def datasets(lake: str, as_json: bool) -> None:
    """Every dataset with its latest version."""
    from storage import list_datasets, open_lake

    with open_lake(lake, create=False) as opened:
        print_rows(
            [_summary(r) for r in list_datasets(opened)],
            as_json=as_json,
            empty="no datasets yet: `pairmill run curate` or `pairmill import`",
        )


@click.command()
@click.argument("name")
@lake_option
@json_option
@one_line_errors
def show(name: str, lake: str, as_json: bool) -> None:
    """One version: its manifest, funnel and gates. NAME, NAME@3 or NAME@prod."""
    from pipelines.commands.showing import print_release
    from storage import open_lake, resolve

    with open_lake(lake, create=False) as opened:
        release = resolve(opened, name)
        print_json({**_summary(release), "manifest": dict(release.manifest)}) if as_json else print_release(release, _summary(release))


@click.command()
@click.argument("name")
@lake_option
@json_option
@one_line_errors
def log(name: str, lake: str, as_json: bool) -> None:
    """The versions of a dataset, newest first."""
    from storage import log as versions
    from storage import open_lake

    with open_lake(lake, create=False) as opened:
        print_rows([_summary(r) for r in versions(opened, name)], as_json=as_json)


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--rows", is_flag=True, help="The ids too, and not only their number.")
@lake_option
@json_option
@one_line_errors
def diff(a: str, b: str, rows: bool, lake: str, as_json: bool) -> None:
    """What changed from version A to version B, by pair id."""
    from storage import diff as compare
    from storage import open_lake

    with open_lake(lake, create=False) as opened:
        found = compare(opened, a, b)
        counts = {
            "before": found.before,
            "after": found.after,
            "added": found.n_added,
            "removed": found.n_removed,
            "changed": found.n_changed,
        }
        if as_json:
            print_json({**counts, "changes": found.changes.to_dicts() if rows else None})
        else:
            print_rows([counts], as_json=False)
            print_rows(found.changes.to_dicts() if rows else [], as_json=False, empty="")


@click.command()
@click.argument("name")
@click.argument("row_id")
@lake_option
@json_option
@one_line_errors
def lineage(name: str, row_id: str, lake: str, as_json: bool) -> None:
    """Every fact behind one pair: prompt, generations, judgments."""
    from pipelines.commands.showing import print_lineage
    from storage import lineage as trace
    from storage import open_lake

    with open_lake(lake, create=False) as opened:
        found = trace(opened, name, row_id)
        print_json(found) if as_json else print_lineage(found)


@click.command()
@click.argument("name")
@lake_option
@json_option
@one_line_errors
def verify(name: str, lake: str, as_json: bool) -> None:
    """Hash the frozen files and the rows again, and compare with the manifest."""
    from storage import open_lake
    from storage import verify as check

    with open_lake(lake, create=False) as opened:
        found = check(opened, name)
        print_json(found) if as_json else print_rows([found], as_json=False)


@click.command()
@click.argument("query")
@lake_option
@json_option
@one_line_errors
def sql(query: str, lake: str, as_json: bool) -> None:
    """A read-only query over prompts, generations, judgments, releases and each dataset's latest pairs."""
    from storage import open_lake
    from storage import query as ask

    with open_lake(lake, create=False) as opened:
        print_rows(ask(opened, query).to_dicts(), as_json=as_json, empty="no rows", most_rows=100, widest=60)


@click.command()
@click.argument("name")
@click.option("--to", "target", help="HTML file to write; default NAME@V.html in the working directory.")
@lake_option
@one_line_errors
def report(name: str, target: str | None, lake: str) -> None:
    """The quality report of one version as one self-contained page."""
    from pipelines.report.page import write_report
    from storage import open_lake, resolve

    with open_lake(lake, create=False) as opened:
        release = resolve(opened, name)
        click.echo(str(write_report(opened, release, Path(target or f"{release.name}@{release.version}.html")).absolute()))


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and keep it.")
@lake_option
@json_option
@one_line_errors
def gc(dry_run: bool, lake: str, as_json: bool) -> None:
    """Drop snapshots and files that no version needs."""
    from storage import gc as collect
    from storage import open_lake

    with open_lake(lake, create=False) as opened:
        found = collect(opened, dry_run=dry_run)
        print_json(found) if as_json else print_rows([found], as_json=False)


@click.command()
@click.argument("name", required=False)
@click.option("--rollback", type=int, metavar="VERSION", help="Move the tag prod back to VERSION of NAME.")
@lake_option
@json_option
@one_line_errors
def checkpoints(name: str | None, rollback: int | None, lake: str, as_json: bool) -> None:
    """The checkpoint registry: which model came of which version."""
    from storage.checkpoints import checkpoints as registered
    from storage.checkpoints import rollback as roll_back

    if rollback is not None:
        if name is None:
            raise click.UsageError("--rollback needs the checkpoint's NAME")
        roll_back(Path(lake), name, version=rollback)
    print_rows([_checkpoint(c) for c in registered(Path(lake), name)], as_json=as_json, empty="no checkpoints yet: `pairmill run train`")


def _checkpoint(found: Any) -> dict[str, Any]:
    columns = ("ref", "tags", "dataset", "fingerprint", "parent", "registered", "path")
    return {column: getattr(found, column) for column in columns}


COMMANDS = (datasets, show, log, diff, lineage, verify, sql, report, gc, checkpoints)
