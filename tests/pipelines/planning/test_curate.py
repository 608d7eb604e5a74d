"""What a plan says against what the run then does, on deterministic engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import storage
from curators.engines import fake
from curators.engines.base import Request
from curators.errors import ConfigError
from pipelines.planning.curate import plan_curate
from tests.pipelines.planning.conftest import Given, N, curated, files_of

VERIFIER = "def odd(*, prompt, response, reference):\n    return len(response) % 2 == 1\n"
LETTERS = {"engine": "fake:", "rubric": "pairwise-letter"}
FLOWS: dict[str, dict[str, Any]] = {
    "verifier": {"verifier": "by_length:odd"},
    "judge in both orders": {"judge": "fake:judge", "verifier": "by_length:odd"},
    "judge in one order, reward beside it": {"judge": {"engine": "fake:judge", "both_orders": False}, "reward": "fake:reward"},
    "votes": {"judge": {"engine": "fake:judge", "votes": 3, "temperature": 1.0, "channel": "text"}},
    "panel": {"panel": {"judges": ["fake:judge", LETTERS], "exclude_own": False}},
}

FAST = ("judge in both orders", "panel")


@pytest.fixture(autouse=True)
def _verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "by_length.py").write_text(VERIFIER)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("flow", [each if each in FAST else pytest.param(each, marks=pytest.mark.slow) for each in FLOWS])
async def test_the_plans_calls_are_the_runs_requests(given: Given, lake_root: Path, flow: str) -> None:
    config = given(**FLOWS[flow])
    plan = await plan_curate(config)
    assert not lake_root.exists(), "a plan makes no lake"
    assert plan.tokens.expected is None
    done = await curated(config)
    assert plan.calls.expected == done["calls"]["requests"]
    told = done["calls"]["prompt_tokens"] + done["calls"]["completion_tokens"]
    assert plan.tokens.high is not None
    assert told <= plan.tokens.high
    assert plan.run_key == done["run_key"]
    again = await plan_curate(config)
    assert (again.published, again.calls.high, again.lines) == ("sums@1", 0, [])


async def test_what_a_capped_run_left_is_what_the_plan_says(given: Given, lake_root: Path) -> None:
    config = given(judge="fake:judge")
    assert (await curated(given(judge="fake:judge", caps={"calls": 60})))["calls"]["requests"] == 60
    before = files_of(lake_root)
    plan = await plan_curate(config)
    assert files_of(lake_root) == before, "a plan changes no byte of lake and ledger"
    done = await curated(config)
    assert plan.calls.told() == dict.fromkeys(("expected", "low", "high"), done["calls"]["requests"])
    tokens = done["calls"]["prompt_tokens"] + done["calls"]["completion_tokens"]
    assert plan.tokens.low <= tokens <= (plan.tokens.high or 0)
    assert plan.seconds is not None
    assert plan.seconds.expected is not None
    capped = await plan_curate(given(judge="fake:judge", seed=5, caps={"calls": 50}))
    assert [(stop["cap"], stop["limit"], stop["surely"]) for stop in capped.stops] == [("calls", 50, True)]


async def test_other_pairs_cost_nothing_and_the_plan_says_which_rows_change(given: Given, judged: Path) -> None:
    other = given(judge="fake:judge", pairs={"policy": "all_pairs", "min_margin": 0.2})
    before = files_of(judged)
    plan = await plan_curate(other)
    assert files_of(judged) == before
    assert plan.calls.high == 0
    done = await curated(other)
    assert (plan.version, plan.diff and plan.diff.digest) == (f"sums@{done['version']}", done["digest"])
    assert plan.rows is not None
    assert plan.rows.told()["low"] == done["counts"]["pairs"] == plan.rows.told()["high"]
    with storage.open_lake(judged) as lake:
        real = storage.diff(lake, "sums@1", "sums@2")
    assert plan.diff is not None
    assert (plan.diff.n_added, plan.diff.n_removed, plan.diff.n_changed) == (real.n_added, real.n_removed, real.n_changed)
    assert real.n_added > 0


async def test_the_same_rows_are_the_newest_version_and_a_refusal_is_told(given: Given, judged: Path) -> None:
    same = await plan_curate(given(judge="fake:judge", gates={"max_judge_inconsistent_share": None}))
    assert (same.version, same.reused, same.published) == ("sums@1", True, None)
    refused = await plan_curate(given(judge="fake:judge", gates={"max_judge_inconsistent_share": None, "min_pairs": 500}))
    assert (refused.version, refused.reused) == (None, False)
    assert "min_pairs" in (refused.refusal or "")


async def test_equal_samples_cost_no_call_and_earlier_groups_tell_how_many(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(request: Request, index: int) -> str:
        return fake.words(request, fake._noise(request, index, "which") % 3)

    monkeypatch.setitem(fake.RESPONDERS, "", few)
    first = await plan_curate(given(judge="fake:judge"))
    done = await curated(given(judge="fake:judge"))
    assert first.calls.low <= done["calls"]["requests"] < (first.calls.expected or 0) == 1 + N + 12 * N
    second = await plan_curate(given(judge="fake:judge", seed=1))
    then = await curated(given(judge="fake:judge", seed=1))
    assert second.calls.low <= then["calls"]["requests"] <= (second.calls.high or 0)
    assert (second.calls.high or 0) - second.calls.low < (first.calls.high or 0) - first.calls.low
    more = await plan_curate(given(judge="fake:judge", sampling={"n": 6}))  # two more of each prompt
    bought = await curated(given(judge="fake:judge", sampling={"n": 6}))
    assert more.calls.low <= bought["calls"]["requests"] <= (more.calls.high or 0)


@pytest.mark.slow
async def test_votes_that_may_be_needless_are_an_interval(given: Given) -> None:
    judge = {"engine": "fake:judge", "max_votes": 4, "temperature": 1.0, "channel": "text"}
    plan = await plan_curate(given(judge=judge))
    done = await curated(given(judge=judge))
    assert plan.calls.low <= done["calls"]["requests"] <= (plan.calls.high or 0)
    assert done["calls"]["requests"] > N + 12 * N
    second = await plan_curate(given(judge=judge, seed=1))
    then = await curated(given(judge=judge, seed=1))
    assert second.calls.low <= then["calls"]["requests"] <= (second.calls.high or 0)
    assert abs((second.calls.expected or 0) - then["calls"]["requests"]) < 0.2 * then["calls"]["requests"]


async def test_a_trial_on_gold_and_rationales_are_planned(given: Given, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps({"prompt": f"q {i}", "chosen": f"good {i}", "rejected": f"bad {i}"}) + "\n" for i in range(6)))
    tried = given(judge="fake:judge", gold=str(gold))
    plan = await plan_curate(tried)
    assert plan.calls.expected == (await curated(tried))["calls"]["requests"] == 1 + N + 12 * N + 12
    writer = {"engine": "fake:", "check_agreement": False, "repairs": 0}
    config = given(verifier="by_length:odd", annotate="rationale", rationale=writer, dataset="told")
    before = await plan_curate(config)
    assert before.rows is not None
    assert before.calls.low == before.rows.expected, "the samples are there, so that their pairs are known"
    done = await curated(config)
    assert before.calls.low <= done["calls"]["requests"] <= (before.calls.high or 0)
    after = await plan_curate(config.model_copy(update={"dataset": "again"}))
    assert (after.calls.high, after.version) == (0, "again@1")


async def test_a_cap_in_money_needs_a_price(given: Given, lake_root: Path) -> None:
    server = "openai:judge@http://127.0.0.1:9/v1"
    with pytest.raises(ConfigError, match=r"a cap of 5\.0 USD, but openai:judge.* has no price; set prompt_usd and completion_usd"):
        await plan_curate(given(judge=server, caps={"usd": 5}))
    assert not lake_root.exists()


async def test_requests_about_equal_texts_are_one(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(request: Request, index: int) -> str:
        return fake.words(request, fake._noise(request, index, "which") % 3)

    monkeypatch.setitem(fake.RESPONDERS, "", few)
    assert (await curated(given(reward="fake:reward")))["calls"]["requests"] < N + 4 * N
    plan = await plan_curate(given(reward="fake:reward", seed=1))
    done = await curated(given(reward="fake:reward", seed=1))
    assert plan.calls.low <= done["calls"]["requests"] <= (plan.calls.high or 0) < N + 4 * N
