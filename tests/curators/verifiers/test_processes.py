"""Worker processes that hang, die, are overtaken by an edit; what is left of them when the program ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import psutil
import pytest

from curators.sampling import make_prompt
from curators.verifiers import Verifier, load_verifier, verify_group, verify_rows
from curators.verifiers.processes import Pool
from curators.verifiers.registry import Case

CODE = """
import os, resource, subprocess, sys, time

def act(*, prompt, response, reference):
    if response == "hang":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        time.sleep(60)
    if response == "die":
        os._exit(3)
    if response == "exit":
        sys.exit("gone")
    if response == "limit":
        return float(resource.getrlimit(resource.RLIMIT_DATA)[0])
    if response == "talk":
        print("to standard output")
        return sys.stdin.read() == ""
    return float(os.getpid())
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(1)
    yield pool
    pool.close()


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verifier:
    return made(tmp_path, monkeypatch)


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str = CODE) -> Verifier:
    name = f"acts_{abs(hash(folder))}"
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop(name, None)
    return load_verifier(f"{name}:act")


def case(response: str, reference: str | None = None) -> Case:
    return Case(prompt="", response=response, reference=reference)


def outcomes(pool: Pool, verifier: Verifier, *responses: str, timeout_s: float = 20.0) -> list[tuple[str, Any]]:
    found = [pool.submit(verifier, case(response), timeout_s) for response in responses]
    return [(row["state"], row["reason"] if row["state"] != "ok" else row["scores"][0]) for row in (f.result(60) for f in found)]


def test_a_check_that_hangs_is_killed_with_all_it_started_and_costs_its_row_only(pool: Pool, act: Verifier) -> None:
    ((_, first),) = outcomes(pool, act, "")
    watched = psutil.Process(int(first))
    hanging = pool.submit(act, case("hang"), 1.0)
    for _ in range(100):
        if started := watched.children():
            break
        time.sleep(0.01)
    states = outcomes(pool, act, "", "", timeout_s=1.0)
    assert hanging.result()["reason"] == f"verifier {act.name}: no answer in 1 s"
    assert [state for state, _ in states] == ["ok", "ok"]
    assert states[0] == states[1] != ("ok", first)
    assert psutil.wait_procs([watched, *started], timeout=5)[1] == []
    assert len(pool.workers) == 1


def test_a_regular_expression_that_explodes_is_killed(pool: Pool) -> None:
    regex = load_verifier("regex")
    bad = pool.submit(regex, case("a" * 50 + "b", "(a+)+$"), 0.5)
    good = pool.submit(regex, case("aaa", "(a+)+$"), 20.0)
    assert bad.result()["reason"] == "verifier regex: no answer in 0.5 s"
    assert good.result()["scores"] == [1.0]


def test_a_process_that_dies_costs_its_row_only(pool: Pool, act: Verifier) -> None:
    found = outcomes(pool, act, "die", "", "exit", "talk")
    assert found[0] == ("verifier_error", f"verifier {act.name}: its process ended with 3")
    assert found[2] == ("verifier_error", f"verifier {act.name} raised SystemExit: gone")
    assert [state for state, _ in found] == ["verifier_error", "ok", "verifier_error", "ok"]
    assert found[3] == ("ok", 1.0)


def test_rows_are_spread_over_a_few_processes_from_any_thread_and_loop(act: Verifier) -> None:
    pool, found = Pool(2), []
    prompt, answers = make_prompt("Q"), [{"generation_id": str(i), "text": "", "state": "ok"} for i in range(3)]

    def work(how: Any) -> None:
        found.extend(how())

    calls = [
        lambda: asyncio.run(verify_group(prompt, answers, act)),
        lambda: asyncio.run(verify_group(prompt, answers, act)),
        lambda: verify_rows(prompt, answers, act),
        lambda: verify_rows(prompt, answers, act),
    ]
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["state"] for row in found] == ["ok"] * 12
    assert os.getpid() not in {row["scores"][0] for row in found}
    wait([pool.submit(act, case(""), 20.0) for _ in range(20)])
    assert len(pool.workers) == 2
    pool.close()


