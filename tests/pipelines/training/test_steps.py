"""DPO on steps: the tokens are those that were sampled, unfinished steps stay unfinished, the loss is the documented one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from curators.errors import CurationError
from pipelines.training.dpo import prepare, train
from pipelines.training.params import DpoParams
from pipelines.training.steps import step_tokens

pytestmark = [pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")]

QUICK = DpoParams(batch_size=4, max_steps=2, threads=1, learning_rate=1e-3, sft_weight=0.0)
ROW: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "one and two?"}],
    "prefix": "one is one\n",
    "chosen": "two is two\n",
    "rejected": "the answer is two",
    "prefix_token_ids": None,
    "chosen_token_ids": None,
    "rejected_token_ids": None,
    "chosen_terminal": False,
    "rejected_terminal": True,
    "label_smoothing": 0.3,
}


def rows(*alphas: float) -> Dataset:
    return Dataset.from_list([{**ROW, "chosen": f"two is {i}\n", "label_smoothing": alpha} for i, alpha in enumerate(alphas)])


@pytest.fixture(scope="module")
def tokenizer(policy: Path) -> Any:
    return AutoTokenizer.from_pretrained(policy)


def test_only_the_last_step_of_an_answer_is_followed_by_an_end(tokenizer: Any) -> None:
    found = step_tokens(ROW, tokenizer)
    asked = tokenizer.apply_chat_template(ROW["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert found["prompt_ids"][: len(asked)] == asked
    assert tokenizer.decode(found["prompt_ids"][len(asked) :]) == ROW["prefix"]
    assert tokenizer.decode(found["chosen_ids"]) == "two is two\n"
    assert tokenizer.decode(found["rejected_ids"]) == "the answer is two<|end|>"


def test_sampled_tokens_are_kept_where_they_spell_the_text(tokenizer: Any) -> None:
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "the answer is two"]
    assert letters != tokenizer("the answer is two", add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    assert step_tokens({**ROW, "rejected_token_ids": letters}, tokenizer)["rejected_ids"] == [*letters, end]
    assert step_tokens({**ROW, "rejected_token_ids": [*letters, end]}, tokenizer)["rejected_ids"] == [*letters, end]
    for others in ([*letters, letters[0]], [len(tokenizer) + 5]):  # another tokenizer's
        assert step_tokens({**ROW, "rejected_token_ids": others}, tokenizer) == step_tokens(ROW, tokenizer)


def test_the_loss_smooths_every_row_by_its_own_alpha(policy: Path, tmp_path: Path) -> None:
    """Against the formula, computed from the model's logits, after a step away from the reference."""
    alphas = (0.0, 0.1, 0.3, 0.5)
    params = replace(QUICK, learning_rate=3e-2, warmup_share=0.0)
    trainer, _ = prepare(rows(*alphas), str(policy), tmp_path, params, emit=lambda record: None)
    dataset = trainer.train_dataset
    trainer.train()
    batch = trainer.data_collator(list(dataset))
    with torch.no_grad():
        found = trainer.compute_loss(trainer.model, dict(batch))
        logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    logps = torch.log_softmax(logits, -1).gather(2, batch["input_ids"][:, 1:, None])[..., 0] * batch["completion_mask"][:, 1:]
    chosen, rejected = logps.sum(1).chunk(2)
    h = 0.1 * ((chosen - batch["ref_chosen_logps"]) - (rejected - batch["ref_rejected_logps"]))
    alpha = torch.tensor(alphas)
    expected = -(1 - alpha) * torch.nn.functional.logsigmoid(h) - alpha * torch.nn.functional.logsigmoid(-h)
    assert h.abs().min() > 0.001
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-4)
    plain = -torch.nn.functional.logsigmoid(h)
    assert abs(found.item() - plain.mean().item()) > 1e-4, "without α the loss would be another"


def test_training_on_steps_leaves_a_checkpoint_and_says_what_it_saw(policy: Path, tmp_path: Path) -> None:
    records: list[Any] = []
    metrics = train(rows(0.1, 0.2, 0.0, 0.4), str(policy), tmp_path, replace(QUICK, sft_weight=1.0), emit=records.append)
    assert metrics["steps"] == 2
    assert (metrics["n_pairs"], metrics["n_pairs_dropped"], metrics["n_pairs_without_end"]) == (4, 0, 4)
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()
    assert json.dumps(records)


def test_a_prefix_counts_as_part_of_the_prompt(policy: Path, tmp_path: Path) -> None:
    short = replace(QUICK, max_length=40)
    long = Dataset.from_list([{**ROW, "prefix": "one is one\n" * 40}, ROW])
    trainer, _ = prepare(long, str(policy), tmp_path, short, emit=lambda record: None)
    assert len(trainer.train_dataset) == 1
    with pytest.raises(CurationError, match="none of 1 pairs has a prompt and prefix below 40 tokens"):
        prepare(long.select([0]), str(policy), tmp_path, short, emit=lambda record: None)


def test_rows_that_would_be_trained_on_wrongly_are_refused(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(CurationError, match="rows of the view `step` have one of their own"):
        prepare(rows(0.1), str(policy), tmp_path, replace(QUICK, label_smoothing=0.1), emit=lambda record: None)
    turns = [{**ROW, **{side: [{"role": "assistant", "content": ROW[side]}] for side in ("chosen", "rejected")}}]
    with pytest.raises(CurationError, match="the built-in one takes the view `step`"):
        prepare(Dataset.from_list(turns), str(policy), tmp_path, QUICK, emit=lambda record: None)
