"""Commands that hand a version on: to a directory, to the Hugging Face Hub, and to whoever waits for a tag."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from pipelines.commands.datasets import lake_option
from pipelines.commands.output import one_line_errors
from pipelines.commands.running import finish, json_line
from pipelines.config import ExportConfig
from pipelines.config_files import validated

HUB = "hf://"
OF_HUB = ("licenses", "languages", "private", "dry_run", "to_dir")


@click.command()
@click.argument("name")
@click.option("--to", "target", required=True, help="Directory to write, or hf://OWNER/NAME on the Hugging Face Hub.")
@click.option("--view", "views", multiple=True, help="A training format: dpo, step, stepwise …, see docs/views.md; on the Hub several.")
@click.option("--form", type=click.Choice(["conversational", "standard"]), default="conversational", show_default=True)
@click.option("--format", "kind", type=click.Choice(["duckdb", "parquet", "jsonl"]), help="Of a directory; duckdb unless given.")
@click.option("--license", "licenses", multiple=True, help="Hub: what the data is under, such as cc-by-4.0; may be repeated.")
@click.option("--language", "languages", multiple=True, help="Hub: such as en; may be repeated.")
@click.option("--private/--public", default=None, help="Hub: of a repository that is made now; as the owner's settings say unless given.")
@click.option("--dry-run", is_flag=True, help="Hub: write the folder that would be pushed, and ask nobody.")
@click.option("--to-dir", help="Hub: where --dry-run writes it; NAME@V.hub in the working directory unless given.")
@lake_option
@json_line
@one_line_errors
def export(name: str, target: str, lake: str, as_json: bool, **options: Any) -> None:
    """Write a version for a trainer into a directory, or push it to the Hugging Face Hub with a card."""
    if target.startswith(HUB):
        _to_hub(name, target, lake, options, as_json=as_json)
        return
    if wrong := [each for each in OF_HUB if options[each]]:
        raise click.UsageError(f"--{wrong[0].removesuffix('s').replace('_', '-')} is for --to hf://OWNER/NAME, not for a directory")
    if len(options["views"]) != 1:
        raise click.UsageError("a directory holds one view: give one --view, such as --view dpo")
    from storage import open_lake, resolve
    from storage.handoff import write_handoff

    with open_lake(lake, create=False) as opened:
        frozen = resolve(opened, name).frozen
    written = write_handoff(frozen, Path(target), view=options["views"][0], form=options["form"], format=options["kind"] or "duckdb")
    click.echo(str(written))


def _to_hub(name: str, target: str, lake: str, options: dict[str, Any], *, as_json: bool) -> None:
    if options["kind"] not in (None, "parquet"):
        raise click.UsageError(f"--format {options['kind']} is for a directory; the Hub gets Parquet")
    if options["to_dir"] and not options["dry_run"]:
        raise click.UsageError("--to-dir is for --dry-run")
    given = {"views": options["views"], "form": options["form"], "license": options["licenses"], "language": options["languages"]}
    config = validated(ExportConfig, {"dataset": name, "to": target, "lake": lake, "private": options["private"], **given})
    from pipelines.exporting import export_now, order_of, write_version

    if not options["dry_run"]:
        finish(asyncio.run(export_now(config)), as_json=as_json)
    from storage import open_lake, resolve

    with open_lake(lake, create=False) as opened:
        release = resolve(opened, name)
    to = Path(options["to_dir"] or f"{release.name}@{release.version}.hub")
    write_version(release, to, order_of(config))
    click.echo(str(to.absolute()))


@click.command()
@click.argument("name")
@click.argument("tag_name", metavar="TAG")
@lake_option
@one_line_errors
def tag(name: str, tag_name: str, lake: str) -> None:
    """Move TAG to the version NAME@V. Where a Prefect server runs, deployments that wait for the tag start."""
    from storage import open_lake
    from storage import tag as move

    with open_lake(lake, create=False) as opened:
        release = move(opened, name, tag_name)
    click.echo(f"{release.name}@{tag_name} is now {release.name}@{release.version}")
    _announce(Path(lake), release, tag_name)


def _announce(lake: Path, release: Any, tag_name: str) -> None:
    """Send the event to the server that answers, if one does: the tag has moved without it."""
    from pipelines.server import prefect_server, running, send_what_waits

    if running(lake) is None:
        return
    with prefect_server(lake) as api_url:
        from pipelines.events import emit_tagged

        emit_tagged(release, tag_name)
        send_what_waits()
        click.echo(f"Prefect: {api_url.removesuffix('/api')} knows", err=True)


COMMANDS = (export, tag)
