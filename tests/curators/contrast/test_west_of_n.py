"""Best and worst of many samples: the published label accuracies, tournaments, filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from curators.contrast.checkers import Checked
from curators.contrast.rules import choose
from curators.contrast.west_of_n import WestConfig, knockout, west_of_n
from curators.errors import ConfigError
from curators.sampling import make_prompt
from tests.curators.contrast.conftest import answered, said

PROMPTS = [make_prompt(f"{i}?") for i in range(10)]


@pytest.mark.parametrize(("n", "accuracy"), [(2, 0.75), (4, 0.893), (8, 0.961), (64, 0.999)])
def test_labels_are_right_more_often_as_n_grows(n: int, accuracy: float) -> None:
    """True value N(0, 1), base = true + N(0, 1); N = 2 exact: P(sign agrees) = 1/2 + asin(1/sqrt 2)/pi = .75."""
    rng = np.random.default_rng(n)
    true = rng.normal(size=(50_000, n))
    base = true + rng.normal(size=true.shape)
    rows = np.arange(len(true))
    right = true[rows, base.argmax(1)] > true[rows, base.argmin(1)]
    assert right.mean() == pytest.approx(accuracy, abs=0.007)  # 3.6 standard errors at .75
    for i in range(20):  # what is shipped takes the same two
        (found,) = choose([str(j) for j in range(n)], base[i].tolist())
        assert (found.chosen, found.rejected) == (base[i].argmax(), base[i].argmin())


async def test_a_tournament_of_a_transitive_judge_finds_best_and_worst_in_two_n_minus_one_matches() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 8, 13):
        strength = rng.permutation(n)
        matches = 0

        async def duel(i: int, j: int, strength: Any = strength) -> float:
            nonlocal matches
            matches += 1
            return 1 / (1 + np.exp(float(strength[j] - strength[i])))

        async def reverse(i: int, j: int, duel: Any = duel) -> float:
            return float(1 - await duel(i, j))

        assert await knockout(range(n), duel) == strength.argmax()
        assert await knockout(range(n), reverse) == strength.argmin()
        assert matches == 2 * (n - 1)


async def by_length(source: Mapping[str, Any], chosen: str, rejected: str) -> Checked:
    p = 0.5 + 0.4 * np.sign(len(chosen) - len(rejected))
    return Checked(state="ok" if p > 0.5 else "checker_failed", reason="shorter", p_chosen=float(p), label_source="judge")


async def test_a_pairwise_judge_labels_the_final() -> None:
    rows = answered(
        [(PROMPTS[0], ["ccc", "a", "dddd", "bb", "a"]), (PROMPTS[1], ["x", "x"]), (PROMPTS[2], ["y"]), (PROMPTS[3], ["p", "q"])]
    )
    found = {row["prompt_id"]: row for row in (await west_of_n(rows, judge=by_length)).iter_rows(named=True)}
    best, same, alone, equal = (found[prompt["prompt_id"]] for prompt in PROMPTS[:4])
    assert (best["state"], said(best["chosen"]), said(best["rejected"]), best["p_chosen"]) == ("ok", "dddd", "a", 0.9)
    assert (same["state"], alone["state"]) == ("too_few_scored", "too_few_scored")
    assert equal["state"] == "tie"
    assert '"n_undecided":2' in equal["checks"]


async def test_a_judge_that_says_nothing_is_no_evidence() -> None:
    async def silent(source: Mapping[str, Any], chosen: str, rejected: str) -> Checked:
        return Checked(state="unverified", reason="no reply")

    found = await west_of_n(answered([(PROMPTS[0], ["a", "b", "c"])]), judge=silent)
    assert found["state"].to_list() == ["tie"]
    assert found["pair_id"].to_list() == [None]


async def test_filters_take_the_share_below_their_quantile() -> None:
    scores = [value for i in range(10) for value in (float(i + 1), 0.0)]
    rows = answered([(prompt, ["good", "bad"]) for prompt in PROMPTS], scores)
    rows = rows.with_columns(sum_logprob=-rows["score"])
    # margins 1 .. 10: the .3 quantile (linear) is 3.7, so 1, 2, 3 go
    found = await west_of_n(rows, config=WestConfig(confidence_quantile=0.3))
    assert found["state"].value_counts().sort("state").rows() == [("low_confidence", 3), ("ok", 7)]
    # log-likelihoods -1 .. -10: the .3 quantile is -7.3, so -8, -9, -10 go
    found = await west_of_n(rows, config=WestConfig(likelihood_quantile=0.3))
    low = found.filter(found["state"] == "unlikely")
    assert sorted(low["chosen_score"].to_list()) == [8, 9, 10]
    assert (await west_of_n(rows))["state"].unique().to_list() == ["ok"]


async def test_ties_one_sample_and_bad_quantiles() -> None:
    rows = answered([(PROMPTS[0], ["a", "b"]), (PROMPTS[1], ["c"])], [0.5, 0.5, 1.0])
    assert sorted((await west_of_n(rows))["state"]) == ["tie", "too_few_scored"]
    with pytest.raises(ConfigError, match="confidence_quantile is 1"):
        WestConfig(confidence_quantile=1.0)
