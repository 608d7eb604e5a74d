"""`hf:` sampling against `model.generate`, four samples a prompt, one thread each, in the same process and interleaved.

Prints one JSON line a measurement and one with the ratio: new tokens a second (end-of-turn tokens included) over the same prompts, sampling
and limit. `generate` gets its prompts sorted by length and is measured at every batch size; the best counts. Medians over the rounds.

    python benchmarks/sampling.py [--model DIR] [--prompts 160] [--max-tokens 160] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from curators.engines.base import Request, Sampling
from curators.engines.local import LocalEngine, open_local
from examples.arithmetic.world import problems

Speed = tuple[float, float]
"""New tokens in a second of wall time and of CPU time; the second says more on a machine that others use too."""

SAMPLES = 4
BATCHES = (32, 64, 128, 256)
BAR = 1.5
POLICY = Path(__file__).parents[1] / "examples/arithmetic/policy"


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, texts: list[str], *, batch: int, max_tokens: int, temperature: float = 1.0) -> int:
    """Every prompt's samples with `model.generate`, `batch` sequences at a time; returns the number of new tokens."""
    n_tokens = 0
    for begin in range(0, len(texts), batch // SAMPLES):
        inputs = tokenizer(
            texts[begin : begin + batch // SAMPLES], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=SAMPLES,
            max_new_tokens=max_tokens,
        )
        new = ids[:, inputs["input_ids"].shape[1] :]
        ended = new == tokenizer.eos_token_id
        n_tokens += int((ended.cumsum(-1) - ended.int() == 0).sum())
    return n_tokens


async def sample(
    engine: LocalEngine, conversations: list[list[dict[str, str]]], *, max_tokens: int, seed: int, temperature: float = 1.0
) -> int:
    """The same with the engine; returns the number of new tokens."""
    sampling = Sampling(max_tokens=max_tokens, seed=seed, temperature=temperature)
    replies = await asyncio.gather(
        *(engine.complete(Request(key=str(i), messages=c, n=SAMPLES, sampling=sampling)) for i, c in enumerate(conversations))
    )
    return sum(reply.completion_tokens for reply in replies)


async def measure(model_dir: str, *, n_prompts: int, max_tokens: int, rounds: int) -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    conversations = [[{"role": "user", "content": problem.text}] for problem in problems(n_prompts, seed=0, split="demo")]
    texts = sorted((tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in conversations), key=len)
    engine = open_local(model_dir, threads=1)
    await sample(engine, conversations[:8], max_tokens=8, seed=0)
    speeds: dict[str, list[Speed]] = {}
    for number in range(rounds):
        for batch in BATCHES:
            clock = Clock()
            n_tokens = generate(model, tokenizer, texts, batch=batch, max_tokens=max_tokens)
            speeds.setdefault(f"generate/{batch}", []).append(clock.speed(n_tokens))
        clock = Clock()
        n_tokens = await sample(engine, conversations, max_tokens=max_tokens, seed=number)
        speeds.setdefault("hf:", []).append(clock.speed(n_tokens))
    await engine.aclose()
    report(speeds, n_prompts=n_prompts, max_tokens=max_tokens)


class Clock:
    """Wall clock and the process's CPU clock, from now on."""

    def __init__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def speed(self, n_tokens: int) -> Speed:
        return n_tokens / (time.perf_counter() - self.began[0]), n_tokens / (time.process_time() - self.began[1])


def report(speeds: dict[str, list[Speed]], *, n_prompts: int, max_tokens: int) -> None:
    medians = {way: tuple(statistics.median(clock) for clock in zip(*values, strict=True)) for way, values in speeds.items()}
    for way, (wall, cpu) in medians.items():
        rounds = [round(speed) for speed, _ in speeds[way]]
        print(json.dumps({"bench": "sampling", "way": way, "tokens_per_s": round(wall), "per_cpu_s": round(cpu), "rounds": rounds}))
    wall, cpu = (medians["hf:"][i] / max(speed[i] for way, speed in medians.items() if way != "hf:") for i in (0, 1))
    line = {"bench": "sampling", "prompts": n_prompts, "n": SAMPLES, "max_tokens": max_tokens}
    print(json.dumps(line | {"ratio": round(wall, 2), "cpu_ratio": round(cpu, 2), "bar": BAR, "ok": wall >= BAR}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(POLICY))
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    asyncio.run(measure(chosen.model, n_prompts=chosen.prompts, max_tokens=chosen.max_tokens, rounds=chosen.rounds))


if __name__ == "__main__":
    main()
