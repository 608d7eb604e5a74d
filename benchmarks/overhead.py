"""The whole flow against a mock server (issue's Measured b, d): efficiency, CPU, memory, faults, and what a kill repeats.

Prints one JSON line a run. Needs the shared bench folder (server.py, harness.py) beside the checkout; says so and ends where it is missing.

    python benchmarks/overhead.py [--rows 1000] [--rounds 3] [--only n,x,kill,fail,refuse,malformed,slow]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BENCH = ROOT.parent / "shared" / "bench"
BASE = {"cap": 64, "latency": 0.2}
CASES: dict[str, dict[str, Any]] = {
    "n": {"mode": "n", "cfg": BASE},
    "x": {"mode": "x", "cfg": BASE},
    "slow": {"mode": "n", "cfg": {**BASE, "latency": 2.0, "dist": "lognormal"}},
    "fail": {"mode": "x", "cfg": {**BASE, "fail": 0.05}},
    "refuse": {"mode": "x", "cfg": {**BASE, "over": "429"}},
    "malformed": {"mode": "x", "cfg": {**BASE, "malformed": 0.03}},
    "kill": {"mode": "x", "cfg": BASE, "kill_at": 0.4},
}
SHOWN = ("wall", "ideal", "eff_wall", "eff_span", "cold_start", "served", "peak_rss_sum_mb", "foreign", "second_run_served")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CASES))
    args = parser.parse_args()
    if not (BENCH / "server.py").is_file():
        print(json.dumps({"bench": "overhead", "skipped": "no ../shared/bench beside the checkout"}))
        return 0
    with tempfile.TemporaryDirectory() as folder, _mock(Path(folder)) as port, _prefect(Path(folder)) as api:
        subprocess.run([sys.executable, BENCH / "prompts.py", str(args.rows)], cwd=folder, check=True)
        for name in args.only.split(","):
            rounds = args.rounds if name in ("n", "x") else 1
            runs = [_run(Path(folder), name, i, port=port, api=api, rows=args.rows) for i in range(rounds)]
            print(json.dumps(_summary(name, args.rows, runs)), flush=True)
    return 0


@contextmanager
def _mock(folder: Path) -> Iterator[int]:
    from pipelines.server import free_port

    port = free_port()
    with (folder / "mock.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, BENCH / "server.py", "--port", str(port)], stdout=log, stderr=log)
    try:
        yield port
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _prefect(folder: Path) -> Iterator[str]:
    from pipelines.server import prefect_server

    with prefect_server(folder / "server") as api:
        yield api


def _run(folder: Path, name: str, number: int, *, port: int, api: str, rows: int) -> dict[str, Any]:
    """One process, measured from outside."""
    case = CASES[name]
    lake = folder / f"lake-{name}-{number}"
    results = folder / f"{name}-{number}.jsonl"
    harness = [sys.executable, BENCH / "harness.py", "--name", f"{name}-{number}", "--port", str(port), "--cfg", json.dumps(case["cfg"])]
    harness += ["--results", results, "--logdir", folder / "logs"]
    n_requests = rows * (2 if case["mode"] == "n" else 5)
    if "kill_at" in case:
        harness += ["--kill-at", str(int(case["kill_at"] * n_requests))]
    client = [sys.executable, Path(__file__).parent / "workload_w.py", "--prompts", folder / f"prompts_{rows}.jsonl", "--out", lake]
    client += ["--mode", case["mode"], "--base", f"http://127.0.0.1:{port}/v1"]
    environment = {**os.environ, "PREFECT_API_URL": api}
    done = subprocess.run([*map(str, harness), "--", *map(str, client)], env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not results.exists():
        raise SystemExit(f"{name}: the harness failed: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(results.read_text().splitlines()[-1])
    found["requests"] = n_requests
    found["log"] = (folder / "logs" / f"{name}-{number}.log").read_text()[-1500:] if found["rc"] else None
    return found


def _summary(name: str, rows: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    line: dict[str, Any] = {"bench": "overhead", "case": name, "rows": rows, "rounds": len(runs), "rc": [run["rc"] for run in runs]}
    for figure in SHOWN:
        values = [run[figure] for run in runs if run.get(figure) is not None]
        if values:
            line[figure] = round(statistics.median(values), 3)
            line[f"{figure}_range"] = [round(min(values), 3), round(max(values), 3)]
    cpu = [1000 * run["cpu_rusage"] / run["requests"] for run in runs]
    line["cpu_ms_per_request"] = round(statistics.median(cpu), 3)
    if name == "kill":
        first = runs[0]["first_run"]
        line["repeated_requests"] = runs[0]["served"] - runs[0]["requests"]
        line["served_before_the_kill"] = first["served"]
    line["result"] = runs[0].get("result")
    line["log"] = runs[0]["log"]
    return line


if __name__ == "__main__":
    sys.exit(main())
