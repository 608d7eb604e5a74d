"""Label quality for a paid call: votes asked for one by one while they can change the verdict, against a fixed number of votes.

Every way judges the same pairs of planted quality with the same simulated judge (`curators.engines.simulated`) by text at a temperature,
both orders. Kept are the verdicts for a side. A call is one completion that is paid for.

    fixed k       k votes in each order
    adaptive c    one vote in each order, then more while they can change the verdict and are less sure than c, at most k
                  (`curators.judging.votes`; two votes that agree are .92 sure, four .99)

Prints one JSON line a judge and way: calls a pair, kept share, accuracy of the kept with its interval by prompt, and right labels for a
thousand calls. With LLMBar's transcripts the same for real judges: a judge's replies to the eight prompts that give one verdict (Vanilla,
CoT, Metrics …), in an order of their own for every pair, are its votes, replayed.

    python benchmarks/votes.py [--pairs 2000] [--votes 1,3,5,8] [--transcripts FILE --gold FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import polars as pl

from curators.engines.base import Engine
from curators.engines.replay import ReplayEngine
from curators.engines.simulated import SimulatedJudge, Traits, planted_text
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import Rubric, load_rubric, parse_rubric
from curators.judging.transcripts import Item, read_item, text_id
from curators.judging.verdicts import verdicts
from curators.sampling import Row, gather_all, make_prompt
from curators.schema import JUDGMENTS, frame
from curators.statistics.intervals import clustered_share
from storage.files import read_rows

JUDGES = {
    "sharp": Traits(skill=2.0),
    "noisy": Traits(skill=1.0, noise=0.5),
    "leans to the first": Traits(skill=1.0, position=1.0),
    "weak": Traits(skill=0.4),
}

STRATEGIES = ["Vanilla", "Vanilla_NoRules", "Vanilla_1shot", "Vanilla_2shot", "CoT", "Metrics", "Reference", "Metrics_Reference"]
RECORDED = "---\nname: recorded\nprotocol: pairwise\nverdict: output-letter\n---\n# user\n{{prompt}}\n\n{{first}}\n\n{{second}}\n"

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


def recorded_votes(transcripts: str, gold: str, directory: Path) -> Iterator[tuple[str, list[Pair], Engine, Rubric]]:
    """Each judge whose replies to all eight prompts are there, over the pairs that have them."""
    texts = {name: row.row for row in read_rows(gold) if row.row is not None and (name := text_id(row.row)) is not None}
    by_judge: dict[str, dict[str, dict[str, Item]]] = {}
    for row in read_rows(transcripts):
        for item in read_item(row.row or {}, "llmbar", texts):
            if item.strategy in STRATEGIES and item.label is not None and None not in item.texts:
                by_judge.setdefault(item.judge, {}).setdefault(item.key, {})[item.strategy] = item
    for judge, by_key in sorted(by_judge.items()):
        whole = {key: items for key, items in by_key.items() if len(items) == len(STRATEGIES)}
        if whole:
            path = directory / f"{judge}.jsonl"
            path.write_bytes(b"\n".join(orjson.dumps(line) for key, items in whole.items() for line in vote_lines(key, items)))
            pairs = [_recorded_pair(key, next(iter(items.values()))) for key, items in whole.items()]
            yield judge, pairs, ReplayEngine(path), parse_rubric(RECORDED)


def vote_lines(key: str, items: dict[str, Item]) -> Iterator[dict[str, Any]]:
    """One reply as the first votes' request asks for it, and as one further vote does."""
    order = random.Random(key).sample(STRATEGIES, len(STRATEGIES))
    for vote, strategy in enumerate(order):
        for said in items[strategy].said:
            for first in {0, vote}:
                yield {"key": f"judge/{key}/1-{key}/2/{said.order}/{first}", "sample_index": vote, **said.reply}


def _recorded_pair(key: str, item: Item) -> Pair:
    group = [{"generation_id": f"{key}/{n}", "text": text, "tool_calls": None, "state": "ok"} for n, text in enumerate(item.texts, 1)]
    return make_prompt(item.prompt), group, item.label == "first"


async def measure(pairs: list[Pair], engine: Engine, config: JudgeConfig, rubric: Rubric) -> dict[str, Any]:
    """What the labels cost and are worth."""
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


async def compare(name: str, pairs: list[Pair], judge: Callable[[], Engine], rubric: Rubric, most: Sequence[int]) -> None:
    """Both ways at every number of votes."""
    for k in most:
        ways: dict[str, dict[str, Any]] = {"fixed": {"votes": k}}
        ways |= {f"adaptive {sure}": {"max_votes": k, "stop_at": sure} for sure in (0.9, 0.95) if k > 1}
        for way, votes in ways.items():
            config = JudgeConfig(channel="text", temperature=0.7, repairs=0, max_tokens=512, **votes)
            found = await measure(pairs, judge(), config, rubric)
            print(json.dumps({"bench": "votes", "judge": name, "way": way, "votes": k, "pairs": len(pairs)} | found), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--votes", default="1,3,5,8")
    parser.add_argument("--transcripts")
    parser.add_argument("--gold")
    chosen = parser.parse_args()
    pairs, most = planted_pairs(chosen.pairs), [int(k) for k in chosen.votes.split(",")]
    for name, traits in JUDGES.items():
        await compare(name, pairs, partial(SimulatedJudge, traits, options=False), load_rubric("pairwise"), most)
    if chosen.transcripts:
        with TemporaryDirectory() as directory:
            for name, real, engine, rubric in recorded_votes(chosen.transcripts, chosen.gold, Path(directory)):
                await compare(name, real, partial(_same, engine), rubric, [k for k in most if k <= len(STRATEGIES)])


def _same(engine: Engine) -> Engine:
    return engine


if __name__ == "__main__":
    asyncio.run(main())
