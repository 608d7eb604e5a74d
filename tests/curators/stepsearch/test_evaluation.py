"""Values of steps from option probabilities, votes, a reward engine and a function; what one that fails does to its step and tree."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curators.engines import Completion, Reply, Request
from curators.engines.cached import CachedEngine
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError, EngineBusy
from curators.judging.protocol import JudgeConfig
from curators.judging.rubric import load_rubric, parse_rubric
from curators.sampling import Row, make_prompt
from curators.schema import NODES, PROMPTS, check, frame
from curators.stepsearch.config import SearchConfig, ValueWeights
from curators.stepsearch.driver import search_all, search_id, search_prompt
from curators.stepsearch.evaluation import Checked, Judged, Scored, Values, rate
from curators.stepsearch.step import Step
from curators.verifiers import Verifier, load_verifier
from storage.calls import open_ledger

STEP = load_rubric("step")
STARS = parse_rubric("---\nname: stars\nprotocol: pointwise\nscale: 1-5\n---\n# user\n{{prompt}}\n{{answer}}\nScore: 1 to 5")
PROMPT = make_prompt("What is 3 - 2?", reference="1")
NUMERIC = load_verifier("numeric")
CONFIG = SearchConfig(first_children=2, children=2, simulations=4, max_depth=3)
STEPS = (Step(text="a\n"), Step(text="b\n"))


class Critic(FakeEngine):
    """An engine that says what it is told: `options` gives P of A and B, or an error; `say` the text of a vote."""

    def __init__(
        self, options: Callable[[Request], Any] | None = None, say: Callable[[Request, int], Any] = lambda request, i: "B"
    ) -> None:
        super().__init__(say)
        self.options, self.requests, self.now, self.peak = options, list[Request](), 0, 0

    @property
    def capabilities(self) -> Any:
        return super().capabilities - (set() if self.options else {"options"})

    async def complete(self, request: Request) -> Reply:
        self.requests.append(request)
        self.now += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if not request.options:
            return await super().complete(request)
        assert self.options is not None
        said = self.options(request)
        if isinstance(said, Exception):
            raise said
        if isinstance(said, Reply):
            return said
        logprobs = dict(zip("AB", map(math.log, said), strict=True))
        return Reply(completions=(Completion(text="", option_logprobs=logprobs, n_tokens=1),), completion_tokens=1)


def shown(request: Request) -> str:
    return str(request.messages[-1]["content"])


def proposed(request: Request) -> str:
    """The answer so far that a critic is shown."""
    return shown(request).split("PROPOSED SOLUTION:\n")[1].split("\n\nQUESTION: ")[0]


async def rated(values: Values, *steps: Step, prompt: Row = PROMPT, before: str = "so\n", **weights: float) -> list[tuple[Any, ...]]:
    config = replace(CONFIG, weights=ValueWeights(**weights))
    found = await rate(values, prompt, steps or STEPS, key="step/p", before=before, config=config)
    assert found.ended is None
    return [(step.state, step.self_eval, step.reward, step.reason) for step in found.steps]


async def test_self_evaluation_is_the_probability_of_correct_among_the_options() -> None:
    critic = Critic(lambda request: (0.2, 0.6) if proposed(request).endswith("a\n") else (0.09, 0.01))
    found = await rated(Values(self_eval=Judged(engine=critic, rubric=STEP)))
    assert found == [("ok", pytest.approx(0.75), None, None), ("ok", pytest.approx(0.1), None, None)]  # .6 / .8; .01 / .1
    assert [(request.key, request.options, request.n, request.sampling.max_tokens) for request in critic.requests] == [
        ("judge/step/p/0/0/0", ("A", "B"), 1, 1),
        ("judge/step/p/1/0/0", ("A", "B"), 1, 1),
    ]
    assert critic.peak == 2
    assert [proposed(request) for request in critic.requests] == ["so\na\n", "so\nb\n"]
    assert "EXAMPLE ANSWER: 1\n" in shown(critic.requests[0])


async def test_a_prompt_without_a_reference_is_judged_without() -> None:
    critic = Critic(lambda request: (0.5, 0.5))
    values = Values(self_eval=Judged(engine=critic, rubric=STEP))
    assert [value for _, value, *_ in await rated(values, prompt=make_prompt("What is 3 - 2?"))] == [0.5, 0.5]
    assert "EXAMPLE" not in shown(critic.requests[0])


async def test_without_log_probabilities_it_is_the_share_of_votes() -> None:
    critic = Critic(say=lambda request, i: "**(B)**" if i or "a\n" in proposed(request) else "A.")
    found = await rated(Values(self_eval=Judged(engine=critic, rubric=STEP)))
    assert [value for _, value, *_ in found] == [1.0, 0.8]
    assert [(request.n, request.options, request.sampling.temperature) for request in critic.requests] == [(5, (), 1.0)] * 2
    late = Critic(lambda request: Reply(error="unsupported", reason="no top_logprobs"), critic._respond)
    assert await rated(Values(self_eval=Judged(engine=late, rubric=STEP))) == found
    told = Judged(engine=Critic(lambda request: (0.5, 0.5)), rubric=STEP, config=JudgeConfig(channel="text"))
    assert [value for _, value, *_ in await rated(Values(self_eval=told))] == [1.0, 1.0]


async def test_a_vote_that_cannot_be_read_is_asked_again_and_does_not_count() -> None:
    def mumble(request: Request, i: int) -> str:
        return "Hard to say." if i == 0 and "a\n" in proposed(request) else "AB"[i % 2] if request.attempt == 0 else "??"

    config = JudgeConfig(votes=4, temperature=1.0, repairs=1)
    critic = Critic(say=mumble)
    found = await rated(Values(self_eval=Judged(engine=critic, rubric=STEP, config=config)))
    assert [value for _, value, *_ in found] == [pytest.approx(2 / 3), 0.5]
    assert [(request.n, request.attempt, request.first_sample) for request in critic.requests] == [(4, 0, 0), (4, 0, 0), (1, 1, 0)]


async def test_a_reward_engine_rates_on_the_scale_of_its_rubric() -> None:
    critic = Critic(say=lambda request, i: "Fine.\nScore: 4" if "a\n" in shown(request) else "Score: 1")
    judged = Judged(engine=critic, rubric=STARS, config=JudgeConfig(max_tokens=99))
    assert await rated(Values(reward=judged)) == [("ok", None, 0.75, None), ("ok", None, 0.0, None)]
    with pytest.raises(ConfigError, match="rubric 'pairwise' is pairwise; a value of a single answer needs a pointwise one"):
        Judged(engine=critic, rubric=load_rubric("pairwise"))


CODE = """
def reward(*, prompt, response, reference):
    assert (prompt, reference) == ("What is 3 - 2?", "1")
    return {"a": -7.5, "b": True, "n": None, "x": float("inf")}[response[-2]]

