"""`pairmill doctor`: what a run needs and what this machine has, before anything is paid for."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from pipelines.commands.datasets import lake_option
from pipelines.commands.output import json_option, one_line_errors, print_rows

Finding = tuple[bool, str]


def _python() -> Finding:
    return sys.version_info >= (3, 11), ".".join(map(str, sys.version_info[:3]))


def _pin(package: str, wanted: str) -> Callable[[], Finding]:
    def check() -> Finding:
        from packaging.specifiers import SpecifierSet

        try:
            found = version(package)
        except PackageNotFoundError:
            return False, f"not installed, wanted {wanted}"
        return found in SpecifierSet(wanted), f"{found} (wanted {wanted})"

    return check


def _extensions() -> Finding:
    from storage import open_lake

    with tempfile.TemporaryDirectory() as folder, open_lake(Path(folder) / "lake"):
        return True, "ducklake and sqlite_scanner load from their wheels"


def _lake(root: Path) -> Callable[[], Finding]:
    def check() -> Finding:
        nearest = next(p for p in (root, *root.absolute().parents) if p.exists())
        free = shutil.disk_usage(nearest).free / 1e9
        state = "there" if root.exists() else "not made yet"
        return os.access(nearest, os.W_OK) and free > 1, f"{root.absolute()} ({state}, {free:.0f} GB free)"

    return check


def _server() -> Finding:
    from pipelines.server import answers

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return True, "PREFECT_API_URL is not set: a server is started for each run"
    return answers(url), f"{url} {'answers' if answers(url) else 'does not answer: start it with `pairmill serve`'}"


def _torch() -> Finding:
    import torch

    return True, f"{torch.__version__}, {'CUDA' if torch.cuda.is_available() else 'CPU'}, {torch.get_num_threads()} threads"


def _trainer() -> Finding:
    try:
        return True, f"trl {version('trl')}"
    except PackageNotFoundError:
        return True, "trl is not installed: `pip install 'pairmill[train]'` for the built-in trainer"


def findings(lake: Path) -> list[dict[str, object]]:
    """One row a check: what, ok, and what was found. A check that raises has failed with that reason."""
    checks: dict[str, Callable[[], Finding]] = {
        "python >= 3.11": _python,
        "prefect": _pin("prefect", "==3.8.8"),
        "fastapi (newer ones break the server)": _pin("fastapi", ">=0.139,<0.151"),
        "sqlalchemy (newer ones never fire a schedule)": _pin("sqlalchemy", ">=2.0,<2.1"),
        "duckdb": _pin("duckdb", "==1.5.5"),
        "lake extensions": _extensions,
        "lake": _lake(lake),
        "prefect server": _server,
        "torch": _torch,
        "trainer": _trainer,
    }
    rows: list[dict[str, object]] = []
    for name, check in checks.items():
        try:
            ok, found = check()
        except Exception as error:  # a doctor reports what is broken, whatever it is
            ok, found = False, f"{type(error).__name__}: {error}"
        rows.append({"check": name, "ok": "yes" if ok else "NO", "found": found})
    return rows


@click.command()
@lake_option
@json_option
@one_line_errors
def doctor(lake: str, as_json: bool) -> None:
    """Check versions, extensions, the lake and the server. Exit code 1 when something is broken."""
    rows = findings(Path(lake))
    print_rows(rows, as_json=as_json)
    sys.exit(0 if all(row["ok"] == "yes" for row in rows) else 1)


COMMANDS = (doctor,)
