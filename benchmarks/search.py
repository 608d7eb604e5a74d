"""Step search on `hf:` against `model.generate`, against plain sampling on `hf:` and against a search that does one thing at a time.

Newly sampled tokens a second, one thread, the verifier `numeric` as the only value, everything in one process and interleaved, every way
and round with prompts of its own (a prompt that was read before would be half the work):

    generate     whole solutions with `model.generate`, prompts sorted by length, at its best batch
    hf:          whole solutions with the engine, four samples a prompt
    search       trees side by side: four children a node, eight simulations a commit, steps as in examples/arithmetic/steps.yaml
    sequential   requests of the search's first trees again: one prompt and one sample at a time with `model.generate`

Prints one JSON line a way and one a bar, medians over the rounds by wall and by CPU time. A ratio is made within each round; `same` is the
share of steps that are the text of a sibling. Then, on a server with 64 slots and 200 ms (`servers/slots.py`), what share of its slots a
search of 500 trees keeps busy from its first request to its last reply.

    python benchmarks/search.py [--model DIR] [--dtype bfloat16] [--trees 1000] [--simulations 8] [--max-depth 12] [--rounds 3]
        [--only model,slots]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from sampling import BATCHES, POLICY, SAMPLES, Clock, Speed, generate, sample
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from curators.engines import Reply, Request, Sampling, open_engine
from curators.engines.local import LocalEngine, open_local
from curators.engines.transcripts import Prompts, token_pieces
from curators.sampling import make_prompt
from curators.schema import PROMPTS, frame
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.driver import search_all
from curators.stepsearch.proposals import StepConfig
from curators.verifiers import load_verifier
from examples.arithmetic.world import problems

CONFIG = SearchConfig(first_children=SAMPLES, children=SAMPLES, simulations=8, max_depth=12)
STEPS = StepConfig(temperature=1.3, max_tokens=32, answer="^Answer:")
BARS = {"generate": 2.0, "hf:": 0.9, "sequential": 15.0}
OTHER_BARS = {"generate": 1.1}
"""Of any other model than the embedded one, for which one thing at a time would take hours."""
SLOTS, SLOTS_BAR = 64, 0.9
SEQUENTIAL_TREES = 3
Conversations = list[list[dict[str, str]]]


class Recorded:
    """An engine that remembers what it was asked and how much it sampled."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.requests: list[Request] = []
        self.n_tokens = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def complete(self, request: Request) -> Reply:
        self.requests.append(request)
        reply: Reply = await self._engine.complete(request)
        self.n_tokens += reply.completion_tokens
        return reply


