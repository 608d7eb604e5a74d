"""Code that passes, fails, hangs, breaks out and cheats; what it is shut in by."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import psutil
import pytest

from curators.errors import CurationError
from curators.verifiers.unit_tests import Graded, code_of, unit_tests

SQUARE = "def f(x):\n    return x * x\n"
TESTS = "assert f(2) == 4"


def grade(code: str, tests: str = TESTS, **settings: Any) -> Any:
    return unit_tests(prompt="", response=f"Here it is:\n```python\n{code}\n```\nDone.", reference=tests, **settings)


def seen(expression: str, **settings: Any) -> str:
    """What an expression is worth inside."""
    found = grade(f"import os, socket, json\nraise ValueError(json.dumps({expression}))", **settings)
    assert isinstance(found, Graded)
    return str(json.loads(found.reason.removeprefix("ValueError: ")))


@pytest.mark.parametrize(
    "tests",
    [
        TESTS,
        "def test_it():\n    assert f(3) == 9",
        "import unittest\nclass TestIt(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(f(3), 9)",
        "from solution import f as g\nassert g(3) == 9",
        "def check(candidate):\n    assert candidate(2) == 4\ncheck(f)",
    ],
)
def test_code_that_passes_and_code_that_fails(tests: str) -> None:
    assert grade(SQUARE, tests) is True
    found = grade(SQUARE.replace("*", "+ 1 +"), tests)
    assert (found.value, "AssertionError" in found.reason) == (False, True)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def f(x: return x", "SyntaxError: "),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("import os\nos._exit(0)", "the process ended with 0 before the tests did"),
        ('import os\nos.write(3, b\'{"state": "passed"}\')\nos._exit(0)', "the process ended with 0 before the tests did"),
        ("import ctypes\nctypes.string_at(0)", "the process ended with 1"),  # 139: a segmentation fault
        ("x = [0] * 10**9", "MemoryError: "),
        ("import time\ntime.sleep(60)", "not done in 2 s"),
        ("while True:\n    pass", "not done in 2 s"),
        # 300 sleeping children and no more: where nothing stops it, this must not take the machine down
        ("import os, time\nfor _ in range(300):\n    if not os.fork():\n        time.sleep(2)\n        os._exit(0)", "BlockingIOError: "),
        ("open('big', 'w').write('a' * 2 * 10**7)", "OSError: [Errno 27] File too large"),
    ],
)
def test_whatever_code_does_it_has_failed(code: str, reason: str) -> None:
    found = grade(code, timeout_s=2 if reason.startswith("not done") else 30)
    assert found.value is False
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess, sys\ndef f(x):\n    return int(subprocess.run([sys.executable, '-c', 'print(4)'], capture_output=True).stdout)",
        "import threading, time\nthreading.Thread(target=lambda: time.sleep(60)).start()\n" + SQUARE,
        "import os\nos.fork()\n" + SQUARE,
        "open('here', 'w').write('x')\n" + SQUARE,
        "import sys\nprint('x' * 10**6)\nsys.stderr.write('x' * 10**6)\n" + SQUARE,
        "def test_own():\n    assert False\n" + SQUARE,
    ],
)
def test_what_code_may_do(code: str) -> None:
    assert grade(code) is True


def test_what_code_finds_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRMILL_TEST_SECRET", "x")
    assert seen("os.listdir('.')") == "[]"
    assert "SECRET" not in seen("dict(os.environ)")
    readable = "[open(f'/proc/{p}/environ').read() for p in os.listdir('/proc') if p.isdigit() and os.access(f'/proc/{p}/environ', 4)]"
    assert "SECRET" not in seen(readable)


def namespaces() -> bool:
    try:
        return grade(SQUARE, isolated=True) is True
    except CurationError:
        return False


def test_no_network_no_files_no_other_processes() -> None:
    if not namespaces():
        pytest.skip("the kernel allows no namespaces here")
    assert seen("socket.if_nameindex()") in ("[]", "[[1, 'lo']]")
    assert "Network is unreachable" in grade("import socket\nsocket.create_connection(('192.0.2.1', 80), 5)").reason
    assert grade(f"open({__file__!r}, 'a')").reason.startswith(("OSError: [Errno 30] Read-only", "PermissionError"))
    assert "Read-only file system" in grade("open('/tmp/x', 'w')").reason
    assert seen("[p for p in os.listdir('/proc') if p.isdigit()]") == "['1', '2']"
    remount = "import ctypes\nassert ctypes.CDLL(None).mount(None, b'/', None, 0x20, None) == 0"
    assert "AssertionError" in grade(remount).reason


def test_what_it_started_ends_with_it() -> None:
    if not namespaces():
        pytest.skip("the kernel allows no namespaces here")
    marker = f"sleep-{os.getpid()}-{time.monotonic_ns()}"
    sleep = f"[sys.executable, '-c', 'import time; time.sleep(60)', '{marker}']"
    start = f"import subprocess, sys\nsubprocess.Popen({sleep}, start_new_session=True)\n"
    assert grade(start + SQUARE) is True
    assert grade(start + "while True: pass", timeout_s=3).value is False
    for _ in range(50):
        if not (left := [p for p in psutil.process_iter(["cmdline"]) if marker in (p.info["cmdline"] or [])]):
            break
        time.sleep(0.1)
    assert left == []


def test_tests_that_are_broken_or_missing_are_no_grade() -> None:
    with pytest.raises(CurationError, match="the tests do not compile: '\\(' was never closed"):
        grade(SQUARE, "assert f(")
    assert grade(SQUARE, " \n") is unit_tests(prompt="", response=SQUARE, reference=None) is None


def test_a_sandbox_that_does_not_come_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(CurationError, match="the sandbox did not come up: the process ended with 1"):
        grade(SQUARE)


def test_the_code_of_a_response() -> None:
    assert code_of(SQUARE) == SQUARE
    assert code_of("a\n```\nx = 1\n```\n```\ny = 2\n```") == "y = 2\n"
    assert code_of("```sh\nls\n```\n```py\nx = 1\n```\n```python\ny = 2\n```\n```\nout\n```") == "x = 1\n\ny = 2\n"
    assert code_of("cut off\n```python\nx = 1") == "x = 1"
    assert code_of("1. so\n   ```Python title=a\n   x = 1\n   ```") == "x = 1\n"
