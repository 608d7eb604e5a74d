"""A real Prefect server for the session, and the `pairmill` command as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.server import QUIET, prefect_server

Pairmill = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def lake_root(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def pairmill(tmp_path: Path, lake_root: Path, prefect_api: str) -> Pairmill:
    """Run the command in an empty directory, with a lake of its own, against the session's server."""
    return command(tmp_path, lake_root, prefect_api)


def command(directory: Path, lake_root: Path, prefect_api: str) -> Pairmill:
    """The command in a directory, with a lake, against a server."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **QUIET, "PREFECT_API_URL": prefect_api, "PAIRMILL_LAKE": str(lake_root), "COLUMNS": "200", **environment}
        words = [sys.executable, "-m", "pipelines.cli", *arguments]
        return subprocess.run(words, cwd=directory, env=env, capture_output=True, text=True, timeout=240)

    return run


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of a command's output."""
    assert done.stdout.strip(), done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def write_prompts(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": text, "reference": "4"}) + "\n" for text in texts))
    return path
