"""The cached engine over a real ledger: nothing is paid for twice, and no failure is kept as an answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from curators.engines import Completion, Reply, Request, Sampling
from curators.engines.budget import Budget, Price
from curators.engines.cached import CachedEngine
from curators.engines.fake import FakeEngine, words
from curators.engines.replay import ReplayEngine
from curators.errors import ConfigError, EngineBusy, EngineError
from storage.calls import CallLedger, open_ledger
from storage.errors import StorageError


@pytest.fixture
def ledger(tmp_path: Path):
    with open_ledger(tmp_path / "calls.sqlite") as opened:
        yield opened


def ask(text: str = "hello", **fields: object) -> Request:
    return Request(key=text, messages=[{"role": "user", "content": text}], **fields)


class Recorder:
    """A `respond` that writes down what it was asked for."""

    def __init__(self, respond=words) -> None:
        self.respond = respond
        self.asked: list[tuple[str, int]] = []

    def __call__(self, request: Request, sample_index: int):
        self.asked.append((request.key, sample_index))
        return self.respond(request, sample_index)


async def test_the_same_request_again_is_free_and_the_same(ledger):
    recorder = Recorder()
    engine = CachedEngine(FakeEngine(recorder), ledger, run_id="r")
    first = await engine.complete(ask(n=3, logprobs=True))
    again = await engine.complete(ask(n=3, logprobs=True))
    assert len(recorder.asked) == 3
    assert (first.cached, again.cached) == (False, True)
    assert again.completions == first.completions
    assert (again.prompt_tokens, again.completion_tokens, again.model) == (first.prompt_tokens, first.completion_tokens, first.model)
    assert (engine.counts.hits, engine.counts.samples, engine.counts.requests) == (3, 3, 1)
    await engine.aclose()
    assert ledger.summary(run_id="r") == {
        "samples": 3,
        "hits": 3,
        "requests": 1,
        "failures": 0,
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": first.completion_tokens,
        "usd": 0.0,
    }


async def test_every_field_of_a_completion_survives(ledger):
    whole = Completion(
        text="ü\u2028\x00x",
        sample_index=0,
        finish_reason="tool_calls",
        reasoning="because",
        tool_calls=[{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        token_ids=[1, 2],
        logprobs=[-0.5, -0.25],
        option_logprobs={"A": -0.1},
        n_tokens=2,
        ended=False,
    )
    for _ in range(2):
        engine = CachedEngine(FakeEngine(lambda request, i: whole), ledger)
        assert (await engine.complete(ask())).completions == (whole,)
        await engine.aclose()


async def test_only_what_is_missing_is_sent_for(ledger):
    recorder = Recorder()
    engine = CachedEngine(FakeEngine(recorder), ledger)
    await engine.complete(ask(first_sample=1, n=2))
    reply = await engine.complete(ask(n=5))
    assert [i for _, i in recorder.asked] == [1, 2, 0, 3, 4]
    assert [c.sample_index for c in reply.completions] == [0, 1, 2, 3, 4]
    assert [c.text for c in reply.completions] == [words(ask(), i) for i in range(5)]
    assert reply.extra["sent"] == 2
    await engine.aclose()


@pytest.mark.parametrize(
    "other",
    [
        ask("hello!"),
        ask(attempt=1),
        ask(sampling=Sampling(seed=1)),
        ask(sampling=Sampling(temperature=0.5)),
        ask(first_sample=1),
        ask(prefix="so"),
        ask(logprobs=True),
        ask(options=("A",)),
    ],
)
async def test_what_decides_the_answer_is_in_the_key(ledger, other):
    fake = FakeEngine()
    engine = CachedEngine(fake, ledger)
    await engine.complete(ask())
    await engine.complete(other)
    assert fake.calls == 2
    await engine.aclose()


async def test_what_a_call_is_for_is_not_in_the_key(ledger):
    fake = FakeEngine()
    engine = CachedEngine(fake, ledger)
    await engine.complete(ask())
    await engine.complete(Request(key="other", messages=[{"role": "user", "content": "hello"}]))
    assert fake.calls == 1
    await engine.aclose()


@pytest.mark.parametrize("error", ["transport_error", "refused", "context_overflow", "unsupported"])
async def test_a_failure_is_never_kept(ledger, error):
    engine = CachedEngine(FakeEngine(lambda request, i: Reply(error=error, reason="so", extra={"sent": 2})), ledger, run_id="r")
    for _ in range(2):
        reply = await engine.complete(ask(n=2))
        assert (reply.error, reply.reason, reply.completions) == (error, "so", ())
    await engine.aclose()
    summary = ledger.summary(run_id="r")
    assert (summary["samples"], summary["failures"], summary["requests"], summary["hits"]) == (0, 2, 4, 0)
    good = CachedEngine(FakeEngine(), ledger)
    assert (await good.complete(ask(n=2))).error is None
    await good.aclose()


async def test_an_answer_that_nobody_can_parse_is_kept(ledger):
    recorder = Recorder(lambda request, i: "")
    engine = CachedEngine(FakeEngine(recorder), ledger)
    assert [(await engine.complete(ask())).completions[0].text for _ in range(2)] == ["", ""]
    assert len(recorder.asked) == 1
    await engine.aclose()


async def test_samples_that_arrived_before_a_failure_are_kept(ledger):
    arrived = Completion(text="paid", sample_index=0, n_tokens=1)
    failing = FakeEngine(lambda request, i: Reply(completions=(arrived,), error="transport_error", reason="x", completion_tokens=1))
    engine = CachedEngine(failing, ledger)
    reply = await engine.complete(ask(n=2))
    assert (reply.completions, reply.error, reply.reason, reply.completion_tokens) == ((arrived,), "transport_error", "x", 1)
    await engine.aclose()
    recorder = Recorder()
    engine = CachedEngine(FakeEngine(recorder), ledger)
    reply = await engine.complete(ask(n=2))
    assert recorder.asked == [("hello", 1)]
    assert reply.completions[0] == arrived
    await engine.aclose()


class Single(FakeEngine):
    """An engine that takes one sample a request; what `raises` says, it raises instead, after the others are through."""

    capabilities = frozenset({"seed"})

    def __init__(self, raises=None) -> None:
        super().__init__()
        self.raises = raises or {}
        self.asked: list[tuple[int, int]] = []

    async def complete(self, request: Request) -> Reply:
        self.asked.append((request.first_sample, request.n))
        if error := self.raises.get(request.first_sample):
            raise error
        await asyncio.sleep(0.01)
        return await super().complete(request)


async def test_an_engine_without_n_is_asked_for_one_sample_at_a_time(ledger):
    single = Single()
    engine = CachedEngine(single, ledger)
    reply = await engine.complete(ask(n=3))
    assert single.asked == [(0, 1), (1, 1), (2, 1)]
    assert [c.text for c in reply.completions] == [words(ask(), i) for i in range(3)]
    await engine.aclose()


@pytest.mark.parametrize("error", [EngineBusy("down"), EngineError("no such model")])
async def test_what_one_sample_raises_does_not_take_back_what_the_others_bring(ledger, error):
    single = Single({1: error})
    engine = CachedEngine(single, ledger)
    with pytest.raises(type(error), match=str(error)):
        await engine.complete(ask(n=3))
    single.raises = {}
    reply = await engine.complete(ask(n=3))
    assert single.asked == [(0, 1), (1, 1), (2, 1), (1, 1)]
    assert [c.sample_index for c in reply.completions] == [0, 1, 2]
    await engine.aclose()


async def test_one_failed_sample_leaves_its_siblings_in_the_reply_new_and_known(ledger):
    class Refuses(Single):
        async def complete(self, request: Request) -> Reply:
            if request.first_sample == 1:
                return Reply(error="refused", reason="not that one", prompt_tokens=7)
            return await super().complete(request)

    engine = CachedEngine(Refuses(), ledger)
    for cached in (0, 2):
        reply = await engine.complete(ask(n=3))
        assert (reply.error, reply.reason, reply.cached) == ("refused", "not that one", False)
        assert [c.sample_index for c in reply.completions] == [0, 2]
        assert reply.sample(1) is None
        assert reply.sample(2).text == words(ask(), 2)
        # One word of prompt for each answer, and what the refusal took.
        assert reply.prompt_tokens == 1 + 1 + 7
        assert engine.counts.hits == cached
    await engine.aclose()


async def test_what_a_reply_lacks_is_asked_for_again_and_a_reply_of_nothing_is_a_failure(ledger):
    class Short(FakeEngine):
        async def complete(self, request: Request) -> Reply:
            whole = await super().complete(request)
            return replace(whole, completions=whole.completions[: 2 if request.n > 1 else give])

    give, short = 1, Short()
    engine = CachedEngine(short, ledger)
    reply = await engine.complete(ask(n=5))
    assert ([c.sample_index for c in reply.completions], short.calls) == ([0, 1, 2, 3, 4], 3)
    give = 0
    none = await engine.complete(ask("other"))
    assert (none.error, none.reason) == ("transport_error", "the engine gave none of the samples [0]")
    await engine.aclose()


class Gated:
    """An engine that answers when it is let."""

    spec = fingerprint = "fake:gated"
    capabilities = frozenset({"n"})

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.started: list[Request] = []
        self.raises: BaseException | None = None

    async def complete(self, request: Request) -> Reply:
        self.started.append(request)
        await self.open.wait()
        if self.raises:
            raise self.raises
        return await FakeEngine().complete(request)

    async def aclose(self) -> None:
        return None


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_identical_requests_at_the_same_moment_are_one(ledger):
    gated = Gated()
    engine = CachedEngine(gated, ledger)
    waiting = [asyncio.create_task(engine.complete(ask(n=2))) for _ in range(20)]
    await until(lambda: gated.started)
    gated.open.set()
    replies = await asyncio.gather(*waiting)
    assert len(gated.started) == 1
    assert all(r.completions == replies[0].completions for r in replies)
    assert sum(not r.cached for r in replies) == 1
    await engine.aclose()


async def test_a_cancelled_leader_leaves_its_place_to_the_next(ledger):
    gated = Gated()
    engine = CachedEngine(gated, ledger)
    leader = asyncio.create_task(engine.complete(ask()))
    await until(lambda: gated.started)
    follower = asyncio.create_task(engine.complete(ask()))
    await asyncio.sleep(0)
    leader.cancel()
    await until(lambda: len(gated.started) == 2)
    gated.open.set()
    assert (await follower).error is None
    assert leader.cancelled()
    await engine.aclose()


async def test_an_engine_that_raises_frees_the_key_for_the_next_try(ledger):
    gated = Gated()
    gated.raises = EngineBusy("down")
    gated.open.set()
    engine = CachedEngine(gated, ledger)
    for _ in range(2):
        with pytest.raises(EngineBusy, match="down"):
            await engine.complete(ask(n=2))
    gated.raises = None
    assert (await engine.complete(ask(n=2))).error is None
    await engine.aclose()


async def test_two_engines_over_one_ledger_send_once(ledger):
    gated = Gated()
    engines = [CachedEngine(gated, ledger) for _ in range(2)]
    waiting = [asyncio.create_task(e.complete(ask())) for e in engines]
    await until(lambda: gated.started)
    gated.open.set()
    one, two = await asyncio.gather(*waiting)
    assert len(gated.started) == 1
    assert one.completions == two.completions
    for engine in engines:
        await engine.aclose()


async def test_two_ledgers_on_one_file_send_once(tmp_path):
    gated = Gated()
    ledgers = [open_ledger(tmp_path / "calls.sqlite") for _ in range(2)]
    engines = [CachedEngine(gated, each) for each in ledgers]
    waiting = [asyncio.create_task(e.complete(ask())) for e in engines]
    await until(lambda: gated.started)
    gated.open.set()
    one, two = await asyncio.gather(*waiting)
    assert len(gated.started) == 1
    assert one.completions == two.completions
    for engine, each in zip(engines, ledgers, strict=True):
        await engine.aclose()
        each.close()


async def test_recordings_do_not_go_through_the_ledger(ledger, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"key": "a", "text": "one"}\n{"key": "b", "text": "two"}\n')
    engine = CachedEngine(ReplayEngine(path), ledger)
    same = [{"role": "user", "content": "same"}]
    texts = [(await engine.complete(Request(key=key, messages=same))).completions[0].text for key in ("a", "b")]
    assert texts == ["one", "two"]
    await engine.aclose()


async def test_a_cap_on_calls_ends_with_what_there_is_and_hits_stay_free(ledger):
    engine = CachedEngine(FakeEngine(), ledger)
    for i in range(3):
        await engine.complete(ask(str(i)))
    await engine.aclose()
    budget = Budget(max_calls=2)
    fake = FakeEngine()
    engine = CachedEngine(fake, ledger, budget=budget)
    replies = await asyncio.gather(*[engine.complete(ask(str(i))) for i in range(10)])
    assert [r.error for r in replies].count("budget_skipped") == 5
    assert [r.error for r in replies[:3]] == [None] * 3
    assert fake.calls == 2
    assert budget.exhausted == "calls"
    assert "cap on calls" in next(r.reason for r in replies if r.error)
    await engine.aclose()
    later = CachedEngine(FakeEngine(), ledger)
    assert all(r.error is None for r in await asyncio.gather(*[later.complete(ask(str(i))) for i in range(10)]))
    await later.aclose()


async def test_tokens_are_reserved_at_their_most_and_settled_at_what_they_were(ledger):
    """Each call may take 1000 tokens and takes about 20: a cap of 2000 lets many through, one or two at a time."""
    budget = Budget(max_tokens=2000)
    engine = CachedEngine(FakeEngine(), ledger, budget=budget)
    replies = await asyncio.gather(*[engine.complete(ask(str(i), sampling=Sampling(max_tokens=1000))) for i in range(200)])
    answered = sum(r.error is None for r in replies)
    assert 20 < answered < 200
    assert budget.exhausted == "tokens"
    assert budget.spent.tokens <= 2000
    await engine.aclose()


async def test_a_cap_in_dollars_needs_a_price(ledger):
    fake = FakeEngine()
    fake.price = None
    with pytest.raises(ConfigError, match="fake: has no price; set prompt_usd"):
        CachedEngine(fake, ledger, budget=Budget(max_usd=1.0))
    fake.price = Price(prompt_usd=1.0, completion_usd=1e6)  # a dollar a token
    budget = Budget(max_usd=200.0)
    engine = CachedEngine(fake, ledger, budget=budget, run_id="r")
    for i in range(30):
        await engine.complete(ask(str(i), sampling=Sampling(max_tokens=40)))
    assert budget.exhausted == "usd"
    assert 160 <= budget.spent.usd <= 200
    await engine.aclose()
    assert ledger.summary(run_id="r")["usd"] == pytest.approx(budget.spent.usd)


async def test_a_cap_in_seconds_turns_away_what_waits(ledger):
    gated = Gated()
    gated.max_concurrency = 1
    budget = Budget(max_seconds=1000)
    engine = CachedEngine(gated, ledger, budget=budget)
    waiting = [asyncio.create_task(engine.complete(ask(str(i)))) for i in range(5)]
    await until(lambda: len(gated.started) == 2)
    budget._started -= 1000
    gated.open.set()
    replies = await asyncio.gather(*waiting)
    # Two were with the engine (twice its one slot), and they finish.
    assert sorted(r.error or "" for r in replies) == ["", "", *["budget_skipped"] * 3]
    await engine.aclose()


async def test_a_burst_of_lookups_is_chunked_and_nothing_is_lost(tmp_path):
    with open_ledger(tmp_path / "calls.sqlite") as ledger:
        engine = CachedEngine(FakeEngine(lambda request, i: request.key), ledger)
        requests = [ask(str(i)) for i in range(2000)]
        await asyncio.gather(*[engine.complete(r) for r in requests])
        replies = await asyncio.gather(*[engine.complete(r) for r in requests])
        assert [r.completions[0].text for r in replies] == [str(i) for i in range(2000)]
        assert all(r.cached for r in replies)
        await engine.aclose()


async def test_a_ledger_that_fails_is_not_swallowed(tmp_path):
    ledger: CallLedger = open_ledger(tmp_path / "calls.sqlite")
    engine = CachedEngine(FakeEngine(), ledger)
    ledger._writer.execute("PRAGMA max_page_count=14")  # SQLite's own way to a full disk
    with pytest.raises(StorageError, match="database or disk is full; free some space"):
        await asyncio.gather(*[engine.complete(ask(str(i), sampling=Sampling(max_tokens=500))) for i in range(300)])
    await engine.aclose()
    ledger.close()


async def test_hits_that_no_write_has_taken_along_are_recorded_when_asked_for(ledger):
    """A run that is answered wholly from the ledger writes nothing, and still says how much was there."""
    engine = CachedEngine(FakeEngine(), ledger, run_id="first")
    await engine.complete(ask(n=3))
    again = CachedEngine(FakeEngine(), ledger, run_id="second")
    await again.complete(ask(n=3))
    again.record_hits()
    assert ledger.summary(run_id="second")["hits"] == 3
    again.record_hits()
    await again.aclose()
    assert ledger.summary(run_id="second")["hits"] == 3
