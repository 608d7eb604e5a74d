"""Generations → judgments by a check: one row each, whose state says what became of it; a failure is never a score.

A check that cannot hang is called where it stands. Any other runs in a worker process (`processes`), each row with a time limit of its
own.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import orjson

from curators.engines.base import digest
from curators.judging.prompts import conversation_text
from curators.verifiers.processes import Pool
from curators.verifiers.registry import Case, Verifier
from curators.verifiers.unit_tests import Graded

Row = dict[str, Any]

TIMEOUT_S = 30.0


@functools.cache
def pool() -> Pool:
    """The worker processes of this program."""
    return Pool()


os.register_at_fork(after_in_child=pool.cache_clear)


def verify_rows(
    prompt: Mapping[str, Any],
    generations: Sequence[Mapping[str, Any]],
    verifier: Verifier,
    *,
    use_truncated: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> list[Row]:
    """Rows of `judgments` (protocol `verifier`, one score each) for one prompt's generations; waits for them.

    Checked are the generations that are ok (with `use_truncated` also truncated); an empty one is gated. A check that takes longer than
    `timeout_s` over one of them is killed, and that row is `verifier_error`.
    """
    asked = list(_asked(prompt, generations, verifier, use_truncated, timeout_s))
    return [_row(prompt, generation, verifier, found.result() if isinstance(found, Future) else found) for generation, found in asked]


async def verify_group(
    prompt: Mapping[str, Any],
    generations: Sequence[Mapping[str, Any]],
    verifier: Verifier,
    *,
    use_truncated: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> list[Row]:
    """`verify_rows` without holding up the event loop."""
    asked = list(_asked(prompt, generations, verifier, use_truncated, timeout_s))
    waiting = [asyncio.wrap_future(found) for _, found in asked if isinstance(found, Future)]
    arrived = iter(await asyncio.gather(*waiting))
    return [_row(prompt, generation, verifier, next(arrived) if isinstance(found, Future) else found) for generation, found in asked]


def _asked(
    prompt: Mapping[str, Any], generations: Sequence[Mapping[str, Any]], verifier: Verifier, use_truncated: bool, timeout_s: float
) -> Iterator[tuple[Mapping[str, Any], Row | Future[Row]]]:
    text = conversation_text(orjson.loads(prompt["messages"]))
    usable = {"ok", "empty", "truncated"} if use_truncated else {"ok", "empty"}
    for generation in generations:
        if generation["state"] == "empty":
            yield generation, {"state": "gated", "reason": "empty answer"}
        elif generation["state"] in usable:
            case = Case(prompt=text, response=generation["text"] or "", reference=prompt.get("reference"))
            here = len(case["response"]) < verifier.in_process_chars
            yield generation, outcome(verifier, case) if here else pool().submit(verifier, case, timeout_s)


def outcome(verifier: Verifier, case: Case) -> Row:
    """What a check says of a response, in this thread: the columns of its judgment."""
    name, reason = verifier.name, None
    try:
        result = verifier.check(**case)
    except (Exception, SystemExit) as error:  # a user's code may raise anything, and it must cost one row only
        return {"state": "verifier_error", "reason": f"verifier {name} raised {type(error).__name__}: {error}"[:500]}
    if isinstance(result, Graded):
        result, reason = result
    if result is None:
        why = reason or ("the prompt has no reference" if case["reference"] is None else None)
        return {"state": "gated", "reason": f"verifier {name} cannot tell" + (f": {why}" if why else "")}
    if not isinstance(result, bool | int | float) or not math.isfinite(result):
        return {"state": "verifier_error", "reason": f"verifier {name} returned {result!r:.80}; it must return bool, float or None"}
    raw = json.dumps(result if reason is None else {"result": result, "reason": reason})
    return {"state": "ok", "reason": None, "scores": [float(result)], "raw": raw}


def _row(prompt: Mapping[str, Any], generation: Mapping[str, Any], verifier: Verifier, outcome: Row) -> Row:
    from curators.schema import OUTCOME  # here, as a worker process does without polars

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
