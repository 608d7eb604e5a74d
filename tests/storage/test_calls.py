"""The call ledger: what was answered survives anything short of the disk, and two processes do not pay for the same thing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.calls import open_ledger
from storage.errors import StorageError


def row(key: str, value: bytes = b"{}", **fields: object) -> dict[str, object]:
    about = {"run_id": "r", "engine": "fake:", "fingerprint": "f", "request_key": "k", "sent": 1, "latency_s": 0.1}
    return about | {"key": key, "value": value, "prompt_tokens": 3, "completion_tokens": 5, "cost_usd": 0.25} | fields


def failure(**fields: object) -> dict[str, object]:
    kept = {k: v for k, v in row("x").items() if k not in ("key", "value")}
    return kept | {"error": "transport_error", "reason": "reset"} | fields


def test_answers_come_back_and_the_first_one_stays(tmp_path):
    path = tmp_path / "deep" / "calls.sqlite"
    with open_ledger(path) as ledger:
        ledger.write(answers=[row("a", b"1"), row("b", b"2")])
        ledger.write(answers=[row("a", b"other")])
    with open_ledger(path) as ledger:
        assert ledger.get_many(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
        many = [f"k{i}" for i in range(2000)]
        ledger.write(answers=[row(key, key.encode()) for key in many])
        assert ledger.get_many(many) == {key: key.encode() for key in many}


def test_the_summary_counts_what_was_spent_with_and_without_an_answer(tmp_path):
    with open_ledger(tmp_path / "calls.sqlite") as ledger:
        ledger.write(
            answers=[row("a"), row("b", sent=0, cost_usd=0.0), row("c", run_id="other", engine="openai:m@http://h/v1", cost_usd=None)],
            failures=[failure(sent=6)],
            hits=[{"run_id": "r", "engine": "fake:", "n": 7}],
        )
        # Two samples of one request at 0.25, and a failure at 0.25.
        assert ledger.summary(run_id="r") == {
            "samples": 2,
            "hits": 7,
            "requests": 7,
            "failures": 1,
            "prompt_tokens": 9,
            "completion_tokens": 15,
            "usd": 0.5,
        }
        assert ledger.summary(run_id="other")["usd"] is None
        assert ledger.summary(engine="fake:")["samples"] == 2
        assert ledger.summary(since=4e9)["samples"] == 0
        assert ledger.summary()["samples"] == 3


def test_a_claim_is_given_once_and_ends_with_the_answer_or_the_release(tmp_path):
    with open_ledger(tmp_path / "calls.sqlite") as one, open_ledger(tmp_path / "calls.sqlite") as two:
        assert one.write(claim=["a", "b"]) == ({}, {"a", "b"})
        assert two.write(claim=["a", "b", "c"]) == ({}, {"c"})
        assert one.write(claim=["a"]) == ({}, set())
        one.write(answers=[row("a", b"1")], release=["b"])
        assert two.write(claim=["a", "b"]) == ({"a": b"1"}, {"b"})
        two.write(release=["a"])
        one.write(release=["b"])  # not its own: nothing happens
        assert one.write(claim=["b"]) == ({}, set())
    with open_ledger(tmp_path / "calls.sqlite") as three:
        assert three.write(claim=["b", "c"]) == ({}, {"b", "c"})


CHILD = """
import sys, time
from storage.calls import open_ledger
ledger = open_ledger(sys.argv[1])
print(sorted(ledger.write(claim=["a", "b"])[1]), flush=True)
ledger.write(answers=[{**dict.fromkeys(("run_id", "cost_usd")), "engine": "e", "fingerprint": "f", "request_key": "k", "sent": 1,
    "prompt_tokens": 1, "completion_tokens": 1, "latency_s": 0.0, "key": "a", "value": b"1"}])
print("kept", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start():
    """Start a Python program: its stdin stays open until the test ends, and so does it unless it is killed."""
    children: list[subprocess.Popen[str]] = []

    def run(code: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, args)]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.communicate()


