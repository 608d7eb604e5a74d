"""Programmatic checks as judges: a shipped check by name, or a user's own function as `module:function`.

A check is called as `check(prompt=…, response=…, reference=…)`, all strings (the reference may be null), and returns whether the
response passes, or a score, or null where it cannot tell. Its judge is named `verifier:<name>@<digest of the code>`, so that
labels made by another version of the code are labels of another judge. A check that raises gives a row with the state
`verifier_error`, never a score.

A user's check runs in a thread of its own, outside the event loop, with a time limit for each prompt's group. A thread cannot be stopped: a
check that never returns keeps its thread until the process ends, and one that runs in C without releasing the interpreter
(a regular expression that explodes) cannot be timed out at all. Code that must be contained belongs into a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import inspect
import json
import math
import re
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from curators import constraints
from curators.engines.base import digest
from curators.errors import ConfigError
from curators.judging.parsing import normalise
from curators.judging.prompts import conversation_text
from curators.sampling import Row
from curators.schema import OUTCOME

Check = Callable[..., "bool | float | None"]

CONCURRENT_CHECKS = 4
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_SLOTS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verifier:
    """A check with its name and the digest of its code. `shipped` checks are fast and run in the event loop."""

    name: str
    check: Check
    code_digest: str
    shipped: bool = False

    @property
    def judge(self) -> str:
        """What `judgments.judge` holds."""
        return f"verifier:{self.name}@{self.code_digest}"


def exact(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """The response is the reference, white space aside."""
    return None if reference is None else normalise(response) == normalise(reference)


def numeric(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """The last number of the response is the reference's last number (or its JSON key `answer`), to a relative 1e-6.

    >>> numeric(prompt="", response="So 3 * 411 = 1,233.0 apples", reference="#### 1233")
    True
    """
    expected = _number(reference)
    if expected is None:
        return None
    said = _number(response)
    return said is not None and math.isclose(said, expected, rel_tol=1e-6, abs_tol=1e-9)


def _number(text: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        value = json.loads(text or "")
        text = str(value["answer"]) if isinstance(value, dict) and "answer" in value else text
    numbers = _NUMBER.findall(text or "")
    return float(numbers[-1].replace(",", "")) if numbers else None


def regex(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """The reference, a regular expression, is found in the response."""
    return None if reference is None else re.search(reference, response) is not None


def contains(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """The reference, a keyword or a JSON list of them, stands in the response as whole words."""
    if reference is None:
        return None
    keywords = json.loads(reference) if reference.lstrip().startswith("[") else [reference]
    return constraints.holds(response, {"kind": "contains_all", "value": keywords})


def length(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """Every bound of the reference holds: a JSON object such as `{"min_words": 20, "max_sentences": 3}`."""
    if reference is None:
        return None
    return all(constraints.holds(response, {"kind": kind, "value": value}) for kind, value in json.loads(reference).items())


def is_json(*, prompt: str, response: str, reference: str | None) -> bool:
    """The response is JSON and nothing else; the reference, where there is one, is a JSON list of keys that it must have."""
    return constraints.holds(response, {"kind": "json", "value": json.loads(reference) if reference else None})


def lowercase(*, prompt: str, response: str, reference: str | None) -> bool:
    """No letter of the response is upper case."""
    return constraints.holds(response, {"kind": "lowercase"})


def uppercase(*, prompt: str, response: str, reference: str | None) -> bool:
    """No letter of the response is lower case."""
    return constraints.holds(response, {"kind": "uppercase"})


def all_of(*, prompt: str, response: str, reference: str | None) -> bool:
    """Every constraint of the reference holds.

    >>> all_of(prompt="", response="The ocean is deep.", reference='{"constraints": [{"kind": "contains", "value": "ocean"}]}')
    True
    """
    return all(constraints.holds(response, constraint) for constraint in constraints.constraints_of(reference))


def share_of(*, prompt: str, response: str, reference: str | None) -> float:
    """The share of the reference's constraints that hold."""
    wanted = constraints.constraints_of(reference)
    return sum(constraints.holds(response, constraint) for constraint in wanted) / len(wanted)


CHECKS: Mapping[str, Check] = {
    "exact": exact,
    "numeric": numeric,
    "regex": regex,
    "contains": contains,
    "length": length,
    "json": is_json,
    "lowercase": lowercase,
    "uppercase": uppercase,
    "constraints": all_of,
    "constraints_share": share_of,
}


