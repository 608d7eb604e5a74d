"""A few worker processes that run the checks which may hang. One that takes too long is killed with its process group; that fails the
row it had and no other, and the next row starts a new one.

Every process belongs to a thread, and the threads take rows from one queue, so that any number of event loops and threads may ask, and
nobody waits but who asked. Processes are started when there is something to do, and end with the program.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from curators.verifiers.registry import Case, Verifier

Row = dict[str, Any]

START_S = 60.0  # for a process to start and to import the module of a check
SIZE = min(4, os.cpu_count() or 1)
_START = "import sys; sys.path[:] = sys.argv[1:]; from curators.verifiers.worker import main; main()"


class _Late(Exception):
    """No answer within the limit."""


class _Gone(Exception):
    """The process has ended."""


class _CannotLoad(Exception):
    """The check is not there for another process to import."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    verifier: Verifier
    case: Case
    timeout_s: float
    future: Future[Row] = field(default_factory=Future)


class Pool:
    """Up to `size` worker processes."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.workers: list[_Worker] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._n_open = 0
        self._closed = False
        self._owner = os.getpid()
        atexit.register(self.close)

    def submit(self, verifier: Verifier, case: Case, timeout_s: float) -> Future[Row]:
        """The outcome of a check, within `timeout_s` seconds of its start; it is always an outcome, whatever becomes of the process."""
        job = _Job(verifier=verifier, case=case, timeout_s=timeout_s + verifier.own_limit_s)
        with self._lock:
            self._n_open += 1
            if len(self.workers) < min(self._n_open, self.size):
                self.workers.append(_Worker(self))
        self._jobs.put(job)
        return job.future

    def work(self, worker: _Worker) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            if job.future.set_running_or_notify_cancel():
                try:
                    job.future.set_result(worker.grade(job))
                except BaseException as error:
                    job.future.set_exception(error)
            with self._lock:
                self._n_open -= 1

    def close(self) -> None:
        """Kill the processes; nothing is taken on any more. In a forked program they are not its own."""
        if os.getpid() != self._owner:
            return
        self._closed = True
        for worker in self.workers:
            self._jobs.put(None)
            worker.kill()


class _Worker(threading.Thread):
    """A thread and its process, of which there is none before the first row and after one that was killed."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(name="verifiers", daemon=True)
        self._pool = pool
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: set[str] = set()
        self._digests: dict[str, str] = {}  # of the modules that the process has imported
        self.start()

    @property
    def pid(self) -> int | None:
        """Of the process, null while there is none."""
        return None if self._process is None else self._process.pid

    def run(self) -> None:
        self._pool.work(self)

    def grade(self, job: _Job) -> Row:
        name = job.verifier.name
        try:
            self._load(job.verifier)
            return self._ask({"check": name, "case": job.case, "timeout_s": job.timeout_s}, job.timeout_s)
        except _Late as late:
            self.kill()
            reason = f"no answer in {late} s"
        except _Gone:
            reason = f"its process ended with {self.kill()}"
        except (_CannotLoad, OSError) as error:
            reason = f"a worker process cannot load it: {error}"
        return {"state": "verifier_error", "reason": f"verifier {name}: {reason}"[:500]}

    def _load(self, verifier: Verifier) -> None:
        module, code = verifier.module or verifier.name, verifier.code_digest
        if self._digests.get(module, code) != code:
            self.kill()  # a module that has changed is imported by a new process
        if self._process is None:
            self._start()
        if verifier.name not in self._loaded:
            self._digests[module] = code
            answer = self._ask({"load": verifier.name, "digest": code, "path": sys.path}, START_S)
            if "error" in answer:
                raise _CannotLoad(answer["error"])
            self._loaded.add(verifier.name)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def _ask(self, message: Row, timeout_s: float) -> Row:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            line = self._line(process.stdout.fileno(), timeout_s)
        except (OSError, ValueError) as error:
            raise _Gone from error
        answer: Row = json.loads(line)
        return answer

    def _line(self, out: int, timeout_s: float) -> bytes:
        deadline, found = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not found.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise _Late(f"{timeout_s:g}")
                if not (piece := os.read(out, 1 << 16)):
                    raise _Gone
                found += piece
            return found

    def kill(self) -> int | None:
        """End the process with all that it has started; says how it ended."""
        process, self._process = self._process, None
        self._loaded, self._digests = set(), {}
        if process is None:
            return None
        with contextlib.suppress(OSError), process:  # it may have ended, or not have read what it was sent
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
