"""flows.yaml on a real server: schedules that fire, an automation that triggers, a worker that runs, and a clean stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipelines.server import QUIET, answers, free_port
from pipelines.serving import DEAD_RUNS, SILENCE_S, ask, deployments, serving

ROOT = Path(__file__).parents[2]


def eventually(found: Callable[[], Any], within_s: float) -> Any:
    """The first true answer, or the last one when the time is over."""
    deadline = time.monotonic() + within_s
    while not (answer := found()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return answer


def write_flows(path: Path) -> int:
    """The project's own flows.yaml with deterministic engines, so that a triggered run needs no model; how many deployments it has."""
    flows = yaml.safe_load((ROOT / "flows.yaml").read_text())
    by_name = {deployment["name"]: deployment for deployment in flows["deployments"]}
    curate, train = by_name["curate"], by_name["train-on-publish"]
    curate["parameters"]["config"] = {
        "dataset": "arithmetic",
        "prompts": "p.jsonl",
        "policy": {"engine": "fake:"},
        "judge": {"engine": "fake:judge"},
        "seed": "scheduled-date",
        "gates": {"max_judge_inconsistent_share": None},
    }
    train["parameters"]["config"] = {
        "dataset": "arithmetic",
        "policy": {"engine": f"hf:{ROOT / 'examples/arithmetic/policy'}"},
        "command": f"{sys.executable} trainer.py {{policy}} {{out}}",
    }
    path.write_text(yaml.safe_dump(flows))
    return len(flows["deployments"])


SLOW = """
import time

def never(*, prompt, response, reference):
    time.sleep(3600)
"""

TRAINER = """
import json, pathlib, shutil, sys
policy, out = map(pathlib.Path, sys.argv[1:])
shutil.copytree(policy, out / "checkpoint", dirs_exist_ok=True)
(out / "result.json").write_text(json.dumps({"checkpoint": "checkpoint", "metrics": {"loss": 0.5}}))
"""


@pytest.mark.slow
def test_serve_brings_up_schedules_automation_and_a_worker(tmp_path: Path) -> None:
    n = write_flows(tmp_path / "flows.yaml")
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "What is {i} + 1?"}}\n' for i in range(20)))
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, **QUIET, "PAIRMILL_LAKE": str(tmp_path / "lake")}
    env.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port)]
    with (tmp_path / "serve.log").open("wb") as log:
        serve = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        assert eventually(lambda: answers(api), 120), (tmp_path / "serve.log").read_text()
        assert eventually(lambda: len(deployments(api)) == n, 120), (tmp_path / "serve.log").read_text()
        scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        assert eventually(lambda: ask(api, "flow_runs/count", scheduled) > 0, 90), "a schedule without runs: is SQLAlchemy too new?"
        assert eventually(lambda: len(ask(api, "automations/filter", {})) == 4, 30)
        assert {d["name"]: d["next_run"] for d in deployments(api)}["steps/steps"] is None, "it has no schedule"

        curate = next(d for d in ask(api, "deployments/filter", {}) if d["name"] == "curate")
        run = ask(api, f"deployments/{curate['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        ended = ("COMPLETED", "FAILED", "CRASHED")
        assert eventually(lambda: ask(api, f"flow_runs/{run['id']}", None)["state"]["type"] in ended, 180)
        assert ask(api, f"flow_runs/{run['id']}", None)["state"]["type"] == "COMPLETED", worker_log(tmp_path)

        triggered = {"deployments": {"name": {"any_": ["train-on-publish"]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        assert eventually(lambda: ask(api, "flow_runs/filter", triggered), 180), worker_log(tmp_path)
        assert (tmp_path / "lake" / "checkpoints" / "arithmetic" / "1" / "model.safetensors").is_file()
        kinds = {artifact["key"] for artifact in ask(api, "artifacts/filter", {})}
        assert kinds >= {"arithmetic-funnel", "arithmetic-gates", "arithmetic-health", "arithmetic-progress", "arithmetic-outcome"}

        again = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", "flows.yaml", "--all"],
            cwd=tmp_path,
            env={**env, "PREFECT_API_URL": api},
            capture_output=True,
            text=True,
        )
        assert again.returncode == 0, again.stdout + again.stderr
        assert len(deployments(api)) == n
        assert len(ask(api, "automations/filter", {})) == 4
    finally:
        family = psutil.Process(serve.pid).children(recursive=True)
        serve.send_signal(signal.SIGINT)
        assert serve.wait(60) == 0, (tmp_path / "serve.log").read_text()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, "Ctrl-C leaves nothing behind"


@pytest.mark.slow
def test_a_run_that_is_killed_with_its_worker_does_not_stay_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_flows(tmp_path / "flows.yaml")
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "p.jsonl").write_text('{"prompt": "What is 1 + 1?"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with serving(tmp_path / "lake", port=free_port()) as up:
        api = up.api_url
        assert DEAD_RUNS["name"] in {each["name"] for each in ask(api, "automations/filter", {})}
        curate = next(each for each in ask(api, "deployments/filter", {}) if each["name"] == "curate")
        config = {**curate["parameters"]["config"], "verifier": "slow:never"}
        body = {"state": {"type": "SCHEDULED"}, "parameters": {"config": config}}
        run = ask(api, f"deployments/{curate['id']}/create_flow_run", body)

        def state() -> str:
            return str(ask(api, f"flow_runs/{run['id']}", None)["state"]["type"])

        assert eventually(lambda: state() == "RUNNING", 120), worker_log(tmp_path)
        beats = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "occurred": {"since": "2020-01-01T00:00:00Z"}}
        assert eventually(lambda: ask(api, "events/filter", {"filter": beats})["total"], 60)
        worker = psutil.Process(up.worker.pid)
        for process in [*worker.children(recursive=True), worker]:
            process.kill()
        assert eventually(lambda: state() != "RUNNING", 4 * SILENCE_S)
        ended = ask(api, f"flow_runs/{run['id']}", None)["state"]
        assert (ended["type"], "Start it again" in ended["message"]) == ("CRASHED", True)


def worker_log(tmp_path: Path) -> str:
    return (tmp_path / "lake" / "prefect" / "worker.log").read_text()[-4000:]
