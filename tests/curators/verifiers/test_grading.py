"""Rows of judgments from checks: in this process, in another, and what becomes of a row whose check misbehaves."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

from curators.judging.verdicts import verdicts
from curators.sampling import make_prompt
from curators.schema import JUDGMENTS, check, frame
from curators.verifiers import Graded, Verifier, load_verifier, verify_group, verify_rows
from curators.verifiers.registry import QUICK_CHARS

GROUP: list[dict[str, Any]] = [
    {"generation_id": "g1", "text": "So it is 42.", "state": "ok"},
    {"generation_id": "g2", "text": "So it is 41.", "state": "ok"},
    {"generation_id": "g3", "text": "", "state": "empty"},
    {"generation_id": "g4", "text": "So it", "state": "truncated"},
    {"generation_id": "g5", "text": None, "state": "transport_error"},
]
PROMPT = make_prompt("What is 6 * 7?", reference="42")
USER_CODE = """
import os, time
from curators.verifiers import Graded

def good(*, prompt, response, reference):
    assert (prompt, os.getpid() != {pid}) == ("What is 6 * 7?", True)
    return response.endswith(f"{{reference}}.")

def why(*, prompt, response, reference):
    return Graded(0.25, "too short")

def raises(*, prompt, response, reference):
    raise KeyError("steps")

def says_yes(*, prompt, response, reference):
    return "yes"

def nan(*, prompt, response, reference):
    return float("nan")

def unsure(*, prompt, response, reference):
    return None

def unsure_why(*, prompt, response, reference):
    return Graded(None, "two answers")

def hangs(*, prompt, response, reference):
    while response.endswith("41."):
        pass
    return True
"""


@pytest.fixture(scope="module")
def user_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("checks")
    (folder / "checks_of_grading.py").write_text(USER_CODE.format(pid=os.getpid()))
    sys.path.insert(0, str(folder))
    yield "checks_of_grading"
    sys.path.remove(str(folder))
    sys.modules.pop("checks_of_grading", None)


def test_rows_are_judgments_and_give_verdicts() -> None:
    rows = verify_rows(PROMPT, GROUP, load_verifier("numeric"))
    judgments = check(frame(rows, JUDGMENTS), "judgments")
    assert judgments.select("generation_ids", "state", "scores").rows() == [
        (["g1"], "ok", [1.0]),
        (["g2"], "ok", [0.0]),
        (["g3"], "gated", None),
    ]
    found = verdicts(judgments)
    assert found.filter(verdict="a").select("a_id", "b_id", "scores_delta").rows() == [("g1", "g2", 1.0)]
    assert found.filter(verdict="unscored").height == 2


def test_without_a_reference_nothing_is_scored() -> None:
    for name in ("numeric", "regex"):
        rows = verify_rows(make_prompt("Q"), GROUP[:1], load_verifier(name))
        assert [(row["state"], row["reason"]) for row in rows] == [("gated", f"verifier {name} cannot tell: the prompt has no reference")]


async def test_a_users_function_is_called_by_name_in_another_process(user_module: str) -> None:
    verifier = load_verifier(f"{user_module}:good")
    rows = await verify_group(PROMPT, GROUP, verifier, use_truncated=True)
    assert [(row["generation_ids"], row["state"], row.get("scores")) for row in rows] == [
        (["g1"], "ok", [1.0]),
        (["g2"], "ok", [0.0]),
        (["g3"], "gated", None),
        (["g4"], "ok", [0.0]),
    ]
    assert rows == verify_rows(PROMPT, GROUP, verifier, use_truncated=True)


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("raises", "verifier_error", "raised KeyError: 'steps'"),
        ("says_yes", "verifier_error", "returned 'yes'; it must return bool, float or None"),
        ("nan", "verifier_error", "returned nan; it must return bool, float or None"),
        ("unsure", "gated", "cannot tell"),
        ("unsure_why", "gated", "cannot tell: two answers"),
    ],
)
async def test_a_check_that_fails_is_a_state_and_never_a_score(user_module: str, name: str, state: str, reason: str) -> None:
    verifier = load_verifier(f"{user_module}:{name}")
    rows = await verify_group(PROMPT, GROUP[:2], verifier)
    assert [(row["state"], row["reason"], row.get("scores")) for row in rows] == [(state, f"verifier {verifier.name} {reason}", None)] * 2


async def test_a_result_has_its_reason_beside_it(user_module: str) -> None:
    (row,) = await verify_group(PROMPT, GROUP[:1], load_verifier(f"{user_module}:why"))
    assert (row["state"], row["scores"], row["reason"], row["raw"]) == ("ok", [0.25], None, '{"result": 0.25, "reason": "too short"}')
    (row,) = await verify_group(make_prompt("Q", reference="assert x == 2"), [{**GROUP[0], "text": "x = 1"}], load_verifier("unit_tests"))
    assert (row["scores"], row["raw"]) == ([0.0], '{"result": false, "reason": "AssertionError: "}')
    assert Graded(None, "why").value is None


async def test_a_check_that_hangs_costs_its_row_and_holds_up_nobody(user_module: str) -> None:
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    watching = asyncio.create_task(watch())
    rows = await verify_group(PROMPT, GROUP[:2], load_verifier(f"{user_module}:hangs"), timeout_s=0.7)
    watching.cancel()
    assert [(row["state"], row["reason"]) for row in rows] == [
        ("ok", None),
        ("verifier_error", "verifier checks_of_grading:hangs: no answer in 0.7 s"),
    ]
    assert turns > 5


async def test_a_limit_of_its_own_is_given_beside_the_general_one() -> None:
    prompt, answer = make_prompt("Q", reference="assert True"), {**GROUP[0], "text": "import time\ntime.sleep(9)"}
    (row,) = await verify_group(prompt, [answer], load_verifier("unit_tests(timeout_s=1)"), timeout_s=0.9)
    assert (row["scores"], row["raw"]) == ([0.0], '{"result": false, "reason": "not done in 1 s"}')


def test_a_quick_check_runs_here_until_the_text_is_long() -> None:
    called = []

    def here(*, prompt: str, response: str, reference: str | None) -> bool:
        called.append(response)
        return True

    verifier = Verifier(name="numeric", check=here, code_digest=load_verifier("numeric").code_digest, in_process_chars=QUICK_CHARS)
    long = "x" * QUICK_CHARS
    rows = verify_rows(PROMPT, [{**GROUP[0], "text": long}, {**GROUP[0], "text": long[1:]}, {**GROUP[0], "text": ""}], verifier)
    assert [row["scores"] for row in rows] == [[0.0], [1.0], [1.0]]  # the first by the shipped check of that name, in a worker process
    assert called == [long[1:], ""]
