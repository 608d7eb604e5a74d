"""Is a tenth of the pairs enough? Nested subsets under five selectors, with redundancy in the pool and without (E1).

    redundant   four in five pairs come from few problems that do not multiply by 4, in 30 near copies each: other names and things, the
                same numbers and answers; the others from a problem each that multiplies by 4 ("rare"), which the policy gets wrong most
    distinct    every pair from a problem of its own

Pairs are a right and a wrong answer of the embedded policy, by the exact verifier. A pool is ordered once by every selector (text: prompt
and chosen, all-MiniLM-L6-v2; `margin`: smallest difference of mean log-probability of both sides under the policy), cut at 2, 5 and 10 %,
and the policy is trained for two epochs on each cut and on the whole pool. A seed draws problems, samples and the order of training.

Prints one JSON line a training (gain in points on held-out problems, and on those of them that multiply by 4) and at the end one a pool,
selector and size: mean over seeds with its 95 % interval (Student's t), and the difference to the whole pool and to `random` on the same
seeds. `--read FILE …` sums up what earlier runs printed. About 14 minutes a seed on one core.

    python benchmarks/nested_subsets.py [--seeds 0,1,2,3,4] [--pools redundant,distinct] [--pairs 1000] [--rate 1e-4] [--read FILE …]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset, disable_progress_bars

from benchmarks.step_data import POLICY, VERIFIER, answers_of, interval
from curators.embeddings import SentenceEncoder, bundled_model, embed_into
from curators.engines.base import Engine, Sampling
from curators.engines.local import open_local
from curators.errors import CurationError
from curators.sampling import prompt_of, sample
from curators.schema import PROMPTS, frame
from curators.selection.config import SelectConfig
from curators.selection.ladders import ladder
from curators.selection.selectors import select
from curators.verifiers import verify_rows
from examples.arithmetic.phrases import PEOPLE, THINGS
from examples.arithmetic.world import problem_stream
from pipelines.training.dpo import train
from pipelines.training.evaluate import compare
from pipelines.training.params import DpoParams

SHARES = (0.02, 0.05, 0.1)
SELECTORS: dict[str, dict[str, Any]] = {
    "random": {},
    "isa": {"order": "signed"},
    "k_center": {},
    "facility_location": {},
    "margin": {"direction": "smallest"},
}
CROWD_SHARE, COPIES = 0.8, 30
EPOCHS = 2.0
_RARE = re.compile(r"\* 4 =")


def rare(reference: str) -> bool:
    """Whether the problem's solution multiplies by 4."""
    return bool(_RARE.search(reference))


def problems(n: int, *, seed: int, split: str, only: bool | None = None) -> pl.DataFrame:
    """Prompts of n different problems; `only`: of those that are rare, or not."""
    found: dict[str, dict[str, Any]] = {}
    stream = problem_stream(seed=seed, split=split)
    while len(found) < n:
        each = next(stream)
        if only is None or rare(each.reference) is only:
            found.setdefault(each.text, prompt_of({"prompt": [{"role": "user", "content": each.text}], "reference": each.reference}))
    return frame(list(found.values()), PROMPTS)


async def pairs_of(prompts: pl.DataFrame, engine: Engine, *, n: int, most: int, rng: random.Random) -> list[dict[str, Any]]:
    """Up to `most` combinations of a right and a wrong answer of every prompt."""
    sampling = Sampling(temperature=1.0, max_tokens=160, seed=rng.randrange(2**31))
    generations = await sample(prompts, engine, n=n, sampling=sampling)
    groups = {key[0]: rows.to_dicts() for key, rows in generations.partition_by("prompt_id", as_dict=True).items()}
    out = []
    for prompt in prompts.iter_rows(named=True):
        rows = {row["generation_id"]: row for row in groups[prompt["prompt_id"]] if row["state"] == "ok"}
        sides: dict[bool, dict[str, dict[str, Any]]] = {True: {}, False: {}}
        for judged in verify_rows(prompt, list(rows.values()), VERIFIER):
            if judged["state"] == "ok":
                row = rows[judged["generation_ids"][0]]
                sides[judged["scores"][0] >= 1].setdefault(row["text"], row)
        both = [(right, wrong) for right in sides[True].values() for wrong in sides[False].values()]
        out += [pair_of(prompt, right, wrong) for right, wrong in rng.sample(both, min(most, len(both)))]
    return out


