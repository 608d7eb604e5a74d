"""`make demo` as one measurement (issue's Measured a): seconds in all, calls, tokens, and the gain with its interval.

python benchmarks/demo.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from storage.checkpoints import checkpoints

ROOT = Path(__file__).parents[1]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        began = time.monotonic()
        command = [sys.executable, str(ROOT / "examples" / "arithmetic" / "demo.py")]
        done = subprocess.run(command, env={**os.environ, "PAIRMILL_LAKE": str(lake)}, cwd=ROOT, capture_output=True, text=True)
        seconds = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"the demo ended with exit code {done.returncode}: {done.stderr[-2000:]}")
        (run,) = (json.loads(path.read_text()) for path in (lake / "runs").glob("*/outcome.json"))
        (checkpoint,) = checkpoints(lake, "arithmetic")
    evaluation = checkpoint.metrics["evaluation"]
    figures = ("accuracy_before", "accuracy_after", "gain", "low", "high", "n_prompts", "n_samples")
    line = {"bench": "demo", "wall_s": round(seconds, 1), "sampling_and_judging_s": run["seconds"], "calls": run["calls"]}
    print(json.dumps({**line, "version": run["version"], "pairs": run["counts"]["pairs"], **{name: evaluation[name] for name in figures}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
