"""What every engine promises, asked of all of them: a fake, recordings, a real server over HTTP, and a model in this process.

The server is `transformers serve` of the embedded policy on loopback. What an engine says it cannot do, it need not do; it
must then say so in a reply.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from curators.engines import Completion, Engine, Request, Sampling, open_engine
from curators.engines.fake import FakeEngine

POLICY = Path(__file__).parents[3] / "examples" / "arithmetic" / "policy"
PROBLEM = "Ana has 12 beads. She buys 7 more beads. Then she gives away 5 beads. How many beads does Ana have?"
SHORT = Sampling(max_tokens=8, seed=3, temperature=2.5)  # hot, so that samples of an easy problem differ

here = pytest.mark.skipif(not (POLICY / "model.safetensors").is_file(), reason="the embedded policy is not there")
local = pytest.mark.skipif(importlib.util.find_spec("curators.engines.local") is None, reason="no hf: engine")
KINDS = [
    pytest.param("fake", id="fake"),
    pytest.param("replay", id="replay"),
    pytest.param("openai", id="openai", marks=[here, pytest.mark.slow]),
    pytest.param("hf", id="hf", marks=[here, local]),
]


def ask(text: str = PROBLEM, **fields: object) -> Request:
    fields = {"sampling": SHORT} | fields
    return Request(key=f"sample/{text[:20]}", messages=[{"role": "user", "content": text}], **fields)


@pytest.fixture(scope="module")
def server(free_port_module: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a `transformers serve` of the policy; stopped by its process id."""
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", "--host", "127.0.0.1", "--port", str(free_port_module), "--device", "cpu", str(POLICY)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env) as process:
        try:
            wait_healthy(f"http://127.0.0.1:{free_port_module}/health", process, log)
            yield f"http://127.0.0.1:{free_port_module}/v1"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def free_port_module() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_healthy(url: str, process: subprocess.Popen[bytes], log: Path, limit_s: float = 180) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


