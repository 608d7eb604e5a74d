"""From a million judgments to verdicts, from contests to ratings, and what is found again of judges with planted faults.

Prints JSON lines:

    verdicts   a million judgments (both orders of half a million pairs) with `curators.judging.verdicts`, and the obvious way in pandas
               (group by pair, mean of each order, the same labels); the two must agree. Seconds are medians over the rounds
    ratings    Bradley-Terry over 200 models from 50,000 contests: ours (with standard errors; and with 100 resamples), `choix` by MM,
               by I-LSR and by its optimiser, `statsmodels` as a binomial GLM of the counts. Largest difference of the ratings beside it
    simulated  judges with a planted position, length, taste and noise on 2,000 pairs: estimate, interval, truth. By text, taste and
               noise that no gold knows make the estimated effect of length too small, as in any logistic regression; by options they do not

Peers that are not installed are said to be missing (`pip install -e '.[bench]'`).

    python benchmarks/judging.py [--judgments 1000000] [--models 200] [--contests 50000] [--pairs 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from scipy.special import expit, logit

from curators.engines.simulated import SimulatedJudge, Traits, planted_quality, planted_text
from curators.judging.bias import length_effect, position_audit
from curators.judging.juries import decided_sides
from curators.judging.protocol import judge_group
from curators.judging.rubric import load_rubric
from curators.judging.verdicts import verdicts
from curators.sampling import gather_all, make_prompt
from curators.schema import JUDGMENTS, frame
from curators.statistics.intervals import cluster_ratio
from curators.statistics.ratings import bradley_terry

Floats = np.ndarray[Any, np.dtype[np.float64]]


def say(**figures: Any) -> None:
    print(json.dumps({"benchmark": "judging", **figures}), flush=True)


@dataclass
class Taken:
    """By the clock, and of CPU (all threads), a round each."""

    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        clock, cpu = (sorted(round(s, 3) for s in taken) for taken in (self.clock, self.cpu))
        return {
            "s": statistics.median(clock),
            "low_s": clock[0],
            "high_s": clock[-1],
            "cpu_s": statistics.median(cpu),
            "rounds": len(clock),
        }

    def times(self, other: Taken) -> dict[str, float]:
        """How many times as long as another."""
        ratio = {name: statistics.median(getattr(self, name)) / statistics.median(getattr(other, name)) for name in ("clock", "cpu")}
        return {"times_ours": round(ratio["clock"], 2), "times_our_cpu": round(ratio["cpu"], 2)}


def seconds(work: Callable[[], Any], rounds: int) -> tuple[Taken, Any]:
    taken, out = Taken(), None
    for _ in range(rounds):
        began, cpu = time.perf_counter(), time.process_time()
        out = work()
        taken.clock.append(time.perf_counter() - began)
        taken.cpu.append(time.process_time() - cpu)
    return taken, out


def judgments_of(n: int, *, soft: bool, seed: int = 0) -> pl.DataFrame:
    """Both orders of n / 2 pairs, four generations a prompt; one in fifty could not be read."""
    rng = np.random.default_rng(seed)
    pairs = n // 2
    prompt = np.arange(pairs) // 6
    sides = np.array([(i, j) for i in range(4) for j in range(i)])[np.arange(pairs) % 6]
    ids = [[f"{p:024x}{side:08x}" for p, side in zip(prompt, sides[:, k], strict=True)] for k in (0, 1)]
    base = {
        "prompt_id": [f"{p:032x}" for p in prompt] * 2,
        "first": ids[0] + ids[1],
        "second": ids[1] + ids[0],
        "p_first": rng.random(2 * pairs) if soft else rng.integers(2, size=2 * pairs).astype(float),
        "ok": rng.random(2 * pairs) >= 0.02,
    }
    data = pl.DataFrame(base).with_row_index("judgment_id")
    p = pl.when("ok").then("p_first")
    told = data.select(
        pl.col("judgment_id").cast(pl.String),
        "prompt_id",
        protocol=pl.lit("pairwise"),
        judge=pl.lit("j"),
        rubric=pl.lit("pairwise"),
        rubric_digest=pl.lit("d"),
        generation_ids=pl.concat_list("first", "second"),
        order=pl.when(pl.col("judgment_id") < pairs).then(0).otherwise(1),
        vote=pl.lit(0),
        attempt=pl.lit(0),
        channel=pl.lit("options" if soft else "text"),
        p_first=p,
        label=pl.when(p > 0.5).then(pl.lit("first")).when(p < 0.5).then(pl.lit("second")).when(p == 0.5).then(pl.lit("tie")),
        state=pl.when("ok").then(pl.lit("ok")).otherwise(pl.lit("parse_error")),
    )
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in JUDGMENTS.items() if name not in told.columns]
    return told.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in JUDGMENTS.items())


def in_pandas(data: pd.DataFrame) -> pd.DataFrame:
    """What one would write: the last attempt of each presentation, the mean of each order, and the same labels."""
    last = data.sort_values("attempt").drop_duplicates(["judge", "prompt_id", "first", "second", "vote"], keep="last")
    first, second = last["first"], last["second"]
    a_first = first < second
    last = last.assign(
        a_id=first.where(a_first, second),
        b_id=second.where(a_first, first),
        ab=last["p_first"].where(a_first),
        ba=(1 - last["p_first"]).where(~a_first),
    )
    out = last.groupby(["prompt_id", "a_id", "b_id", "judge"]).agg(ab=("ab", "mean"), ba=("ba", "mean"), n=("ab", "size")).reset_index()
    p = (out["ab"] + out["ba"]) / 2
    differ = (out["ab"] - 0.5) * (out["ba"] - 0.5) < 0
    label = np.select([p.isna(), differ, p >= 0.6, p <= 0.4], ["unscored", "inconsistent", "a", "b"], "tie")
    return out.assign(p_a=p, verdict=label)


def bench_verdicts(n: int, rounds: int) -> None:
    for soft in (False, True):
        data = judgments_of(n, soft=soft)
        taken, ours = seconds(lambda data=data: verdicts(data), rounds)
        counts = dict(sorted(ours["verdict"].value_counts().iter_rows()))
        say(what="verdicts", way="ours", channel="options" if soft else "text", judgments=data.height, **taken.figures(), verdicts=counts)
        if soft:
            continue
        columns = data.select(
            "judge",
            "prompt_id",
            "vote",
            "attempt",
            "p_first",
            first=pl.col("generation_ids").list.get(0),
            second=pl.col("generation_ids").list.get(1),
        )
        obvious = columns.to_pandas()
        peer, theirs = seconds(lambda obvious=obvious: in_pandas(obvious), max(1, rounds // 2))
        same = pl.from_pandas(theirs[["a_id", "b_id", "verdict"]]).join(ours, on=["a_id", "b_id"], suffix="_ours")
        agree = bool((same["verdict"] == same["verdict_ours"]).all()) and same.height == ours.height
        say(
            what="verdicts",
            way="pandas",
            judgments=data.height,
            **peer.figures(),
            agree=agree,
            **peer.times(taken),
        )


def contests_of(models: int, n: int, seed: int = 0) -> tuple[pl.DataFrame, Floats]:
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=models)
    a = rng.integers(models, size=n)
    b = (a + rng.integers(1, models, size=n)) % models
    win = (rng.random(n) < 1 / (1 + np.exp(theta[b] - theta[a]))).astype(float)
    names = np.array([f"m{i:03}" for i in range(models)])
    data = pl.DataFrame({"prompt_id": rng.integers(n // 100, size=n).astype(str), "a": names[a], "b": names[b], "win": win})
    return data, np.stack([np.where(win > 0.5, a, b), np.where(win > 0.5, b, a)], axis=1)


def bench_ratings(models: int, n: int, rounds: int) -> None:
    data, outcomes = contests_of(models, n)
    taken, ours = seconds(lambda: bradley_terry(data, n_resamples=0), rounds)
    theta = ours.table.sort("player")["theta"].to_numpy()
    shared = {"what": "ratings", "models": models, "contests": n}
    say(**shared, way="ours", **taken.figures(), with_standard_errors=True)
    resampled, _ = seconds(lambda: bradley_terry(data, n_resamples=100), 1)
    say(**shared, way="ours, 100 resamples of prompts", **resampled.figures())
    for way, work in peers(models, outcomes).items():
        if work is None:
            say(**shared, way=way, missing=True)
            continue
        peer, found = seconds(work, max(1, rounds // 2))
        off = float(np.abs((found - found.mean()) - theta).max())
        say(
            **shared,
            way=way,
            **peer.figures(),
            **peer.times(taken),
            differs_by=float(f"{off:.2g}"),
        )


def peers(models: int, outcomes: Any) -> dict[str, Callable[[], Floats] | None]:
    ways: dict[str, Callable[[], Floats] | None] = dict.fromkeys(("choix mm", "choix ilsr", "choix optimiser", "statsmodels GLM"))
    if importlib.util.find_spec("choix"):
        import choix

        listed = [(int(won), int(lost)) for won, lost in outcomes]
        ways["choix mm"] = lambda: choix.mm_pairwise(models, listed)
        ways["choix ilsr"] = lambda: choix.ilsr_pairwise(models, listed)
        ways["choix optimiser"] = lambda: choix.opt_pairwise(models, listed)
    if importlib.util.find_spec("statsmodels"):
        import statsmodels.api as sm

        def glm() -> Floats:
            wins = np.zeros((models, models))
            np.add.at(wins, (outcomes[:, 0], outcomes[:, 1]), 1)
            i, j = np.triu_indices(models, 1)
            met = (wins + wins.T)[i, j] > 0
            i, j = i[met], j[met]
            design = np.zeros((len(i), models))
            design[np.arange(len(i)), i], design[np.arange(len(i)), j] = 1, -1
            fitted = sm.GLM(np.stack([wins[i, j], wins[j, i]], axis=1), design[:, 1:], family=sm.families.Binomial()).fit()
            return np.append(0.0, fitted.params)

        ways["statsmodels GLM"] = glm
    return ways


FAULTS = (
    Traits(skill=1.5),
    Traits(skill=1.5, position=0.6, length=0.4),
    Traits(skill=1.5, position=0.4, length=0.2, taste=0.3, noise=0.3),
    Traits(skill=1.0, position=1.0, length=0.5, taste=0.5, noise=0.5),
    Traits(skill=2.0, position=-0.6, length=-0.3, taste=0.5, noise=0.3),
)


async def simulate(traits: Traits, n: int, *, options: bool) -> None:
    """One judge over pairs of random quality and length; every estimate beside what the judge's own formula says."""
    rng, engine = np.random.default_rng(5), SimulatedJudge(traits, options=options)
    texts = {f"{i}{s}": planted_text(float(rng.normal()), int(rng.integers(40, 700))) for i in range(n) for s in "ab"}
    rubric = load_rubric("pairwise-letter")

    async def one(i: int) -> list[dict[str, Any]]:
        group = [{"generation_id": f"{i}{s}", "text": texts[f"{i}{s}"], "state": "ok"} for s in "ab"]
        return await judge_group(make_prompt(f"Question {i}"), group, engine, rubric=rubric)

    judgments = frame([row for rows in await gather_all(one(i) for i in range(n)) for row in rows], JUDGMENTS)
    found = verdicts(judgments)
    quality = {name: planted_quality(text) for name, text in texts.items()}
    lead = pl.col("a_id").replace_strict(quality) - pl.col("b_id").replace_strict(quality)
    side = pl.when(lead > 0).then(pl.lit("a")).otherwise(pl.lit("b"))
    gold = found.with_columns(judge=pl.lit("gold"), scores_delta=lead, verdict=side)
    sizes = pl.DataFrame({"generation_id": list(texts), "size": [len(text) for text in texts.values()]})
    joined = found.filter(pl.col("verdict").is_in(["a", "b"])).join(decided_sides(gold), on=["a_id", "b_id"])
    leans = np.array([logit(engine.p_first(texts[f"{i}a"], texts[f"{i}b"], position=False)) for i in range(n)])
    first, right = truth(leans, np.array([1 if quality[f"{i}a"] > quality[f"{i}b"] else -1 for i in range(n)]), traits, options=options)
    say(
        what="simulated",
        channel="options" if options else "text",
        pairs=n,
        planted={name: getattr(traits, name) for name in ("skill", "position", "length", "taste", "noise")},
        position=estimate(position_audit(judgments)["effect"], first - 0.5),
        length_per_100_chars=estimate(length_effect(judgments, sizes, gold, n_resamples=200).effect, traits.length),
        agreement_of_decided=estimate(cluster_ratio(joined, pl.col("verdict") == pl.col("gold")), right),
    )


