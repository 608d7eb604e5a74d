"""The whole card on the embedded models: wall time and calls per stage, how much of it an engine was at work, and the same night again.

The share of a stage's wall time in engines is that of the union of its requests' times, by the call ledger (of `train`: the answers to the
exam; the training itself is none). The second run must send nothing.

    python benchmarks/nightly.py [--prompts 400] [--place DIR]
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def night(lake: Path, prompts: int) -> dict[str, Any]:
    """One run of the command; its outcome, with when it began."""
    words = ["run", "nightly", "--config", "examples/arithmetic/nightly.yaml", "--lake", str(lake), "--set", "seed=1"]
    words += ["--set", f"curate.limit={prompts}", "--set", f"steps.limit={prompts // 2}"]
    begun = time.time()
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return {**json.loads(done.stdout.splitlines()[-1]), "command_seconds": round(time.time() - begun, 1)}


def at_work(lake: Path, start: float, stop: float) -> float:
    """Seconds between both times in which a request was under way."""
    with sqlite3.connect(f"file:{lake / 'calls.sqlite'}?mode=ro", uri=True) as ledger:
        rows = ledger.execute("SELECT created_at - latency_s, created_at FROM calls ORDER BY 1").fetchall()
    total, until = 0.0, start
    for begun, ended in rows:
        begun, ended = max(begun, until), min(ended, stop)
        if ended > begun:
            total, until = total + ended - begun, ended
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--place", type=Path)
    args = parser.parse_args()
    lake = (args.place or Path(tempfile.mkdtemp(prefix="pairmill-night-"))) / "lake"
    for again in (False, True):
        begun = time.time()
        found = night(lake, args.prompts)
        ended = time.time()
        clock = ended - found["seconds"]  # what follows the last stage, the page and the server, takes a second or two
        for stage in found["stages"]:
            engines = at_work(lake, clock, clock + stage["seconds"])
            clock += stage["seconds"]
            calls = stage["calls"] or {}
            told = {name: calls.get(name) for name in ("requests", "hits", "prompt_tokens", "completion_tokens")}
            share = round(engines / stage["seconds"], 3)
            print(
                json.dumps(
                    {"bench": "nightly", "again": again, "stage": stage["stage"], "outcome": stage["outcome"]}
                    | {"seconds": stage["seconds"], "engines_share": share, **told}
                ),
                flush=True,
            )
        whole = at_work(lake, begun, ended) / (ended - begun)
        print(
            json.dumps(
                {"bench": "nightly", "again": again, "seconds": found["seconds"], "command_seconds": found["command_seconds"]}
                | {"engines_share": round(whole, 3), "requests": found["calls"]["requests"]}
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
