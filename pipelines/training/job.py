"""The contract with any trainer: a command that receives a hand-off directory and leaves a checkpoint.

A trainer is a process, so that a team's own one may use another environment, machine or scheduler. It receives four things, as
placeholders in its command and as environment variables, and writes one file:

| placeholder | variable | what |
|---|---|---|
| `{handoff}` | `PAIRMILL_HANDOFF` | the hand-off directory: `handoff.json` beside the data |
| `{policy}` | `PAIRMILL_POLICY` | the model to train: a directory, a `.gguf` file, or a spec that only the trainer knows |
| `{out}` | `PAIRMILL_OUT` | where to write |
| `{params}` | `PAIRMILL_PARAMS` | a JSON file of the run's `params` |

`result.json` in the out directory, written last and by rename: `{"checkpoint": PATH, "metrics": {…}}`; a relative path counts from there.
A line of output that is a JSON object is a progress record; every line goes to `trainer.log`. Nothing here knows a training library.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import re
import shlex
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from curators.errors import ConfigError, CurationError
from pipelines.processes import end_with_parent

DEFAULT_COMMAND = (
    sys.executable,
    "-m",
    "pipelines.training.dpo",
    "--handoff",
    "{handoff}",
    "--policy",
    "{policy}",
    "--out",
    "{out}",
    "--params",
    "{params}",
)
"""The built-in DPO job, run by the Python that runs the flow."""

PLACEHOLDERS = ("handoff", "policy", "out", "params")
RESULT = "result.json"
LOG = "trainer.log"
KEPT_LINES = 20
MAX_LINE = 65_536
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a trainer left: the checkpoint's path (it exists), its metrics as it wrote them, and the log of its output."""

    checkpoint: Path
    metrics: dict[str, Any]
    log: Path


class TrainerError(CurationError):
    """A trainer failed, ran out of time, or did not leave what the contract asks for."""


async def run_trainer(
    command: Sequence[str] | str | None,
    handoff_dir: Path,
    *,
    policy_path: Path | str,
    out_dir: Path,
    params: Mapping[str, Any],
    timeout_s: float,
    on_line: Callable[[str], None] | None = None,
) -> TrainResult:
    """Run one trainer to its end and check what it left.

    Args:
        command: an argument list, or a line in shell quoting (no shell runs it); null is the built-in DPO job.
        out_dir: made if missing. What an interrupted run left there stays, so that a trainer may resume, but for a `result.json`, an old
            one or that of a trainer that fails.
        on_line: called in the event loop with each line of output, without its line ending; a carriage return ends a line too.

    Raises:
        ConfigError: the command is empty, names an unknown placeholder or a program that is not there, or a path is missing.
        TrainerError: non-zero exit, time out, or no valid `result.json`. The message ends with the last lines of output.

    The trainer runs in its own process group, which is killed when this call is cancelled or the time is over; the
    trainer itself is killed when this process dies.
    """
    out_dir = Path(out_dir).resolve()
    argv, environment = _invocation(command, Path(handoff_dir).resolve(), policy_path=policy_path, out_dir=out_dir, params=params)
    last: deque[str] = deque(maxlen=KEPT_LINES)

    def keep(line: str) -> None:
        last.append(line)
        if on_line is not None:
            on_line(line)

    try:
        _check_end(await _run(argv, environment, out_dir / LOG, keep, timeout_s=timeout_s), timeout_s)
        return _read_result(out_dir)
    except BaseException as error:
        (out_dir / RESULT).unlink(missing_ok=True)
        if not isinstance(error, TrainerError):
            raise
        raise TrainerError(f"the trainer `{shlex.join(argv)}` {error}. Its log is {out_dir / LOG}, {_tail(last)}") from error


def finished(out_dir: Path) -> TrainResult | None:
    """What a trainer that ended well left in the out directory, or null: with it, nothing needs to be trained again."""
    try:
        return _read_result(Path(out_dir).resolve())
    except TrainerError:
        return None