def hangs(*, prompt, response, reference):
    while "b" in response:
        pass
    return 1.0
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Verifier]:
    name = f"rewards_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda function: load_verifier(f"{name}:{function}")


async def test_a_reward_function_gives_any_number(user: Callable[[str], Verifier]) -> None:
    verifier = user("reward")
    found = await rated(Values(reward=Checked(verifier=verifier)), *STEPS, Step(text="n\n"), Step(text="x\n"))
    assert found[:2] == [("ok", None, -7.5, None), ("ok", None, 1.0, None)]
    assert found[2] == ("value_error", None, None, f"no reward: verifier {verifier.name} cannot tell")
    assert found[3][0] == "value_error"
    assert "returned inf" in found[3][3]


async def test_a_reward_function_that_hangs_is_killed_and_costs_its_step_only(user: Callable[[str], Verifier]) -> None:
    found = await rated(Values(reward=Checked(verifier=user("hangs"), timeout_s=0.5)))
    assert found[0] == ("ok", None, 1.0, None)
    assert (found[1][0], found[1][3].partition(": ")[0], found[1][3].endswith("no answer in 0.5 s")) == ("value_error", "no reward", True)


REFUSED = Reply(error="refused", reason="content policy")
LOST = Reply(error="transport_error", reason="connection reset")


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        ((0.001, 0.02), "value_error", "no self_eval: the labels hold 0.021 of the probability, fewer than 0.05"),
        (
            Reply(completions=(Completion(text="", option_logprobs={"A": -1.0}),)),
            "value_error",
            "no self_eval: no log-probability for ['B']",
        ),
        (REFUSED, "value_error", "no self_eval: content policy"),
        (LOST, "transport_error", "no self_eval: connection reset"),
    ],
)
async def test_a_value_that_failed_is_a_state_and_a_graded_answer_goes_on_without(said: Any, state: str, reason: str) -> None:
    critic = Critic(lambda request: said if proposed(request).strip() else (0.5, 0.5))
    steps = [
        Step(text="a\n"),
        Step(text="1", terminal=True, outcome=1.0),
        Step(text="cut", state="truncated", reason="too long"),
        Step(text="", state="empty", reason="blank"),
        Step(text="1", terminal=True),
    ]
    values = Values(self_eval=Judged(engine=critic, rubric=STEP))
    found = await rated(values, *steps)
    assert found == [
        (state, None, None, reason),
        ("ok", None, None, reason),
        ("truncated", None, None, f"too long; {reason}"),
        ("empty", None, None, "blank"),
        (state, None, None, reason),
    ]
    ungraded = await rate(values, PROMPT, steps, key="k", before="", config=replace(CONFIG, truncated_outcome=None))
    assert ungraded.steps[2].state == state


