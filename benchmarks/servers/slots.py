"""A server that serves 64 requests at once, each in 200 ms, and answers with steps: what `search.py` keeps busy.

A request beyond the slots waits for its turn. Every choice is a line `3. …` or, ever more likely with each line of the prefix, `Answer: …`,
by the hash of what was asked and its index. `GET /stats` says what share of the slots was busy from the first request to the last reply.
Prints its port.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

from aiohttp import web

SLOTS, LATENCY_S = 64, 0.2


class Slots:
    """The slots, and for how long how many were taken (`area`, in slot seconds)."""

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(SLOTS)
        self.taken = self.served = 0
        self.area = 0.0
        self.first: float | None = None
        self.last = 0.0

    def change(self, by: int) -> None:
        now = time.perf_counter()
        self.area += self.taken * (now - self.last)
        self.taken, self.last = self.taken + by, now

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.first is None:
            self.first = self.last = time.perf_counter()
        async with self.free:
            self.change(1)
            await asyncio.sleep(LATENCY_S)
            self.change(-1)
        self.served += 1
        choices = [choice(body, index) for index in range(body.get("n") or 1)]
        return web.json_response(
            {"model": "mock", "choices": choices, "usage": {"prompt_tokens": 50, "completion_tokens": 10 * len(choices)}}
        )

    async def stats(self, request: web.Request) -> web.Response:
        span = self.last - (self.first or self.last)
        return web.json_response({"served": self.served, "span_s": round(span, 2), "busy": round(self.area / (SLOTS * span), 4)})


def choice(body: dict[str, Any], index: int) -> dict[str, Any]:
    prefix = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "assistant" else ""
    noise = hashlib.blake2b(repr((body["messages"], body.get("seed"), index)).encode(), digest_size=8).digest()
    n_lines, number = prefix.count("\n"), noise[0] % 50
    over = n_lines > 0 and noise[1] < 24 * n_lines
    text = f"Answer: {number}" if over else f"{n_lines + 1}. so it is {number}"
    tokens = [{"token": text, "logprob": -noise[2] / 64, "bytes": None, "top_logprobs": []}]
    message = {"role": "assistant", "content": text}
    reason = None if over else "\n"
    return {"index": index, "message": message, "finish_reason": "stop", "stop_reason": reason, "logprobs": {"content": tokens}}


async def models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "mock", "owned_by": "vllm", "root": "mock"}]})


async def serve() -> None:
    slots = Slots()
    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.post("/v1/chat/completions", slots.chat), web.get("/stats", slots.stats)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
