"""The `pairmill` command. Commands live in `pipelines/commands/`; heavy imports happen inside them, so that help is instant."""

from __future__ import annotations

from importlib.metadata import version

import click

from pipelines.commands import attacking, auditing, curves, datasets, doctor, exporting, judging, planning, running, trees


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("pairmill"), prog_name="pairmill")
def main() -> None:
    """A factory for preference data: sample, judge, pair, gate, publish, hand off."""


for command in (
    *running.COMMANDS,
    *planning.COMMANDS,
    *datasets.COMMANDS,
    *exporting.COMMANDS,
    *trees.COMMANDS,
    *judging.COMMANDS,
    *attacking.COMMANDS,
    *auditing.COMMANDS,
    *curves.COMMANDS,
    *doctor.COMMANDS,
):
    main.add_command(command)
if __name__ == "__main__":
    main()
