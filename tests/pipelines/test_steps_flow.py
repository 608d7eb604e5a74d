"""Flow `steps` as a user runs it: the command, a real Prefect server, and a process that is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl
import pytest

import storage
from pipelines.server import QUIET
from tests.pipelines.conftest import outcome, write_prompts

Pairmill = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
WORDS = {
    "dataset": "sums",
    "policy": "fake:",
    "verifier": "by_length:odd",
    "search": {"simulations": 8, "max_depth": 6},
    "steps": {"delimiter": " ", "answer": "what|holds|so|it"},
}
VERIFIER = "def odd(*, prompt, response, reference):\n    return len(response) % 2 == 1\n"


def write_config(folder: Path, n: int, **changes: Any) -> Path:
    """A search on the words of a fake, of `n` prompts."""
    (folder / "by_length.py").write_text(VERIFIER)
    prompts = write_prompts(folder / "p.jsonl", [f"What is {i} + {i}?" for i in range(n)])
    path = folder / "steps.json"  # which YAML holds
    path.write_text(json.dumps({**WORDS, "prompts": str(prompts), **changes}))
    return path


def test_the_command_publishes(pairmill: Pairmill, tmp_path: Path) -> None:
    first = pairmill("run", "steps", "--config", str(write_config(tmp_path, 8)))
    assert first.returncode == 0, first.stderr
    told = outcome(first)
    assert (told["outcome"], told["version"], told["trees"]) == ("published", 1, {"known": 0, "searched": 8})
    assert "prompts: 8/8" in first.stderr


@pytest.mark.slow
def test_the_command_makes_other_pairs_without_a_call_and_a_trainer_of_whole_answers_refuses_steps(
    pairmill: Pairmill, tmp_path: Path
) -> None:
    config = str(write_config(tmp_path, 8, tag="nightly"))
    assert pairmill("run", "steps", "--config", config).returncode == 0
    assert outcome(pairmill("run", "steps", "--config", config))["outcome"] == "reused"
    other = pairmill("run", "steps", "--config", config, "--set", "pairs.min_gap=0", "--set", "gates.min_pairs=1000")
    assert other.returncode == 3
    assert (outcome(other)["trees"], outcome(other)["calls"]["requests"]) == ({"known": 8}, 0)
    export = pairmill("export", "sums@nightly", "--view", "dpo", "--to", str(tmp_path / "h"))
    assert export.returncode == 1
    assert "views step and step-dpo are for pairs of steps" in export.stderr


SLOW_FAKE = """
import asyncio, os, sys
from curators.engines import fake
from curators.engines.fake import FakeEngine
from curators.errors import EngineBusy

class Slow(FakeEngine):
    async def complete(self, request):
        if self.calls >= int(os.environ.get("CALLS", "1000000")):
            raise EngineBusy("http://127.0.0.1:9/v1 cannot be reached")
        with open("asked", "a") as asked:
            asked.write(request.key + "\\n")
        await asyncio.sleep(0.05)
        reply = await super().complete(request)
        with open("answered", "a") as answered:
            answered.write(request.key + "\\n")
        return reply