def _invocation(
    command: Sequence[str] | str | None, handoff_dir: Path, *, policy_path: Path | str, out_dir: Path, params: Mapping[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the trainer; its out directory is there, without a result."""
    if not handoff_dir.is_dir():
        raise ConfigError(f"the hand-off {handoff_dir} is not a directory; make one with `pairmill export … --format duckdb`")
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / RESULT).unlink(missing_ok=True)
    params_file = out_dir / "params.json"
    write_json(params_file, dict(params))
    policy = str(Path(policy_path).resolve()) if Path(policy_path).exists() else str(policy_path)
    values = dict(zip(PLACEHOLDERS, (str(handoff_dir), policy, str(out_dir), str(params_file)), strict=True))
    own = {f"PAIRMILL_{name.upper()}": value for name, value in values.items()}
    return fill(command if command is not None else DEFAULT_COMMAND, values), {**os.environ, "PYTHONUNBUFFERED": "1", **own}


def fill(command: Sequence[str] | str, values: Mapping[str, str]) -> list[str]:
    """The command's arguments with the placeholders filled in; a value with spaces stays one argument.

    >>> fill("train --data {handoff} --set '{{x}}'", {"handoff": "/my lake/h"})
    ['train', '--data', '/my lake/h', '--set', '{x}']

    Raises:
        ConfigError: no argument at all, quotes that do not close, or a placeholder that is not one of `values`.
    """
    try:
        arguments = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as cause:
        raise ConfigError(f"train.command {command!r} does not parse: {cause}") from cause
    if not arguments:
        raise ConfigError("train.command is empty; leave it out for the built-in DPO job")

    def replace(match: re.Match[str]) -> str:
        if (name := match.group(1)) is None:
            return match.group()[0]
        if name not in values:
            raise ConfigError(
                f"train.command has the placeholder {{{name}}}; there are {', '.join(f'{{{known}}}' for known in values)}. "
                f"For the text itself write {{{{{name}}}}}"
            )
        return values[name]

    return [_PLACEHOLDER.sub(replace, argument) for argument in arguments]


def code_of(command: str | None) -> dict[str, Path]:
    """The files by name whose content decides what a trainer does: those that its command names, or the built-in job's.

    Raises:
        ConfigError: the command cannot be one.
    """
    if command is None:
        return {name: Path(__file__).with_name(name) for name in ("dpo.py", "params.py", "rationale.py", "steps.py")}
    values = [argument.rpartition("=")[2] for argument in fill(command, dict.fromkeys(PLACEHOLDERS, ""))]
    return {value: Path(value) for value in values if os.path.isfile(value)}


def progress(line: str) -> dict[str, Any] | None:
    """A line of output as a progress record, or null when it is other text.

    >>> progress('{"step": 10, "steps": 50, "loss": 0.61}')["step"]
    10
    >>> progress("Loading weights") is None
    True
    """
    if not line.lstrip().startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object by rename, so that a reader never sees half of it.

    Raises:
        ConfigError: the value is not JSON (NaN and infinity are not).
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as cause:
        raise ConfigError(f"{path.name} must be JSON: {cause}") from cause
    part = path.with_name(f"{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


async def _run(argv: list[str], environment: dict[str, str], log: Path, keep: Callable[[str], None], *, timeout_s: float) -> int | None:
    """The exit code, or null when the time was over. No process of the group is left behind, however this ends."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGKILL),
        )
    except OSError as cause:
        raise ConfigError(f"train.command: {argv[0]!r} cannot be started: {cause.strerror or cause}") from cause
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            with log.open("wb") as sink:
                await _stream(process.stdout, sink, keep)
            return await process.wait()
    except TimeoutError:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        # The transport keeps the pipe open until it is collected; closing it here leaves nothing for the collector to warn about.
        process._transport.close()  # type: ignore[attr-defined]


async def _stream(source: asyncio.StreamReader, sink: BinaryIO, keep: Callable[[str], None]) -> None:
    """Copy bytes to the log as they come, and hand over whole lines. Progress bars end their lines with a carriage return."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    while True:
        chunk = await source.read(MAX_LINE)
        sink.write(chunk)
        sink.flush()
        *lines, rest = re.split(r"\r\n|\r(?!\Z)|\n", rest + decoder.decode(chunk, final=not chunk))
        if not chunk or len(rest) > MAX_LINE:
            lines, rest = [*lines, rest], ""
        for line in lines:
            if line.strip():
                keep(line.rstrip("\r"))
        if not chunk:
            return


def _tail(last: Sequence[str]) -> str:
    return "its last lines:\n" + ("\n".join(f"  | {line}" for line in last) or "  | (no output)")


def _check_end(exit_code: int | None, timeout_s: float) -> None:
    if exit_code is None:
        raise TrainerError(f"did not end within {timeout_s:g} s and was stopped; raise `timeout_s` or ask for fewer steps")
    if exit_code:
        raise TrainerError(f"ended with {_exit_text(exit_code)}")


def _read_result(out_dir: Path) -> TrainResult:
    """The result in an out directory; what is wrong with it is a TrainerError, the end of a sentence about the trainer."""
    path = out_dir / RESULT
    contract = f'write {path} last: {{"checkpoint": PATH, "metrics": {{…}}}}'
    try:
        record = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except FileNotFoundError as cause:
        raise TrainerError(f"ended with exit code 0 but left no {RESULT}; a trainer must {contract}") from cause
    except ValueError as cause:
        raise TrainerError(f"left a {RESULT} that does not parse ({cause}); a trainer must {contract}") from cause
    if not isinstance(record, dict) or not isinstance(record.get("checkpoint"), str) or not isinstance(record.get("metrics"), dict):
        raise TrainerError(f"left a {RESULT} without a `checkpoint` string and a `metrics` object; a trainer must {contract}")
    checkpoint = out_dir / record["checkpoint"]
    if not checkpoint.exists() or (checkpoint.is_dir() and not any(checkpoint.iterdir())):
        raise TrainerError(f"says that its checkpoint is {checkpoint}, where there is nothing")
    return TrainResult(checkpoint=checkpoint, metrics=record["metrics"], log=out_dir / LOG)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; a metric that is not finite means that training failed")


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