@pytest.fixture(params=KINDS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    if request.param == "fake":
        opened = open_engine("fake:")
    elif request.param == "replay":
        opened = open_engine(f"replay:{await record(tmp_path / 'r.jsonl')}")
    elif request.param == "openai":
        opened = open_engine(f"openai:{POLICY}@{request.getfixturevalue('server')}", options={"max_concurrency": 16, "timeout_s": 120.0})
    else:
        opened = open_engine(f"hf:{POLICY}", options={"max_concurrency": 16, "dtype": "float32"})
    yield opened
    await opened.aclose()
    await opened.aclose()


async def record(path: Path) -> Path:
    """A recording of a fake, of every request below that does not need more than text."""
    lines = []
    short = Request(key="short", messages=[{"role": "user", "content": PROBLEM}], sampling=Sampling(max_tokens=3))
    plain = [ask(n=4), ask(UNICODE), short, Request(key="turns", messages=TURNS, sampling=SHORT)]
    seen = set()
    for request in plain:
        for completion in (await FakeEngine().complete(request)).completions:
            if (request.key, completion.sample_index) not in seen:
                seen.add((request.key, completion.sample_index))
                row = {"key": request.key, "sample_index": completion.sample_index, "text": completion.text}
                lines.append(json.dumps(row | {"finish_reason": completion.finish_reason, "n_tokens": completion.n_tokens}))
    path.write_text("\n".join(lines))
    return path


async def samples(engine: Engine, request: Request) -> list[Completion]:
    """All samples of a request: a reply holds at least one, in order from the first, and what it lacks is asked for again."""
    got: list[Completion] = []
    while len(got) < request.n:
        reply = await engine.complete(dataclasses.replace(request, first_sample=request.first_sample + len(got), n=request.n - len(got)))
        assert reply.error is None, reply.reason
        assert reply.completions
        assert reply.completion_tokens > 0
        assert "n" not in engine.capabilities or len(reply.completions) == request.n
        got += reply.completions
    return got


UNICODE = "Zoë hat 12 Äpfel 🍎 und kauft 7 dazu. 多少?\u2028Wie viele?"
TURNS = [
    {"role": "user", "content": "Ana has 12 beads. She buys 7 more beads. How many beads does Ana have?"},
    {"role": "assistant", "content": "1. 12 + 7 = 19\nAnswer: 19"},
    {"role": "user", "content": "She gives away 5 beads. How many beads does Ana have?"},
]
"""Three turns."""


async def test_samples_are_in_order_of_index_and_differ(engine):
    found = await samples(engine, ask(n=4))
    assert [c.sample_index for c in found] == [0, 1, 2, 3]
    assert len({c.text for c in found}) > 1
    assert all(isinstance(c.text, str) for c in found)


async def test_the_same_seed_gives_the_same_samples_and_alone_as_among_others(engine):
    if "seed" not in engine.capabilities:
        pytest.skip("no seeds")
    if engine.spec.startswith("openai:"):
        # transformers serve seeds one generator for all its requests, so they must come one after the other.
        engine = open_engine(engine.spec, options={"max_concurrency": 1, "timeout_s": 120.0})
    four = await samples(engine, ask(n=4))
    again = await samples(engine, ask(n=4))
    assert [c.text for c in four] == [c.text for c in again]
    alone = await engine.complete(ask(first_sample=2))
    assert [(c.sample_index, c.text) for c in alone.completions] == [(2, four[2].text)]
    await engine.aclose()


async def test_max_tokens_ends_with_length(engine):
    request = Request(key="short", messages=[{"role": "user", "content": PROBLEM}], sampling=Sampling(max_tokens=3))
    reply = await engine.complete(request)
    assert reply.completions[0].finish_reason == "length"
    assert reply.completions[0].n_tokens in (3, None)


async def test_stop_strings_end_the_text_and_are_not_in_it(engine):
    if "stop" not in engine.capabilities:
        pytest.skip("a recording stops where it stopped")
    greedy = Sampling(max_tokens=12, temperature=0.0)
    text = (await engine.complete(ask(sampling=greedy))).completions[0].text
    stop = text[len(text) // 2]
    completion = (await engine.complete(ask(sampling=dataclasses.replace(greedy, stop=(stop,))))).completions[0]
    assert completion.text == text[: text.index(stop)]
    assert completion.finish_reason == "stop"


async def test_unicode_and_three_turns_pass_through(engine):
    for request in (ask(UNICODE), Request(key="turns", messages=TURNS, sampling=SHORT)):
        reply = await engine.complete(request)
        assert reply.error is None, reply.reason
        reply.completions[0].text.encode()


async def test_fifty_at_once(engine):
    requests = [ask(f"{PROBLEM} {i}", sampling=Sampling(max_tokens=2)) for i in range(50)]
    if engine.spec.startswith("replay:"):
        requests = [ask()] * 50
    replies = await asyncio.gather(*[engine.complete(r) for r in requests])
    assert [r.error for r in replies] == [None] * 50


async def test_logprobs_are_given_or_null(engine):
    completion = (await engine.complete(ask(logprobs=True))).completions[0]
    if "logprobs" in engine.capabilities:
        assert completion.logprobs
        assert all(p <= 1e-6 for p in completion.logprobs)
    else:
        assert completion.logprobs is None
    if "token_ids" in engine.capabilities and completion.token_ids is not None:
        assert completion.logprobs is None or len(completion.token_ids) == len(completion.logprobs)


async def test_options_are_given_or_an_error_in_a_reply(engine):
    reply = await engine.complete(ask(options=("1", "2")))
    if reply.error is None:
        assert set(reply.completions[0].option_logprobs) == {"1", "2"}
        assert sum(map(math.exp, reply.completions[0].option_logprobs.values())) <= 1 + 1e-4
    else:
        assert reply.error == "unsupported"
        assert "options" not in engine.capabilities
        assert reply.completions == ()
        assert reply.reason


async def test_a_prefix_is_continued_or_an_error_in_a_reply(engine):
    if engine.spec.startswith("replay:"):
        pytest.skip("a recording does not know what was asked")
    reply = await engine.complete(ask(prefix="1. 12 + 7 ="))
    if "prefix" in engine.capabilities:
        assert reply.error is None
        assert not reply.completions[0].text.startswith("1. 12 + 7 =")
    else:
        assert reply.error == "unsupported"


async def test_the_fingerprint_is_stable_and_not_empty(engine):
    first = await asyncio.to_thread(lambda: engine.fingerprint)
    assert first
    assert first == engine.fingerprint
