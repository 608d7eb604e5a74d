"""The paired comparison, against values derived by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pytest

from curators.engines.base import Reply, Request, Sampling
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError, CurationError, SchemaError
from curators.sampling import make_prompt
from curators.schema import GENERATIONS, PROMPTS, frame
from curators.statistics.intervals import Z95
from curators.verifiers import load_verifier
from pipelines.training.evaluate import compare, evaluate, unseen


def prompts_frame(n: int) -> pl.DataFrame:
    return frame([make_prompt(f"problem {i}", reference="right", source=f"p:{i}") for i in range(n)], PROMPTS)


def answers(prompts: pl.DataFrame, texts: Iterable[Iterable[str]], **columns: Any) -> pl.DataFrame:
    """One row a sample; the text `!x` stands for a request that failed with state `x`, `...` for an answer cut off."""
    rows = []
    for prompt_id, group in zip(prompts["prompt_id"], texts, strict=True):
        for index, text in enumerate(group):
            failed = text.startswith("!")
            state = text[1:] if failed else "truncated" if text == "..." else "ok"
            rows.append(
                {
                    "generation_id": f"{prompt_id}{index}",
                    "prompt_id": prompt_id,
                    "sample_index": index,
                    "text": None if failed else text,
                    "n_tokens": None if failed else len(text),
                    "state": state,
                    **columns,
                }
            )
    return frame(rows, GENERATIONS)


def exact(*, prompt: str, response: str, reference: str | None) -> bool | float | None:
    assert prompt.startswith("problem ")
    return {"half": 0.5, "unknown": None}.get(response, response == reference)


def test_identical_samples_count_once() -> None:
    """50 prompts with 2 identical samples each, 30 of them won: the naive standard error sqrt(.6*.4/100) = .04899 is too small,
    the right one is sqrt(.6*.4/50) = .06928. The bootstrap mean is Binomial(50, .6) / 50."""
    prompts = prompts_frame(50)
    before = answers(prompts, [["wrong", "wrong"]] * 50)
    after = answers(prompts, [["right", "right"]] * 30 + [["wrong", "wrong"]] * 20)
    found = compare(before, after, prompts, exact)
    assert (found.n_prompts, found.n_samples, found.n_failed, found.n_unscored) == (50, 100, 0, 0)
    assert (found.accuracy_before, found.accuracy_after, found.gain) == pytest.approx((0, 0.6, 0.6))
    assert found.se == pytest.approx(0.0692820, abs=1e-6)
    assert (found.normal_low, found.normal_high) == pytest.approx((0.6 - Z95 * 0.0692820, 0.6 + Z95 * 0.0692820), abs=1e-6)
    cumulative = np.cumsum([math.comb(50, k) * 0.6**k * 0.4 ** (50 - k) for k in range(51)])
    low, high = (int(np.searchsorted(cumulative, q)) / 50 for q in (0.025, 0.975))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.021)
    assert found.excludes_zero


async def test_two_engines_are_sampled_with_the_same_seed_and_compared() -> None:
    """The trained policy is right in samples 0 and 1 of every prompt, the old one in sample 0; every fifth request fails before."""
    prompts = prompts_frame(20)
    seeds: list[int] = []

    def policy(right_samples: int, fails: bool) -> FakeEngine:
        def respond(request: Request, index: int) -> str | Reply:
            seeds.append(request.sampling.seed)
            if fails and int(str(request.messages[0]["content"]).split()[1]) % 5 == 0:
                return Reply(error="transport_error", reason="gone")
            return "right" if index < right_samples else "wrong"

        return FakeEngine(respond)

    found = await evaluate(policy(1, True), policy(2, False), prompts, exact, sampling=Sampling(seed=7), n_samples=4)
    assert (found.n_prompts, found.n_samples, found.n_failed) == (16, 64, 16)
    assert (found.accuracy_before, found.accuracy_after) == (0.25, 0.5)
    assert (found.gain, found.low, found.high, found.se) == (0.25, 0.25, 0.25, 0.0)
    assert set(seeds) == {7}
    with pytest.raises(ConfigError, match="contaminated"):
        await evaluate(policy(1, False), policy(2, False), prompts, exact, sampling=Sampling(), trained_on=prompts["prompt_id"][:1])


def test_clusters_of_unequal_size() -> None:
    """d = (2, 0, -1), n = (2, 1, 1): gain 1/4; residuals 2 - 2/4, 0 - 1/4, -1 - 1/4; se = sqrt(2.25 + .0625 + 1.5625) / 4 = .49213."""
    prompts = prompts_frame(3)
    before = answers(prompts, [["wrong", "wrong"], ["right", "!transport_error"], ["right", "unknown"]])
    after = answers(prompts, [["right", "right"], ["right", "right"], ["wrong", "right"]])
    found = compare(before, after, prompts, exact)
    assert (found.n_samples, found.n_failed, found.n_unscored) == (4, 1, 1)
    assert (found.accuracy_before, found.accuracy_after, found.gain) == pytest.approx((2 / 4, 3 / 4, 1 / 4))
    assert found.se == pytest.approx(math.sqrt(3.875) / 4)
    assert not found.excludes_zero


def test_a_failure_on_either_side_takes_out_the_pair_and_is_never_a_wrong_answer() -> None:
    prompts = prompts_frame(3)
    all_right = answers(prompts, [["right"] * 2] * 3)
    broken = answers(prompts, [["right", "!transport_error"], ["!budget_skipped", "right"], ["!refused", "right"]])
    for before, after in ((all_right, broken), (broken, all_right)):
        found = compare(before, after, prompts, exact)
        assert (found.n_failed, found.n_samples) == (3, 3)
        assert (found.accuracy_before, found.accuracy_after, found.low, found.high) == (1, 1, 0, 0)


def test_partial_scores_tokens_and_truncation() -> None:
    prompts = prompts_frame(2)
    before = answers(prompts, [["..."], ["right"]])
    after = answers(prompts, [["half"], ["half"]])
    found = compare(before, after, prompts, exact)
    assert (found.accuracy_before, found.accuracy_after, found.gain) == (0.5, 0.5, 0.0)
    assert (found.tokens_before, found.tokens_after) == (4.0, 4.0)
    assert (found.truncated_before, found.truncated_after) == (0.5, 0.0)


def test_tokens_are_null_where_the_engine_does_not_count() -> None:
    prompts = prompts_frame(2)
    silent = answers(prompts, [["right"], ["wrong"]], n_tokens=None)
    found = compare(silent, silent, prompts, exact)
    assert found.tokens_before is None
    assert found.as_record()["excludes_zero"] is False


def test_the_order_of_rows_and_prompts_does_not_matter() -> None:
    prompts = prompts_frame(40)
    before = answers(prompts, [["right", "wrong", "half"] if i % 3 else ["wrong"] * 3 for i in range(40)])
    after = answers(prompts, [["right", "right", "wrong"] if i % 4 else ["half"] * 3 for i in range(40)])
    first = compare(before, after, prompts, exact, seed=5)
    again = compare(before.sample(fraction=1, shuffle=True, seed=1), after.reverse(), prompts.reverse(), exact, seed=5)
    assert first == again
    others = [compare(before, after, prompts, exact, seed=seed) for seed in range(6, 10)]
    assert {(other.low, other.high) for other in others} != {(first.low, first.high)}


def test_prompts_of_the_training_are_refused_or_left_out() -> None:
    prompts = prompts_frame(5)
    trained = {prompts["prompt_id"][0], prompts["prompt_id"][3], "another"}
    with pytest.raises(ConfigError, match="contaminated: 2 of 5 evaluation prompts were trained on"):
        unseen(prompts, trained)
    assert unseen(prompts, trained, drop=True)["source"].to_list() == ["p:1", "p:2", "p:4"]
    with pytest.raises(ConfigError, match="at least two unseen prompts, there are 1 of 5 rows"):
        unseen(prompts, prompts["prompt_id"][:4], drop=True)


def test_refusals() -> None:
    prompts = prompts_frame(3)
    right = answers(prompts, [["right"]] * 3)
    with pytest.raises(SchemaError, match="3 samples before and 2 after are not of the same prompts"):
        compare(right, right[:2], prompts, exact)
    with pytest.raises(SchemaError, match="which is not among the 1 prompts"):
        compare(right, right, prompts[:1], exact)
    failed = answers(prompts, [["right"], ["!transport_error"], ["unknown"]])
    with pytest.raises(CurationError, match=r"1 prompts have an answer .* Of 3 pairs of samples 1 failed and 1 are undecided"):
        compare(right, failed, prompts, exact)


def test_a_check_that_raises_decides_nothing_and_ends_nothing() -> None:
    prompts = prompts_frame(4)
    right = answers(prompts, [["right"], ["right"], ["right"], ["boom"]])

    def brittle(*, prompt: str, response: str, reference: str | None) -> bool:
        return {"right": True}[response]

    found = compare(right, right, prompts, brittle)
    assert (found.n_samples, found.n_unscored, found.accuracy_after) == (3, 1, 1.0)


def test_a_verifier_grades_in_a_process_of_its_own_and_decides_as_the_function_does() -> None:
    prompts = prompts_frame(4)
    before, after = answers(prompts, [["wrong"], ["right"], ["wrong"], ["!refused"]]), answers(prompts, [["right"]] * 4)
    verifier = load_verifier("regex")
    assert verifier.in_process_chars == 0
    assert compare(before, after, prompts, verifier) == compare(before, after, prompts, exact)


def test_an_answer_that_arrived_empty_is_graded() -> None:
    prompts = prompts_frame(2)
    before = answers(prompts, [["right"], ["right"]])
    silent = answers(prompts, [[""], ["right"]]).with_columns(state=pl.when(pl.col("text") == "").then(pl.lit("empty")).otherwise("state"))
    assert compare(before, silent, prompts, exact).accuracy_after == 0.5
