"""The server that is started is the one that answers: a taken port is refused, a dead process is not covered by another's server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from curators.errors import ConfigError
from pipelines.server import answers, await_server, check_port, free_port, prefect_server
from storage.errors import StorageError


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def foreign() -> Iterator[int]:
    """The port of another server, which answers every question about its health."""
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_port_that_is_taken_is_refused_before_anything_starts(foreign: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    message = rf"--port {foreign}: no server can be started there \(Address already in use\); give another --port, or set PREFECT_API_URL"
    with pytest.raises(ConfigError, match=message), prefect_server(tmp_path, port=foreign):
        pass
    assert not (tmp_path / "prefect" / "server.log").exists()


def test_a_port_is_free_again_after_its_use_and_must_be_one() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)):
        server.accept()[0].close()
    check_port(port)
    with pytest.raises(ConfigError, match="--port 99999: no server can be started there"):
        check_port(99999)


def test_another_server_does_not_answer_for_a_process_that_died(foreign: int, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("address already in use")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    process.wait()
    with pytest.raises(StorageError, match=r"did not start at .*: address already in use"):
        await_server(process, f"http://127.0.0.1:{foreign}/api", log)


def without_server() -> dict[str, str]:
    """The environment in which a command starts a server of its own: not the one that other tests share."""
    return {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}


LATE = """
import sys, threading
from pathlib import Path
from pipelines.server import prefect_server
with prefect_server(Path(sys.argv[1])):
    from prefect import flow, get_run_logger
    kept = []
    @flow
    def quick():
        kept.append(get_run_logger())
    quick()
    kept[0].warning("a line that comes after its run")
"""


@pytest.mark.slow
def test_what_prefect_still_holds_is_sent_before_the_server_stops(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LATE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=without_server())
    assert done.returncode == 0, done.stderr
    assert "Error logging to API" not in done.stderr


ENDED = """
import sys, time
from pathlib import Path
from pipelines.commands.running import unwind_on_sigterm
from pipelines.server import free_port, prefect_server
unwind_on_sigterm()
with prefect_server(Path(sys.argv[1]), port=free_port()) as url:
    print(url, flush=True)
    time.sleep(120)
"""


@pytest.mark.slow
def test_a_served_server_is_used_and_a_sigterm_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over the lake of a `pairmill serve` shows up in its UI; two servers would lock each other out of one database."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    command = [sys.executable, "-c", ENDED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=without_server()) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert answers(url)
        with prefect_server(tmp_path) as used:
            assert used == url == os.environ["PREFECT_API_URL"]
        assert "PREFECT_API_URL" not in os.environ
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not answers(url)
    assert not (tmp_path / "prefect" / "api-url").exists()


def test_a_lake_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)  # of a server that answers, which would do
    (tmp_path / "file").write_text("")
    told = r"cannot be made or written: Not a directory; give another --lake"
    with pytest.raises(StorageError, match=told), prefect_server(tmp_path / "file" / "lake"):
        raise AssertionError("there is no place for a server")
