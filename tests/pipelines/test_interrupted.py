"""Ctrl-C during commands that buy replies, against a server that never answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipelines.commands import output
from pipelines.server import QUIET
from tests.pipelines.conftest import write_prompts

KEPT = "pairmill: stopped; replies so far are kept in the lake, and the same command does not buy them again"


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        yield server


def interrupted(silent: socket.socket, tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Exit code and the last lines of standard error of a command that is stopped when its first request arrives."""
    env = {**os.environ, **QUIET, "PAIRMILL_LAKE": str(tmp_path / "lake"), **environment}
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        connection, _ = silent.accept()
        with connection:
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=120)
    return running.returncode, said.strip().splitlines()


def engine(silent: socket.socket) -> str:
    return f"openai:m@http://127.0.0.1:{silent.getsockname()[1]}/v1"


@pytest.mark.slow
def test_an_attack_that_is_stopped_says_what_is_kept(silent: socket.socket, tmp_path: Path) -> None:
    code, said = interrupted(silent, tmp_path, "judge-attack", "--judge", engine(silent), "--limit", "2")
    assert (code, said[-1]) == (130, KEPT)
    assert not any("Traceback" in line for line in said)


@pytest.mark.slow
def test_a_run_that_is_stopped_says_what_is_kept(silent: socket.socket, tmp_path: Path, prefect_api: str) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", ["What is 1 + 1?"])
    given = (f"prompts={prompts}", "dataset=sums", f"policy={engine(silent)}", "verifier=numeric")
    sets = [part for assignment in given for part in ("--set", assignment)]
    code, said = interrupted(silent, tmp_path, "run", "curate", *sets, PREFECT_API_URL=prefect_api)
    assert (code, said[-1]) == (130, KEPT), said
    assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("buys", [True, False])
def test_what_buys_nothing_promises_nothing(buys: bool, capsys: pytest.CaptureFixture[str]) -> None:
    @output.one_line_errors
    def command() -> None:
        with output.replies_kept() if buys else nullcontext():
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        command()
    assert (ended.value.code, capsys.readouterr().err) == (130, f"{KEPT if buys else 'pairmill: stopped'}\n")