def test_the_claims_of_a_killed_process_go_to_the_next_and_its_answers_stay(start, tmp_path):
    path = tmp_path / "calls.sqlite"
    child = start(CHILD, path)
    assert child.stdout.readline() == "['a', 'b']\n"
    assert child.stdout.readline() == "kept\n"
    with open_ledger(path) as ledger:
        assert ledger.write(claim=["a", "b"]) == ({"a": b"1"}, set())
        child.kill()
        child.wait()
        assert ledger.write(claim=["a", "b"]) == ({"a": b"1"}, {"b"})
        assert len(list((tmp_path / "calls.sqlite.owners").iterdir())) == 1


def test_a_forked_child_does_not_keep_its_parents_claims_alive(start, tmp_path):
    path = tmp_path / "calls.sqlite"
    code = """
import os, sys
from storage.calls import open_ledger
ledger = open_ledger(sys.argv[1])
ledger.write(claim=["a"])
if os.fork():
    print("claimed", flush=True)
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""
    child = start(code, path)
    assert child.stdout.readline() == "claimed\n"
    child.wait()
    with open_ledger(path) as ledger:
        deadline = time.monotonic() + 20  # the child lets go as soon as it runs, which on a busy machine may be after its parent's death
        while (claimed := ledger.write(claim=["a"])) != ({}, {"a"}) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert claimed == ({}, {"a"})


def test_many_threads_and_ledgers_write_at_once(tmp_path):
    path = tmp_path / "calls.sqlite"

    def work(n: int) -> None:
        with open_ledger(path) as ledger:
            for i in range(50):
                _, granted = ledger.write(claim=[f"k{i}"])
                ledger.write(answers=[row(key, str(n).encode()) for key in granted])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_ledger(path) as ledger:
        assert ledger.summary()["samples"] == 50


def test_a_torn_log_costs_its_tail_and_nothing_else(start, tmp_path):
    path = tmp_path / "calls.sqlite"
    child = start(CHILD, path)
    child.stdout.readline()
    child.stdout.readline()
    child.kill()
    child.wait()
    wal = path.with_name("calls.sqlite-wal")
    os.truncate(wal, wal.stat().st_size - 100)
    with open_ledger(path) as ledger:
        # The last commit was the answer; its frames are torn, so it never was.
        assert ledger.get_many(["a"]) == {}
        ledger.write(answers=[row("a", b"2")])
        assert ledger.get_many(["a"]) == {"a": b"2"}


def test_what_is_no_ledger_is_named_and_left_alone(tmp_path):
    path = tmp_path / "calls.sqlite"
    path.write_bytes(b"this is a text file, and not a short one" * 50)
    with pytest.raises(StorageError, match=r"calls\.sqlite: file is not a database; it is not a call ledger or is damaged"):
        open_ledger(path)
    assert path.read_bytes().startswith(b"this is a text")
    with pytest.raises(StorageError, match="check that its directory exists"):
        open_ledger(path / "below")


def test_a_later_format_is_refused(tmp_path):
    path = tmp_path / "calls.sqlite"
    with open_ledger(path) as ledger:
        ledger._writer.execute("PRAGMA user_version=99")
    with pytest.raises(StorageError, match="format 99 is later than this program's 1"):
        open_ledger(path)


def test_a_full_disk_is_one_line_and_keeps_what_was_kept(tmp_path):
    path = tmp_path / "calls.sqlite"
    with open_ledger(path) as ledger:
        ledger.write(answers=[row("a")])
        pages = ledger._writer.execute("PRAGMA page_count").fetchone()[0]
        ledger._writer.execute(f"PRAGMA max_page_count={pages + 2}")  # SQLite's own way to a full disk
        with pytest.raises(StorageError, match="database or disk is full; free some space and run again") as caught:
            ledger.write(answers=[row(f"k{i}", b"x" * 5000) for i in range(100)])
        assert "\n" not in str(caught.value)
        assert set(ledger.get_many(["a", "k0"])) == {"a"}
        ledger._writer.execute(f"PRAGMA max_page_count={pages + 1000}")
        ledger.write(answers=[row("b")])
        assert set(ledger.get_many(["a", "b"])) == {"a", "b"}


def test_closing_twice_does_nothing_and_leaves_no_owner(tmp_path: Path):
    ledger = open_ledger(tmp_path / "calls.sqlite")
    ledger.write(claim=["a"])
    ledger.close()
    ledger.close()
    assert list((tmp_path / "calls.sqlite.owners").iterdir()) == []
