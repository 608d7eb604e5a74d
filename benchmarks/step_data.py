"""Does step-level data work? The embedded policy, trained on three kinds of pairs, on held-out problems.

    step        sibling steps of a tree search (`default` search and extraction)
    answer      whole answers, right against wrong, of the same trees
    sampled     whole answers, right against wrong, of plain sampling with as many sampled tokens as the search took

All three come from the same prompts and the same exact verifier, at most eight pairs a prompt, and go through the same trainer. `tokens`
trains on all pairs that a kind gave for the same number of sampled tokens, `pairs` on as many of each kind as the scarcest kind has (a
random subset). A seed draws the prompts, the search, the samples, the subset and the order of training. The learning rate is chosen
for each kind on a seed that is not reported (`--rates`). Prints one JSON line a training and one a kind: mean gain in points with its
95 % interval over seeds (Student's t), and the difference to `sampled` on the same seeds.

About forty minutes on one core.

    python benchmarks/step_data.py [--seeds 5] [--prompts 500] [--problems 400] [--rates 2e-5,5e-5,1e-4] [--place DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset, disable_progress_bars
from scipy.stats import t as student  # type: ignore[import-untyped]

from curators.engines.base import Sampling
from curators.engines.local import open_local
from curators.sampling import prompt_of, sample
from curators.schema import PROMPTS, frame
from curators.stepsearch.driver import search_all
from curators.stepsearch.extraction import StepPairConfig, step_pairs
from curators.stepsearch.proposals import StepConfig
from curators.stepsearch.writing import answer_pairs
from curators.verifiers import load_verifier, verify_rows
from examples.arithmetic.world import problems
from pipelines.training.dpo import train
from pipelines.training.evaluate import compare
from pipelines.training.params import DpoParams

POLICY = str(Path(__file__).parents[1] / "examples" / "arithmetic" / "policy")
VERIFIER = load_verifier("examples.arithmetic.world:check_answer")
STEPS = StepConfig(max_tokens=40, answer=r"^Answer: ")
PARAMS = DpoParams(threads=1)
KINDS = ("step", "answer", "sampled")
PER_PROMPT = 8
Pairs = list[dict[str, Any]]


def prompts_of(n: int, seed: int, split: str) -> pl.DataFrame:
    rows = [
        prompt_of({"prompt": [{"role": "user", "content": p.text}], "reference": p.reference}) for p in problems(n, seed=seed, split=split)
    ]
    return frame(rows, PROMPTS)


async def make_pairs(n_prompts: int, seed: int) -> tuple[dict[str, Pairs], dict[str, Any]]:
    """Pairs of every kind in the columns of the view `step`, and how many tokens they took."""
    prompts = prompts_of(n_prompts, 1000 + seed, "demo")
    engine = open_local(f"hf:{POLICY}", threads=1, max_concurrency=256)
    try:
        nodes = await search_all(prompts, engine, VERIFIER, steps=replace(STEPS, seed=seed))
        tokens = int(nodes["n_tokens"].sum())
        n, generations = 2, pl.DataFrame()
        while (found := int(generations["n_tokens"].sum()) if generations.height else 0) < tokens:
            n = n if not generations.height else max(n + 1, round(n * tokens / found))
            generations = await sample(prompts, engine, n=n, sampling=Sampling(temperature=1.0, max_tokens=160, seed=seed))
    finally:
        await engine.aclose()
    config = StepPairConfig(test_share=0.0, seed=seed, max_per_prompt=PER_PROMPT)
    rng = random.Random(seed)
    kinds = {
        "step": rows_of(step_pairs(prompts, nodes, config=config)[0]),
        "answer": rows_of(answer_pairs(prompts, nodes, config=config)),
        "sampled": sampled_pairs(prompts, generations, rng),
    }
    return kinds, {"search_tokens": tokens, "sampled_tokens": found, "samples_per_prompt": n}


def rows_of(pairs: pl.DataFrame) -> Pairs:
    shown = {"chosen_step": "chosen", "rejected_step": "rejected", "alpha": "label_smoothing"}
    kept = ["prompt", "prefix", "prefix_token_ids", "chosen_token_ids", "rejected_token_ids", "chosen_terminal", "rejected_terminal"]
    rows = pairs.select(*kept, **{ours: pl.col(theirs) for theirs, ours in shown.items()}).to_dicts()
    return [{**row, "prompt": json.loads(row["prompt"])} for row in rows]


def sampled_pairs(prompts: pl.DataFrame, generations: pl.DataFrame, rng: random.Random) -> Pairs:
    """Different right answers against different wrong ones, each used once, as `answer_pairs` takes them from trees."""
    rows: Pairs = []
    for prompt in prompts.iter_rows(named=True):
        drawn = generations.filter(pl.col("prompt_id") == prompt["prompt_id"]).to_dicts()
        texts = {row["generation_id"]: row["text"] for row in drawn}
        sides: dict[bool, set[str]] = {True: set(), False: set()}
        for row in verify_rows(prompt, drawn, VERIFIER):
            if row["state"] == "ok":
                sides[row["scores"][0] >= 1].add(texts[row["generation_ids"][0]])
        right, wrong = (rng.sample(sorted(side), len(side)) for side in (sides[True], sides[False]))
        for chosen, rejected in list(zip(right, wrong, strict=False))[:PER_PROMPT]:
            ends = {"chosen_terminal": True, "rejected_terminal": True, "label_smoothing": 0.0}
            rows.append({"prompt": json.loads(prompt["messages"]), "prefix": "", "chosen": chosen, "rejected": rejected, **ends})
    return rows


async def answers_of(model: str, exam: pl.DataFrame) -> pl.DataFrame:
    engine = open_local(f"hf:{model}", threads=1, max_concurrency=128)
    try:
        return await sample(exam, engine, n=2, sampling=Sampling(temperature=1.0, max_tokens=160, seed=7))
    finally:
        await engine.aclose()


def gain(rows: Pairs, exam: pl.DataFrame, before: pl.DataFrame, place: Path, **more: Any) -> dict[str, Any]:
    """Train on the rows and compare with the policy on the exam."""
    begun = time.monotonic()
    out = place / "run"
    shutil.rmtree(out, ignore_errors=True)
    metrics = train(Dataset.from_list(rows), POLICY, out, replace(PARAMS, **more), emit=lambda record: None)
    found = compare(before, asyncio.run(answers_of(str(out / "checkpoint"), exam)), exam, VERIFIER.check, seed=0)
    figures = {"gain": found.gain, "low": found.low, "high": found.high, "after": found.accuracy_after, "before": found.accuracy_before}
    rounded = {name: round(value, 4) for name, value in figures.items()}
    return {"n_pairs": len(rows), "steps": metrics["steps"], **rounded, "seconds": round(time.monotonic() - begun, 1)}


def line(**values: Any) -> None:
    print(json.dumps({"bench": "step_data", **values}), flush=True)


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % interval over seeds."""
    mean, n = statistics.mean(values), len(values)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5 if n > 1 else float("nan")
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--rates", default="2e-5,5e-5,1e-4")
    parser.add_argument("--place", type=Path)
    args = parser.parse_args()
    disable_progress_bars()
    place = Path(tempfile.mkdtemp(prefix="pairmill-steps-", dir=args.place))
    exam = prompts_of(args.problems, 5, "heldout")
    before = asyncio.run(answers_of(POLICY, exam))
    rates = [float(rate) for rate in args.rates.split(",")]
    best = dict.fromkeys(KINDS, rates[0])
    gains: dict[tuple[str, str], list[float]] = {}
    for seed in range(-1 if len(rates) > 1 else 0, args.seeds):
        kinds, about = asyncio.run(make_pairs(args.prompts, seed % 1000))
        counts = {kind: len(rows) for kind, rows in kinds.items()}
        line(what="data", seed=seed, prompts=args.prompts, pairs=counts, **about)
        fewest = min(counts.values())
        for kind, rows in kinds.items():
            if seed < 0:
                tried = {rate: gain(rows, exam, before, place, learning_rate=rate, seed=seed % 1000) for rate in rates}
                best[kind] = max(tried, key=lambda rate: tried[rate]["gain"])
                for rate, found in tried.items():
                    line(what="screening", kind=kind, rate=rate, **found)
                continue
            subset = random.Random(seed).sample(rows, fewest)
            done: dict[str, Any] = {}
            for equal, chosen in (("tokens", rows), ("pairs", subset)):
                done = (
                    done if len(chosen) == done.get("n_pairs") else gain(chosen, exam, before, place, learning_rate=best[kind], seed=seed)
                )
                gains.setdefault((equal, kind), []).append(done["gain"])
                line(what="training", seed=seed, equal=equal, kind=kind, rate=best[kind], **done)
    shutil.rmtree(place)
    for (equal, kind), values in gains.items():
        ahead = [value - other for value, other in zip(values, gains[equal, "sampled"], strict=True)]
        line(what="gain", equal=equal, kind=kind, rate=best[kind], seeds=len(values), **interval(values), ahead_of_sampled=interval(ahead))


if __name__ == "__main__":
    main()
