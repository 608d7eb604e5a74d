"""DPO with rationales: what is scored, the documented loss, and that permuted rationales leave the pairs' term alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from curators.errors import ConfigError, CurationError
from curators.schema import PAIRS, RATIONALES, frame
from pipelines.training.dpo import prepare, train
from pipelines.training.params import DpoParams, read_params
from pipelines.training.rationale import BATCH, IGNORED, RationaleDPOTrainer, is_rationales, rationale_tokens
from storage.handoff import open_handoff, write_handoff
from storage.lake import open_lake
from storage.publishing import publish

pytestmark = [pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")]

QUICK = DpoParams(batch_size=4, max_steps=2, threads=1, learning_rate=1e-3, sft_weight=0.0)
TEXTS = ("one is right", "the answer is two and not one", "two", "it is one and one")


def turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def rows(*rationales: str) -> Dataset:
    """Pairs in the columns of the view `rationale`."""
    return Dataset.from_list(
        [
            {
                "prompt": turn("user", "one and two?"),
                "chosen": turn("assistant", f"two is {i}"),
                "rejected": turn("assistant", "one"),
                "rationale_prompt": turn("user", f"one and two? which is better: two is {i} or one"),
                "rationale": turn("assistant", text),
                "pair_id": f"x{i}",
            }
            for i, text in enumerate(rationales)
        ]
    )


@pytest.fixture(scope="module")
def tokenizer(policy: Path) -> Any:
    return AutoTokenizer.from_pretrained(policy)


def test_the_rationales_tokens_and_one_end_are_scored_and_nothing_else(tokenizer: Any, policy: Path, tmp_path: Path) -> None:
    for row in rows(*TEXTS):
        found = rationale_tokens(row, tokenizer)
        assert len(found["rationale_ids"]) == len(tokenizer(row["rationale"][0]["content"], add_special_tokens=False)["input_ids"]) + 1
        assert found["rationale_ids"][-1] == tokenizer.eos_token_id
    trainer, _ = prepare(rows(*TEXTS), str(policy), tmp_path, QUICK, emit=lambda record: None)
    assert isinstance(trainer, RationaleDPOTrainer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    ids, mask, labels = (batch[name] for name in BATCH)
    scored = labels != IGNORED
    assert scored.sum(1).tolist() == [len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in TEXTS]
    assert (labels[scored] == ids[scored]).all()
    assert not scored[mask == 0].any()
    for i, text in enumerate(TEXTS):
        assert tokenizer.decode(ids[i][scored[i]], skip_special_tokens=True) == text
    with pytest.raises(CurationError, match="pair x0: its rationale is empty"):
        rationale_tokens(rows(" ")[0], tokenizer)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_is_the_papers(policy: Path, tmp_path: Path, reduction: str) -> None:
    """-log sigmoid(beta z) - gamma L_r, computed from the model's logits, after a step away from the reference."""
    params = replace(QUICK, learning_rate=3e-2, warmup_share=0.0, rationale_weight=0.7, rationale_reduction=reduction)
    trainer, _ = prepare(rows(*TEXTS), str(policy), tmp_path, params, emit=lambda record: None)
    dataset = trainer.train_dataset
    trainer.train()
    batch = trainer.data_collator(list(dataset))

    def logps(ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
        logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        return (torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0] * scored[:, 1:]).sum(1)

    with torch.no_grad():
        found = trainer.compute_loss(trainer.model, dict(batch))
        chosen, rejected = logps(batch["input_ids"], batch["attention_mask"], batch["completion_mask"]).chunk(2)
        scored = batch[BATCH[2]] != IGNORED
        l_r = logps(batch[BATCH[0]], batch[BATCH[1]], scored)
    z = (chosen - batch["ref_chosen_logps"]) - (rejected - batch["ref_rejected_logps"])
    gain = l_r / scored.sum(1) if reduction == "mean" else l_r
    expected = (-torch.nn.functional.logsigmoid(0.1 * z) - 0.7 * gain).mean()
    assert z.abs().min() > 0.001
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("gamma", "expected"), [(0.0, 0.62095705), (0.001, 0.64095705), (0.1, 2.62095705), (1.0, 20.62095705)])
def test_the_hand_worked_example(gamma: float, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """log pi -10 and -12, reference -11 and -11.5, L_r -20, beta .1: z is 1.5 (specification B5; gamma 0 is DPO itself)."""
    z = (-10 + 12) - (-11 + 11.5)
    assert z == 1.5
    pair = -torch.nn.functional.logsigmoid(torch.tensor(0.1 * z, dtype=torch.float64))
    trainer = object.__new__(RationaleDPOTrainer)
    trainer.rationale_weight, trainer.rationale_reduction = gamma, "sum"
    monkeypatch.setattr("trl.trainer.dpo_trainer.DPOTrainer._compute_loss", lambda *_: pair)
    monkeypatch.setattr("pipelines.training.rationale.log_likelihood", lambda *_, **__: torch.tensor([-20.0], dtype=torch.float64))
    assert trainer._compute_loss(None, {}, False).item() == pytest.approx(expected, abs=1e-8)


def test_permuted_rationales_leave_the_pairs_term_as_it_is(policy: Path, tmp_path: Path) -> None:
    def losses(weight: float, *texts: str) -> float:
        trainer, _ = prepare(rows(*texts), str(policy), tmp_path, replace(QUICK, rationale_weight=weight), emit=lambda record: None)
        batch = trainer.data_collator(list(trainer.train_dataset))
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, batch))

    moved = (*TEXTS[1:], TEXTS[0])
    assert losses(0.0, *TEXTS) == losses(0.0, *moved)
    assert losses(1.0, *TEXTS) != losses(1.0, *moved)


