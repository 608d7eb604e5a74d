"""What `pairmill plan` says against what the run then does (issue's Measured c): calls and tokens on every flow, embedded models.

Prints one JSON line a case: predicted with its interval, actual, and whether the interval holds it. Every case is planned in the lake that
the cases before it left; `seed` cases ask for new samples, so that earlier ones tell how many calls they lead to.

    python benchmarks/plan.py [--prompts 40] [--trees 24]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.server import prefect_server
from storage.calls import open_ledger

ROOT = Path(__file__).parents[1]
EXAMPLES = "examples/arithmetic"
POLICY = '{"engine": "hf:examples/arithmetic/policy", "threads": 1}'
PROFILES = '["Answer in one line.", "Show every step.", "Use as few words as you can."]'
LOOSE = ("gates.min_pairs=1", "gates.min_judge_agreement=null")


def cases(prompts: int, trees: int) -> list[tuple[str, str, str | None, tuple[str, ...]]]:
    """Name, flow, configuration file and assignments, in order."""
    curate, steps = f"{EXAMPLES}/curate.yaml", f"{EXAMPLES}/steps.yaml"
    c, s = (f"limit={prompts}", *LOOSE), (f"limit={trees}", "gates.min_pairs=1")
    janus = ("dataset=voices", "source=arithmetic@1", f"methods={{janus: {{profiles: {PROFILES}, sampling: {{max_tokens: 160}}}}}}")
    evaluation = f"evaluation={{prompts: {EXAMPLES}/eval.jsonl, verifier: 'examples.arithmetic.world:check_answer', n_prompts: {prompts}}}"
    return [
        ("curate, first run", "curate", curate, c),
        ("curate, other margin", "curate", curate, (*c, "pairs.min_margin=0.3")),
        ("curate, capped", "curate", curate, (*c, "seed=1", f"caps.calls={prompts * 3}", "gates.max_unscored_share=null")),
        ("curate, what the cap left", "curate", curate, (*c, "seed=1")),
        ("curate, another seed", "curate", curate, (*c, "seed=2")),
        ("curate, six samples", "curate", curate, (*c, "sampling.n=6")),
        ("curate, reward model", "curate", f"{EXAMPLES}/reward.yaml", (*c, "seed=3")),
        ("steps, first run", "steps", steps, s),
        ("steps, another seed", "steps", steps, (*s, "seed=1")),
        ("steps, other pairs", "steps", steps, (*s, "pairs.min_gap=0.5")),
        ("select", "select", f"{EXAMPLES}/select.yaml", ()),
        ("contrast, no model", "contrast", f"{EXAMPLES}/contrast.yaml", ("source=arithmetic@1", "gates.min_pairs=1")),
        ("contrast, written", "contrast", None, (*janus, f"writer={POLICY}", "gates.min_pairs=1")),
        ("train", "train", None, ("dataset=arithmetic@1", "params={max_steps: 2, batch_size: 4, threads: 1}", evaluation)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--trees", type=int, default=24)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder) / "server") as api:
        environment = {**os.environ, "PREFECT_API_URL": api, "PAIRMILL_LAKE": str(Path(folder) / "lake")}
        for name, flow, file, assignments in cases(args.prompts, args.trees):
            asked = [flow, *(["--config", file] if file else []), *(word for each in assignments for word in ("--set", each)), "--json"]
            began = time.monotonic()
            plan = _pairmill("plan", asked, environment)
            planned_s = time.monotonic() - began
            told = _pairmill("run", asked, environment)
            print(json.dumps(_line(name, plan, told, Path(folder) / "lake") | {"plan_s": round(planned_s, 1)}), flush=True)
    return 0


def _pairmill(command: str, asked: list[str], environment: dict[str, str]) -> dict[str, Any]:
    words = [sys.executable, "-m", "pipelines.cli", command, *asked]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{command} {asked}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _line(name: str, plan: dict[str, Any], told: dict[str, Any], lake: Path) -> dict[str, Any]:
    calls = told.get("calls")
    if calls is None:
        with open_ledger(lake / "calls.sqlite") as ledger:
            calls = ledger.summary(run_id=told["run_key"])
    actual = {"calls": calls["requests"], "tokens": calls["prompt_tokens"] + calls["completion_tokens"]}
    line: dict[str, Any] = {"bench": "plan", "case": name}
    for figure, found in actual.items():
        said = plan[figure]
        if figure == "calls" and (cap := next((stop for stop in plan["stops"] if stop["cap"] == "calls"), None)):
            said = {bound: None if value is None else min(value, cap["limit"]) for bound, value in said.items()}
        if figure == "tokens" and plan["stops"]:
            said = {**said, "low": 0}  # the plan's tokens are those of the whole run
        held = said["low"] <= found and (said["high"] is None or found <= said["high"])
        line[figure] = {"planned": said["expected"], "low": said["low"], "high": said["high"], "actual": found, "held": held}
    rows = (told.get("counts") or {}).get("pairs")
    version = f"{told['dataset']}@{told['version']}" if told.get("version") else None
    diff = plan["diff"] and {name: plan["diff"][name] for name in ("added", "removed", "changed")}
    return line | {"rows": {**(plan["rows"] or {}), "actual": rows}, "version": [plan["version"], version], "diff": diff}


if __name__ == "__main__":
    sys.exit(main())
