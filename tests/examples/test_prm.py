"""The example trainer of a process reward model, on real trees of the embedded policy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from curators.engines.local import open_local
from curators.sampling import prompt_of
from curators.schema import PROMPTS, frame
from curators.stepsearch.driver import search_all
from curators.stepsearch.extraction import StepPairConfig, step_pairs
from curators.stepsearch.proposals import StepConfig
from curators.verifiers import load_verifier
from examples.arithmetic.train_prm import IGNORED, auc, encode
from examples.arithmetic.world import problems
from pipelines.training.job import run_trainer
from storage import open_lake, publish
from storage.handoff import write_handoff

POLICY = Path(__file__).parents[2] / "examples" / "arithmetic" / "policy"


def test_a_label_stands_at_the_last_token_of_every_step() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    steps = ["1. 2 + 3 = 5\n", "2. 5 + 1 = 7\n", "Answer: 7"]
    row = {"prompt": [{"role": "user", "content": "How many?"}], "completions": steps, "labels": [True, False, False]}
    found = encode(row, tokenizer, 1024)
    marked = [i for i, label in enumerate(found["labels"]) if label != IGNORED]
    assert [found["labels"][i] for i in marked] == [1, 0, 0]
    read = tokenizer.decode(found["input_ids"])
    for at, end in zip(marked, range(1, 4), strict=True):
        assert tokenizer.decode(found["input_ids"][: at + 1]).endswith("".join(steps[:end]))
    assert read.endswith("".join(steps))


def test_auc_counts_ties_as_half() -> None:
    assert auc([0.9, 0.1, 0.5, 0.5], [True, False, True, False]) == pytest.approx(3.5 / 4)
    assert auc([0.1], [True]) is None


@pytest.mark.slow
async def test_it_learns_which_steps_are_wrong(tmp_path: Path) -> None:
    """Far from good after half a minute, but far from guessing on prompts that it never saw."""
    drawn = problems(120, seed=77, split="demo")
    prompts = frame([prompt_of({"prompt": [{"role": "user", "content": p.text}], "reference": p.reference}) for p in drawn], PROMPTS)
    engine = open_local(f"hf:{POLICY}", threads=1, max_concurrency=256)
    try:
        verifier = load_verifier("examples.arithmetic.world:check_answer")
        nodes = await search_all(prompts, engine, verifier, steps=StepConfig(max_tokens=40, answer=r"^Answer: "))
    finally:
        await engine.aclose()
    pairs, _ = step_pairs(prompts, nodes, config=StepPairConfig(test_share=0.2))
    with open_lake(tmp_path / "lake") as lake:
        lake.append("prompts", prompts, commit_id="p")
        lake.append("nodes", nodes, commit_id="n")
        release = publish(lake, "steps", pairs, manifest={}, author="a", commit_id="v", facts={"nodes": "tree_id"})
    handoff = write_handoff(release.frozen, tmp_path / "handoff", view="stepwise")
    command = f"{sys.executable} -m examples.arithmetic.train_prm {{handoff}} {{policy}} {{out}} {{params}}"
    done = await run_trainer(command, handoff, policy_path=POLICY, out_dir=tmp_path / "out", params={"threads": 1}, timeout_s=300)
    assert done.checkpoint.joinpath("model.safetensors").exists()
    assert done.metrics["n_test_steps"] > 100
    assert done.metrics["step_auc"] > 0.6
    assert json.dumps(done.metrics)
