"""Servers for the engines' tests: one that does what a test says, on loopback and a free port."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

Say = Callable[["ScriptedServer", dict[str, Any]], "Awaitable[web.Response | None] | web.Response | None"]


def chat(*texts: str, **extra: Any) -> web.Response:
    """A chat completion with these choices; `extra` goes into each choice."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": t}, "finish_reason": "stop", "logprobs": None} | extra
        for i, t in enumerate(texts)
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": 5 * len(texts)}
    return web.json_response({"id": "c", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage})


def refuse(status: int, message: str, **headers: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


class ScriptedServer:
    """Answers POST /v1/chat/completions by `say`; `None` from it breaks the connection off. `bodies` are what came, in order.

    GET /v1/models is answered by what is in `models`, in order, and then by `card`.
    """

    def __init__(self, say: Say, card: dict[str, Any] | None) -> None:
        self.say = say
        self.card = card
        self.models: list[web.StreamResponse] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.active = self.peak = 0
        self.runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", port)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        import asyncio

        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.times.append(asyncio.get_running_loop().time())
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            said = self.say(self, body)
            response = said if isinstance(said, web.Response) or said is None else await said
        finally:
            self.active -= 1
        if response is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return response

    async def _models(self, request: web.Request) -> web.Response:
        if self.models:
            return self.models.pop(0)
        if self.card is None:
            return web.Response(status=404)
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model", "created": 1, **self.card}]})


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[ScriptedServer]]]:
    """Start a scripted server: `await serve(say, card={...})`; all are stopped after the test."""
    started: list[ScriptedServer] = []

    async def start(say: Say, *, card: dict[str, Any] | None = None, port: int = 0) -> ScriptedServer:
        server = ScriptedServer(say, card)
        await server.start(port)
        started.append(server)
        return server

    yield start
    for server in started:
        await server.stop()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def replies() -> type[Replies]:
    return Replies


class Replies:
    """The two ways to answer, for tests that cannot import this file."""

    chat = staticmethod(chat)
    refuse = staticmethod(refuse)
