"""The HTTP engine against servers that misbehave in one way each. The well-behaved one is in the contract test."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import time

import pytest
from aiohttp import web

from curators.engines import Request, Sampling, open_engine
from curators.engines.budget import Budget
from curators.engines.cached import CachedEngine
from curators.engines.dialect import wire_seed
from curators.engines.transport import parse_retry_after
from curators.errors import ConfigError, EngineBusy, EngineError
from storage.calls import open_ledger

FAST = {"backoff_s": (0.02, 0.05), "max_attempts": 4, "timeout_s": 5.0}


def ask(text: str = "hello", **fields: object) -> Request:
    return Request(key=text, messages=[{"role": "user", "content": text}], **fields)


def engine_for(*urls: str, **options: object):
    return open_engine(f"openai:m@{','.join(urls)}", options=FAST | options)


@pytest.fixture
def cached_engine_for(tmp_path):
    """As `engine_for`, behind the ledger, which asks again for what a reply lacks."""
    with open_ledger(tmp_path / "calls.sqlite") as ledger:
        yield lambda *urls, **options: CachedEngine(engine_for(*urls, **options), ledger)


async def test_the_body_says_all_that_was_asked(serve, replies):
    server = await serve(lambda s, body: replies.chat("a", "b"))
    engine = engine_for(server.url, api_key="secret", prompt_usd=1.0, completion_usd=2.0)
    request = ask(
        n=2,
        first_sample=3,
        sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=7, stop=("END",), seed=5),
        json_schema={"type": "object"},
    )
    reply = await engine.complete(request)
    body = server.bodies[0]
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 7,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": wire_seed(request, 3),
        "n": 2,
        "stop": ["END"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": {"type": "object"}, "strict": True}},
    }
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert [c.sample_index for c in reply.completions] == [3, 4]
    assert (reply.prompt_tokens, reply.completion_tokens, reply.model) == (10, 10, "m")
    # 10 prompt tokens at 1 USD and 10 completion tokens at 2 USD a million.
    assert reply.cost_usd == pytest.approx(30e-6)
    assert "secret" not in repr(engine.__dict__)
    await engine.aclose()
    await engine.aclose()


async def test_reasoning_tool_calls_and_content_parts_are_read(serve, replies):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}

    def say(server, body):
        message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]}
        parts = {"role": "assistant", "content": [{"type": "text", "text": "ü"}, {"type": "text", "text": "!"}], "reasoning": "ho"}
        return web.json_response(
            {"choices": [{"index": 1, "message": parts}, {"index": 0, "message": message, "finish_reason": "tool_calls"}]}
        )

    engine = engine_for((await serve(say)).url)
    reply = await engine.complete(ask(n=2))
    first, second = reply.completions
    assert (first.text, first.reasoning, first.tool_calls, first.finish_reason) == ("", "hm", [call], "tool_calls")
    assert (second.text, second.reasoning) == ("ü!", "ho")
    assert reply.extra["usage_estimated"] is True
    await engine.aclose()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_failure_that_passes_is_sent_again(serve, replies, status):
    server = await serve(lambda s, body: replies.refuse(status, "later") if len(s.bodies) < 3 else replies.chat("yes"))
    engine = engine_for(server.url)
    reply = await engine.complete(ask())
    assert reply.completions[0].text == "yes"
    assert reply.extra["sent"] == 3
    await engine.aclose()


async def test_retry_after_is_honoured(serve, replies):
    server = await serve(lambda s, body: replies.refuse(429, "slow down", Retry_After="0.4") if len(s.bodies) == 1 else replies.chat("yes"))
    engine = engine_for(server.url)
    await engine.complete(ask())
    assert server.times[1] - server.times[0] >= 0.4
    await engine.aclose()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"<html>502 from a proxy</html>", "502 from a proxy"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "abort"}]}', "not a chat completion"),
        (b'{"object": "error"', "not a chat completion"),
    ],
)
async def test_a_body_that_is_no_completion_is_a_transport_failure(serve, replies, raw, said):
    server = await serve(lambda s, body: web.Response(body=raw))
    engine = engine_for(server.url)
    reply = await engine.complete(ask())
    assert (reply.error, reply.completions) == ("transport_error", ())
    assert said in reply.reason
    assert len(server.bodies) == FAST["max_attempts"] == reply.extra["sent"]
    await engine.aclose()


async def test_a_broken_connection_is_sent_again(serve, replies):
    server = await serve(lambda s, body: None if len(s.bodies) < 3 else replies.chat("yes"))
    engine = engine_for(server.url)
    reply = await engine.complete(ask())
    assert reply.completions[0].text == "yes"
    await engine.aclose()


async def test_a_reply_that_never_comes_times_out(serve, replies):
    async def say(server, body):
        await asyncio.Event().wait()

    engine = engine_for((await serve(say)).url, timeout_s=0.1, max_attempts=2)
    reply = await engine.complete(ask())
    assert reply.error == "transport_error"
    assert "no reply within 0.1 s" in reply.reason
    await engine.aclose()


async def test_n_refused_becomes_single_requests_once_and_for_all(serve, replies, cached_engine_for, caplog):
    def say(server, body):
        return replies.refuse(422, "Unexpected fields in the request: {'n'}") if "n" in body else replies.chat(str(body["seed"]))

    server = await serve(say)
    engine = cached_engine_for(server.url)
    request = ask(n=3, first_sample=1)
    with caplog.at_level(logging.WARNING):
        reply = await engine.complete(request)
        await engine.complete(ask("again", n=2))
    assert [c.text for c in reply.completions] == [str(wire_seed(request, i)) for i in (1, 2, 3)]
    assert [c.sample_index for c in reply.completions] == [1, 2, 3]
    assert ["n" in body for body in server.bodies] == [True] + [False] * 5
    assert sum("does not take 'n'" in r.message for r in caplog.records) == 1
    assert "n" not in engine.capabilities
    await engine.aclose()


async def test_a_server_that_ignores_n_is_asked_for_the_rest(serve, replies, cached_engine_for):
    server = await serve(lambda s, body: replies.chat(str(body["seed"])))
    engine = cached_engine_for(server.url)
    request = ask(n=3)
    reply = await engine.complete(request)
    assert [c.text for c in reply.completions] == [str(wire_seed(request, i)) for i in range(3)]
    assert reply.prompt_tokens == 30
    await engine.complete(ask("again", n=2))
    assert [body.get("n") for body in server.bodies] == [3, None, None, None, None]
    await engine.aclose()


async def test_fewer_choices_than_asked_are_made_up(serve, replies, cached_engine_for):
    server = await serve(lambda s, body: replies.chat(*("xyzw"[: max(1, body.get("n", 1) - 1)])))
    engine = cached_engine_for(server.url)
    reply = await engine.complete(ask(n=4))
    assert [c.sample_index for c in reply.completions] == [0, 1, 2, 3]
    assert "n" in engine.capabilities
    await engine.aclose()


@pytest.mark.parametrize("silent", [False, True])
async def test_a_server_without_logprobs_gives_null(serve, replies, silent):
    def say(server, body):
        return replies.refuse(400, "logprobs is not supported") if "logprobs" in body and not silent else replies.chat("x")

    server = await serve(say)
    engine = engine_for(server.url)
    for _ in range(2):
        reply = await engine.complete(ask(logprobs=True))
        assert (reply.completions[0].text, reply.completions[0].logprobs) == ("x", None)
    assert "logprobs" not in server.bodies[-1]
    assert {"logprobs", "options"} & engine.capabilities == set()
    assert (await engine.complete(ask(options=("A", "B")))).error == "unsupported"
    await engine.aclose()


async def test_token_ids_and_logprobs_are_read_where_given(serve, replies):
    content = [{"token": "x", "logprob": -0.5}, {"token": "<end>", "logprob": -0.25}]
    server = await serve(lambda s, body: replies.chat("x", logprobs={"content": content}, token_ids=[4, 2]))
    engine = engine_for(server.url)
    completion = (await engine.complete(ask(logprobs=True))).completions[0]
    assert (completion.logprobs, completion.token_ids, completion.n_tokens) == ([-0.5, -0.25], [4, 2], 2)
    assert server.bodies[0]["return_token_ids"] is True
    await engine.aclose()


async def test_options_come_from_the_first_tokens_alternatives(serve, replies):
    top = [{"token": "A", "logprob": -0.1}, {"token": " B", "logprob": -3.0}, {"token": "x", "logprob": -4.0}]
    server = await serve(lambda s, body: replies.chat("A", logprobs={"content": [{"token": "A", "logprob": -0.1, "top_logprobs": top}]}))
    engine = engine_for(server.url)
    reply = await engine.complete(ask(options=("A", "B")))
    assert reply.completions[0].option_logprobs == {"A": pytest.approx(-0.1), "B": pytest.approx(-3.0)}
    assert (server.bodies[0]["max_tokens"], server.bodies[0]["top_logprobs"]) == (1, 20)
    none = await engine.complete(ask(options=("yes", "no")))
    assert none.error == "unsupported"
    assert "options" in engine.capabilities
    await engine.aclose()


async def test_a_field_that_is_refused_without_a_name_is_found(serve, replies):
    server = await serve(lambda s, body: replies.refuse(400, "bad request") if "seed" in body else replies.chat("x"))
    engine = engine_for(server.url)
    assert (await engine.complete(ask(sampling=Sampling(stop=("END",))))).completions[0].text == "x"
    assert (await engine.complete(ask("two"))).extra["sent"] == 1
    assert "seed" not in engine.capabilities
    assert "stop" in engine.capabilities
    await engine.aclose()


async def test_a_refusal_that_no_field_explains_stays_one(serve, replies):
    server = await serve(lambda s, body: replies.refuse(400, "we do not talk about this"))
    engine = engine_for(server.url)
    reply = await engine.complete(ask())
    assert reply.error == "refused"
    assert "we do not talk about this" in reply.reason
    for i in range(6):
        await engine.complete(ask(f"again {i}"))
    n = len(server.bodies)
    await engine.complete(ask("last"))
    assert len(server.bodies) == n + 1  # the search for a culprit is not repeated for ever
    assert "seed" in engine.capabilities
    await engine.aclose()


async def test_stop_strings_are_cut_even_where_the_server_leaves_them(serve, replies):
    engine = engine_for((await serve(lambda s, body: replies.chat("one\nEND", finish_reason="length"))).url)
    completion = (await engine.complete(ask(sampling=Sampling(stop=("END",))))).completions[0]
    assert (completion.text, completion.finish_reason, completion.ended) == ("one\n", "stop", False)
    await engine.aclose()


@pytest.mark.parametrize(
    ("said", "stop", "ended"),
    [
        ({"finish_reason": "stop"}, (), True),
        ({"finish_reason": "stop"}, ("END",), None),
        ({"finish_reason": "stop", "stop_reason": None}, ("END",), True),
        ({"finish_reason": "stop", "stop_reason": 2}, ("END",), True),  # the id of a token that ends a turn
        ({"finish_reason": "stop", "stop_reason": "END"}, ("END",), False),
        ({"finish_reason": "stop", "matched_stop": 2}, ("END",), True),
        ({"finish_reason": "stop", "matched_stop": "END"}, ("END",), False),
        ({"finish_reason": "length", "stop_reason": None}, ("END",), False),
    ],
)
async def test_whether_the_model_ended_its_turn_is_what_the_server_says(serve, replies, said, stop, ended):
    engine = engine_for((await serve(lambda s, body: replies.chat("one", **said))).url)
    completion = (await engine.complete(ask(sampling=Sampling(stop=stop)))).completions[0]
    assert completion.ended is ended
    await engine.aclose()


async def test_a_server_that_ignores_schemas_is_found_out(serve, replies):
    server = await serve(lambda s, body: replies.chat("no JSON at all"))
    engine = engine_for(server.url)
    await engine.complete(ask(json_schema={"type": "object"}))
    await engine.complete(ask("again", json_schema={"type": "object"}))
    assert ["response_format" in body for body in server.bodies] == [True, False]
    assert "json_schema" not in engine.capabilities
    await engine.aclose()


async def test_what_would_change_the_answer_is_never_dropped(serve, replies):
    server = await serve(
        lambda s, body: replies.refuse(400, "'temperature' is not supported") if "temperature" in body else replies.chat("x")
    )
    engine = engine_for(server.url)
    assert (await engine.complete(ask(sampling=Sampling(temperature=0.7)))).error == "refused"
    # At 1 the field says nothing, and can go.
    assert (await engine.complete(ask(sampling=Sampling(temperature=1.0)))).error is None
    assert (await engine.complete(ask(sampling=Sampling(temperature=0.7)))).error == "refused"
    await engine.aclose()


async def test_one_bad_tool_does_not_take_tools_from_the_others(serve, replies):
    server = await serve(lambda s, body: replies.refuse(400, "Invalid 'tools'") if body["tools"][0] == {} else replies.chat("x"))
    engine = engine_for(server.url)
    tool = {"type": "function", "function": {"name": "add"}}
    errors = [(await engine.complete(ask(tools=[t]))).error for t in (tool, {}, tool)]
    assert errors == [None, "refused", None]
    await engine.aclose()


async def test_tools_that_a_server_never_took_are_unsupported(serve, replies):
    server = await serve(lambda s, body: replies.refuse(422, "Unexpected fields: {'tools'}") if "tools" in body else replies.chat("x"))
    engine = engine_for(server.url)
    replies_ = [await engine.complete(ask(tools=[{"type": "function", "function": {"name": "add"}}])) for _ in range(2)]
    assert [r.error for r in replies_] == ["unsupported"] * 2
    assert len(server.bodies) == 1
    await engine.aclose()


async def test_a_second_event_loop_is_refused(serve, replies):
    engine = engine_for((await serve(lambda s, body: replies.chat("x"))).url)
    await engine.complete(ask())
    with pytest.raises(EngineError, match="second event loop"):
        await asyncio.to_thread(asyncio.run, engine.complete(ask()))
    await engine.aclose()


async def test_max_tokens_is_renamed_for_servers_that_want_it(serve, replies):
    def say(server, body):
        if "max_tokens" in body:
            return replies.refuse(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return replies.chat("x")

    server = await serve(say)
    engine = engine_for(server.url)
    assert (await engine.complete(ask(sampling=Sampling(max_tokens=9)))).error is None
    assert server.bodies[-1]["max_completion_tokens"] == 9
    await engine.aclose()


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000", "context_overflow"),
        (413, "Request Entity Too Large", "context_overflow"),
        (400, "content policy", "refused"),
        (403, "content policy", "refused"),
    ],
)
async def test_a_request_that_is_turned_down_is_a_reply(serve, replies, status, message, error):
    server = await serve(lambda s, body: replies.refuse(status, message) if len(s.bodies) > 1 else replies.chat("x"))
    engine = engine_for(server.url)
    await engine.complete(ask())
    reply = await engine.complete(ask())
    assert reply.error == error
    assert str(status) in reply.reason
    assert message in reply.reason
    await engine.aclose()


async def test_a_wrong_key_or_model_is_an_error(serve, replies):
    for status, match in ((401, "no key was given: set api_key_env"), (404, "check the model's name")):
        engine = engine_for((await serve(lambda s, body, status=status: replies.refuse(status, "no"))).url)
        with pytest.raises(EngineError, match=match):
            await engine.complete(ask())
        await engine.aclose()


async def test_one_endpoint_down_leaves_the_others(serve, replies, free_port):
    server = await serve(lambda s, body: replies.chat("x"))
    engine = engine_for(f"http://127.0.0.1:{free_port}/v1", server.url, max_concurrency=4)
    found = await asyncio.gather(*[engine.complete(ask(str(i))) for i in range(30)])
    assert [r.error for r in found] == [None] * 30
    assert len(server.bodies) == 30
    await engine.aclose()


async def test_requests_spread_over_endpoints(serve, replies):
    async def say(server, body):
        await asyncio.sleep(0.02)
        return replies.chat("x")

    one, two = await serve(say), await serve(say)
    engine = engine_for(one.url, two.url, max_concurrency=8)
    await asyncio.gather(*[engine.complete(ask(str(i))) for i in range(40)])
    assert len(one.bodies) + len(two.bodies) == 40
    assert (one.peak, two.peak) == (4, 4)
    await engine.aclose()


async def test_all_endpoints_down_is_busy_and_names_them(free_port):
    url = f"http://127.0.0.1:{free_port}/v1"
    engine = engine_for(url, max_concurrency=2)
    found = await asyncio.gather(*[engine.complete(ask(str(i))) for i in range(10)], return_exceptions=True)
    assert all(isinstance(e, EngineBusy) for e in found)
    assert f"{url} cannot be reached" in str(found[0])
    assert "start the server" in str(found[0])
    with pytest.raises(EngineBusy, match="cannot be reached"):
        await asyncio.to_thread(lambda: engine.fingerprint)
    await engine.aclose()


async def test_an_endpoint_that_comes_back_is_used_again(serve, replies, free_port):
    engine = engine_for(f"http://127.0.0.1:{free_port}/v1", backoff_s=(0.1, 0.2), max_attempts=20)
    waiting = [asyncio.create_task(engine.complete(ask(str(i)))) for i in range(5)]
    while not engine._transport._pool.endpoints[0].strikes:
        await asyncio.sleep(0)
    server = await serve(lambda s, body: replies.chat("x"), port=free_port)
    assert [r.error for r in await asyncio.gather(*waiting)] == [None] * 5
    assert len(server.bodies) == 5
    await engine.aclose()


async def test_refusals_above_a_cap_teach_the_cap(serve, replies):
    """A server that serves eight at once and refuses the rest: the first burst is refused, then hardly anything."""

    async def say(server, body):
        if server.active > 8:
            return replies.refuse(429, "too many", Retry_After="0.05")
        await asyncio.sleep(0.01)
        return replies.chat("x")

    server = await serve(say)
    engine = engine_for(server.url, max_concurrency=64)
    found = await asyncio.gather(*[engine.complete(ask(str(i))) for i in range(400)])
    assert [r.error for r in found] == [None] * 400
    # 56 of the first 64; after that the limit stands at eight until it has been quiet for seconds.
    assert len(server.bodies) - 400 <= 70
    await engine.aclose()


async def test_a_server_that_refuses_everything_is_not_hammered(serve, replies):
    server = await serve(
        lambda s, body: replies.refuse(429, "no", Retry_After="0.1") if s.times[-1] - s.times[0] < 0.5 else replies.chat("x")
    )
    engine = engine_for(server.url, max_concurrency=4)
    found = await asyncio.gather(*[engine.complete(ask(str(i))) for i in range(100)])
    assert [r.error for r in found] == [None] * 100
    # Four at first, then one each 0.1 s.
    assert len(server.bodies) - 100 <= 4 + 8
    await engine.aclose()


async def test_a_cancelled_request_gives_its_slot_back(serve, replies):
    async def say(server, body):
        if len(server.bodies) == 1:
            await asyncio.Event().wait()
        return replies.chat("x")

    server = await serve(say)
    engine = engine_for(server.url, max_concurrency=1)
    stuck = asyncio.create_task(engine.complete(ask("stuck")))
    queued = asyncio.create_task(engine.complete(ask("queued")))
    while not server.bodies:
        await asyncio.sleep(0)
    queued.cancel()
    stuck.cancel()
    assert (await engine.complete(ask())).error is None
    await engine.aclose()


async def test_prefixes_go_only_to_servers_that_are_known_to_continue_them(serve, replies):
    server = await serve(lambda s, body: replies.chat(" 4"), card={"owned_by": "vllm"})
    engine = engine_for(server.url)
    assert (await engine.complete(ask(prefix="2 + 2 ="))).completions[0].text == " 4"
    assert server.bodies[0]["messages"][-1] == {"role": "assistant", "content": "2 + 2 ="}
    assert (server.bodies[0]["continue_final_message"], server.bodies[0]["add_generation_prompt"]) == (True, False)
    assert "prefix" in engine.capabilities
    await engine.aclose()
    other = await serve(lambda s, body: replies.chat("x"), card={"owned_by": "somebody"})
    engine = engine_for(other.url)
    assert (await engine.complete(ask(prefix="2 + 2 ="))).error == "unsupported"
    assert other.bodies == []
    assert "prefix" not in engine.capabilities
    await engine.aclose()


async def test_the_fingerprint_names_weights_and_not_the_place_or_the_hour(serve, replies):
    def say(server, body):
        return replies.chat("x")

    async def fingerprint(card):
        engine = engine_for((await serve(say, card=card)).url)
        try:
            return await asyncio.to_thread(lambda: engine.fingerprint)
        finally:
            await engine.aclose()

    one = await fingerprint({"root": "org/model", "created": 1})
    assert one == await fingerprint({"root": "org/model", "created": 2})
    assert one != await fingerprint({"root": "org/model-2", "created": 1})
    assert await fingerprint(None) == "openai:m"
    assert one.startswith("openai:m#")


async def _fingerprint(server, **options) -> str:
    engine = engine_for(server.url, **options)
    try:
        return await asyncio.to_thread(lambda: engine.fingerprint)
    finally:
        await engine.aclose()


@pytest.mark.parametrize(
    "answers",
    [
        [web.Response(status=503), web.Response(status=429)],
        [web.Response(status=408)],
        [web.Response(text="<html>starting</html>")],
        [web.Response(body=b'{"data": [{"id": "m", "ro')],
    ],
    ids=["busy", "timeout", "no JSON", "broken off"],
)
async def test_a_server_that_cannot_name_its_model_now_is_asked_again(serve, replies, answers):
    server = await serve(lambda s, body: replies.chat("x"), card={"root": "org/model"})
    named = await _fingerprint(server)
    server.models = answers
    assert await _fingerprint(server) == named != "openai:m"


async def test_a_server_that_never_names_its_model_is_busy_and_not_another_one(serve, replies):
    server = await serve(lambda s, body: replies.chat("x"), card={"root": "org/model"})
    server.models = [replies.refuse(503, "loading the model") for _ in range(3)]
    with pytest.raises(EngineBusy, match=r"GET http://.*/v1/models does not say now .*HTTP 503: loading the model.*let it load its model"):
        await _fingerprint(server)


async def test_only_a_server_without_a_list_of_models_has_no_card(serve, replies):
    server = await serve(lambda s, body: replies.chat("x"))
    for status in (403, 404, 405, 501):
        server.models = [replies.refuse(status, "no")]
        assert await _fingerprint(server) == "openai:m"
    server.models = [replies.refuse(500, "no") for _ in range(3)]  # as transformers serve without a cache of the hub, for ever
    assert await _fingerprint(server) == "openai:m"
    for status, options, match in (
        (401, {}, "HTTP 401: no; no key was given: set api_key_env"),
        (401, {"api_key": "k", "api_key_env": "MY_KEY"}, "check the key in MY_KEY"),
        (302, {}, "HTTP 302.*check that the URL ends where /models begins"),
    ):
        server.models = [replies.refuse(status, "no")]
        with pytest.raises(EngineError, match=match):
            await _fingerprint(server, **options)


async def test_samples_that_did_arrive_are_not_lost_with_the_one_that_did_not(serve, replies, cached_engine_for):
    def say(server, body):
        if "n" in body:
            return replies.refuse(422, "Unexpected fields: {'n'}")
        return replies.refuse(500, "no") if body["seed"] % 2 and len(server.bodies) <= 6 else replies.chat(str(body["seed"]))

    server = await serve(say)
    engine = cached_engine_for(server.url)
    # One body with `n`, one for the sample that comes, four for the one that does not.
    assert (await engine.complete(ask(n=2))).error == "transport_error"
    reply = await engine.complete(ask(n=2))
    assert [c.text for c in reply.completions] == [str(wire_seed(ask(), i)) for i in range(2)]
    assert len(server.bodies) == 7
    await engine.aclose()


async def test_a_sample_of_its_own_is_kept_as_it_arrives(serve, replies, tmp_path):
    """The second of two single requests never comes back: the first is in the ledger all the same."""

    async def say(server, body):
        if body["seed"] == wire_seed(ask(), 1):
            await asyncio.Event().wait()
        return replies.chat("paid")

    with open_ledger(tmp_path / "calls.sqlite") as ledger:
        engine = CachedEngine(engine_for((await serve(say)).url, share_requests=False), ledger)
        asked = asyncio.create_task(engine.complete(ask(n=2)))
        async with asyncio.timeout(10):
            while not ledger.summary()["samples"]:
                await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.wait([asked])
        await engine.aclose()


async def test_without_shared_requests_every_sample_is_a_call_of_the_budget(serve, replies, tmp_path):
    server = await serve(lambda s, body: replies.chat("x"))
    with open_ledger(tmp_path / "calls.sqlite") as ledger:
        bare = engine_for(server.url, share_requests=False)
        assert "n" not in bare.capabilities
        engine = CachedEngine(bare, ledger, budget=Budget(max_calls=3))
        await asyncio.gather(*[engine.complete(ask(str(i), n=4)) for i in range(2)])
        assert len(server.bodies) == 3
        await engine.aclose()


def test_retry_after_is_read_as_seconds_or_as_a_date():
    assert parse_retry_after("2") == 2.0
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert 50 < parse_retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    assert parse_retry_after("soon") is None
    assert parse_retry_after(None) is None


async def test_an_attempt_is_another_draw_and_a_sample_keeps_its_seed_alone_or_among_others():
    assert wire_seed(ask(), 0) != wire_seed(ask(attempt=1), 0)
    assert wire_seed(ask(n=4), 0) + 2 == wire_seed(ask(first_sample=2), 2)
    assert 0 <= wire_seed(ask(), 1000) < 2**31


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("openai:m", "names no endpoint"),
        ("openai:@http://h/v1", "names no endpoint"),
        ("openai:m@http://", "is not an endpoint"),
        ("openai:m@http://u:secret@h/v1", "carries a user or password"),
        ("gpt", "is not a spec; give hf:PATH"),
        ("hf:", "is not a spec"),
        ("fake:nobody", "'fake:judge'"),
    ],
)
def test_a_bad_spec_says_what_is_allowed(spec, match):
    with pytest.raises(ConfigError, match=match) as caught:
        open_engine(spec)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match=r"unknown options \['max_concurency'\]"):
        open_engine("fake:", options={"max_concurency": 1})
    with pytest.raises(ConfigError, match="prompt_usd and completion_usd go together"):
        open_engine("openai:m@http://h/v1", options={"prompt_usd": 1.0})
