"""Over-optimisation of a reward model by best-of-n on unseen problems, against the exact checker.

    python -m examples.arithmetic.best_of_n --reward rm:examples/arithmetic/reward --out DIR

The policy answers each problem 64 times; the reward model scores every answer, the checker grades it. What the best of n = 1 … 32 by the
score is worth, by the score and by the checker, comes from `curators.statistics.best_of_n`, with intervals over problems. Prints and
writes JSON lines, one an n and one of the whole, and draws a picture. Calls are kept in DIR: a second run, or another reward model on the
same answers, samples nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from curators.engines import open_engine
from curators.engines.base import Engine, Sampling
from curators.engines.cached import CachedEngine
from curators.sampling import gather_all, prompt_of, sample_prompt
from curators.scoring import prove_scorer, score_group
from curators.statistics.best_of_n import GRID, OverOptimisation, over_optimisation
from curators.statistics.intervals import clustered_share
from curators.verifiers import load_verifier, verify_group
from examples.arithmetic.tiny import HERE
from examples.arithmetic.world import problems
from storage.calls import open_ledger

CHECK = "examples.arithmetic.world:check_answer"


async def answers(policy: Engine, reward: Engine, *, n_problems: int, n: int, seed: int) -> pl.DataFrame:
    """One row an answer: `prompt_id`, `generation_id`, `proxy` and `gold`, null where there is none; `n_tokens`."""
    drawn = problems(n_problems, seed=seed, split="heldout")
    prompts = [prompt_of({"prompt": [{"role": "user", "content": p.text}], "reference": p.reference}) for p in drawn]
    verifier, sampling = load_verifier(CHECK), Sampling(max_tokens=160, seed=seed)

    async def group(prompt: dict[str, Any]) -> list[dict[str, Any]]:
        generations = await sample_prompt(prompt, policy, n=n, sampling=sampling)
        scored = await score_group(prompt, generations, reward, use_truncated=True)
        graded = await verify_group(prompt, generations, verifier, use_truncated=True)
        proxy, gold = ({row["generation_ids"][0]: row["scores"][0] for row in rows if row["state"] == "ok"} for rows in (scored, graded))
        ids = [generation["generation_id"] for generation in generations]
        tokens = [generation["n_tokens"] for generation in generations]
        return [
            {"prompt_id": prompt["prompt_id"], "generation_id": i, "proxy": proxy.get(i), "gold": gold.get(i), "n_tokens": size}
            for i, size in zip(ids, tokens, strict=True)
        ]

    await prove_scorer(reward)
    groups = await gather_all(group(prompt) for prompt in prompts)
    return pl.DataFrame([row for rows in groups for row in rows], schema_overrides={"proxy": pl.Float64, "gold": pl.Float64})


def agreement(scored: pl.DataFrame) -> dict[str, Any]:
    """Of the pairs of a right and a wrong answer to one problem, the share in which the right one scores higher; interval over problems."""
    known = scored.drop_nulls(["proxy", "gold"])
    right, wrong = known.filter(pl.col("gold") > 0.5), known.filter(pl.col("gold") <= 0.5)
    pairs = right.join(wrong, on="prompt_id", suffix="_wrong")
    each = pairs.group_by("prompt_id").agg(hits=(pl.col("proxy") > pl.col("proxy_wrong")).sum(), n=pl.len()).sort("prompt_id")
    return clustered_share(each["hits"].cast(pl.Float64).to_numpy(), each["n"].cast(pl.Float64).to_numpy())


def lines(found: OverOptimisation, scored: pl.DataFrame) -> list[dict[str, Any]]:
    """One line an n, and a last one of the whole."""
    per_n = [{"kind": "best_of_n", **{k: _round(v) for k, v in row.items()}} for row in found.curve.iter_rows(named=True)]
    turn, lost = found.turning_point, found.lost
    whole = {
        "kind": "over_optimisation",
        "answers": scored.height,
        "problems": found.n_prompts,
        "short_problems": found.n_short,
        "unscored": found.n_unscored,
        "agreement": {k: _round(v) for k, v in agreement(scored).items()},
        "turning_point": {"n": turn.value, "low": turn.low, "high": turn.high},
        "lost_at_largest_n": {"gold": _round(lost.value), "low": _round(lost.low), "high": _round(lost.high)},
        "best_possible": _round(scored.group_by("prompt_id").agg(pl.col("gold").max())["gold"].mean()),
    }
    return [*per_n, whole]


def _round(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def draw(found: OverOptimisation, file: Path) -> None:
    """Gold and proxy against n, with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    curve = found.curve
    for axes, (name, label) in zip(
        figure.subplots(1, 2), {"gold": "share right, by the checker", "proxy": "mean score"}.items(), strict=True
    ):
        axes.plot(curve["n"], curve[name], marker="o")
        low, high = (curve[f"{name}_{end}"].fill_null(curve[name]) for end in ("low", "high"))
        axes.fill_between(curve["n"], low, high, alpha=0.2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(curve["n"].to_list(), [str(n) for n in curve["n"]])
        axes.set(xlabel="best of n by the reward model", ylabel=label)
    figure.savefig(file, dpi=120)


async def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Sample, score, grade, count, write."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    options = {"threads": 1, "max_concurrency": 128}
    with open_ledger(out / "calls.sqlite") as ledger:
        policy, reward = (CachedEngine(open_engine(spec, options=options), ledger) for spec in (args.policy, args.reward))
        try:
            scored = await answers(policy, reward, n_problems=args.problems, n=args.samples, seed=args.seed)
        finally:
            await asyncio.gather(policy.aclose(), reward.aclose())
    grid = [n for n in GRID if n <= args.samples]
    found = over_optimisation(scored, grid=grid)
    told = lines(found, scored)
    (out / "best_of_n.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told), encoding="utf-8")
    draw(found, out / "best_of_n.png")
    return told


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", required=True, help="a reward model: rm:PATH, classify:MODEL@URL, score:MODEL@URL")
    parser.add_argument("--policy", default=f"hf:{HERE / 'policy'}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seed", type=int, default=5)
    return parser.parse_args(arguments)


def main() -> None:
    """Parse, run, print."""
    began = time.monotonic()
    for line in asyncio.run(run(parsed())):
        print(json.dumps(line))
    print(json.dumps({"minutes": round((time.monotonic() - began) / 60, 1)}))


if __name__ == "__main__":
    main()
