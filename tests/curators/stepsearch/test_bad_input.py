"""What prompts, engines and verifiers get wrong: each has its outcome in its tree, and the tree beside it does not notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from curators.engines import Reply, Request
from curators.engines.fake import FakeEngine
from curators.judging.rubric import load_rubric
from curators.sampling import Row, make_prompt
from curators.schema import PROMPTS, check, frame
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.driver import TreeLimits, search_all
from curators.stepsearch.evaluation import Judged, Values
from curators.stepsearch.proposals import StepConfig
from curators.verifiers import load_verifier

CONFIG = SearchConfig(first_children=3, children=2, simulations=6, max_depth=3)
STEPS = StepConfig(max_tokens=8)
GOOD = make_prompt("What is 3 - 2?", reference="1")


def good(request: Request, i: int) -> str:
    return f"step {i}\n" if not request.prefix else str(i)


async def search(
    bad: Row, respond: Callable[[Request, int], Any], name: str = "numeric", engine: type[FakeEngine] = FakeEngine
) -> pl.DataFrame:
    """The nodes of the bad prompt's tree, searched beside a good one that is as it would have been alone."""

    def say(request: Request, i: int) -> Any:
        return (respond if "bad" in request.messages[0]["content"] else good)(request, i)

    settings: dict[str, Any] = {"config": CONFIG, "steps": STEPS, "limits": TreeLimits(verifier_timeout_s=0.5)}
    nodes = check(await search_all(frame([bad, GOOD], PROMPTS), engine(say), load_verifier(name), **settings), "nodes")
    alone = await search_all(frame([GOOD], PROMPTS), engine(good), load_verifier(name), **settings)
    assert nodes.filter(pl.col("prompt_id") == GOOD["prompt_id"]).equals(alone)
    assert set(nodes["tree_state"]) == {"finished"}
    return nodes.filter(pl.col("prompt_id") == bad["prompt_id"])


def counts(nodes: pl.DataFrame) -> dict[str, int]:
    return dict(Counter(nodes["state"].to_list()))


def reasons(nodes: pl.DataFrame, state: str) -> set[str]:
    return set(nodes.filter(pl.col("state") == state)["reason"].to_list())


async def test_a_prompt_without_the_reference_that_its_verifier_needs() -> None:
    nodes = await search(make_prompt("bad"), good)
    assert counts(nodes) == {"ok": 1, "dead_end": 3, "verifier_error": 6}
    assert reasons(nodes, "verifier_error") == {"verifier numeric cannot tell: the prompt has no reference"}
    assert reasons(nodes, "dead_end") == {"no usable step among 2 sampled: verifier_error"}
    assert nodes["outcome"].null_count() == nodes.height


@pytest.mark.parametrize("said", ["", "\n", " \n and more"])
async def test_an_engine_that_returns_empty_steps(said: str) -> None:
    nodes = await search(make_prompt("bad", reference="1"), lambda request, i: said)
    assert counts(nodes) == {"dead_end": 1, "empty": 3}
    assert nodes["reason"][0] == "no usable step among 3 sampled: empty"
    later = await search(make_prompt("bad", reference="1"), lambda request, i: said if request.prefix else f"step {i}\n")
    ended = not said  # after a step, an answer that just ends is one
    assert later.filter(pl.col("depth") == 1)["state"].to_list() == ["ok" if ended else "dead_end"] * 3
    assert later["n_visits"][0] == 6


async def test_an_engine_that_returns_duplicates_only() -> None:
    nodes = await search(make_prompt("bad", reference="1"), lambda request, i: "1" if request.prefix else "so\n")
    assert counts(nodes) == {"ok": 3, "duplicate": 3}  # the prompt, one step, one answer
    assert reasons(nodes, "duplicate") == {"another sample is the same step"}
    assert nodes.filter(pl.col("state") == "ok")["outcome"].to_list() == [None, None, 1.0]


async def test_a_step_longer_than_its_budget() -> None:
    nodes = await search(make_prompt("bad", reference="1"), lambda request, i: f"{i} " + "on and " * 20)
    assert counts(nodes) == {"ok": 1, "truncated": 3}
    assert set(nodes.filter(pl.col("state") == "truncated")["outcome"]) == {-1.0}
    assert nodes.filter(pl.col("state") == "truncated")["terminal"].all()
    assert all(reasons(nodes, "truncated"))


async def test_an_answer_that_never_comes() -> None:
    nodes = await search(make_prompt("bad", reference="1"), lambda request, i: f"step {i} of many\n")
    assert nodes["depth"].max() == 3
    assert set(nodes.filter(pl.col("depth") == 3)["state"]) == {"truncated"}
    assert reasons(nodes, "truncated") == {"no answer within 3 steps"}
    assert nodes["n_correct"].sum() == 0
    assert nodes["n_wrong"][0] == nodes.filter(pl.col("state") == "truncated").height


class Mute(FakeEngine):
    """No log-probabilities, of tokens or of options."""

    @property
    def capabilities(self) -> Any:
        return super().capabilities - {"logprobs", "options", "token_ids"}

    async def complete(self, request: Request) -> Reply:
        assert not request.logprobs
        assert not request.options
        return await super().complete(request)


async def test_an_engine_without_log_probabilities() -> None:
    nodes = await search(make_prompt("bad", reference="1"), good, engine=Mute)
    assert nodes["sum_logprob"].null_count() == nodes.height
    assert nodes.filter(pl.col("depth") == 1)["prior"].to_list() == [pytest.approx(1 / 3)] * 3
    votes = Mute(lambda request, i: "B" if "PROPOSED" in request.messages[0]["content"] else good(request, i))
    values = Values(self_eval=Judged(engine=votes, rubric=load_rubric("step")))
    rated = await search_all(frame([GOOD], PROMPTS), votes, load_verifier("numeric"), config=CONFIG, steps=STEPS, values=values)
    assert set(rated.filter(pl.col("depth") > 0)["self_eval"]) == {1.0}


async def test_a_verifier_that_hangs() -> None:
    nodes = await search(make_prompt("bad", reference="(1+)+$"), lambda r, i: "1" * 60 + "x" if r.prefix else f"step {i}\n", "regex")
    assert reasons(nodes, "verifier_error") == {"verifier regex: no answer in 0.5 s"}
    assert nodes.filter(pl.col("depth") == 1)["state"].to_list() == ["dead_end"] * 3


async def test_a_reference_that_its_verifier_cannot_use() -> None:
    nodes = await search(make_prompt("bad", reference="("), good, "regex")
    (reason,) = reasons(nodes, "verifier_error")
    assert reason.startswith("verifier regex raised error: missing ), unterminated subpattern")
    assert nodes["n_visits"][0] == CONFIG.simulations


async def test_an_engine_that_fails_in_every_way() -> None:
    for error in ("transport_error", "refused", "context_overflow", "unsupported"):
        nodes = await search(make_prompt("bad", reference="1"), lambda request, i, error=error: Reply(error=error, reason="why"))
        assert counts(nodes) == {"dead_end": 1, error: 3}
        assert reasons(nodes, error) == {"why"}
