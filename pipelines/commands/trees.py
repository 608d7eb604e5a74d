"""Looking at search trees."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.commands.datasets import lake_option
from pipelines.commands.output import one_line_errors


@click.command()
@click.argument("name")
@click.argument("prompt_id")
@click.option("--to", "target", help="HTML file to write; default NAME@V-PROMPT_ID.html in the working directory.")
@lake_option
@one_line_errors
def tree(name: str, prompt_id: str, target: str | None, lake: str) -> None:
    """The search tree of a prompt as one self-contained page. PROMPT_ID may be shortened to a beginning that fits one prompt."""
    from pipelines.report.tree import write_tree
    from storage import open_lake, resolve

    with open_lake(lake, create=False) as opened:
        release = resolve(opened, name)
        page = write_tree(release, prompt_id, Path(target or f"{release.name}@{release.version}-{prompt_id[:12]}.html"))
        click.echo(str(page.absolute()))


COMMANDS = (tree,)