async def test_a_group_that_nobody_waits_for_is_not_checked(act: Verifier) -> None:
    prompt, answers = make_prompt("Q"), [{"generation_id": str(i), "text": "hang", "state": "ok"} for i in range(40)]
    task = asyncio.create_task(verify_group(prompt, answers, act, timeout_s=0.3))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    began = time.monotonic()
    assert (await verify_group(prompt, [{**answers[0], "text": ""}], act))[0]["state"] == "ok"
    assert time.monotonic() - began < 3  # 40 rows of 0.3 s, had they been checked, take longer


def test_edited_code_is_run_by_a_new_process(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = made(tmp_path, monkeypatch, "def act(*, prompt, response, reference):\n    return 1.0\n")
    assert outcomes(pool, old, "") == [("ok", 1.0)]
    new = made(tmp_path, monkeypatch, "def act(*, prompt, response, reference):\n    return 22.0\n")
    assert new.name == old.name
    assert outcomes(pool, new, "") == [("ok", 22.0)]
    ((state, reason),) = outcomes(pool, old, "")
    assert (state, "its code has changed: the digest was" in reason) == ("verifier_error", True)
    assert outcomes(pool, new, "") == [("ok", 22.0)]


def test_shipped_checks_have_a_limit_on_memory_and_a_users_has_none(pool: Pool, act: Verifier) -> None:
    outcomes(pool, load_verifier("regex"), "x")
    limit = psutil.Process(pool.workers[0].pid).rlimit(psutil.RLIMIT_DATA)[0]
    assert limit == 2 << 30
    assert outcomes(pool, act, "limit") == [("ok", float(psutil.RLIM_INFINITY))]


def test_a_check_that_only_this_process_has_is_an_error(pool: Pool) -> None:
    local = Verifier(name="local", check=lambda *, prompt, response, reference: True, code_digest="0")
    ((state, reason),) = outcomes(pool, local, "")
    assert (state, reason.partition(" is not")[0]) == (
        "verifier_error",
        "verifier local: a worker process cannot load it: verifier: 'local'",
    )


PROGRAM = """
import os, sys, threading, time
from curators.verifiers.grading import pool
from curators.verifiers.registry import Case, load_verifier
def ask(response, name="regex"):
    return pool().submit(load_verifier(name), Case(prompt="", response=response, reference="(a+)+$"), 2.0)
ask("a").result()
"""


def run(program: str, *, kill: bool = False) -> tuple[subprocess.CompletedProcess[str], list[psutil.Process]]:
    """A program's end, and the processes that it had started when it printed its first line."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    children = psutil.Process(process.pid).children()
    if kill:
        process.kill()
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err), children


def test_the_program_ends_with_its_processes_and_waits_for_no_check() -> None:
    began = time.monotonic()
    ended, children = run("ask('a' * 60 + 'b')\nprint('asked', flush=True)\ntime.sleep(0.3)")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert time.monotonic() - began < 30
    assert children
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.parametrize("asked", ["", pytest.param("ask('a' * 60 + 'b')", marks=pytest.mark.slow)])
def test_nothing_is_left_of_a_program_that_was_killed(asked: str) -> None:
    ended, children = run(f"{asked}\ntime.sleep(0.1)\nprint('asked', flush=True)\ntime.sleep(60)", kill=True)
    assert ended.returncode == -signal.SIGKILL
    assert children
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_a_forked_program_has_processes_of_its_own() -> None:
    program = """
before = pool().workers[0].pid
print("asked", flush=True)
if os.fork() == 0:
    found = ask("a").result()["scores"]
    print(found, pool().workers[0].pid != before, flush=True)
    sys.exit()
os.wait()
print(ask("a").result()["scores"], pool().workers[0].pid == before)
"""
    ended, _ = run(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[1.0] True\n[1.0] True\n", "")


def test_a_process_that_does_not_start_is_an_error(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes(pool, load_verifier("regex"), "x")
    pool.workers[0].kill()
    with monkeypatch.context() as patched:
        patched.setattr("sys.executable", "/no/such/python")
        ((state, reason),) = outcomes(pool, load_verifier("regex"), "x")
    assert (state, reason) == (
        "verifier_error",
        "verifier regex: a worker process cannot load it: [Errno 2] No such file or directory: '/no/such/python'",
    )
    assert outcomes(pool, load_verifier("json"), "1") == [("ok", 1.0)]