def load_verifier(spec: str) -> Verifier:
    """A shipped check by name, or `module:function`.

    >>> load_verifier("numeric").judge.startswith("verifier:numeric@")
    True

    Raises:
        ConfigError: no such check, module or function, or one that cannot be called with prompt, response and reference.
    """
    if ":" not in spec:
        if spec not in CHECKS:
            raise ConfigError(f"verifier: {spec!r} is not shipped; there are {sorted(CHECKS)}, or give module:function")
        return Verifier(name=spec, check=CHECKS[spec], code_digest=_code_digest(sys.modules[__name__], constraints), shipped=True)
    module_name, _, function_name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"verifier {spec!r}: cannot import {module_name!r}: {error}; is its folder on PYTHONPATH?") from error
    check = getattr(module, function_name, None)
    if not callable(check):
        raise ConfigError(f"verifier {spec!r}: {module_name!r} has no function {function_name!r}")
    try:
        inspect.signature(check).bind(prompt="", response="", reference=None)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"verifier {spec!r} must take prompt, response and reference by name: {error}") from error
    return Verifier(name=spec, check=check, code_digest=_code_digest(sys.modules.get(check.__module__, module)))


def _code_digest(*modules: Any) -> str:
    try:
        source = "\n".join(inspect.getsource(module) for module in modules)
    except (OSError, TypeError) as error:
        raise ConfigError(f"verifier: the source of {modules[-1].__name__!r} cannot be read, so its code has no digest: {error}") from error
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def verify_rows(
    prompt: Mapping[str, Any], generations: Sequence[Mapping[str, Any]], verifier: Verifier, *, use_truncated: bool = False
) -> list[Row]:
    """Rows of `judgments` (protocol `verifier`, one score each) for one prompt's generations, in this thread.

    Checked are the generations that are ok (with `use_truncated` also truncated); an empty one is gated.
    """
    text = conversation_text(orjson.loads(prompt["messages"]))
    usable = {"ok", "empty", "truncated"} if use_truncated else {"ok", "empty"}
    return [
        _row(prompt, generation, verifier, _verify(verifier, text, generation, prompt.get("reference")))
        for generation in generations
        if generation["state"] in usable
    ]


async def verify_group(
    prompt: Mapping[str, Any],
    generations: Sequence[Mapping[str, Any]],
    verifier: Verifier,
    *,
    use_truncated: bool = False,
    timeout_s: float = 60.0,
) -> list[Row]:
    """`verify_rows` without holding up the event loop: a user's check that takes longer than `timeout_s` scores nothing of the group."""
    if verifier.shipped:
        return verify_rows(prompt, generations, verifier, use_truncated=use_truncated)
    try:
        return await _in_thread(lambda: verify_rows(prompt, generations, verifier, use_truncated=use_truncated), timeout_s)
    except TimeoutError:
        late = {"state": "verifier_error", "reason": f"verifier {verifier.name}: no answer in {timeout_s:g} s"}
        return [_row(prompt, generation, verifier, late) for generation in generations if generation["state"] in ("ok", "truncated")]


async def _in_thread(call: Callable[[], list[Row]], timeout_s: float) -> list[Row]:
    """The result of a call in a daemon thread, which an endless check cannot keep the process from leaving."""
    loop = asyncio.get_running_loop()
    async with _SLOTS.setdefault(loop, asyncio.Semaphore(CONCURRENT_CHECKS)), asyncio.timeout(timeout_s):
        done: asyncio.Future[list[Row]] = loop.create_future()

        def finish(rows: list[Row]) -> None:
            if not done.done():
                done.set_result(rows)

        def work() -> None:
            rows = call()
            with contextlib.suppress(RuntimeError):  # the loop is gone, nobody waits
                loop.call_soon_threadsafe(finish, rows)

        threading.Thread(target=work, name="verifier", daemon=True).start()
        return await done


def _verify(verifier: Verifier, prompt: str, generation: Mapping[str, Any], reference: str | None) -> Row:
    if generation["state"] == "empty":
        return {"state": "gated", "reason": "empty answer"}
    try:
        result = verifier.check(prompt=prompt, response=generation["text"] or "", reference=reference)
    except Exception as error:  # a user's code may raise anything, and it must cost one row only
        return {"state": "verifier_error", "reason": f"verifier {verifier.name} raised {type(error).__name__}: {error}"[:500]}
    if result is None:
        return {
            "state": "gated",
            "reason": f"verifier {verifier.name} cannot tell" + (": the prompt has no reference" if reference is None else ""),
        }
    if not isinstance(result, bool | int | float) or not math.isfinite(result):
        return {
            "state": "verifier_error",
            "reason": f"verifier {verifier.name} returned {result!r:.80}; it must return bool, float or None",
        }
    return {"state": "ok", "reason": None, "scores": [float(result)], "raw": json.dumps(result)}


def _row(prompt: Mapping[str, Any], generation: Mapping[str, Any], verifier: Verifier, outcome: Row) -> Row:
    return {
        "judgment_id": digest(verifier.judge, None, [generation["generation_id"]], 0, 0, [outcome.get(name) for name in OUTCOME]),
        "prompt_id": prompt["prompt_id"],
        "protocol": "verifier",
        "judge": verifier.judge,
        "generation_ids": [generation["generation_id"]],
        "order": 0,
        "vote": 0,
        "attempt": 0,
        "channel": "verifier",
        **outcome,
    }