def truth(leans: Floats, better: Floats, traits: Traits, *, options: bool) -> tuple[float, float]:
    """P(first), and P(right | decided), from the judge's formula over many draws of its noise: pairs by draws."""
    noise = np.random.default_rng(0).normal(0, traits.noise, size=(2, len(leans), 500 if traits.noise else 1))
    ab, ba = expit(leans[:, None] + traits.position + noise[0]), expit(-leans[:, None] + traits.position + noise[1])
    for_a, for_b = ab * (1 - ba), (1 - ab) * ba
    if options:  # as `VerdictConfig` decides: debiased p at least .1 from 1/2, and the orders not on two sides by more than .1
        p = expit((logit(ab) - logit(ba)) / 2)
        apart = (ab - 0.5) * (0.5 - ba) < 0
        apart &= np.minimum(np.abs(ab - 0.5), np.abs(ba - 0.5)) > 0.1
        for_a, for_b = ((p >= 0.6) & ~apart).astype(float), ((p <= 0.4) & ~apart).astype(float)
    right = np.where(better[:, None] > 0, for_a, for_b)
    return float((ab.mean() + ba.mean()) / 2), float(right.sum() / (for_a + for_b).sum())


def estimate(found: Any, truth: float | None) -> dict[str, Any]:
    figures = {"estimate": found.value, "low": found.low, "high": found.high, "truth": truth}
    return {name: None if value is None else round(value, 4) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judgments", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--contests", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    bench_verdicts(given.judgments, given.rounds)
    bench_ratings(given.models, given.contests, given.rounds)
    for traits in FAULTS:
        for options in (True, False):
            asyncio.run(simulate(traits, given.pairs, options=options))


if __name__ == "__main__":
    main()