async def test_one_part_of_two_that_failed_is_enough() -> None:
    values = Values(
        self_eval=Judged(engine=Critic(lambda request: (0.5, 0.5)), rubric=STEP),
        reward=Judged(engine=Critic(say=lambda request, i: REFUSED if "a\n" in shown(request) else "Score: 5"), rubric=STARS),
    )
    assert await rated(values) == [("value_error", 0.5, None, "no reward: content policy"), ("ok", 0.5, 1.0, None)]
    assert await rated(values, reward=0.0) == [("ok", 0.5, None, None)] * 2


def write(request: Request, i: int) -> str:
    """Two siblings everywhere; the second step of the first is a wrong answer, of the second a right one."""
    if not request.prefix:
        return "ab"[i] + "\n"
    return "12"[i]


async def test_a_search_with_a_mix_of_values_keeps_every_part() -> None:
    critic = Critic(lambda request: (0.25, 0.75) if "b\n" in proposed(request) else (0.5, 0.5))
    grader = Critic(say=lambda request, i: "Score: 3")
    values = Values(self_eval=Judged(engine=critic, rubric=STEP), reward=Judged(engine=grader, rubric=STARS, config=JudgeConfig()))
    weights = ValueWeights(verifier=2, self_eval=0.5, reward=0.25)
    config = replace(CONFIG, weights=weights, simulations=16, c_puct=5)
    rows = await search_prompt(PROMPT, FakeEngine(write), NUMERIC, config=config, values=values)
    nodes = check(frame(rows, NODES), "nodes")
    asked = [row for row in nodes.iter_rows(named=True) if row["parent_id"]]
    assert {(row["outcome"], round(row["self_eval"], 9), row["reward"], round(row["r_value"], 9)) for row in asked} == {
        (None, 0.5, 0.5, 0.25 + 0.125),
        (None, 0.75, 0.5, 0.375 + 0.125),
        (1.0, 0.5, 0.5, 2 + 0.375),
        (-1.0, 0.5, 0.5, -2 + 0.375),
        (1.0, 0.75, 0.5, 2.5),
        (-1.0, 0.75, 0.5, -1.5),
    }
    assert len(critic.requests) == len(grader.requests) == len(asked)
    search = json.loads(rows[0]["search"])
    assert search["weights"] == {"verifier": 2, "self_eval": 0.5, "reward": 0.25}
    assert search["values"]["self_eval"] | {"engine": "", "rubric_digest": ""} == {
        "engine": "",
        "rubric": "step",
        "rubric_digest": "",
        "channel": "auto",
        "votes": 5,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 16,
        "seed": 0,
        "repairs": 1,
        "min_label_mass": 0.05,
    }
    assert search["values"]["reward"]["rubric"] == "stars"


