"""The inside of the sandbox: a script that shuts its own process in and then runs somebody's code and the tests on it.

Started by `unit_tests` as `python -I jail.py SETTINGS`, with `{"code", "tests", "token"}` as JSON on standard input. It imports nothing of
this project. On its first standard output it writes one JSON line when it is shut in, and one when the tests are over.

Where the kernel lets it, the code runs in namespaces of its own: no network, no other process to see, all file systems read-only but an
empty one in memory (64 MiB). As root it becomes `nobody`, who may read but not write. Resource limits hold in any case.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
NOBODY = 65534
CAP_DAC_READ_SEARCH = 2  # an interpreter below /root can be read by root alone
FILE_BYTES, N_FILES, N_PROCESSES = 16 << 20, 256, 64


def main() -> NoReturn:
    settings = json.loads(sys.argv[1])
    work = json.load(sys.stdin)
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    shut_in(settings)
    _say(verdict, {"state": "started"})
    process = os.getpid()
    result = run(work["code"], work["tests"])
    if os.getpid() == process:  # and not one that the code forked
        _say(verdict, result | {"token": work["token"]})
    os._exit(0)


def _say(verdict: int, what: dict[str, Any]) -> None:
    os.write(verdict, json.dumps(what).encode() + b"\n")


def shut_in(settings: dict[str, Any]) -> None:
    """Namespaces, another user, resource limits; raises OSError where `isolated` is demanded and the kernel refuses."""
    root = os.geteuid() == 0
    n_processes = N_PROCESSES + _n_tasks(NOBODY if root else os.getuid())
    _die_with_parent()
    isolated, own_user = _unshare(root)
    if not isolated and settings["isolated"]:
        raise OSError("the kernel allows no namespaces here")
    if isolated:
        _go_on_in_child()  # the first process of the process namespace, with which all others end
        try:
            _hide_files(settings["directory"])
        except OSError:  # some systems allow namespaces and nothing in them
            if settings["isolated"]:
                raise
        _go_on_in_child()
    os.chdir(settings["directory"])
    if root and not own_user:
        _become_nobody()
    else:
        _drop_capabilities(0)
    _prctl(38, 1)  # no new privileges
    _die_with_parent()
    _limit(
        {
            resource.RLIMIT_CPU: math.ceil(settings["timeout_s"]),
            resource.RLIMIT_AS: settings["memory_mb"] << 20,
            resource.RLIMIT_FSIZE: FILE_BYTES,
            resource.RLIMIT_NOFILE: N_FILES,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NPROC: n_processes,
        }
    )


def _limit(limits: dict[int, int]) -> None:
    for which, limit in limits.items():
        _, most = resource.getrlimit(which)
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(which, (limit, limit))


def _n_tasks(uid: int) -> int:
    """How many threads a user has now: the limit on processes counts them all."""
    found = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                found += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue  # it has ended
    return found


def _libc(name: str, *arguments: Any) -> int:
    import ctypes

    function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    result = function(*(ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, *arguments: int) -> None:
    if sys.platform == "linux":
        _libc("prctl", option, *(*arguments, 0, 0, 0, 0)[:4])


def _die_with_parent() -> None:
    _prctl(1, signal.SIGKILL)


def _unshare(root: bool) -> tuple[bool, bool]:
    """Whether namespaces are there, and whether that of users is among them (root does without where it can)."""
    uid, gid = os.getuid(), os.getgid()
    for user in (0, NEWUSER) if root else (NEWUSER,):
        try:
            _libc("unshare", NEWNS | NEWIPC | NEWPID | NEWNET | user)
        except (OSError, AttributeError):
            continue
        if user:  # who has no name in it cannot make a file
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                Path(f"/proc/self/{name}").write_text(text)
        return True, bool(user)
    return False, False


def _go_on_in_child() -> None:
    """Fork; the parent waits for the child and ends as it did."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    _die_with_parent()


def _hide_files(directory: str) -> None:
    """Everything read-only, then an empty writable file system at the directory, and no process to be seen but one's own."""
    private, recursive, read_only = 0x40000, 0x4000, 1
    _libc("mount", None, b"/", None, recursive | private, None)
    attributes = struct.pack("4Q", read_only, 0, 0, 0)
    mount_setattr, at_recursive, here = 442, 0x8000, -100
    _libc("syscall", mount_setattr, here, b"/", at_recursive, attributes, len(attributes))
    _mount("tmpfs", directory, "size=64m,mode=777")
    try:
        _mount("proc", "/proc", None)
    except OSError:
        _mount("tmpfs", "/proc", "size=0,mode=555")
    if os.path.isdir("/dev/shm"):
        _mount("tmpfs", "/dev/shm", "size=16m,mode=777")


def _mount(kind: str, where: str, options: str | None) -> None:
    no_suid, no_devices = 2, 4
    name, data = kind.encode(), None if options is None else options.encode()
    _libc("mount", name, os.fsencode(where), name, no_suid | no_devices, data)


def _become_nobody() -> None:
    _prctl(8, 1)  # keep capabilities, of which one is wanted, over the change of user
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _drop_capabilities(1 << CAP_DAC_READ_SEARCH)
        _prctl(47, 2, CAP_DAC_READ_SEARCH)  # for the programs that it starts, too
    except OSError:  # a container may not have the capability, or not know the user
        _drop_capabilities(0)


def _drop_capabilities(kept: int) -> None:
    if sys.platform == "linux":
        version = 0x20080522
        _libc("capset", struct.pack("Ii", version, 0), struct.pack("6I", kept, kept, kept, 0, 0, 0))


def run(code: str, tests: str) -> dict[str, Any]:
    """Run the code as the module `solution`, then the tests in it: their statements, their functions `test…`, their TestCases."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    space = module.__dict__
    try:
        compiled = compile(tests, "tests.py", "exec")
    except (SyntaxError, ValueError) as error:
        return {"state": "broken", "reason": f"the tests do not compile: {error}"}
    try:
        exec(compile(code, "response.py", "exec"), space)
        before = dict(space)
        exec(compiled, space)
        new = {name: value for name, value in space.items() if before.get(name) is not value}
        _run_tests(new)
    except BaseException as error:  # whatever the code raises, SystemExit too, is a failed test
        return {"state": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}
    return {"state": "passed"}


def _run_tests(new: dict[str, Any]) -> None:
    import unittest

    cases = [value for value in new.values() if isinstance(value, type) and issubclass(value, unittest.TestCase)]
    for case in cases:
        result = unittest.defaultTestLoader.loadTestsFromTestCase(case).run(unittest.TestResult())
        for test, trace in [*result.failures, *result.errors]:
            raise AssertionError(f"{test.id()}: {trace.strip().splitlines()[-1]}")
    for name, value in new.items():
        if name.startswith("test") and isinstance(value, types.FunctionType):
            value()


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
