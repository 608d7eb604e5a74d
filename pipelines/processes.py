"""Child processes that do not outlive their parent: servers, workers, trainers."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def end_with_parent(sign: signal.Signals) -> Callable[[], None] | None:
    """For `preexec_fn`: the kernel sends the child that signal when its parent dies, however it dies; null where there is no such thing.

    It is the thread that started the child whose end counts, so start such children in a thread that lives as long as the process.
    """
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, sign)
        if os.getppid() != parent:  # it died before the kernel was asked
            os.kill(os.getpid(), sign)

    return ask


def start_process(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A child in its own session, so that it does not inherit an ignored SIGINT from a background shell; it ends with this process."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGTERM),
        )


def stop_process(process: subprocess.Popen[bytes], patience_s: float = 15.0) -> None:
    """SIGINT, then SIGTERM, then SIGKILL, each to the process's own group, and wait."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, sign)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
