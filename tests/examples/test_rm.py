"""The example trainer of a reward model on a published version, and its best of n, small."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import polars as pl
import pytest

from curators.engines.base import Engine, Request, Sampling
from curators.engines.local import open_local
from curators.engines.reward_model import open_reward_model
from curators.judging.verdicts import group_scores, verdicts
from curators.pairs import PairConfig, build_pairs
from curators.sampling import gather_all, prompt_of, sample
from curators.schema import JUDGMENTS, PROMPTS, frame
from curators.verifiers import load_verifier, verify_rows
from examples.arithmetic import best_of_n
from examples.arithmetic.world import problems, slipped_solution
from pipelines.training.job import run_trainer
from storage import open_lake, publish
from storage.handoff import open_handoff, write_handoff

POLICY = Path(__file__).parents[2] / "examples" / "arithmetic" / "policy"


def test_agreement_counts_right_over_wrong_of_one_problem_alone() -> None:
    """Of p's 2 pairs one is ordered right, a tie is a miss; of q's 1 pair one; r has no pair, and a null no place: 2 of 3."""
    rows = [("p", 2.0, 1.0), ("p", 1.0, 0.0), ("p", 2.0, 0.0), ("q", 0.0, 1.0), ("q", -1.0, 0.0), ("q", None, 0.0), ("r", 9.0, 0.0)]
    found = best_of_n.agreement(pl.DataFrame(rows, schema=["prompt_id", "proxy", "gold"], orient="row"))
    assert (found["hits"], found["n"]) == (2, 3)
    assert found["low"] < 2 / 3 < found["high"]


async def score_of(engine: Engine, messages: list[dict[str, str]]) -> float:
    reply = await engine.complete(Request(key="reward/x", messages=messages))
    assert reply.completions[0].scores, reply.reason
    return reply.completions[0].scores["score"]


@pytest.mark.slow
async def test_a_version_becomes_a_reward_model_that_scores_as_it_was_measured_and_its_best_of_n_is_counted(tmp_path: Path) -> None:
    """Too short to be good (the card of `reward/` has a longer one): what must hold is that trainer and engine read the same text."""
    drawn = problems(160, seed=78, split="train")
    prompts = frame([prompt_of({"prompt": [{"role": "user", "content": p.text}], "reference": p.reference}) for p in drawn], PROMPTS)
    engine = open_local(f"hf:{POLICY}", threads=1, max_concurrency=128)
    try:
        generations = await sample(prompts, engine, n=4, sampling=Sampling(max_tokens=160))
    finally:
        await engine.aclose()
    verifier, by_prompt = load_verifier(best_of_n.CHECK), generations.partition_by("prompt_id", as_dict=True)
    graded = [row for p in prompts.rows(named=True) for row in verify_rows(p, by_prompt[(p["prompt_id"],)].rows(named=True), verifier)]
    judgments = frame(graded, JUDGMENTS)
    found = verdicts(judgments)
    scores = group_scores(found, generations, judgments)
    config = PairConfig(pair_policy="all_pairs", max_per_prompt=2, test_share=0.3)
    pairs, _ = build_pairs(prompts, generations, scores, verdicts=found, label_source=verifier.judge, config=config)
    with open_lake(tmp_path / "lake") as lake:
        for table, data in (("prompts", prompts), ("generations", generations), ("judgments", judgments)):
            lake.append(table, data, commit_id=table)
        release = publish(lake, "right", pairs, manifest={}, author="a", commit_id="v")
    handoff = write_handoff(release.frozen, tmp_path / "handoff", view="reward")
    command = f"{sys.executable} -m examples.arithmetic.train_rm {{handoff}} {{policy}} {{out}} {{params}}"
    params = {"threads": 1, "num_train_epochs": 1.0, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16}
    done = await run_trainer(command, handoff, policy_path=POLICY, out_dir=tmp_path / "out", params=params, timeout_s=900)
    rows = open_handoff(tmp_path / "handoff").dataset("test")
    assert done.metrics["n_test_pairs"] == len(rows) > 20
    scorer = open_reward_model(str(done.checkpoint), threads=1)
    try:
        sides = [[score_of(scorer, row["prompt"] + row[side]) for row in rows] for side in ("chosen", "rejected")]
        chosen, rejected = [await gather_all(side) for side in sides]
    finally:
        await scorer.aclose()
    right = [a > b for a, b in zip(chosen, rejected, strict=True) if abs(a - b) > 1e-5]
    assert done.metrics["accuracy"] * len(rows) == pytest.approx(sum(right), abs=len(rows) - len(right) + 1e-6)
    assert max(chosen) - min(chosen) > 0.01

    asked = best_of_n.parsed(["--reward", f"rm:{done.checkpoint}", "--out", str(tmp_path / "bon"), "--problems", "20", "--samples", "8"])
    *curve, whole = await best_of_n.run(asked)
    assert [line["n"] for line in curve] == [1, 2, 4, 8]
    assert [line["proxy"] for line in curve] == sorted(line["proxy"] for line in curve)
    assert (whole["answers"], whole["unscored"], whole["problems"]) == (160, 0, 20)
    assert [json.loads(line) for line in (tmp_path / "bon" / "best_of_n.jsonl").read_text().splitlines()] == [*curve, whole]
    assert (tmp_path / "bon" / "best_of_n.png").stat().st_size > 5000


async def test_the_shipped_reward_model_prefers_right_solutions_to_the_policys_slips() -> None:
    """Solutions as the policy slips, to problems that no model saw; the card says 79 % on real samples."""
    rng = random.Random(3)
    drawn = [(p, slipped_solution(p, rng, scale=1.5)) for p in problems(80, seed=9, split="heldout")]
    wrong = [(p, text) for p, text in drawn if text != p.solution]
    assert len(wrong) > 25
    scorer = open_reward_model(str(POLICY.parent / "reward"), threads=1)
    try:
        asked = [
            [{"role": "user", "content": p.text}, {"role": "assistant", "content": t}] for p, slip in wrong for t in (p.solution, slip)
        ]
        scores = await gather_all(score_of(scorer, messages) for messages in asked)
    finally:
        await scorer.aclose()
    assert sum(right > slip for right, slip in zip(scores[::2], scores[1::2], strict=True)) > 0.65 * len(wrong)
