"""Reward models behind a server: one on loopback with a real tiny model speaks vLLM's formats, and does what servers get wrong."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from curators.engines import open_engine
from curators.engines.base import Engine, Reply, Request
from curators.engines.openai_format import MalformedReply
from curators.engines.reward_model import open_reward_model
from curators.engines.reward_server import read_classes, read_score
from curators.errors import ConfigError, EngineBusy, EngineError

RewardLlama: Any = LlamaForSequenceClassification
POLICY = Path(__file__).parents[3] / "examples" / "arithmetic" / "policy"
QUICK = {"backoff_s": (0.01, 0.02), "max_attempts": 3, "timeout_s": 20}
PROMPT = [{"role": "user", "content": "How many?"}]


def ask(answer: str, *before: dict[str, str], **fields: Any) -> Request:
    return Request(key="reward/x", messages=[*(before or PROMPT), {"role": "assistant", "content": answer}], **fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, tokenizer = tmp_path_factory.mktemp("rm"), AutoTokenizer.from_pretrained(POLICY)
    torch.manual_seed(5)
    sizes: dict[str, Any] = {
        "initializer_range": 0.3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
    }
    config = LlamaConfig.from_dict(sizes | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_labels": 1})
    RewardLlama(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


class Vllm:
    """Answers as vLLM 0.2x does; `say` may answer in its place. `bodies` are what came."""

    def __init__(self, folder: Path | None) -> None:
        self.say: Callable[[dict[str, Any]], web.Response | None] = lambda body: None
        self.bodies: list[dict[str, Any]] = []
        self.runner: web.AppRunner | None = None
        self.url = ""
        if folder is not None:
            self.model = RewardLlama.from_pretrained(folder, dtype=torch.float32)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)

    async def start(self, *routes: str) -> None:
        app = web.Application()
        for route in routes:
            app.router.add_post(route, self.classify if route.endswith("classify") else self.score)
        app.router.add_get("/v1/models", self.models)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model", "root": "org/m", "owned_by": "vllm"}]})

    async def classify(self, request: web.Request) -> web.Response:
        self.bodies.append(body := await request.json())
        if said := self.say(body):
            return said
        text = self.tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=body.get("add_generation_prompt", False)
        )
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > self.model.config.max_position_embeddings:
            message = f"This model's maximum context length is 128 tokens. However, your request has {len(ids)} input tokens."
            return web.json_response({"error": {"message": message, "type": "BadRequestError", "code": 400}}, status=400)
        logit = self.logit(ids)
        number = logit if body.get("use_activation") is False else 1 / (1 + math.exp(-logit))
        item = {"index": 0, "label": "LABEL_0", "probs": [number], "num_classes": 1}
        return self.listed(item, len(ids), "classify-1")

    async def score(self, request: web.Request) -> web.Response:
        self.bodies.append(body := await request.json())
        if said := self.say(body):
            return said
        ids = self.tokenizer(body["text_1"] + body["text_2"], add_special_tokens=False)["input_ids"]
        return self.listed({"index": 0, "object": "score", "score": self.logit(ids)}, len(ids), "score-1")

    def logit(self, ids: list[int]) -> float:
        with torch.inference_mode():
            return float(self.model(torch.tensor([ids])).logits[0, 0])

    @staticmethod
    def listed(item: dict[str, Any], tokens: int, name: str) -> web.Response:
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
        return web.json_response({"id": name, "object": "list", "created": 1, "model": "m", "data": [item], "usage": usage})


@pytest.fixture
async def server(folder: Path) -> AsyncIterator[Vllm]:
    vllm = Vllm(folder)
    await vllm.start("/classify", "/score", "/v1/score")
    yield vllm
    assert vllm.runner is not None
    await vllm.runner.cleanup()


@pytest.fixture
async def bare() -> AsyncIterator[Vllm]:
    """A server of a language model: it has neither route."""
    vllm = Vllm(None)
    await vllm.start()
    yield vllm
    assert vllm.runner is not None
    await vllm.runner.cleanup()


async def reply_of(spec: str, *requests: Request) -> list[Reply]:
    engine: Engine = open_engine(spec, options=QUICK)
    try:
        return list(await asyncio.gather(*(engine.complete(request) for request in requests)))
    finally:
        await engine.aclose()


def the_score(reply: Reply) -> float:
    assert reply.error is None, reply.reason
    assert reply.completions[0].scores is not None
    return reply.completions[0].scores["score"]


async def test_classify_gives_what_the_model_gives_in_process(server: Vllm, folder: Path) -> None:
    asked = [ask(f"{i} + 1 = {i + 1}" * (1 + i % 3), {"role": "system", "content": "Be brief."}, *PROMPT) for i in range(12)]
    served = await reply_of(f"classify:m@{server.url}", *asked)
    local = open_reward_model(str(folder), threads=1)
    own = await asyncio.gather(*(local.complete(request) for request in asked))
    await local.aclose()
    assert [the_score(reply) for reply in served] == pytest.approx([the_score(reply) for reply in own], abs=1e-4)
    assert [reply.prompt_tokens for reply in served] == [reply.prompt_tokens for reply in own]
    assert {(body["use_activation"], body["add_generation_prompt"]) for body in server.bodies} == {(False, False)}


async def test_score_sends_the_prompt_and_the_answer_apart(server: Vllm) -> None:
    turns = ({"role": "system", "content": "Be brief."}, *PROMPT)
    plain, many = await reply_of(f"score:m@{server.url}/v1", ask("7"), ask("7", *turns))
    texts = sorted((body["text_1"], body["text_2"]) for body in server.bodies)
    assert texts == [("How many?", "7"), ("[system]\nBe brief.\n\n[user]\nHow many?", "7")]
    assert the_score(plain) != the_score(many)
    assert all(body["use_activation"] is False for body in server.bodies)


async def test_the_fingerprint_names_route_and_weights_and_no_address(server: Vllm) -> None:
    engines = [open_engine(f"{kind}:m@{server.url}{end}") for kind, end in (("classify", ""), ("score", ""), ("score", "/v1"))]
    found = await asyncio.gather(*(asyncio.to_thread(getattr, engine, "fingerprint") for engine in engines))
    await asyncio.gather(*(engine.aclose() for engine in engines))
    assert found[0].startswith("classify:m#")
    assert found[1] == found[2] != found[0]


async def test_a_text_that_is_too_long_is_an_overflow(server: Vllm) -> None:
    long, short = await reply_of(f"classify:m@{server.url}", ask("1 + 1 = 2\n" * 60), ask("7"))
    assert (long.error, short.error) == ("context_overflow", None)
    assert long.reason
    assert "maximum context length is 128" in long.reason


@pytest.mark.parametrize("number", ["NaN", "Infinity", "null", '"high"', "true"])
async def test_what_is_no_finite_number_is_no_score(server: Vllm, number: str) -> None:
    server.say = lambda body: web.Response(
        text=f'{{"data": [{{"index": 0, "label": null, "probs": [{number}], "num_classes": 1}}]}}', content_type="application/json"
    )
    (reply,) = await reply_of(f"classify:m@{server.url}", ask("7"))
    assert (reply.error, reply.completions, len(server.bodies)) == ("refused", (), 1)
    assert reply.reason
    assert "not a finite number" in reply.reason


async def test_a_failure_that_passes_is_asked_again_and_one_that_stays_is_a_state(server: Vllm) -> None:
    spoken = iter([web.json_response({"error": "busy"}, status=503), web.Response(text="{}"), None])
    server.say = lambda body: next(spoken)
    (reply,) = await reply_of(f"classify:m@{server.url}", ask("7"))
    assert (reply.error, reply.extra["sent"]) == (None, 3)
    server.say = lambda body: web.json_response({"error": {"message": "messages: unknown role"}}, status=400)
    (refused,) = await reply_of(f"classify:m@{server.url}", ask("7"))
    assert (refused.error, refused.reason) == ("refused", "HTTP 400: messages: unknown role")
    server.say = lambda body: web.Response(text='{"data": []}')
    (malformed,) = await reply_of(f"classify:m@{server.url}", ask("7"))
    assert malformed.error == "transport_error"
    assert malformed.reason
    assert "no scores of one text" in malformed.reason


@pytest.mark.parametrize("kind", ["classify", "score"])
async def test_a_server_without_the_route_is_one_clear_error(bare: Vllm, kind: str) -> None:
    with pytest.raises(EngineError, match=f"HTTP 404.*URL ends where /{kind} begins; only a server of a reward model has it"):
        await reply_of(f"{kind}:m@{bare.url}", ask("7"))


async def test_nobody_there_and_a_wrong_key(server: Vllm) -> None:
    with pytest.raises(EngineBusy, match="start the server"):
        await reply_of("classify:m@http://127.0.0.1:9", ask("7"))
    server.say = lambda body: web.json_response({"error": "Unauthorized"}, status=401)
    with pytest.raises(EngineError, match="no key was given: set api_key_env"):
        await reply_of(f"classify:m@{server.url}", ask("7"))


async def test_without_an_answer_there_is_nothing_to_score(server: Vllm) -> None:
    (reply,) = await reply_of(f"score:m@{server.url}", Request(key="judge/x", messages=PROMPT))
    assert (reply.error, server.bodies) == ("unsupported", [])


def test_a_spec_without_an_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'classify:m' names no endpoint; give classify:MODEL@http://host:port"):
        open_engine("classify:m")


def test_several_classes_are_several_heads_by_number() -> None:
    raw = b'{"data": [{"index": 0, "label": "a", "probs": [0.5, -2], "num_classes": 2}], "model": "m", "usage": null}'
    found = read_classes(raw)
    assert (found.scores, found.prompt_tokens, found.model) == ({"0": 0.5, "1": -2.0}, 0, "m")


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>",
        b"[]",
        b'{"data": {}}',
        b'{"data": [{"probs": []}]}',
        b'{"data": [{"probs": null}]}',
        b'{"data": [{"probs": [1]}, {"probs": [2]}]}',
        b'{"data": [{"score": 1}]}',
        b'{"object": "error", "message": "no"}',
    ],
)
def test_what_is_no_classification_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedReply):
        read_classes(raw)


def test_a_score_needs_its_key() -> None:
    with pytest.raises(MalformedReply):
        read_score(b'{"data": [{"index": 0, "relevance_score": 1}]}')
