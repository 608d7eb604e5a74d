"""Label quality for a paid call: votes asked for one by one while they can change the verdict, against a fixed number of votes.

Every way judges the same pairs of planted quality with the same simulated judge (`curators.engines.simulated`) by text at a temperature,
both orders. Kept are the verdicts for a side. A call is one completion that is paid for.

    fixed k       k votes in each order
    adaptive k    one vote in each order, then more while they can change the verdict, at most k (`curators.judging.votes`)

Prints one JSON line a judge and way: calls a pair, kept share, accuracy of the kept with its interval by prompt, and right labels for a
thousand calls.

    python benchmarks/votes.py [--pairs 2000] [--votes 1,3,5,9]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from typing import Any

import polars as pl

from curators.engines.base import Engine
from curators.engines.simulated import SimulatedJudge, Traits, planted_text
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import load_rubric
from curators.judging.verdicts import verdicts
from curators.sampling import Row, gather_all, make_prompt
from curators.schema import JUDGMENTS, frame
from curators.statistics.intervals import clustered_share

JUDGES = {
    "sharp": Traits(skill=2.0),
    "noisy": Traits(skill=1.0, noise=0.5),
    "leans to the first": Traits(skill=1.0, position=1.0),
    "weak": Traits(skill=0.4),
}

Pair = tuple[Row, list[dict[str, Any]], bool]
"""A prompt, its two generations, and whether the one with the smaller id is better."""


def planted_pairs(n: int, seed: int = 0) -> list[Pair]:
    """Pairs whose better side has the greater quality, |difference| uniform from 0.2 to 3."""
    draw = random.Random(seed)
    pairs: list[Pair] = []
    for i in range(n):
        quality = draw.uniform(-1, 1)
        other = quality + draw.choice([-1, 1]) * draw.uniform(0.2, 3)
        group = [
            {"generation_id": f"{i:05d}{side}", "text": planted_text(q, 60), "tool_calls": None, "state": "ok"}
            for side, q in (("a", quality), ("b", other))
        ]
        pairs.append((make_prompt(f"Question {i}"), group, quality > other))
    return pairs


async def measure(pairs: list[Pair], engine: Engine, config: JudgeConfig) -> dict[str, Any]:
    """What the labels cost and are worth."""
    rubric = load_rubric("pairwise")
    rows = await gather_all(judge_group(prompt, group, engine, rubric=rubric, config=config) for prompt, group, _ in pairs)
    judgments = frame([row for group in rows for row in group], JUDGMENTS)
    truth = pl.DataFrame({"a_id": [group[0]["generation_id"] for _, group, _ in pairs], "right": ["a" if a else "b" for *_, a in pairs]})
    found = verdicts(judgments).join(truth, on="a_id")
    kept = found.filter(pl.col("verdict").is_in(["a", "b"]))
    hits = (kept["verdict"] == kept["right"]).cast(pl.Int64)
    accuracy = clustered_share(hits.to_numpy(), [1.0] * kept.height)
    calls = judgments.height
    return {
        "calls_a_pair": round(calls / len(pairs), 2),
        "kept": round(kept.height / len(pairs), 3),
        "accuracy": round(accuracy["share"], 4),
        "low": round(accuracy["low"], 4),
        "high": round(accuracy["high"], 4),
        "right_a_thousand_calls": round(1000 * accuracy["hits"] / calls, 1),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--votes", default="1,3,5,9")
    chosen = parser.parse_args()
    pairs, most = planted_pairs(chosen.pairs), [int(k) for k in chosen.votes.split(",")]
    for name, traits in JUDGES.items():
        for k in most:
            ways = {"fixed": JudgeConfig(channel="text", votes=k, temperature=0.7, max_tokens=512)}
            if k > 1:
                ways["adaptive"] = JudgeConfig(channel="text", max_votes=k, temperature=0.7, max_tokens=512)
            for way, config in ways.items():
                found = await measure(pairs, SimulatedJudge(traits, options=False), config)
                print(json.dumps({"bench": "votes", "judge": name, "way": way, "votes": k, "pairs": len(pairs)} | found), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
