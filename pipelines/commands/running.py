"""Commands that do work: run, import, serve."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import orjson

from curators.errors import ConfigError, CurationError
from pipelines.commands.datasets import lake_option
from pipelines.commands.output import one_line_errors, replies_kept
from pipelines.config_files import FLOW_CONFIGS, check_inputs, load_config, validated

FLOWS = {
    "curate": "pipelines.flows.curate",
    "steps": "pipelines.flows.steps",
    "select": "pipelines.flows.select",
    "contrast": "pipelines.flows.contrast",
    "score": "pipelines.flows.score",
    "train": "pipelines.flows.train",
    "export": "pipelines.flows.export",
    "import": "pipelines.flows.importing",
    "nightly": "pipelines.flows.nightly",
    "iterate": "pipelines.flows.iterate",
    "evidence": "pipelines.flows.evidence",
}
BUYING = ("curate", "steps", "contrast", "nightly", "iterate")
EXIT_CODES = {"published": 0, "reused": 0, "trained": 0, "measured": 0, "exported": 0, "refused": 3}
"""By outcome: 0 something is there to use, 3 the gates refused it, 1 a mistake or a fault, 2 wrong usage."""


def run_flow(flow: str, config: Any) -> dict[str, Any]:
    """Run one flow in this process against the Prefect server that answers, else against one started for it."""
    from pipelines.server import prefect_server

    check_inputs(config)
    unwind_on_sigterm()
    with replies_kept() if flow in BUYING else nullcontext(), prefect_server(config.lake_root) as api_url:
        click.echo(f"Prefect: {api_url.removesuffix('/api')}", err=True)
        module = _loaded(FLOWS[flow])
        _hush_console()
        try:
            outcome: dict[str, Any] = asyncio.run(module.FLOW(config))
        except CurationError as error:
            if (told := getattr(error, "outcome", None)) is None:
                raise
            click.echo(f"pairmill: {error}", err=True)  # it failed, and there is something to tell beside
            outcome = dict(told)
        return outcome


def unwind_on_sigterm() -> None:
    """What systemd, docker and timeout send ends a command as Ctrl-C does: the servers and workers that it started stop with it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _loaded(name: str) -> ModuleType:
    """Import with the garbage collector held: of the many objects that Prefect makes all stay, and walking them costs half a second."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _hush_console() -> None:
    """Leave runs' own log lines to the Prefect UI: on a terminal the progress display and the one-line error speak for them."""
    own = ("prefect.flow_runs", "prefect.task_runs")
    for handler in logging.getLogger().handlers:
        if "Console" in type(handler).__name__:
            handler.addFilter(
                lambda record: record.name == "prefect.engine" or (record.levelno >= logging.ERROR and not record.name.startswith(own))
            )


def finish(outcome: dict[str, Any], *, as_json: bool) -> None:
    """Standard output ends with one line of JSON, on a terminal with what a person reads; the exit code says how it went."""
    from pipelines.commands.showing import print_outcome

    sys.stderr.flush()
    if as_json or not sys.stdout.isatty():
        click.echo(orjson.dumps(outcome, default=str).decode())
    else:
        print_outcome(outcome)
    sys.exit(EXIT_CODES.get(outcome["outcome"], 1))


json_line = click.option("--json", "as_json", is_flag=True, help="One line of JSON also on a terminal.")


@click.command(
    epilog="Keys, defaults and meanings: pipelines/config.py, and of one flow alone pipelines/judging/config.py (curate), "
    "pipelines/steps/config.py, pipelines/selecting/config.py, pipelines/contrasting/config.py. Configurations to start from: "
    "examples/arithmetic/*.yaml. What they do: docs/, from README.md on."
)
@click.argument("flow", type=click.Choice(sorted(FLOW_CONFIGS)))
@click.option("--config", "file", help="YAML file with the flow's configuration.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One value, such as sampling.n=8; may be repeated.")
@click.option("--lake", help="The lake's directory; the same as --set lake=DIR.")
@json_line
@one_line_errors
def run(flow: str, file: str | None, assignments: tuple[str, ...], lake: str | None, as_json: bool) -> None:
    """Run one flow here, now. Into a pipe the last line is one JSON object; exit code 0 published, 3 refused by a gate, 1 failed."""
    sys.path.insert(0, str(Path.cwd()))  # a user's verifier is a module beside the configuration
    finish(run_flow(flow, load_config(flow, file, [*assignments, *([f"lake={lake}"] if lake else [])])), as_json=as_json)


@click.command(name="import")
@click.argument("files", nargs=-1, required=True)
@click.option("--as", "name", required=True, help="Name of the dataset.")
@click.option("--map", "columns", multiple=True, metavar="TARGET=SOURCE", help="Where a column comes from; see docs/import.md.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other value of the import flow's configuration.")
@lake_option
@json_line
@one_line_errors
def import_files(
    files: tuple[str, ...], name: str, columns: tuple[str, ...], assignments: tuple[str, ...], lake: str, as_json: bool
) -> None:
    """Bring existing preference data in: jsonl, parquet, csv (plain or .gz), or a local Hugging Face dataset."""
    from curators.importing import parse_columns

    mapped = parse_columns(columns)
    given = load_config("import", None, [f"files={list(files)!r}", f"dataset={name}", f"lake={lake}", *assignments])
    finish(run_flow("import", validated(FLOW_CONFIGS["import"], {**given.model_dump(), "columns": mapped})), as_json=as_json)


@click.command()
@click.option("--file", help="Deployment file; default ./flows.yaml, else the one that ships with Pairmill.")
@click.option("--port", type=int, default=4200, show_default=True)
@click.option("--limit", type=int, default=2, show_default=True, help="Flow runs at a time.")
@lake_option
@one_line_errors
def serve(file: str | None, port: int, limit: int, lake: str) -> None:
    """Prefect server, every deployment of flows.yaml and a worker that runs them, until Ctrl-C."""
    from pipelines.serving import deployments, serving

    unwind_on_sigterm()
    with serving(Path(lake), file=file, port=port, limit=limit) as up:
        click.echo(f"UI:     {up.ui_url}\nworker: {up.worker_log}\nlake:   {Path(lake).absolute()}")
        for deployment in deployments(up.api_url):
            click.echo(f"  {deployment['name']:<28} next run: {deployment['next_run'] or 'when triggered or asked for'}")
        click.echo("Ctrl-C stops the server and the worker.")
        try:
            while up.worker.poll() is None:
                time.sleep(0.5)
        except KeyboardInterrupt:
            click.echo("stopping …")
        else:
            raise ConfigError(f"the worker ended with exit code {up.worker.returncode}; see {up.worker_log}")


COMMANDS = (run, import_files, serve)
