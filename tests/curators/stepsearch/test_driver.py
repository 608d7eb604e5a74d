"""The driver against the sequential search; what samples, failures, caps and verifiers do to a tree; the embedded policy, searched."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.engines import Completion, Reply, Request, open_engine
from curators.engines.budget import Budget
from curators.engines.cached import CachedEngine
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError, EngineBusy, EngineError
from curators.pairs import unit_hash
from curators.sampling import Row, make_prompt, prompt_rows
from curators.schema import NODES, PROMPTS, check, frame
from curators.stepsearch.config import PRESETS, SearchConfig
from curators.stepsearch.driver import Driven, Propose, TreeLimits, drive, search_all, search_id, search_prompt
from curators.stepsearch.extraction import step_pairs
from curators.stepsearch.proposals import Proposal, Proposer, StepConfig
from curators.stepsearch.toys import t1, t2, wild
from curators.stepsearch.tree import Expander, Tree, search
from curators.verifiers import Verifier, load_verifier
from examples.arithmetic.make_prompts import row as prompt_line
from examples.arithmetic.world import first_wrong, problems
from storage.calls import open_ledger

POLICY = Path(__file__).parents[3] / "examples/arithmetic/policy"
PROMPT = make_prompt("What is 3 - 2?", reference="1")
NUMERIC = load_verifier("numeric")
SMALL = SearchConfig(simulations=8, max_depth=4)
TOYS = {"t1": t1, "t2": t2, "wild": wild(3), "wilder": wild(8)}


def write(request: Request, index: int) -> str:
    """Steps and answers by hash: some blank, many the same, no answer as a first step."""
    noise = unit_hash(request.messages[0]["content"], request.prefix, request.sampling.seed, index)
    if noise < 0.2:
        return "\n and more"
    if noise < 0.5 and request.prefix:
        return f"Answer: {int(noise * 20) % 3}"
    return f"step {int(noise * 1000) % 4}\nand more"


def check_flag(flag: object) -> Verifier:
    """A verifier that answers with `flag`, or raises it."""

    def check(*, prompt: str, response: str, reference: str | None) -> Any:
        if isinstance(flag, Exception):
            raise flag
        return flag

    return Verifier(name="flag", check=check, code_digest="0", in_process_chars=math.inf)


def from_toy(expander: Expander, seed: int | None = None) -> Propose:
    """A toy as what proposes steps; with a seed every proposal takes a while of its own."""
    rng = random.Random(seed)

    async def propose(tree: Tree, node: int) -> Proposal:
        for _ in range(0 if seed is None else rng.randrange(20)):
            await asyncio.sleep(0)
        return Proposal(steps=expander(tree, node), n_tokens=1)

    return propose


class SlowEngine(FakeEngine):
    """A fake that takes a random while, and knows how many requests it had at once, and their keys."""

    def __init__(self, respond: Any = write, seed: int = 0) -> None:
        super().__init__(respond)
        self.rng, self.now, self.peak, self.requests = random.Random(seed), 0, 0, list[Request]()

    async def complete(self, request: Request) -> Reply:
        self.requests.append(request)
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            for _ in range(3 + self.rng.randrange(10)):
                await asyncio.sleep(0)
            return await super().complete(request)
        finally:
            self.now -= 1


def grown(tree: Tree) -> tuple[Any, ...]:
    return tree.N, tree.Q, tree.V, tree.ended, tree.committed, tree.steps, tree.discarded, tree.dead_ends, tree.at_commit


def at_rest(driven: Driven) -> Tree:
    assert set(driven.tree.O) == {0}
    assert 1 not in driven.tree.opened
    return driven.tree


def many(n: int) -> pl.DataFrame:
    return frame([make_prompt(f"What is {i} - {i - 1}?", reference="1") for i in range(n)], PROMPTS)


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("mode", PRESETS)
async def test_one_in_flight_is_the_sequential_search(toy: str, mode: str) -> None:
    driven = await drive(Tree(PRESETS[mode]), from_toy(TOYS[toy], seed=1))
    assert grown(at_rest(driven)) == grown(search(Tree(PRESETS[mode]), TOYS[toy]))
    assert (driven.ended, driven.n_calls) == (None, driven.tree.opened.count(2))


@pytest.mark.parametrize(("in_flight", "bound"), [(1, 1e-5), (2, 0.001), (8, 0.02), (32, 0.07)])
async def test_several_in_flight_hardly_change_the_values_of_t2_and_not_with_the_order_of_replies(in_flight: int, bound: float) -> None:
    config = replace(PRESETS["paper"], simulations=1024, depth_limit=None, max_depth=None)
    trees = [at_rest(await drive(Tree(config), from_toy(t2, seed), in_flight=in_flight)) for seed in range(3)]
    assert grown(trees[0]) == grown(trees[1]) == grown(trees[2])
    assert abs(trees[0].V[0] - 1.83857) <= bound
    assert max(trees[0].children(0), key=lambda child: trees[0].at_commit[child][1]) == 1
    assert trees[0].N[0] == 1024


@given(st.integers(0, 10**6), st.sampled_from(list(PRESETS)), st.integers(1, 12), st.sampled_from([None, 3, 9]))
@settings(deadline=None, max_examples=30)
def test_what_holds_of_any_tree_however_many_are_in_flight(seed: int, mode: str, in_flight: int, cap: int | None) -> None:
    config = replace(PRESETS[mode], simulations=20, root_multiplier=1, virtual_loss=seed % 2)
    driven = asyncio.run(drive(Tree(config), from_toy(wild(seed), seed), in_flight=in_flight, limits=TreeLimits(max_calls=cap)))
    tree = at_rest(driven)
    assert driven.n_calls == driven.n_tokens == tree.opened.count(2)  # each node once, and no call for nothing
    assert driven.n_calls <= (cap or driven.n_calls)
    assert driven.ended in (None, f"the tree's cap of {cap} calls is reached")
    assert driven.ended or tree.finished or not tree.children(tree.root)
    for node in range(len(tree)):
        if node not in tree.committed:
            assert tree.N[node] == tree.ended[node] + sum(tree.N[child] for child in tree.children(node))


def test_a_search_over_an_engine_is_the_sequential_one_and_the_same_every_time() -> None:
    steps = StepConfig()
    rows = asyncio.run(search_prompt(PROMPT, FakeEngine(write), NUMERIC, config=SMALL, steps=steps))
    assert rows == asyncio.run(search_prompt(PROMPT, SlowEngine(), NUMERIC, config=SMALL, steps=steps))
    propose = Proposer(PROMPT, FakeEngine(write), NUMERIC, steps)
    tree = search(Tree(SMALL), lambda tree, node: asyncio.run(propose(tree, node)).steps)
    assert [row["n_visits"] for row in rows[: len(tree)]] == tree.N
    assert [row["q"] for row in rows[: len(tree)]] == tree.Q
    assert {"ok", "empty", "duplicate", "truncated"} <= {row["state"] for row in rows}
    assert {1.0, -1.0, None} == {row["outcome"] for row in rows}
    assert {row["tree_state"] for row in rows} == {"finished"}


async def test_each_node_is_asked_for_once_with_one_request_for_its_steps() -> None:
    engine = SlowEngine()
    rows = await search_prompt(PROMPT, engine, NUMERIC, config=SMALL, steps=StepConfig(in_flight=4, temperature=0.7, max_tokens=9))
    texts = {"": ""}
    for row in rows[1:]:
        texts["/".join(map(str, row["place"]))] = texts["/".join(map(str, row["place"][:-1]))] + row["text"]
    places = [request.key.removeprefix(f"step/{PROMPT['prompt_id']}").removeprefix("/") for request in engine.requests]
    assert len(places) == len(set(places)) == engine.calls
    assert set(places) == {"/".join(map(str, row["place"][:-1])) for row in rows[1:]}
    for place, request in zip(places, engine.requests, strict=True):
        assert (request.prefix or "") == texts[place]
        assert (request.prefix is None, request.n, request.logprobs) == (not place, 3 if place else 4, True)
        assert (request.sampling.stop, request.sampling.temperature, request.sampling.max_tokens) == (("\n",), 0.7, 9)
    assert len({request.sampling.seed for request in engine.requests}) == len(places)
    assert all(0 <= request.sampling.seed < 2**31 for request in engine.requests)
    other = SlowEngine()
    await search_prompt(PROMPT, other, NUMERIC, config=SMALL, steps=StepConfig(seed=1))
    assert other.requests[0].sampling.seed != engine.requests[0].sampling.seed


async def proposed(
    *said: str | Completion, steps: StepConfig | None = None, verifier: Verifier | None = NUMERIC, prompt: Row = PROMPT, **search: Any
) -> list[tuple[str, str, bool, float | None, float]]:
    """(text, state, terminal, outcome, value) of what the samples below the node `3 - 2 = 1` become."""
    tree = Tree(replace(SearchConfig(children=len(said)), **search))
    propose = Proposer(prompt, FakeEngine(lambda request, i: said[i] if request.prefix else "3 - 2 = 1\n"), verifier, steps or StepConfig())
    tree.expand(0, (await propose(tree, 0)).steps)
    assert tree.text(1) == "3 - 2 = 1\n"
    found = (await propose(tree, 1)).steps
    return [(step.text, step.state, step.terminal, step.outcome, step.value) for step in found]


async def test_what_a_sample_becomes() -> None:
    assert await proposed("so\n", "1", "2", "so\nand", "\n", " \n", "") == [
        ("so\n", "ok", False, None, 0),
        ("1", "ok", True, 1, 1),
        ("2", "ok", True, -1, -1),
        ("so\n", "duplicate", False, None, 0),
        ("\n", "empty", False, None, 0),
        (" \n", "empty", False, None, 0),
        ("", "ok", True, 1, 1),  # the model ends its turn after the newline: an answer, of all that stands before
    ]
    long = StepConfig(max_tokens=2)
    assert await proposed("a b c", steps=long) == [("a b", "truncated", False, None, -1)]
    assert await proposed("a b c", steps=long, truncated_outcome=None) == [("a b", "truncated", False, None, 0)]
    assert await proposed("so\n", "1", max_depth=2) == [("so\n", "truncated", False, None, -1), ("1", "ok", True, 1, 1)]


async def test_a_pattern_says_where_an_answer_ends() -> None:
    pattern = StepConfig(answer="Answer")
    assert await proposed("Answer: 1\n", "so\n", "so", steps=pattern) == [
        ("Answer: 1\n", "ok", True, 1, 1),
        ("so\n", "ok", False, None, 0),
        ("so", "ok", True, 1, 1),
    ]
    silent = [Completion(text=text) for text in ("Answer: 2", "so")]
    assert await proposed(*silent, steps=pattern) == [("Answer: 2", "ok", True, -1, -1), ("so\n", "ok", False, None, 0)]
    assert [state for _, state, *_ in await proposed(*silent)] == ["unsupported"] * 2


async def test_what_is_no_step() -> None:
    call = Completion(text="", tool_calls=[{"id": "1"}], finish_reason="tool_calls", ended=False)
    filtered = Completion(text="so", finish_reason="content_filter", ended=False)
    assert [state for _, state, *_ in await proposed(call, filtered)] == ["unsupported"] * 2


async def test_a_model_that_says_nothing_gives_a_prompt_without_steps() -> None:
    for said in ("", "\n"):
        rows = await search_prompt(PROMPT, FakeEngine(lambda request, i, said=said: said), NUMERIC)
        assert [row["state"] for row in rows] == ["dead_end", *["empty"] * 4]
        assert rows[0]["reason"] == "no usable step among 4 sampled: empty"
        assert check(frame(rows, NODES), "nodes").height == 5


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        (KeyError("steps"), "verifier flag raised KeyError: 'steps'"),
        (None, "verifier flag cannot tell: the prompt has no reference"),
        ("yes", "verifier flag returned 'yes'; it must return bool, float or None"),
    ],
)
async def test_an_answer_that_cannot_be_graded_is_no_step(flag: object, reason: str) -> None:
    prompt = make_prompt("What?")
    rows = await search_prompt(prompt, FakeEngine(lambda r, i: str(i) if r.prefix else f"{i}\n"), check_flag(flag), config=SMALL)
    assert Counter(row["state"] for row in rows) == {"ok": 1, "dead_end": 4, "verifier_error": 12}
    assert {row["reason"] for row in rows if row["state"] == "verifier_error"} == {reason}
    assert {row["outcome"] for row in rows} == {None}
    assert {row["tree_state"] for row in rows} == {"finished"}


async def test_a_verifier_that_hangs_costs_its_answers_only() -> None:
    limits = TreeLimits(verifier_timeout_s=0.5)

    def say(request: Request, i: int) -> str:
        hard = (
            f"{'a' * 60}{i}" if "wait" in request.messages[0]["content"] else "a"
        )  # a regular expression that explodes, and one that does not
        return hard if request.prefix else "so\n"

    prompts = frame([make_prompt("wait", reference="(a+)+$"), make_prompt("go", reference="(a+)+$")], PROMPTS)
    config = SearchConfig(children=2, simulations=2)
    nodes = await search_all(prompts, FakeEngine(say), load_verifier("regex"), config=config, limits=limits)
    waiting, going = nodes.partition_by("prompt_id", maintain_order=True)
    late = waiting.filter(pl.col("state") == "verifier_error")
    assert late["reason"].to_list() == ["verifier regex: no answer in 0.5 s"] * 2
    assert waiting.filter(pl.col("state") == "dead_end")["reason"].to_list() == ["no usable step among 2 sampled: verifier_error"]
    assert going["outcome"].to_list().count(1.0) == 1
    assert set(nodes["tree_state"]) == {"finished"}


async def test_a_score_counts_as_right_from_a_threshold() -> None:
    assert [(await proposed("1", verifier=check_flag(0.5), steps=StepConfig(right_from=at)))[0][3] for at in (0.4, 0.5, 0.6)] == [1, 1, -1]
    assert (await proposed("1", verifier=None))[0] == ("1", "ok", True, None, 0)


def fail_at(fails: Callable[[Request], bool], failure: Reply | Exception) -> Callable[[Request, int], Any]:
    def respond(request: Request, i: int) -> Any:
        if not fails(request):
            return write(request, i)
        if isinstance(failure, Exception):
            raise failure
        return failure

    return respond


REFUSED = Reply(error="refused", reason="content policy")
SKIPPED = Reply(error="budget_skipped", reason="the run's cap on tokens is reached")


@pytest.mark.parametrize("in_flight", [1, 4])
async def test_a_failed_request_is_a_dead_end_and_no_other_tree_knows(in_flight: int) -> None:
    prompts, steps = many(4), StepConfig(in_flight=in_flight)
    unlucky = prompts["prompt_id"][1]
    engine = SlowEngine(fail_at(lambda request: unlucky in request.key and bool(request.prefix), REFUSED))
    nodes = await search_all(prompts, engine, NUMERIC, config=SMALL, steps=steps)
    whole = await search_all(prompts, SlowEngine(), NUMERIC, config=SMALL, steps=steps)
    assert nodes.filter(pl.col("prompt_id") != unlucky).equals(whole.filter(pl.col("prompt_id") != unlucky))
    failed = nodes.filter(pl.col("prompt_id") == unlucky)
    assert set(failed.filter(pl.col("depth") == 2)["state"]) == {"refused"}
    assert set(failed.filter(pl.col("depth") == 2)["reason"]) == {"content policy"}
    assert failed.filter(pl.col("state") == "dead_end")["reason"][0] == "no usable step among 3 sampled: refused"
    assert failed["tree_state"][0] == "finished"


async def test_of_a_reply_with_too_few_samples_those_that_came_are_steps() -> None:
    few = Reply(completions=(Completion(text="1", sample_index=1, finish_reason="stop", ended=True),))
    for reply, state, reason in (
        (few, "transport_error", "the engine gave 1 samples, sample 0 is missing"),
        (replace(few, error="refused", reason="no"), "refused", "no"),
    ):
        tree = Tree(SearchConfig(first_children=2))
        steps = (await Proposer(PROMPT, FakeEngine(lambda r, i, reply=reply: reply), NUMERIC, StepConfig())(tree, 0)).steps
        assert [(step.state, step.reason, step.outcome) for step in steps] == [(state, reason, None), ("ok", None, 1.0)]


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize(
    ("failure", "state", "reason"),
    [(SKIPPED, "budget", SKIPPED.reason), (EngineBusy("no one at :8000"), "endpoint_down", "no one at :8000")],
)
async def test_a_spent_budget_and_a_dead_endpoint_end_a_tree_with_what_there_is(
    failure: Reply | Exception, state: str, reason: str, in_flight: int
) -> None:
    prompts, steps = many(4), StepConfig(in_flight=in_flight)
    unlucky = prompts["prompt_id"][1]
    engine = SlowEngine(fail_at(lambda request: unlucky in request.key and len(request.prefix or "") > 10, failure))
    nodes = await search_all(prompts, engine, NUMERIC, config=SMALL, steps=steps)
    states = nodes.group_by("prompt_id").agg(pl.col("tree_state").unique().implode().list.join(" "))
    assert dict(states.iter_rows()) == {prompt_id: state if prompt_id == unlucky else "finished" for prompt_id in prompts["prompt_id"]}
    ended = nodes.filter(pl.col("prompt_id") == unlucky)
    assert ended["reason"][0] == reason
    assert ended["depth"].max() == 2
    assert check(ended, "nodes")["n_visits"].drop_nulls().min() == 0
    driven = await drive(
        Tree(SMALL), Proposer(PROMPT, SlowEngine(fail_at(lambda r: bool(r.prefix), failure)), NUMERIC, steps), in_flight=in_flight
    )
    assert at_rest(driven).opened[0] == 2
    assert (driven.state, driven.ended) == (state, reason)


async def test_a_tree_that_meets_its_cap_and_a_dead_endpoint_says_which_came_first() -> None:
    async def propose(tree: Tree, node: int) -> Proposal:
        if node:
            raise EngineBusy("no one at :8000")
        return Proposal(steps=t1(tree, node))

    for cap, in_flight, state in ((1, 1, "budget"), (2, 1, "endpoint_down"), (2, 4, "budget"), (9, 4, "endpoint_down")):
        driven = await drive(Tree(SMALL), propose, in_flight=in_flight, limits=TreeLimits(max_calls=cap))
        assert (driven.state, at_rest(driven).N[0]) == (state, 0)


async def test_a_cap_in_the_middle_ends_the_tree_where_the_same_tree_would_have_gone_on() -> None:
    config = replace(PRESETS["paper"], simulations=64)
    whole = search(Tree(config), t2)
    for limits, reason in (
        (TreeLimits(max_calls=5), "the tree's cap of 5 calls is reached"),
        (TreeLimits(max_tokens=5), "the tree's cap of 5 tokens is reached: 5 were sampled"),
    ):
        driven = await drive(Tree(config), from_toy(t2), limits=limits)
        tree = at_rest(driven)
        assert (driven.ended, driven.n_calls, driven.n_tokens) == (reason, 5, 5)
        assert tree.steps == whole.steps[: len(tree)]
        assert 0 < sum(tree.N[child] for child in tree.children(0)) == tree.N[0] < 64
    both = await drive(Tree(config), from_toy(t2, seed=1), in_flight=8, limits=TreeLimits(max_calls=5))
    assert at_rest(both).opened.count(2) == both.n_calls == 5  # what was asked for is taken in


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_a_reply_that_never_comes_ends_its_tree_when_the_time_is_over(in_flight: int) -> None:
    prompts = many(3)
    silent = prompts["prompt_id"][2]

    class Silent(SlowEngine):
        async def complete(self, request: Request) -> Reply:
            if silent in request.key and request.prefix:
                await asyncio.Event().wait()
            return await super().complete(request)

    steps = StepConfig(in_flight=in_flight)
    nodes = await search_all(prompts, Silent(), NUMERIC, config=SMALL, steps=steps, limits=TreeLimits(max_s=2.0))
    ended = nodes.filter(pl.col("tree_state") == "budget")
    assert set(ended["prompt_id"]) == {silent}
    assert (ended["reason"][0], ended["depth"].max()) == ("the tree's 2 s are over", 1)
    driven = await drive(
        Tree(SMALL), Proposer(prompts.row(2, named=True), Silent(), NUMERIC, steps), in_flight=3, limits=TreeLimits(max_s=0.1)
    )
    assert at_rest(driven).N[0] == 0


async def test_an_error_of_the_engine_is_raised_and_leaves_nothing_behind() -> None:
    trees: list[Tree] = []
    respond = fail_at(lambda request: bool(request.prefix), EngineError("the model does not load"))

    async def propose(tree: Tree, node: int) -> Proposal:
        trees.append(tree)
        return await Proposer(PROMPT, SlowEngine(respond), NUMERIC, StepConfig())(tree, node)

    with pytest.raises(EngineError, match="the model does not load"):
        await drive(Tree(SMALL), propose, in_flight=4)
    assert set(trees[0].O) == {0}
    assert 1 not in trees[0].opened
    with pytest.raises(EngineError, match="the model does not load"):
        await search_all(many(3), SlowEngine(respond), NUMERIC, config=SMALL)
    assert len(asyncio.all_tasks()) == 1


async def test_many_trees_are_in_flight_and_no_more_than_allowed() -> None:
    peaks = []
    for max_trees, in_flight in ((64, 1), (5, 1), (5, 3)):
        engine = SlowEngine()
        await search_all(many(40), engine, NUMERIC, config=SMALL, steps=StepConfig(in_flight=in_flight), max_trees=max_trees)
        peaks.append(engine.peak)
    assert (peaks[:2], 5 < peaks[2] <= 15) == ([40, 5], True)


async def test_trees_know_nothing_of_one_another_and_bad_prompts_have_none() -> None:
    prompts = many(6)
    nodes = await search_all(prompts, SlowEngine(), NUMERIC, config=SMALL)
    turned = await search_all(prompts[::-1], SlowEngine(seed=5), NUMERIC, config=SMALL)
    assert nodes.sort("node_id").equals(turned.sort("node_id"))
    assert nodes["prompt_id"].unique(maintain_order=True).to_list() == prompts["prompt_id"].to_list()
    bad = frame([{**PROMPT, "state": "duplicate"}], PROMPTS)
    assert (await search_all(bad, FakeEngine(write), NUMERIC)).height == 0


async def test_a_recording_of_a_search_is_the_same_search(tmp_path: Path) -> None:
    engine = SlowEngine()
    rows = await search_prompt(PROMPT, engine, NUMERIC, config=SMALL)
    lines = []
    for request in engine.requests:
        given = [asdict(completion) for completion in (await FakeEngine(write).complete(request)).completions]
        lines.append(orjson.dumps({"key": request.key, "completions": given}))
    file = tmp_path / "steps.jsonl"
    file.write_bytes(b"\n".join(lines))
    again = await search_prompt(PROMPT, open_engine(f"replay:{file}"), NUMERIC, config=SMALL)
    names = {"policy", "engine", "search_id", "tree_id", "node_id", "parent_id"}
    assert [row | dict.fromkeys(names) for row in again] == [row | dict.fromkeys(names) for row in rows]
    with pytest.raises(EngineError, match="no line has the key 'step/"):
        await search_prompt(make_prompt("another"), open_engine(f"replay:{file}"), NUMERIC)


async def test_what_a_tree_answers_is_known_before_it_is_searched() -> None:
    rows = await search_prompt(PROMPT, FakeEngine(write), NUMERIC, config=SMALL, steps=StepConfig(seed=1))
    (found,) = {row["search_id"] for row in rows}

    def asked(prompt: Row = PROMPT, engine: str = "fake:", verifier: Verifier | None = NUMERIC, **changes: Any) -> str:
        config, steps = changes.pop("config", SMALL), StepConfig(**{"seed": 1, **changes})
        return search_id(prompt, FakeEngine(write, spec="elsewhere", fingerprint=engine), verifier, config=config, steps=steps)

    assert asked() == asked({**PROMPT, "source": "another file"}) == found
    others = [
        asked({**PROMPT, "reference": "2"}),
        asked(make_prompt("What?", reference="1")),
        asked(engine="another model"),
        asked(verifier=None),
        asked(seed=2),
        asked(max_tokens=9),
        asked(config=replace(SMALL, c_puct=2)),
    ]
    assert len({found, *others}) == 8


async def test_a_search_that_was_interrupted_pays_for_nothing_twice(tmp_path: Path) -> None:
    prompts, alone = many(10), FakeEngine(write)
    whole = await search_all(prompts, alone, NUMERIC, config=SMALL)
    with open_ledger(tmp_path / "calls.sqlite") as ledger:

        async def run(inner: FakeEngine, interrupt: asyncio.Event | None = None) -> pl.DataFrame | BaseException:
            engine = CachedEngine(inner, ledger)
            task = asyncio.ensure_future(search_all(prompts, engine, NUMERIC, config=SMALL))
            if interrupt is not None:
                await interrupt.wait()
                task.cancel()
            found = (await asyncio.gather(task, return_exceptions=True))[0]
            await engine.aclose()
            return found

        reached = asyncio.Event()

        def stop_at_twenty(request: Request, i: int) -> str:
            if first.calls == 20:
                reached.set()
            return write(request, i)

        first = FakeEngine(stop_at_twenty)
        assert isinstance(await run(first, reached), asyncio.CancelledError)
        second = FakeEngine(write)
        nodes = await run(second)
    assert isinstance(nodes, pl.DataFrame)
    assert nodes.equals(whole)
    assert 0 < second.calls < alone.calls <= first.calls + second.calls <= alone.calls + 10  # one call a tree was in flight


async def test_a_cap_of_the_run_ends_trees_and_a_rerun_takes_them_up(tmp_path: Path) -> None:
    prompts, alone = many(10), FakeEngine(write)
    whole = await search_all(prompts, alone, NUMERIC, config=SMALL)
    cap = alone.calls // 2
    with open_ledger(tmp_path / "calls.sqlite") as ledger:
        capped = CachedEngine(FakeEngine(write), ledger, budget=Budget(max_calls=cap))
        nodes = await search_all(prompts, capped, NUMERIC, config=SMALL, max_trees=2)
        rest = FakeEngine(write)
        again = await search_all(prompts, CachedEngine(rest, ledger), NUMERIC, config=SMALL)
    done = nodes.filter(pl.col("tree_state") == "finished")
    assert 0 < done["prompt_id"].n_unique() < 10 == nodes["prompt_id"].n_unique()
    assert done.equals(whole.filter(pl.col("prompt_id").is_in(done["prompt_id"].unique().implode())))
    ended = nodes.filter((pl.col("tree_state") == "budget") & (pl.col("depth") == 0))
    assert set(ended["reason"]) == {"the run's cap on calls is reached"}
    assert again.equals(whole)
    assert rest.calls == alone.calls - cap


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepConfig(delimiter=""), "delimiter is '', must not be empty"),
        (lambda: StepConfig(in_flight=0), "in_flight 0, must be ≥ 1"),
        (lambda: StepConfig(answer="("), r"answer is '\(', no regular expression"),
        (lambda: TreeLimits(max_calls=0), "max_calls is 0, must be > 0"),
    ],
)
def test_a_wrong_parameter_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.slow
async def test_the_embedded_policy_searched() -> None:
    rows = prompt_rows([json.loads(prompt_line(problem)) for problem in problems(10, seed=3, split="heldout")], source="problems")
    prompts = frame(rows, PROMPTS)
    engine = open_engine(f"hf:{POLICY}", options={"threads": 1})
    verifier = load_verifier("examples.arithmetic.world:check_answer")
    nodes = await search_all(prompts, engine, verifier, steps=StepConfig(max_tokens=32, temperature=1.3))
    await engine.aclose()
    assert set(nodes["tree_state"]) == {"finished"}
    assert {1.0, -1.0} <= set(nodes["outcome"].drop_nulls())
    pairs, _ = step_pairs(prompts, nodes)
    references = dict(prompts.select("prompt_id", "reference").iter_rows())

    def right(pair: Row, side: str) -> bool:
        """No line up to this step is wrong."""
        text = pair["prefix"] + pair[f"{side}_step"]
        wrong = first_wrong(text, references[pair["prompt_id"]])
        return wrong is None or wrong >= len(text.splitlines())

    sides = [(right(pair, "chosen"), right(pair, "rejected")) for pair in pairs.iter_rows(named=True)]
    assert len(sides) >= 5
    assert sum(chosen for chosen, _ in sides) > sum(rejected for _, rejected in sides)