def pair_of(prompt: dict[str, Any], right: dict[str, Any], wrong: dict[str, Any]) -> dict[str, Any]:
    means = [row["sum_logprob"] / row["n_tokens"] for row in (right, wrong)]
    asked = json.loads(prompt["messages"])
    return {
        "pair_id": f"{right['generation_id']}-{wrong['generation_id']}",
        "prompt": asked,
        "text": f"{asked[-1]['content']}\n\n{right['text']}",
        "chosen": right["text"],
        "rejected": wrong["text"],
        "margin": means[0] - means[1],
        "rare": rare(prompt["reference"]),
    }


def near_copies(pairs: list[dict[str, Any]], n: int, rng: random.Random) -> list[dict[str, Any]]:
    """n pairs of the problems with the most pairs, `COPIES` of each: other names and other things, the same numbers and answers."""
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        by_problem.setdefault(pair["prompt"][-1]["content"], []).append(pair)
    texts = sorted(by_problem, key=lambda text: (-len(by_problem[text]), text))[: -(-n // COPIES)]
    out = []
    for text in texts:
        said = set(re.findall(r"\w+", text))
        who, what = next(name for name, _ in PEOPLE if name in said), next(thing for thing in THINGS if thing in said)
        pronoun = dict(PEOPLE)[who]
        variants = list(product([name for name, each in PEOPLE if each == pronoun], THINGS))
        for i, (name, thing) in enumerate(rng.sample(variants, COPIES)):
            pair = by_problem[text][i % len(by_problem[text])]
            told = re.sub(rf"\b{who}\b", name, text)
            told = re.sub(rf"\b{what}\b", thing, told)
            answer = pair["text"].removeprefix(text)
            prompt = [*pair["prompt"][:-1], {**pair["prompt"][-1], "content": told}]
            out.append({**pair, "pair_id": f"{pair['pair_id']}-{name}-{thing}", "prompt": prompt, "text": told + answer})
    return out[:n]


async def make_pool(kind: str, n: int, seed: int) -> list[dict[str, Any]]:
    """Exactly n pairs of a kind of pool."""
    rng = random.Random(f"{kind}-{seed}")
    engine = open_local(f"hf:{POLICY}", threads=1, max_concurrency=256)
    try:
        crowd: list[dict[str, Any]] = []
        if kind == "redundant":
            prompts = problems(round(CROWD_SHARE * n) // 10, seed=4000 + seed, split="demo", only=False)
            crowd = near_copies(await pairs_of(prompts, engine, n=16, most=COPIES, rng=rng), round(CROWD_SHARE * n), rng)
        single: list[dict[str, Any]] = []
        drawn = 0
        while len(single) < n - len(crowd):
            prompts = problems(drawn + 600, seed=2000 + seed, split="demo", only=True if kind == "redundant" else None)[drawn:]
            drawn += 600
            single += await pairs_of(prompts, engine, n=6, most=1, rng=rng)
    finally:
        await engine.aclose()
    return crowd + single[: n - len(crowd)]


def orders(pool: Sequence[dict[str, Any]], seed: int) -> dict[str, dict[float, list[str]]]:
    """By selector and share, the ids of the cut."""
    rows = pl.DataFrame([{name: row[name] for name in ("pair_id", "margin")} for row in pool])
    encoder = SentenceEncoder(bundled_model())
    vectors = np.empty((len(pool), encoder.dimensions), dtype=np.float32)
    embed_into(vectors, [row["text"] for row in pool], encoder)
    out = {}
    for name, settings in SELECTORS.items():
        found = select(rows, vectors, budget=max(SHARES), config=SelectConfig(selector=name, seed=seed, **settings))
        out[name] = {rung.share: list(rung.ids) for rung in ladder(found, SHARES)}
    return out


def gains(rows: Iterable[dict[str, Any]], exam: pl.DataFrame, before: pl.DataFrame, place: Path, params: DpoParams) -> dict[str, Any]:
    """Train on the rows; gains on the whole exam and on its rare problems, in points."""
    begun = time.monotonic()
    out = place / "run"
    shutil.rmtree(out, ignore_errors=True)
    kept = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    turns = [{**row, **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}} for row in kept]
    train(Dataset.from_list(turns), POLICY, out, params, emit=lambda record: None)
    after = asyncio.run(answers_of(str(out / "checkpoint"), exam))
    hard = exam.filter(pl.Series([rare(each) for each in exam["reference"]]))
    found = {}
    for name, part in (("gain", exam), ("rare_gain", hard)):
        ours = [frame.join(part.select("prompt_id"), on="prompt_id", how="semi") for frame in (before, after)]
        found[name] = round(100 * compare(*ours, part, VERIFIER.check).gain, 2)
    return {"n_pairs": len(turns), "n_rare": sum(row["rare"] for row in rows), **found, "seconds": round(time.monotonic() - begun, 1)}


def run(kind: str, seed: int, args: argparse.Namespace, exam: pl.DataFrame, before: pl.DataFrame) -> list[dict[str, Any]]:
    """Every training of one pool and seed, printed as it is done."""
    place = Path(tempfile.mkdtemp(prefix="pairmill-nested-"))
    pool = {row["pair_id"]: row for row in asyncio.run(make_pool(kind, args.pairs, seed))}
    params = replace(DpoParams(threads=1, epochs=EPOCHS), learning_rate=args.rate, seed=seed)
    cuts = orders(list(pool.values()), seed)
    cuts["all"] = {1.0: sorted(pool)}
    lines = []
    for name, rungs in cuts.items():
        for share, ids in rungs.items():
            try:
                found = gains([pool[each] for each in ids], exam, before, place, params)
            except CurationError as error:
                found = {"failed": str(error)}
            lines.append(line(what="training", pool=kind, seed=seed, selector=name, share=share, rate=args.rate, **found))
    shutil.rmtree(place)
    return lines


def line(**values: Any) -> dict[str, Any]:
    told = {"bench": "nested_subsets", **values}
    print(json.dumps(told), flush=True)
    return told


def summary(lines: Iterable[dict[str, Any]]) -> None:
    """One line a pool, selector and share, over the seeds that have all of them."""
    table: dict[tuple[str, str, float], dict[int, dict[str, Any]]] = {}
    for each in lines:
        if each.get("what") == "training" and "failed" not in each:
            table.setdefault((each["pool"], each["selector"], each["share"]), {})[each["seed"]] = each
    for (pool, selector, share), rows in table.items():
        told: dict[str, Any] = {"pool": pool, "selector": selector, "share": share, "seeds": len(rows)}
        for measure in ("gain", "rare_gain"):
            told[measure] = interval([row[measure] for row in rows.values()])
            for name, other in (("all", (pool, "all", 1.0)), ("random", (pool, "random", share))):
                both = [(rows[seed][measure], table[other][seed][measure]) for seed in rows if seed in table.get(other, {})]
                if both and other != (pool, selector, share):
                    told[f"{measure}_ahead_of_{name}"] = interval([ours - theirs for ours, theirs in both])
        line(what="summary", **told, share_rare=round(statistics.mean(row["n_rare"] / row["n_pairs"] for row in rows.values()), 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--pools", default="redundant,distinct")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--problems", type=int, default=300, help="held-out ones of the exam")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--read", nargs="*", type=Path)
    args = parser.parse_args()
    if args.read:
        summary(json.loads(text) for path in args.read for text in path.read_text().splitlines() if text.startswith("{"))
        return
    disable_progress_bars()
    exam = problems(args.problems, seed=5, split="heldout")
    before = asyncio.run(answers_of(POLICY, exam))
    summary([each for seed in args.seeds.split(",") for kind in args.pools.split(",") for each in run(kind, int(seed), args, exam, before)])


if __name__ == "__main__":
    main()