def test_what_is_asked_for_is_part_of_the_search() -> None:
    judged = Judged(engine=Critic(), rubric=STEP)

    def asked(values: Values | None, **weights: float) -> str:
        return search_id(PROMPT, FakeEngine(write), NUMERIC, config=replace(CONFIG, weights=ValueWeights(**weights)), values=values)

    alone = [asked(None), asked(Values()), asked(None, reward=0.5)]
    assert (alone[0] == alone[1], alone[0] == alone[2]) == (True, False)
    assert asked(Values(reward=judged), reward=0) == asked(None, reward=0)
    function = Values(reward=Checked(verifier=NUMERIC))
    different = [Values(self_eval=judged), Values(reward=judged), function, Values(self_eval=replace(judged, config=JudgeConfig()))]
    assert len({alone[0], *map(asked, different)}) == 5


async def test_where_every_value_failed_the_tree_ends_there_and_says_so() -> None:
    values = Values(self_eval=Judged(engine=Critic(lambda request: REFUSED), rubric=STEP))
    rows = await search_prompt(PROMPT, FakeEngine(write), NUMERIC, config=CONFIG, values=values)
    assert [(row["state"], row["reason"]) for row in rows] == [
        ("dead_end", "no usable step among 2 sampled: value_error"),
        ("value_error", "no self_eval: content policy"),
        ("value_error", "no self_eval: content policy"),
    ]
    assert {row["tree_state"] for row in rows} == {"finished"}
    answers = FakeEngine(lambda request, i: "12"[i])
    rows = await search_prompt(PROMPT, answers, NUMERIC, config=CONFIG, values=values)
    assert [(row["state"], row["outcome"], row["r_value"], row["reason"]) for row in rows[1:]] == [
        ("ok", 1.0, 1.0, "no self_eval: content policy"),
        ("ok", -1.0, -1.0, "no self_eval: content policy"),
    ]


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        (Reply(error="budget_skipped", reason="the run's cap on tokens is reached"), "budget", "the run's cap on tokens is reached"),
        (EngineBusy("no one at :8000"), "endpoint_down", "no one at :8000"),
    ],
)
async def test_a_critic_that_cannot_be_asked_any_more_ends_its_tree_and_no_other(said: Any, state: str, reason: str) -> None:
    prompts = frame([make_prompt(question, reference="1") for question in ("What is 3 - 2?", "What is 5 - 4?")], PROMPTS)
    critic = Critic(lambda request: said if "5 - 4" in shown(request) and "2" in proposed(request) else (0.5, 0.5))
    values = Values(self_eval=Judged(engine=critic, rubric=STEP))
    nodes = await search_all(prompts, FakeEngine(write), NUMERIC, config=CONFIG, values=values)
    going, ended = nodes.partition_by("prompt_id", maintain_order=True)
    assert set(going["tree_state"]) == {"finished"}
    assert set(ended["tree_state"]) == {state}
    assert ended["reason"][0] == reason
    assert ended["depth"].max() == 1


async def test_what_a_critic_said_is_in_the_ledger(tmp_path: Path) -> None:
    critic = Critic(lambda request: (0.3, 0.6))
    trees: list[Sequence[Row]] = []
    with open_ledger(tmp_path / "calls.sqlite") as ledger:
        for _ in range(2):
            values = Values(self_eval=Judged(engine=CachedEngine(critic, ledger), rubric=STEP))
            trees.append(await search_prompt(PROMPT, FakeEngine(write), NUMERIC, config=CONFIG, values=values))
    assert trees[0] == trees[1]
    assert len(critic.requests) == len(trees[0]) - 1


async def test_tokens_of_values_count_against_the_tree() -> None:
    found = await rate(
        Values(self_eval=Judged(engine=Critic(lambda request: (0.3, 0.6)), rubric=STEP)), PROMPT, STEPS, key="k", before="", config=CONFIG
    )
    assert found.n_tokens == 2


async def test_a_reward_model_rates_with_its_own_number_and_a_failure_is_no_value() -> None:
    def say(request: Request, i: int) -> Any:
        answer = request.messages[-1]["content"]
        return (
            Completion(text="", scores={"score": float(len(answer)), "style": 2.0})
            if "b" not in answer
            else Reply(error="refused", reason="no")
        )

    class Model(FakeEngine):
        capabilities = frozenset({"scores"})

    source = Scored(Model(say), {"score": -1.0, "style": 0.25})
    assert await rated(Values(reward=source)) == [("ok", None, -4.5, None), ("value_error", None, None, "no reward: no")]
    assert source.about == {"engine": "fake:", "weights": {"score": -1.0, "style": 0.25}}
