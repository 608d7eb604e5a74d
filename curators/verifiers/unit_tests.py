"""Unit tests on code that a model wrote, run in a process that can do no harm (`jail`).

The reference is test code: statements that assert, functions `test…` without arguments, `unittest.TestCase` classes; what the response
defines is there by name, and as the module `solution`. The response's code is its blocks marked as Python, one after the other, else its
last code block, else all of it.

Passed: every test ran to its end. Failed: anything else that the code does, time and memory used up included. Error, and no grade: tests
that do not compile, a sandbox that does not come up. A program that ends itself early has not passed, but one that sets out to forge the
verdict from inside its process can: these are tests of honest code.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from curators.errors import CurationError
from curators.verifiers import jail

_BLOCK = re.compile(r"^[ ]{0,3}```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ ]{0,3}```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = ("python", "python3", "py")
OUTPUT_BYTES = 4096


class Graded(NamedTuple):
    """A check's result with the reason for it, which is kept in `judgments.raw`."""

    value: bool | float | None
    reason: str


def unit_tests(
    *, prompt: str, response: str, reference: str | None, timeout_s: float = 10.0, memory_mb: int = 1024, isolated: bool = False
) -> Graded | bool | None:
    """The response's code passes the reference's tests within `timeout_s` seconds of time and of CPU and `memory_mb` of memory.

    `isolated`: without namespaces of its own (no network, no files) nothing is run, and the row is an error.

    Raises:
        CurationError: the tests do not compile, or the sandbox does not come up.
    """
    if reference is None or not reference.strip():
        return None
    settings = {"timeout_s": timeout_s, "memory_mb": memory_mb, "isolated": isolated}
    token = secrets.token_hex(8)
    said, ended = _run({"code": code_of(response), "tests": reference, "token": token}, settings)
    states = {line["state"]: line for line in said}
    if "started" not in states:
        raise CurationError(f"the sandbox did not come up: {ended}")
    verdict = next((line for line in said if line.get("token") == token), {"state": "failed", "reason": ended})
    if verdict["state"] == "broken":
        raise CurationError(verdict["reason"])
    return True if verdict["state"] == "passed" else Graded(False, verdict["reason"])


def code_of(response: str) -> str:
    """The code in a response.

    >>> code_of("Run it:\\n```python\\nx = 1\\n```\\nwith\\n```sh\\npython x.py\\n```")
    'x = 1\\n'
    """
    blocks = [(match[1].lower(), textwrap.dedent(match[2])) for match in _BLOCK.finditer(response)]
    python = [code for language, code in blocks if language in _PYTHON]
    return "\n".join(python) if python else blocks[-1][1] if blocks else response


def _run(work: dict[str, str], settings: dict[str, Any]) -> tuple[Sequence[dict[str, Any]], str]:
    """The lines that the process said, and how it ended."""
    with tempfile.TemporaryDirectory(prefix="unit-tests-") as directory, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        Path(directory).chmod(0o777)
        argument = json.dumps({**settings, "directory": directory})
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", jail.__file__, argument],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={"OMP_NUM_THREADS": "1"},
            cwd=directory,
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(work).encode(), timeout=settings["timeout_s"])
            ended = f"the process ended with {process.returncode} before the tests did"
        except subprocess.TimeoutExpired:
            ended = f"not done in {settings['timeout_s']:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        last = _read(err, max(0, err.seek(0, os.SEEK_END) - OUTPUT_BYTES)).strip().splitlines()[-1:]
        return _lines(_read(out, 0)), ": ".join([ended, *last])[:500]


def _read(file: Any, start: int) -> str:
    file.seek(start)
    return str(file.read(OUTPUT_BYTES).decode(errors="replace"))


def _lines(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and "state" in value:
                found.append(value)
    return found
