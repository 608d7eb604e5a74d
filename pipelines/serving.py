"""`pairmill serve`: one command from flows.yaml to a server, its deployments with their schedules and automations, and a worker.

Deploying goes through Prefect's own command, so that flows.yaml stays Prefect's format and nothing of it is read twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any

from curators.errors import ConfigError
from pipelines.processes import start_process, stop_process
from pipelines.server import ALIVE, HEARTBEAT_S, prefect_server

WORK_POOL = "pairmill"
SILENCE_S = 3 * HEARTBEAT_S
ENDED = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended", "AwaitingRetry")
DEAD_RUNS: dict[str, Any] = {
    "name": "pairmill: a run that says nothing has crashed",
    "description": f"A run whose worker was killed would stay Running for ever. Every {HEARTBEAT_S} s it says that it lives.",
    "trigger": {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "after": ["prefect.flow-run.heartbeat"],
        "expect": ["prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in ENDED)],
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": SILENCE_S,
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": f"Nothing was heard of the run for {SILENCE_S} s: its process is gone. Start it again: it buys nothing twice.",
        }
    ],
}
"""The automation that Prefect's server needs for runs that are killed together with their worker."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What is up: the API's URL, the UI's, and where the worker logs."""

    api_url: str
    ui_url: str
    worker_log: Path
    worker: subprocess.Popen[bytes]


def flows_file(given: str | None = None) -> Path:
    """The deployment file: the one given, else `./flows.yaml`, else the one that ships with the package."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise ConfigError(f"--file: no deployment file {given!r}")
        return path
    shipped = Path(str(resources.files("pipelines"))) / "flows.yaml"
    beside = Path(str(resources.files("pipelines"))).parent / "flows.yaml"
    return next(path for path in (Path("flows.yaml"), shipped, beside) if path.is_file())


def prefect_command(*arguments: str) -> str:
    """Run Prefect's command line against the current server; its output, or a one-line error."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        tail = " | ".join((done.stdout + done.stderr).strip().splitlines()[-4:])[:1000]
        raise ConfigError(f"prefect {' '.join(arguments)} failed with exit code {done.returncode}: {tail}")
    return done.stdout


def deploy(file: Path, api_url: str) -> None:
    """Create the work pool, every deployment of the file, schedules and automations included, and that for dead runs; again changes
    nothing.
    """
    prefect_command("work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
    prefect_command("deploy", "--prefect-file", str(file), "--all")
    there = [each["id"] for each in ask(api_url, "automations/filter", {}) if each["name"] == DEAD_RUNS["name"]]
    ask(api_url, f"automations/{there[0]}" if there else "automations/", DEAD_RUNS, method="PUT" if there else "POST")


@contextmanager
def deployed(lake_root: Path, api_url: str, *, file: str | None = None, limit: int = 2) -> Iterator[Serving]:
    """The file's deployments and a process worker on a server that is up, for as long as the block runs."""
    deploy(flows_file(file), api_url)
    log = lake_root / "prefect" / "worker.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lake = str(lake_root.absolute())
    environment = {**os.environ, **ALIVE, "PAIRMILL_LAKE": lake}
    # The worker runs flows in children of its own; a user's verifiers are found from where serve was started.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--limit", str(limit)]
    worker = start_process(command, environment, log)
    try:
        yield Serving(api_url=api_url, ui_url=api_url.removesuffix("/api"), worker_log=log, worker=worker)
    finally:
        stop_process(worker)


@contextmanager
def serving(lake_root: Path, *, file: str | None = None, port: int | None = None, limit: int = 2) -> Iterator[Serving]:
    """Server, deployments and worker, for as long as the block runs; what was started is stopped by process id."""
    with prefect_server(lake_root, port=port) as api_url, deployed(lake_root, api_url, file=file, limit=limit) as up:
        yield up


def deployments(api_url: str) -> list[dict[str, str | None]]:
    """The deployments that the server has: `name` (flow/deployment) and `next_run` (ISO time, or the schedule where the server has not made
    its runs yet, or null when nothing is scheduled)."""
    rows: list[dict[str, str | None]] = []
    for found in ask(api_url, "deployments/filter", {}):
        flow = ask(api_url, f"flows/{found['flow_id']}", None)
        states = {"state": {"type": {"any_": ["SCHEDULED"]}}, "deployment_id": {"any_": [found["id"]]}}
        runs = ask(api_url, "flow_runs/filter", {"flow_runs": states, "sort": "EXPECTED_START_TIME_ASC", "limit": 1})
        schedules = [str(each["schedule"].get("cron") or each["schedule"]) for each in found.get("schedules", []) if each.get("active")]
        next_run = runs[0]["expected_start_time"] if runs else f"by its schedule ({', '.join(schedules)})" if schedules else None
        rows.append({"name": f"{flow['name']}/{found['name']}", "next_run": next_run})
    return rows


def ask(api_url: str, path: str, body: object, *, method: str | None = None) -> Any:
    """One call of Prefect's REST API: POST with a body, GET without, where no other `method` is given. A server whose database is busy
    (503) is asked again.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api_url}/{path}", data=data, headers={"Content-Type": "application/json"}, method=method)
    for patience in (*range(1, 6), None):
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                content = reply.read()
                return json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or patience is None:
                raise
            time.sleep(patience)
    return None
