"""Any trainer: what it is given, what it must leave, and what is said when it does not."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curators.errors import ConfigError
from pipelines.training.job import TrainerError, TrainResult, fill, finished, progress, run_trainer, write_json

WRITE = "import os; write = open(os.environ['PAIRMILL_OUT'] + '/result.json', 'w').write; "
GOOD = """
import json, os, pathlib, sys
handoff, policy, out, params = sys.argv[1:]
assert handoff == os.environ["PAIRMILL_HANDOFF"] and out == os.environ["PAIRMILL_OUT"]
learning_rate = json.load(open(params))["learning_rate"]
checkpoint = pathlib.Path(out) / "weights"
checkpoint.mkdir()
(checkpoint / "model.bin").write_text(policy)
print(json.dumps({"step": 1, "steps": 2, "loss": learning_rate}))
print("a bar 50%", end="\\r"); print("a bar 100%", file=sys.stderr)
pathlib.Path(out, "result.json").write_text(json.dumps({"checkpoint": "weights", "metrics": {"loss": learning_rate}}))
"""


async def train(tmp_path: Path, source: str, *, arguments: str = "{handoff} {policy} {out} {params}", **options: Any) -> TrainResult:
    (tmp_path / "hand off").mkdir(exist_ok=True)
    script = tmp_path / "trainer.py"
    script.write_text(source)
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {arguments}"
    given: dict[str, Any] = {"policy_path": "org/model", "out_dir": tmp_path / "out", "params": {"learning_rate": 0.5}, "timeout_s": 60}
    return await run_trainer(command, tmp_path / "hand off", **{**given, **options})


async def test_a_trainer_gets_the_four_things_and_gives_a_checkpoint(tmp_path: Path) -> None:
    lines: list[str] = []
    result = await train(tmp_path, GOOD, on_line=lines.append)
    assert result.metrics == {"loss": 0.5}
    assert (result.checkpoint / "model.bin").read_text() == "org/model"
    assert [p["loss"] for line in lines if (p := progress(line))] == [0.5]
    assert {"a bar 50%", "a bar 100%"} <= set(lines)
    assert b"a bar 50%\r" in result.log.read_bytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("print('out of memory'); raise SystemExit(3)", r"ended with exit code 3\..*\n  \| out of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with signal SIGKILL"),
        ("os.remove(os.environ['PAIRMILL_OUT'] + '/result.json')", r"left no result\.json; a trainer must write .*no output"),
        ("write('{\"checkpoint\":')", "that does not parse"),
        ("write('[1]')", "without a `checkpoint` string"),
        (
            'write(\'{"checkpoint": "w", "metrics": {}}\')',
            "checkpoint is .*w, where there is nothing",
        ),
        (
            'write(\'{"checkpoint": "w", "metrics": {"loss": NaN}}\')',
            "NaN is not JSON; a metric that is not finite means that training failed",
        ),
    ],
)
async def test_a_failure_names_command_cause_and_last_lines(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(TrainerError, match=rf"(?s)the trainer `.*trainer\.py.*` .*{message}"):
        await train(tmp_path, WRITE + source)


async def test_an_old_result_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    await train(tmp_path, GOOD)
    with pytest.raises(TrainerError, match=r"left no result\.json"):
        await train(tmp_path, "pass")


async def test_a_result_that_stays_is_one_of_a_trainer_that_ended_well(tmp_path: Path) -> None:
    assert finished(tmp_path / "out") is None
    result = await train(tmp_path, GOOD)
    assert finished(tmp_path / "out") == result
    with pytest.raises(TrainerError, match="exit code 3"):
        await train(tmp_path, GOOD.replace("checkpoint.mkdir()", "") + "raise SystemExit(3)")
    assert finished(tmp_path / "out") is None


async def test_only_the_last_lines_are_shown_and_all_are_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(TrainerError) as caught:
        await train(tmp_path, "for n in range(500): print('line', n)\nprint('x' * 200000)\nraise SystemExit(1)")
    assert "| line 499" in str(caught.value)
    assert "| line 400" not in str(caught.value)
    assert "line 0\n" in (tmp_path / "out" / "trainer.log").read_text()


async def test_bytes_that_are_not_utf8_end_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    await train(tmp_path, "import sys\nsys.stdout.buffer.write(b'caf\\xe9\\n'); sys.stdout.flush()\n" + GOOD, on_line=lines.append)
    assert "caf\N{REPLACEMENT CHARACTER}" in lines


def gone(pid: int) -> bool:
    """Dead, at most half a minute after it was killed: a process that waits for a core does not die before it has one."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


async def sleep_for_ever(tmp_path: Path, *, timeout_s: float, on_line: Callable[[str], None]) -> TrainResult:
    """A trainer with a child of its own, whose id it prints. A shell, as it starts at once on a busy machine too."""
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    return await run_trainer(command, tmp_path, policy_path="m", out_dir=tmp_path / "out", params={}, timeout_s=timeout_s, on_line=on_line)


async def test_time_out_stops_the_trainer_and_its_children(tmp_path: Path) -> None:
    pids: list[str] = []
    with pytest.raises(TrainerError, match="did not end within 4 s and was stopped; raise `timeout_s`"):
        await sleep_for_ever(tmp_path, timeout_s=4, on_line=pids.append)
    assert gone(int(pids[0]))


async def test_cancelling_stops_the_trainer(tmp_path: Path) -> None:
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(sleep_for_ever(tmp_path, timeout_s=600, on_line=started.set_result))
    pid = int(await started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid)


async def test_the_loop_stays_free_while_a_trainer_runs(tmp_path: Path) -> None:
    """The trainer waits for a file that this test writes when it has seen a line: with a blocked loop neither would go on."""
    go = tmp_path / "go"
    source = f"import os, time\nprint('ready', flush=True)\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n" + GOOD
    ready = asyncio.Event()
    task = asyncio.create_task(train(tmp_path, source, on_line=lambda line: ready.set()))
    await ready.wait()
    go.touch()
    assert (await task).metrics == {"loss": 0.5}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "train.command is empty"),
        ("python 'train.py", "does not parse: No closing quotation"),
        (
            "python train.py {handof}",
            r"the placeholder \{handof\}; there are \{handoff\}, \{policy\}, \{out\}, \{params\}.*write \{\{handof\}\}",
        ),
        ("no-such-trainer --data {handoff}", "'no-such-trainer' cannot be started: No such file"),
    ],
)
async def test_a_command_that_cannot_be_one(tmp_path: Path, command: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await run_trainer(command, tmp_path, policy_path="m", out_dir=tmp_path / "out", params={}, timeout_s=5)


async def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing is not a directory"):
        await run_trainer(None, tmp_path / "missing", policy_path="m", out_dir=tmp_path / "out", params={}, timeout_s=5)
    with pytest.raises(ConfigError, match=r"params\.json must be JSON"):
        await run_trainer(None, tmp_path, policy_path="m", out_dir=tmp_path / "out", params={"a": float("inf")}, timeout_s=5)


def test_an_argument_list_is_taken_as_it_is() -> None:
    assert fill(["a b", "{out}/x", "{{}}"], {"out": "/o o"}) == ["a b", "/o o/x", "{}"]


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ConfigError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]
