"""Planted effects are found again with their size; what cannot be told apart is not told."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from curators.engines.simulated import SimulatedJudge, Traits, planted_text
from curators.judging.bias import length_effect, length_matched, position_audit, self_preference
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import load_rubric
from curators.judging.verdicts import verdicts
from curators.sampling import gather_all, make_prompt
from curators.schema import JUDGMENTS, VERDICTS, frame


def world(
    effect: float, *, n: int = 8000, soft: bool, gold_longer: float = 0.5, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """logit P(a wins) = 1.2 * gold side + effect * difference of length / 100; the better text is longer with the given probability."""
    rng = np.random.default_rng(seed)
    side = rng.choice([-1, 1], size=n)
    more = np.abs(rng.normal(0, 150, size=n)).round() * np.where(rng.random(n) < gold_longer, side, -side)
    p = 1 / (1 + np.exp(-(1.2 * side + effect * more / 100)))
    p = p if soft else (rng.random(n) < p).astype(float)
    pairs = {
        "prompt_id": [f"p{i // 2}" for i in range(n)],
        "a_id": [f"{i}a" for i in range(n)],
        "b_id": [f"{i}b" for i in range(n)],
        "judge": "j",
    }
    told = pl.DataFrame({**pairs, "p_a": p, "verdict": np.where(p >= 0.6, "a", np.where(p <= 0.4, "b", "tie"))})
    gold = pl.DataFrame(
        {**pairs, "verdict": np.where(side > 0, "a", "b"), "scores_delta": None}, schema_overrides={"scores_delta": pl.Float64}
    )
    sizes = pl.DataFrame({"generation_id": [*pairs["a_id"], *pairs["b_id"]], "size": np.concatenate([1000 + more, np.full(n, 1000)])})
    return told, gold, sizes


@pytest.mark.parametrize(("soft", "gold_longer"), [(True, 0.5), (True, 0.8), (False, 0.5), (False, 0.7)])
def test_a_planted_length_effect_is_found(soft: bool, gold_longer: float) -> None:
    told, gold, sizes = world(0.5, soft=soft, gold_longer=gold_longer)
    found = length_effect(told, sizes, gold, n_resamples=30)
    assert found.effect.value == pytest.approx(0.5, rel=0.1)
    assert (found.soft, found.with_gold, found.reason) == (soft, True, None)
    assert found.gold_longer.value == pytest.approx(gold_longer, abs=0.02)
    if not soft:
        assert (found.effect.low or 1) < 0.5 < (found.effect.high or 0)


def test_no_effect_is_found_where_there_is_none_even_if_better_texts_are_longer() -> None:
    told, gold, sizes = world(0.0, soft=False, gold_longer=0.75)
    found = length_effect(told, sizes, gold, n_resamples=30)
    assert (found.effect.low or 1) < 0 < (found.effect.high or -1)
    assert (found.longer.value or 0) > 0.6
    without = length_effect(told, sizes, n_resamples=30)
    assert (without.effect.low or 0) > 0  # what gold would have explained
    assert not without.with_gold


def test_without_overlap_there_is_no_estimate() -> None:
    told, gold, sizes = world(0.5, n=400, soft=False, gold_longer=0.96)
    found = length_effect(told, sizes, gold)
    assert found.effect.value is None
    assert found.reason is not None
    assert found.reason.startswith("the longer text is the better one in 9")
    same = length_effect(told, sizes.with_columns(size=pl.lit(10)), gold)
    assert same.reason == "0 pairs differ in length, 20 are needed"


@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_a_matched_resample_has_no_direction(share: float) -> None:
    rng = np.random.default_rng(1)
    more = rng.exponential(100, size=3000).round() * np.where(rng.random(3000) < share, 1, -1)
    pairs = pl.DataFrame({"pair_id": [f"p{i}" for i in range(3000)], "chosen": 500 + more, "rejected": np.full(3000, 500)})
    marked = length_matched(pairs, chosen="chosen", rejected="rejected")
    kept = marked.filter(pl.col("keep") & (pl.col("chosen") != pl.col("rejected")))
    assert abs((kept["chosen"] > kept["rejected"]).mean() - 0.5) < 0.02  # type: ignore[operator]
    assert kept.height > 2 * 3000 * min(share, 1 - share) * 0.85
    assert (marked["reason"].null_count(), marked.height) == (marked["keep"].sum(), 3000)
    # at every size: long and short differences are balanced on their own
    wide = kept.filter((pl.col("chosen") - pl.col("rejected")).abs() > 150)
    assert abs((wide["chosen"] > wide["rejected"]).mean() - 0.5) < 0.05  # type: ignore[operator]
    shuffled = length_matched(pairs.sample(fraction=1, shuffle=True, seed=3), chosen="chosen", rejected="rejected").sort("pair_id")
    assert shuffled["keep"].equals(marked.sort("pair_id")["keep"])


async def judged(engine: SimulatedJudge, n: int, **config: Any) -> pl.DataFrame:
    async def one(i: int) -> list[dict[str, Any]]:
        group = [{"generation_id": f"{i}{s}", "text": planted_text(0.0, 40 + (s == "b")), "state": "ok"} for s in "ab"]
        return await judge_group(make_prompt(f"Q{i}"), group, engine, rubric=load_rubric("pairwise"), config=JudgeConfig(**config))

    return frame([row for rows in await gather_all(one(i) for i in range(n)) for row in rows], JUDGMENTS)


async def test_a_planted_position_effect_is_audited() -> None:
    """P(first) = s(.8) = .690: orders disagree with .690^2 + .310^2 = .572, toward the first in .476 / .572 = .832."""
    judgments = await judged(SimulatedJudge(Traits(position=0.8), options=False), 500, votes=2, temperature=1.0, channel="text")
    one = judgments.filter(vote=0)
    audit = position_audit(one)
    assert audit["effect"].value == pytest.approx(0.190, abs=0.03)
    assert audit["consistent"]["share"] == pytest.approx(1 - 0.572, abs=0.06)
    assert audit["to_first"]["share"] == pytest.approx(0.832, abs=0.07)
    assert audit["p"] < 1e-6
    assert audit["repetition"]["n"] == 0
    both = position_audit(judgments)
    assert both["repetition"]["share"] == pytest.approx(0.572, abs=0.05)  # two draws agree
    assert both["repetition"]["n"] == 1000


@pytest.mark.parametrize("options", [True, False])
async def test_length_is_told_from_position_and_quality_presentation_by_presentation(options: bool) -> None:
    """Averaged over orders a position effect of 1.2 logits would make the effect of length a fifth too small."""
    engine, rng = (
        SimulatedJudge(Traits(skill=1, position=1.2, length=0.5, noise=0.3 if options else 0), options=options),
        np.random.default_rng(0),
    )
    quality, length = rng.normal(size=(500, 2)), rng.integers(40, 700, size=(500, 2))

    async def one(i: int) -> list[dict[str, Any]]:
        texts = [planted_text(float(quality[i, k]), int(length[i, k])) for k in (0, 1)]
        group = [{"generation_id": f"{i}{'ab'[k]}", "text": text, "state": "ok"} for k, text in enumerate(texts)]
        return await judge_group(make_prompt(f"Q{i}"), group, engine, rubric=load_rubric("pairwise-letter"))

    judgments = frame([row for rows in await gather_all(one(i) for i in range(500)) for row in rows], JUDGMENTS)
    sizes = pl.DataFrame({"generation_id": [f"{i}{s}" for i in range(500) for s in "ab"], "size": length.reshape(-1)})
    lead = quality[:, 0] - quality[:, 1]
    gold = pl.DataFrame({"a_id": [f"{i}a" for i in range(500)], "b_id": [f"{i}b" for i in range(500)], "scores_delta": lead})
    found = length_effect(
        judgments,
        sizes,
        gold.with_columns(verdict=pl.when(pl.col("scores_delta") > 0).then(pl.lit("a")).otherwise(pl.lit("b"))),
        n_resamples=30,
    )
    assert found.effect.value == pytest.approx(0.5, rel=0.1 if options else 0.25)
    assert (found.effect.low or 1) < 0.5 < (found.effect.high or 0)
    assert found.soft == options


def test_self_preference_is_what_goes_beyond_gold() -> None:
    """Of four pairs with one own text the judge names its own three times, gold once: 3/4 - 1/4 = .5."""
    rows = [{"prompt_id": f"p{i}", "a_id": f"{i}a", "b_id": f"{i}b", "judge": "me"} for i in range(6)]
    told = ["a", "b", "a", "b", "a", "tie"]
    own = ["a", "b", "a", "a", "both", "a"]  # pairs 0-3 have one own text and are decided
    right = ["a", "a", "b", "b", "a", "a"]
    wrote = [(f"{i}{s}", "me" if who in (s, "both") else "other") for i, who in enumerate(own) for s in "ab"]
    found = frame([{**row, "verdict": side, "n_judgments": 2, "n_ok": 2} for row, side in zip(rows, told, strict=True)], VERDICTS)
    gold = frame([{**row, "judge": "gold", "verdict": side} for row, side in zip(rows, right, strict=True)], VERDICTS)
    generations = pl.DataFrame(wrote, schema=["generation_id", "policy"], orient="row")
    result = self_preference(found, generations, gold)
    assert {name: (one.value, one.n) for name, one in result.items()} == {"own": (0.75, 4), "gold_own": (0.25, 4), "excess": (0.5, 4)}
    assert set(self_preference(found, generations)) == {"own"}


async def test_probabilities_of_both_sides_make_one_and_give_the_labels_again() -> None:
    """The stored fact is p; turning a pair round turns it, and a cut at 1/2 gives the hard labels back."""
    engine = SimulatedJudge(Traits(skill=1.5, position=0.3, taste=0.7, noise=0.4))
    rng = np.random.default_rng(0)

    async def one(i: int) -> list[dict[str, Any]]:
        group = [{"generation_id": f"{i}{s}", "text": planted_text(float(rng.normal()), 50), "state": "ok"} for s in "ab"]
        return await judge_group(make_prompt(f"Q{i}"), group, engine, rubric=load_rubric("pairwise-letter"))

    judgments = frame([row for rows in await gather_all(one(i) for i in range(100)) for row in rows], JUDGMENTS)
    turned_ids = pl.col("generation_ids").list.eval(pl.element().str.replace("a", "c"))  # the ids sort the other way round
    found, turned = verdicts(judgments), verdicts(judgments.with_columns(generation_ids=turned_ids))
    assert turned["a_id"].str.ends_with("b").all()
    assert (found["p_a"] + turned["p_a"]).to_list() == pytest.approx([1.0] * 100)
    decided = found.filter(pl.col("verdict").is_in(["a", "b"]))
    assert decided.height > 50
    assert ((decided["p_a"] > 0.5) == (decided["verdict"] == "a")).all()


def test_few_pairs_of_unequal_length_give_no_number() -> None:
    told, gold, sizes = world(0.5, n=19, soft=False)
    found = length_effect(told, sizes, gold)
    assert (found.effect.value, found.reason) == (None, "19 pairs differ in length, 20 are needed")
    nothing = length_effect(told.clear(), sizes, gold)
    assert (nothing.effect.value, nothing.reason) == (None, "no pair was judged")
