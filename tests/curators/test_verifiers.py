"""Shipped checks on known texts; a user's function with every way of misbehaving."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curators.errors import ConfigError
from curators.judging.verdicts import verdicts
from curators.sampling import make_prompt
from curators.schema import JUDGMENTS, check, frame
from curators.verifiers import CHECKS, load_verifier, verify_group, verify_rows

GROUP: list[dict[str, Any]] = [
    {"generation_id": "g1", "text": "So it is 42.", "state": "ok"},
    {"generation_id": "g2", "text": "So it is 41.", "state": "ok"},
    {"generation_id": "g3", "text": "", "state": "empty"},
    {"generation_id": "g4", "text": "So it", "state": "truncated"},
    {"generation_id": "g5", "text": None, "state": "transport_error"},
]
PROMPT = make_prompt("What is 6 * 7?", reference="42")
USER_CODE = """
import threading

calls = []
GATE = threading.Event()

def good(*, prompt, response, reference):
    calls.append((prompt, response, reference, threading.current_thread().name))
    return response.endswith(f"{reference}.")

def score(prompt, response, reference=None):
    return 0.25

def raises(*, prompt, response, reference):
    raise KeyError("steps")

def says_yes(*, prompt, response, reference):
    return "yes"

def nan(*, prompt, response, reference):
    return float("nan")

def unsure(*, prompt, response, reference):
    return None

def hangs(*, prompt, response, reference):
    GATE.wait()
    return True

def positional(text, /):
    return True

not_callable = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_checks.py").write_text(USER_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_checks"
    if module := sys.modules.pop("my_checks", None):
        module.GATE.set()


@pytest.mark.parametrize(
    ("name", "reference", "passes", "fails"),
    [
        ("exact", "a  b", " a b\n", "A b"),
        ("numeric", "#### 1,234", "The total is $1234.00", "1234 of 5678"),
        ("numeric", '{"answer": 34, "steps": ["1 + 2 = 3"]}', "Answer: 34", "Answer: 3"),
        ("numeric", "-3", "x = -3", "x = 3"),
        ("numeric", "3", "3", "no number"),
        ("regex", r"\bcat\b", "a cat", "concat"),
        ("contains", "ocean", "the Ocean", "oceanic"),
        ("contains", '["a", "b"]', "b a", "a"),
        ("length", '{"min_words": 2, "max_words": 3}', "one two", "one"),
        ("json", '["a"]', '{"a": 1}', "{a: 1}"),
        ("lowercase", None, "small", "Small"),
        ("uppercase", None, "BIG", "BIg"),
        ("constraints", '{"constraints": [{"kind": "contains", "value": "sea"}, {"kind": "lowercase"}]}', "the sea", "The sea"),
    ],
)
def test_a_shipped_check_passes_and_fails(name: str, reference: str | None, passes: str, fails: str) -> None:
    assert CHECKS[name](prompt="", response=passes, reference=reference) is True
    assert CHECKS[name](prompt="", response=fails, reference=reference) is False


@pytest.mark.parametrize(
    ("name", "reference"),
    [("contains", ""), ("contains", "[]"), ("contains", "[null]"), ("json", '"abc"'), ("length", '{"max_words": "50"}')],
)
def test_a_reference_of_the_wrong_type_is_an_error_and_never_a_score(name: str, reference: str) -> None:
    (row,) = verify_rows(make_prompt("Q", reference=reference), [{**GROUP[0], "text": '{"a": "None b c"}'}], load_verifier(name))
    assert (row["state"], row.get("scores")) == ("verifier_error", None)
    assert "does not fit: it must be" in row["reason"]


def test_the_share_of_constraints_is_a_score() -> None:
    reference = '{"constraints": [{"kind": "contains", "value": "sea"}, {"kind": "lowercase"}]}'
    assert CHECKS["constraints_share"](prompt="", response="The sea", reference=reference) == 0.5


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
    rows = verify_rows(make_prompt("Q"), GROUP[:1], load_verifier("numeric"))
    assert [(row["state"], row["reason"]) for row in rows] == [("gated", "verifier numeric cannot tell: the prompt has no reference")]


async def test_a_users_function_is_called_by_name_outside_the_event_loop(user_module: str) -> None:
    verifier = load_verifier(f"{user_module}:good")
    rows = await verify_group(PROMPT, GROUP, verifier, use_truncated=True)
    assert [(row["generation_ids"], row["state"], row.get("scores")) for row in rows] == [
        (["g1"], "ok", [1.0]),
        (["g2"], "ok", [0.0]),
        (["g3"], "gated", None),
        (["g4"], "ok", [0.0]),
    ]
    assert sys.modules[user_module].calls[0] == ("What is 6 * 7?", "So it is 42.", "42", "verifier")


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("raises", "verifier_error", "verifier my_checks:raises raised KeyError: 'steps'"),
        ("says_yes", "verifier_error", "verifier my_checks:says_yes returned 'yes'; it must return bool, float or None"),
        ("nan", "verifier_error", "verifier my_checks:nan returned nan; it must return bool, float or None"),
        ("unsure", "gated", "verifier my_checks:unsure cannot tell"),
    ],
)
async def test_a_check_that_fails_is_a_state_and_never_a_score(user_module: str, name: str, state: str, reason: str) -> None:
    rows = await verify_group(PROMPT, GROUP[:2], load_verifier(f"{user_module}:{name}"))
    assert [(row["state"], row["reason"], row.get("scores")) for row in rows] == [(state, reason, None)] * 2


async def test_a_check_that_hangs_costs_its_group_and_no_more(user_module: str) -> None:
    rows = await verify_group(PROMPT, GROUP[:2], load_verifier(f"{user_module}:hangs"), timeout_s=0.05)
    assert [(row["state"], row["reason"]) for row in rows] == [("verifier_error", "verifier my_checks:hangs: no answer in 0.05 s")] * 2
    assert (await verify_group(PROMPT, GROUP[:1], load_verifier(f"{user_module}:score")))[0]["scores"] == [0.25]
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "verifier")


def test_the_judge_is_named_by_the_code(user_module: str, tmp_path: Path) -> None:
    before = load_verifier(f"{user_module}:good").judge
    assert before.startswith("verifier:my_checks:good@")
    sys.modules.pop(user_module).GATE.set()
    (tmp_path / "my_checks.py").write_text(USER_CODE + "\n# another version of the code\n")
    assert load_verifier(f"{user_module}:good").judge != before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exactly", "verifier: 'exactly' is not shipped; there are"),
        ("no_such_module:check", "cannot import 'no_such_module'"),
        ("my_checks:missing", "'my_checks' has no function 'missing'"),
        ("my_checks:not_callable", "has no function 'not_callable'"),
        ("my_checks:positional", "must take prompt, response and reference by name"),
    ],
)
def test_what_is_no_check_is_refused(user_module: str, spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_verifier(spec)