class Bench:
    """One model, twice: as the library has it and as an engine."""

    def __init__(
        self, model_dir: str, *, dtype: str, trees: int, batches: Sequence[int], max_tokens: int, search: SearchConfig = CONFIG
    ) -> None:
        self.n_trees, self.batches, self.whole = trees, batches, {"max_tokens": max_tokens, "temperature": STEPS.temperature}
        self.search, self.bars = search, BARS if model_dir == str(POLICY) else OTHER_BARS
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
        self.engine: LocalEngine = open_local(model_dir, threads=1, dtype=dtype)
        newlines = [token for token, piece in enumerate(token_pieces(self.tokenizer)) if "\n" in piece]
        self.ends = [self.tokenizer.eos_token_id, *newlines]
        self.speeds: dict[str, list[Speed]] = {}
        self.same: list[float] = []

    async def round(self, number: int) -> None:
        texts = [
            self.tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False)
            for c in conversations(min(96, self.n_trees), 3 * number)
        ]
        for batch in self.batches:
            clock = Clock()
            n_tokens = generate(self.model, self.tokenizer, sorted(texts, key=len), batch=batch, **self.whole)
            self._note(f"generate/{batch}", clock, n_tokens)
        clock = Clock()
        n_tokens = await sample(self.engine, conversations(self.n_trees, 3 * number + 1), seed=number, **self.whole)
        self._note("hf:", clock, n_tokens)
        requests = await self._search(number)
        if "sequential" in self.bars:
            clock = Clock()
            self._note("sequential", clock, self._one_by_one(requests))

    async def _search(self, number: int) -> list[Request]:
        recorded, verifier = Recorded(self.engine), load_verifier("numeric")
        prompts = prompts_of(self.n_trees, 3 * number + 2)
        clock = Clock()
        nodes = await search_all(prompts, recorded, verifier, config=self.search, steps=STEPS)
        self._note("search", clock, recorded.n_tokens)
        self.same.append(float((nodes["state"] == "duplicate").mean() or 0))
        first = set(prompts["prompt_id"].head(SEQUENTIAL_TREES))
        return [request for request in recorded.requests if request.key.split("/")[1] in first]

    @torch.inference_mode()
    def _one_by_one(self, requests: Sequence[Request]) -> int:
        prompts, n_tokens = Prompts(self.tokenizer), 0
        for request in requests:
            ids = torch.tensor([prompts.read(request).ids])
            for _ in range(request.n):
                found = self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=STEPS.temperature,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=STEPS.max_tokens,
                    eos_token_id=self.ends,
                )
                n_tokens += found.shape[1] - ids.shape[1]
        return n_tokens

    def _note(self, way: str, clock: Clock, n_tokens: int) -> None:
        self.speeds.setdefault(way, []).append(clock.speed(n_tokens))

    def report(self) -> None:
        for way, speeds in self.speeds.items():
            wall, cpu = (statistics.median(speed[i] for speed in speeds) for i in (0, 1))
            line = {"bench": "search", "way": way, "tokens_per_s": round(wall), "per_cpu_s": round(cpu)}
            line["rounds"] = [[round(wall), round(cpu)] for wall, cpu in speeds]
            print(json.dumps(line | ({"same": round(statistics.mean(self.same), 3)} if way == "search" else {})))
        best = max((way for way in self.speeds if way.startswith("generate")), key=lambda way: sum(cpu for _, cpu in self.speeds[way]))
        for way in [way for way in BARS if way == "generate" or way in self.speeds]:
            other = best if way == "generate" else way
            ratios = [[a / b for a, b in zip(*pair, strict=True)] for pair in zip(self.speeds["search"], self.speeds[other], strict=True)]
            wall, cpu = (statistics.median(ratio[i] for ratio in ratios) for i in (0, 1))
            line = {"bench": "search", "over": other, "ratio": round(wall, 2), "cpu_ratio": round(cpu, 2)}
            line["rounds"] = [[round(wall, 2), round(cpu, 2)] for wall, cpu in ratios]
            bar = self.bars.get(way)
            print(json.dumps(line | {"trees": self.n_trees} | ({"bar": bar, "ok": min(wall, cpu) >= bar} if bar else {})))


def prompts_of(n: int, seed: int) -> pl.DataFrame:
    return frame([make_prompt(problem.text, reference=problem.reference) for problem in problems(n, seed=seed, split="demo")], PROMPTS)


def conversations(n: int, seed: int) -> Conversations:
    return [[{"role": "user", "content": problem.text}] for problem in problems(n, seed=seed, split="demo")]


async def measure_model(chosen: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    batches = [int(batch) for batch in chosen.batches.split(",")]
    search = replace(CONFIG, simulations=chosen.simulations, max_depth=chosen.max_depth)
    bench = Bench(chosen.model, dtype=chosen.dtype, trees=chosen.trees, batches=batches, max_tokens=chosen.max_tokens, search=search)
    await bench.engine.complete(Request(key="warm", messages=conversations(1, -1)[0], n=2, sampling=Sampling(max_tokens=8)))
    for number in range(chosen.rounds):
        await bench.round(number)
    await bench.engine.aclose()
    bench.report()


@contextmanager
def slots_server() -> Iterator[str]:
    server = subprocess.Popen([sys.executable, Path(__file__).parent / "servers" / "slots.py"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait()


async def measure_slots(n_trees: int) -> None:
    with slots_server() as url:
        engine = open_engine(f"openai:mock@{url}/v1", options={"max_concurrency": SLOTS})
        nodes = await search_all(prompts_of(n_trees, 0), engine, load_verifier("numeric"), config=CONFIG, steps=STEPS)
        await engine.aclose()
        with urllib.request.urlopen(f"{url}/stats") as answer:
            stats = json.load(answer)
    line = {"bench": "search", "slots": SLOTS, "trees": n_trees, "nodes": nodes.height} | stats
    print(json.dumps(line | {"bar": SLOTS_BAR, "ok": stats["busy"] >= SLOTS_BAR}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(POLICY))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--trees", type=int, default=1000)
    parser.add_argument("--simulations", type=int, default=CONFIG.simulations, help="a commit")
    parser.add_argument("--max-depth", type=int, default=CONFIG.max_depth)
    parser.add_argument("--max-tokens", type=int, default=160, help="of a whole solution")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)), help="of model.generate, in samples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="model,slots")
    chosen = parser.parse_args()
    parts = chosen.only.split(",")
    if "model" in parts:
        asyncio.run(measure_model(chosen))
    if "slots" in parts:
        asyncio.run(measure_slots(500))


if __name__ == "__main__":
    main()
