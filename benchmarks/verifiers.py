"""What it costs to run a check in a worker process: the shipped `numeric`, here and there, on the same answers.

Prints one JSON line: microseconds a row in this process and in worker processes (64 groups of four at once, and one group at a time), by
the clock and of CPU, workers included; seconds until the first row of a new process, and until the next row of one that was killed.
Medians over the rounds.

    python benchmarks/verifiers.py [--rows 4000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil

from curators.sampling import make_prompt
from curators.verifiers import Verifier, load_verifier, verify_group
from curators.verifiers.grading import pool
from curators.verifiers.processes import SIZE, Pool
from curators.verifiers.registry import Case

PROMPT = make_prompt("What is 6 * 7?", reference="#### 42")
GROUP = 4


def answers(n: int) -> list[dict[str, Any]]:
    return [{"generation_id": str(i), "text": f"6 * 7 = {40 + i % 4}\nAnswer: {40 + i % 4}", "state": "ok"} for i in range(n)]


def cpu_s() -> float:
    """Of this process and of the workers."""
    workers = [psutil.Process(worker.pid).cpu_times() for worker in pool().workers if worker.pid]
    return time.process_time() + sum(times.user + times.system for times in workers)


async def graded(verifier: Verifier, rows: Sequence[dict[str, Any]], at_once: int) -> tuple[float, float]:
    """Microseconds a row by the clock and of CPU, with as many groups of four at once."""
    slots = asyncio.Semaphore(at_once)

    async def one(group: Sequence[dict[str, Any]]) -> None:
        async with slots:
            assert all(row["state"] == "ok" for row in await verify_group(PROMPT, group, verifier))

    began, worked = time.perf_counter(), cpu_s()
    await asyncio.gather(*(one(rows[i : i + GROUP]) for i in range(0, len(rows), GROUP)))
    return (time.perf_counter() - began) / len(rows) * 1e6, (cpu_s() - worked) / len(rows) * 1e6


def first_row(verifier: Verifier) -> tuple[float, float]:
    """Seconds until the first row of a new process, and until the next row of one that was killed over a row."""
    own, case = Pool(1), Case(prompt="", response="42", reference="42")
    began = time.perf_counter()
    own.submit(verifier, case, 60).result()
    first = time.perf_counter() - began
    own.submit(load_verifier("regex"), Case(prompt="", response="a" * 60 + "b", reference="(a+)+$"), 0.2).result()
    began = time.perf_counter()
    own.submit(verifier, case, 60).result()
    again = time.perf_counter() - began
    own.close()
    return first, again


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    here = load_verifier("numeric")
    there = replace(here, in_process_chars=0)
    rows = answers(given.rows)
    await graded(there, rows[:100], 64)
    ways = {"in_process": (here, 64), "workers": (there, 64), "one_group": (there, 1)}
    figures: dict[str, float] = {}
    for name, (verifier, at_once) in ways.items():
        clock, cpu = zip(*[await graded(verifier, rows, at_once) for _ in range(given.rounds)], strict=True)
        figures |= {f"{name}_us": round(statistics.median(clock), 1), f"{name}_cpu_us": round(statistics.median(cpu), 1)}
    starts = [first_row(there) for _ in range(given.rounds)]
    figures |= {"first_row_s": round(statistics.median(s for s, _ in starts), 3)}
    figures |= {"after_a_kill_s": round(statistics.median(s for _, s in starts), 3)}
    print(json.dumps({"benchmark": "verifiers", "rows": given.rows, "processes": SIZE, **figures}))


if __name__ == "__main__":
    asyncio.run(main())
