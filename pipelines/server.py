"""A real Prefect server: the one that answers, else one started on loopback and stopped by its process id.

Never the ephemeral server: four of them at once all fail, and each costs a flow 8 to 15 s. The server's home is
`<lake>/prefect`, so that the history stays with the data, and mode 0700, because its database holds the key of its own secrets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curators.errors import ConfigError
from pipelines.processes import start_process, stop_process
from storage.errors import StorageError

# Two telemetries: the server's heartbeat and the client's events. Both stay off.
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default, cloudpickle, makes reading a shared result store run code
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    "PREFECT_CLI_PROMPT": "false",
}
HEARTBEAT_S = 30
"""How often a run says that it lives, the least that Prefect allows. `pipelines.serving` takes one that is silent for dead: every process
that runs a flow must know it.
"""
ALIVE = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
START_S = 120.0
SERVED = "api-url"  # in the server's home: where `pairmill serve` is reached


def answers(api_url: str, timeout_s: float = 2.0) -> bool:
    """Does a Prefect server answer there?"""
    try:
        with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=timeout_s) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def running(lake_root: Path) -> str | None:
    """The API's URL of a server that answers for this lake: that of PREFECT_API_URL, or of a `pairmill serve`; null where none does."""
    there = os.environ.get("PREFECT_API_URL") or _served((lake_root / "prefect").absolute(), None)
    return there if there and answers(there) else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Refuse a port that something listens on: a server that cannot bind dies, and the one that is there answers in its place."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does; without it a port rests a minute after its use
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--port {port}: no server can be started there ({getattr(error, 'strerror', None) or error}); give another --port, "
                f"or set PREFECT_API_URL=http://127.0.0.1:{port}/api to use the Prefect server that is there"
            ) from error


def server_environment(home: Path, api_url: str) -> dict[str, str]:
    return {**os.environ, **QUIET, **ALIVE, "PREFECT_HOME": str(home), "PREFECT_API_URL": api_url}


def await_server(process: subprocess.Popen[bytes], api_url: str, log: Path) -> None:
    """Wait until the process's server answers. Another one that answers there in place of a process that died does not count."""
    deadline = time.monotonic() + START_S
    while not answers(api_url) or process.poll() is not None:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace").strip().splitlines()[-3:]
            stop_process(process)
            raise StorageError(f"the Prefect server did not start at {api_url}; see {log}: " + " | ".join(tail))
        time.sleep(0.2)


@contextmanager
def prefect_server(lake_root: Path, *, port: int | None = None) -> Iterator[str]:
    """The API's URL of a server that answers, for as long as the block runs.

    The one at PREFECT_API_URL is used when it answers, then that of a `pairmill serve` over the same lake (two servers over one database
    lock each other out); otherwise one is started on loopback and stopped afterwards. The environment of this process points at
    it within the block, so import `prefect` inside.

    Raises:
        ConfigError: something listens on the port.
        StorageError: the server does not start; the message has the end of its log.
    """
    home = (lake_root / "prefect").absolute()
    before = {name: os.environ.get(name) for name in (*QUIET, *ALIVE, "PREFECT_HOME", "PREFECT_API_URL")}
    try:
        if (there := before["PREFECT_API_URL"] or _served(home, port)) and answers(there):
            quiet = {name: value for name, value in QUIET.items() if name not in os.environ}
            os.environ.update({**quiet, **ALIVE, "PREFECT_API_URL": there})
            yield there
            return
        with _started(home, port or free_port()) as api_url:
            os.environ.update(server_environment(home, api_url))
            if port is not None:
                (home / SERVED).write_text(api_url)
            yield api_url
    finally:
        if port is not None:
            (home / SERVED).unlink(missing_ok=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _served(home: Path, port: int | None) -> str | None:
    """Where the last `pairmill serve` over that directory was reached; null for who is about to serve, on a port of its own."""
    file = home / SERVED
    return file.read_text().strip() if port is None and file.exists() else None


@contextmanager
def _started(home: Path, port: int) -> Iterator[str]:
    """A server of our own on that port."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        home.chmod(0o700)
    except OSError as error:
        raise StorageError(f"the lake {home.parent} cannot be made or written: {error.strerror or error}; give another --lake") from error
    check_port(port)
    api_url = f"http://127.0.0.1:{port}/api"
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = start_process(command, server_environment(home, api_url), log)
    try:
        await_server(process, api_url, log)
        yield api_url
    finally:
        send_what_waits()
        stop_process(process)


def send_what_waits(patience_s: float = 10.0) -> None:
    """Log lines and events that Prefect holds in this process go out while the server is there; without it the exit tries for a minute."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=patience_s)