fake.open_fake = lambda name: Slow()
from pipelines.cli import main
main(["run", "steps", "--config", sys.argv[1]])
"""


class Process:
    """`pairmill run steps` on a fake that takes its time and notes what it is asked for."""

    def __init__(self, folder: Path, config: Path, lake: Path, api: str, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        (folder / "main.py").write_text(SLOW_FAKE)
        (folder / "by_length.py").write_text(VERIFIER)
        path = os.pathsep.join([str(ROOT), str(folder)])
        environment = {**os.environ, **QUIET, "PREFECT_API_URL": api, "PAIRMILL_LAKE": str(lake), "PYTHONPATH": path, **environment}
        command = [sys.executable, "main.py", str(config)]
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True)

    def noted(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def told(self) -> dict[str, Any]:
        assert self.process.wait(timeout=280) == 0, self.noted("err")[-20:]
        return dict(json.loads(self.noted("out")[-1]))


@pytest.mark.slow
def test_a_run_that_is_killed_repeats_what_was_in_flight_and_ends_as_if_nothing_had_been(prefect_api: str, tmp_path: Path) -> None:
    """500 searches with one leaf of each tree pending, killed with SIGKILL when about half of the calls are made."""
    n, at_once = 500, 64
    config = write_config(tmp_path, n, concurrent_trees=at_once, shard_prompts=100)
    alone = Process(tmp_path / "alone", config, tmp_path / "alone-lake", prefect_api)
    undisturbed, n_calls = alone.told(), len(alone.noted("asked"))
    assert undisturbed["counts"]["trees"] == n

    lake = tmp_path / "lake"
    first = Process(tmp_path / "first", config, lake, prefect_api)
    while len(first.noted("answered")) < n_calls // 2:
        assert first.process.poll() is None, first.noted("err")[-20:]
        time.sleep(0.05)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    (directory,) = (lake / "runs").glob("*/prompts.parquet")
    parts = sorted(directory.parent.glob("*.nodes.parquet"))
    with storage.open_lake(lake) as opened:
        there = opened.facts("nodes")
        assert storage.list_datasets(opened) == []
    kept = {prompt_id for nodes in (there, *map(pl.read_parquet, parts)) if nodes.width for prompt_id in nodes["prompt_id"]}
    assert 0 < len(kept) < n

    second = Process(tmp_path / "second", config, lake, prefect_api)
    told = second.told()
    asked, again = first.noted("asked"), second.noted("asked")
    assert told["trees"] == {"known": len(kept), "searched": n - len(kept)}
    assert not {key.split("/")[1] for key in again} & kept
    assert len(asked) + len(again) <= n_calls + at_once, "only what was in flight is asked for again"
    assert set(asked) & set(again) <= set(asked) - set(first.noted("answered")[:-at_once])
    for key in ("digest", "counts", "funnel", "search", "run_key"):
        assert told[key] == undisturbed[key]
    with storage.open_lake(lake) as one, storage.open_lake(tmp_path / "alone-lake") as other:
        assert storage.resolve(one, "sums").facts_digest == storage.resolve(other, "sums").facts_digest
        assert one.facts("nodes").equals(other.facts("nodes"))


@pytest.mark.slow
def test_an_endpoint_that_goes_down_in_the_middle_is_one_line_and_half_a_night_is_not_published(prefect_api: str, tmp_path: Path) -> None:
    config, lake = write_config(tmp_path, 40, concurrent_trees=4, shard_prompts=10, concurrent_shards=2), tmp_path / "lake"
    down = Process(tmp_path / "down", config, lake, prefect_api, CALLS="150")
    assert down.process.wait(timeout=280) == 1
    assert down.noted("err")[-1] == "pairmill: http://127.0.0.1:9/v1 cannot be reached"
    assert "Traceback" not in "".join(down.noted("err"))
    with storage.open_lake(lake) as opened:
        kept = opened.facts("nodes").filter(pl.col("parent_id").is_null())
        assert storage.list_datasets(opened) == []
    assert 0 < kept.height < 40
    assert set(kept["tree_state"]) == {"finished"}
    up = Process(tmp_path / "up", config, lake, prefect_api)
    told = up.told()
    assert (told["outcome"], told["trees"]["searched"]) == ("published", 40 - told["trees"]["known"])
    assert told["trees"]["known"] >= kept.height
    assert not {key.split("/")[1] for key in up.noted("asked")} & set(kept["prompt_id"])


@pytest.mark.slow
def test_the_embedded_policy_is_searched_and_trains_on_its_steps(pairmill: Pairmill, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = pairmill("run", "steps", "--config", "examples/arithmetic/steps.yaml", "--set", "limit=40", "--set", "gates.min_pairs=1")
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    assert told["counts"]["pairs"] > 20
    assert told["search"]["mixed"]["share"] > 0.4
    trained = pairmill(
        *("run", "train", "--set", f"dataset=arithmetic-steps@{told['version']}", "--set", "view=step", "--set", "params.epochs=1"),
        *(
            "--set",
            "evaluation.prompts=examples/arithmetic/eval.jsonl",
            "--set",
            "evaluation.verifier=examples.arithmetic.world:check_answer",
        ),
        *("--set", "evaluation.n_prompts=20", "--set", "evaluation.max_tokens=160"),
    )
    assert trained.returncode == 0, trained.stderr
    assert outcome(trained)["evaluation"]["n_prompts"] == 20