def test_training_leaves_a_checkpoint_and_long_prompts_are_dropped(policy: Path, tmp_path: Path) -> None:
    dataset = rows(*TEXTS)
    long = dataset.map(lambda row, i: {"rationale_prompt": turn("user", "one " * (400 if i == 0 else 1))}, with_indices=True)
    metrics = train(long, str(policy), tmp_path, replace(QUICK, max_length=300), emit=lambda record: None)
    assert (metrics["steps"], metrics["n_pairs"], metrics["n_pairs_dropped"]) == (2, 4, 1)
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()
    twin = dataset.remove_columns(["rationale", "rationale_prompt"])
    assert is_rationales(dataset)
    assert not is_rationales(twin)
    with pytest.raises(CurationError, match="none of 1 pairs has both answers below 300 tokens"):
        prepare(long.select([0]), str(policy), tmp_path, replace(QUICK, max_length=300), emit=lambda record: None)


def test_the_parameters_are_checked() -> None:
    assert read_params({"rationale_weight": 0, "rationale_reduction": "sum"}).rationale_reduction == "sum"
    with pytest.raises(ConfigError, match=r"rationale_reduction is 'max', must be one of mean, sum"):
        read_params({"rationale_reduction": "max"})
    with pytest.raises(ConfigError, match="rationale_weight"):
        read_params({"rationale_weight": -1})


def test_the_view_decides_which_loss_a_published_version_is_trained_with(policy: Path, tmp_path: Path) -> None:
    """From the lake to the trainer, as the job reads a hand-off: with rationales, permuted, and without."""
    row = rows(*TEXTS)[0]
    texts = {name: json.dumps(row[name]) for name in ("prompt", "chosen", "rejected")}
    pairs = frame([{**texts, "pair_id": f"x{i}", "prompt_id": "q", "kind": "response", "split": "train"} for i in range(2)], PAIRS)
    told = [
        {"rationale_id": f"r{i}", "prompt_id": "q", "pair_id": f"x{i}", "kind": "general", "state": "ok", "text": t}
        for i, t in enumerate("ab")
    ]
    with open_lake(tmp_path / "lake") as lake:
        lake.append("rationales", frame(told, RATIONALES).with_columns(attempt=pl.lit(0, pl.Int16)), commit_id="facts")
        release = publish(lake, "sums", pairs, manifest={}, author="test", commit_id="publish")
    found: dict[str, Any] = {}
    for view in ("rationale", "rationale-permuted", "rationale-twin"):
        dataset = open_handoff(write_handoff(release.frozen, tmp_path / view, view=view)).dataset("train")
        found[view], _ = prepare(dataset, str(policy), tmp_path / "out", QUICK, emit=lambda record: None)
    own, other = (trainer.train_dataset["rationale_ids"] for trainer in (found["rationale"], found["rationale-permuted"]))
    assert list(own) == list(other)[::-1]
    assert not isinstance(found["rationale-twin"], RationaleDPOTrainer)
    assert found["rationale-twin"].train_dataset["chosen_ids"] == found["rationale"].train_dataset["chosen_ids"]
