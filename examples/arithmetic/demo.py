"""`make demo`: the whole line on the embedded models, from a server to a policy that measurably improved.

A Prefect server, every deployment of flows.yaml and a worker come up; flow `curate` samples the policy, asks the judge and publishes a
version; the event of the publish starts the training deployment, which trains, evaluates before and after, and registers the checkpoint.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600


def main() -> int:
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    from pipelines.commands.running import run_flow
    from pipelines.config import default_lake
    from pipelines.config_files import load_config
    from pipelines.report.page import write_report
    from pipelines.server import prefect_server
    from storage import open_lake, resolve

    begun = time.monotonic()
    lake_root = Path(default_lake()).absolute()
    say(f"lake {lake_root}: starting a Prefect server")
    with prefect_server(lake_root) as api_url:
        say(f"sampling and judging; watch it at {api_url.removesuffix('/api')}")
        with Deployed(lake_root, api_url):
            asked = datetime.now(UTC)
            outcome = run_flow("curate", load_config("curate", "examples/arithmetic/curate.yaml", [f"lake={lake_root}"]))
            if outcome["version"] is None:
                print_outcome(outcome, None, None, time.monotonic() - begun)
                return 3
            training = trained(api_url, lake_root, outcome, asked)
    with open_lake(lake_root) as lake:
        release = resolve(lake, f"{outcome['dataset']}@{outcome['version']}")
        report = write_report(lake, release, lake_root / "reports" / f"{release.ref}.html")
    print_outcome(outcome, training, report, time.monotonic() - begun)
    return 0 if training else 1


def say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


class Deployed:
    """The deployments and a worker, brought up beside the sampling, since both take a few seconds that nobody needs to wait for."""

    def __init__(self, lake_root: Path, api_url: str) -> None:
        from contextlib import ExitStack

        from pipelines.serving import deployed

        self._stack = ExitStack()
        self._error: BaseException | None = None
        self._context = deployed(lake_root, api_url, file="flows.yaml")
        self._thread = threading.Thread(target=self._start, name="deploy")

    def _start(self) -> None:
        try:
            self._stack.enter_context(self._context)
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Deployed:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join()
        self._stack.close()
        if self._error is not None and exc[0] is None:
            raise self._error


def trained(api_url: str, lake_root: Path, outcome: dict[str, Any], asked: datetime) -> dict[str, Any] | None:
    """The registered checkpoint of the version: the one that is there, or the one that the triggered deployment makes now."""
    from pipelines.serving import ask

    ref = f"{outcome['dataset']}@{outcome['version']}"
    if found := checkpoint_of(lake_root, ref):
        return found
    say(f"{ref} is published; its event starts the training deployment")
    body = {
        "deployments": {"name": {"any_": ["train-on-publish"]}},
        "flow_runs": {"start_time": {"after_": asked.isoformat()}},
        "sort": "START_TIME_DESC",
        "limit": 1,
    }
    deadline, shown = time.monotonic() + PATIENCE_S, ""
    while time.monotonic() < deadline:
        runs = ask(api_url, "flow_runs/filter", body)
        state = runs[0]["state"]["name"] if runs else "waiting for the worker"
        if state != shown:
            say(f"training: {state}")
            shown = state
        if runs and runs[0]["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            if runs[0]["state"]["type"] != "COMPLETED":
                say(f"the training run ended as {state}: {runs[0]['state']['message']}; see {lake_root / 'prefect' / 'worker.log'}")
            return checkpoint_of(lake_root, ref)
        time.sleep(1.0)
    say(f"no training within {PATIENCE_S} s; see {lake_root / 'prefect' / 'worker.log'}")
    return None


def checkpoint_of(lake_root: Path, ref: str) -> dict[str, Any] | None:
    from storage.checkpoints import checkpoints

    found = [c for c in checkpoints(lake_root, ref.partition("@")[0]) if c.dataset == ref]
    return {"ref": found[-1].ref, "path": found[-1].path, **found[-1].metrics} if found else None


def print_outcome(outcome: dict[str, Any], training: dict[str, Any] | None, report: Path | None, seconds: float) -> None:
    """The last lines: what came in, what was kept and why not the rest, and what came of it."""
    from pipelines.commands.showing import funnel_rows

    console = Console(width=120)
    table = Table(title=f"\n{outcome['dataset']}: what came in, what was kept, and why not the rest", title_justify="left", box=None)
    for column in ("stage", "unit", "in", "kept", "dropped"):
        table.add_column(column, justify="right" if column in ("in", "kept") else "left")
    for row in funnel_rows(outcome["funnel"]):
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    lines = summary(outcome, training, report, seconds)
    width = max(map(len, lines))
    console.print()
    for name, value in lines.items():
        console.print(f"[bold]{name:>{width}}[/bold]  {value}", highlight=False, soft_wrap=True)


def summary(outcome: dict[str, Any], training: dict[str, Any] | None, report: Path | None, seconds: float) -> dict[str, str]:
    health, calls = outcome["health"] or {}, outcome["calls"] or {}
    lines = {}
    if health.get("agreement"):
        a, first = health["agreement"], health["first"]
        lines["judge"] = (
            f"agrees with the checker on {a['share']:.0%} of {a['n']} decidable pairs ({a['low']:.0%} to {a['high']:.0%}); "
            f"names the first shown in {first['share']:.0%}, changes its mind with the order on {health['inconsistent']['share']:.0%}"
        )
    lines["version"] = (
        f"{outcome['dataset']}@{outcome['version']}  digest {outcome['digest'][:12]}" if outcome["version"] else str(outcome["refusal"])
    )
    if evaluation := (training or {}).get("evaluation"):
        e = evaluation
        lines["accuracy"] = (
            f"{e['accuracy_before']:.1%} → {e['accuracy_after']:.1%}, gain {e['gain']:+.1%} "
            f"(95% interval {e['low']:+.1%} to {e['high']:+.1%}) "
            f"on {e['n_prompts']} unseen problems × {e['n_samples'] // e['n_prompts']} samples"
        )
    if training:
        lines["checkpoint"] = f"{training['ref']}  {training['path']}"
    lines["calls"] = f"{calls.get('requests', 0)} sent, {calls.get('hits', 0)} samples from the ledger; {seconds:.0f} s in all"
    if report:
        lines["report"] = str(report)
    lines["the UI"] = "pairmill serve   (then http://127.0.0.1:4200)"
    return lines


if __name__ == "__main__":
    sys.exit(main())
