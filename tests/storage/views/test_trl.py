"""Every view, through the trainer that it is for: TRL's own, built and run for one step on a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from storage.handoff import open_handoff, write_handoff

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

pytest.importorskip("trl")
pytestmark = [pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"x": {"type": "number", "default": 3.141592653589793}}},
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"x": 1.000000000000001, "y": [1, "two"]}}}
TURNS = [
    {"role": "system", "content": "Use tools."},
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": None, "reasoning_content": "a sum", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "2"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "and 2 + 2?"},
]
THINKS = [{"role": "assistant", "content": "4", "reasoning_content": "two and two"}]
CALLS = [{"role": "assistant", "content": None, "tool_calls": [CALL]}]

SETTINGS: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}


@pytest.fixture
def frozen(make_frozen: Callable[..., Path], rows: Any) -> Path:
    """Eight plain pairs and one with three turns, tools, a tool call, reasoning and a template argument."""
    pairs = [rows.pair(f"{n} + 1?", str(n + 1), str(n), margin=0.5, p_chosen=0.8, chosen_score=0.9, rejected_score=0.4) for n in range(8)]
    chat = rows.pair(TURNS, THINKS, CALLS, tools=TOOLS, chat_template_kwargs={"enable_thinking": True}, margin=0.25)
    return make_frozen([*pairs, chat])


@pytest.fixture
def plain(make_frozen: Callable[..., Path], rows: Any) -> Path:
    """Eight plain pairs, with the facts behind their scores."""
    pairs = [rows.pair(f"{n} + 1?", str(n + 1), str(n), margin=0.5, label_source="judge") for n in range(8)]
    generations, judgments = rows.scored(pairs, judge="judge")
    return make_frozen(pairs, generations=generations, judgments=judgments)


def view_of(frozen: Path, tmp_path: Path, view: str, form: str = "conversational") -> Dataset:
    return open_handoff(write_handoff(frozen, tmp_path / f"{view}-{form}", view=view, form=form)).dataset("train")


def facts(frozen: Path) -> pl.DataFrame:
    return pl.read_parquet(frozen / "pairs.parquet")


def step(trainer: Any) -> dict[str, Any]:
    """Train one step; the loss is a number and some weight moved."""
    import torch

    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    loss = trainer.train().training_loss
    assert torch.isfinite(torch.tensor(loss))
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    return {key: value for record in trainer.state.log_history for key, value in record.items()}


def rendered(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], answer: list[dict[str, Any]] | None) -> list[int]:
    """What the template itself makes of the stored messages."""
    more = {"tools": json.loads(row["tools"]) if row["tools"] else None, **json.loads(row["chat_template_kwargs"] or "{}")}
    messages = json.loads(row["prompt"])
    if answer is None:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **more))
    return list(tokenizer.apply_chat_template(messages + answer, return_dict=False, **more))


def dpo_trainer(data: Dataset, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> Any:
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(output_dir=str(out), learning_rate=1e-2, **SETTINGS)
    return DPOTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)


def test_a_row_with_turns_tools_a_tool_call_and_reasoning_becomes_the_templates_tokens_in_dpo(
    frozen: Path, tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = view_of(frozen, tmp_path, "dpo")
    trainer = dpo_trainer(data, model, tokenizer, tmp_path)
    stored = {row["pair_id"]: row for row in facts(frozen).to_dicts()}
    assert len(trainer.train_dataset) == 9
    for row in trainer.train_dataset:
        fact = stored[row["pair_id"]]
        assert row["prompt_ids"] == rendered(tokenizer, fact, None)
        for side in ("chosen", "rejected"):
            assert row["prompt_ids"] + row[f"{side}_ids"] == rendered(tokenizer, fact, json.loads(fact[side]))
    texts = [tokenizer.decode(row["prompt_ids"] + row["chosen_ids"]) for row in trainer.train_dataset]
    assert sum("[thinking=" in text for text in texts) == 1
    (chat,) = [text for text in texts if "[thinking=True]" in text]
    assert "1.000000000000001" in chat
    assert "3.141592653589793" in chat
    assert "<think>two and two</think>4<|im_end|>" in chat
    step(trainer)


def test_dpo_in_form_standard_is_prompt_and_answer_joined_with_an_end_of_text_that_trl_appends(
    plain: Path, tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = view_of(plain, tmp_path, "dpo", "standard")
    trainer = dpo_trainer(data, model, tokenizer, tmp_path)
    for row in trainer.train_dataset:
        assert tokenizer.decode(row["prompt_ids"]) == row["prompt"]
        assert tokenizer.decode(row["chosen_ids"]) == row["chosen"]
        assert row["chosen"].endswith("<|im_end|>")
    assert {row["chosen"].removesuffix("<|im_end|>") for row in trainer.train_dataset} == {row["chosen"] for row in data}
    step(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["conversational", "standard"])
def test_reward(plain: Path, tmp_path: Path, reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, form: str) -> None:
    from trl import RewardConfig, RewardTrainer

    data = view_of(plain, tmp_path, "reward", form)
    trainer = RewardTrainer(
        model=reward_model, args=RewardConfig(output_dir=str(tmp_path), **SETTINGS), train_dataset=data, processing_class=tokenizer
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(2)])
    assert batch["margin"].tolist() == [0.5, 0.5]
    step(trainer)


@pytest.mark.slow
def test_reward_without_a_margin_on_every_pair(
    make_frozen: Callable[..., Path], rows: Any, tmp_path: Path, reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    from trl import RewardConfig, RewardTrainer

    pairs = [rows.pair(f"{n} + 1?", str(n + 1), str(n), margin=0.5 if n else None) for n in range(8)]
    data = view_of(make_frozen(pairs, version=2), tmp_path, "reward")
    assert "margin" not in data.column_names
    step(RewardTrainer(reward_model, RewardConfig(output_dir=str(tmp_path), **SETTINGS), train_dataset=data, processing_class=tokenizer))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["conversational", "standard"])
def test_kto(plain: Path, tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, form: str) -> None:
    from trl import KTOConfig, KTOTrainer

    data = view_of(plain, tmp_path, "kto", form)
    settings = KTOConfig(output_dir=str(tmp_path), **SETTINGS)
    trainer = KTOTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    assert sorted(data["label"]) == [False] * 8 + [True] * 8
    step(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["sft", "kto"])
def test_tools_and_reasoning_in_sft_and_kto(
    frozen: Path, tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, view: str
) -> None:
    from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

    make: Any = (SFTTrainer, SFTConfig) if view == "sft" else (KTOTrainer, KTOConfig)
    data = view_of(frozen, tmp_path, view)
    trainer = make[0](model=model, args=make[1](output_dir=str(tmp_path), **SETTINGS), train_dataset=data, processing_class=tokenizer)
    tokens = [row["input_ids"] if view == "sft" else row["prompt_ids"] + row["completion_ids"] for row in trainer.train_dataset]
    (fact,) = facts(frozen).filter(pl.col("tools").is_not_null()).to_dicts()
    assert rendered(tokenizer, fact, json.loads(fact["chosen"])) in tokens
    step(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["conversational", "standard"])
def test_sft_learns_the_completion_only(
    plain: Path, tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, form: str
) -> None:
    from trl import SFTConfig, SFTTrainer

    data = view_of(plain, tmp_path, "sft", form)
    trainer = SFTTrainer(model=model, args=SFTConfig(output_dir=str(tmp_path), **SETTINGS), train_dataset=data, processing_class=tokenizer)
    learned = {tokenizer.decode([token for token in row["labels"] if token >= 0]).strip() for row in trainer.train_dataset}
    assert learned == {f"{n + 1}<|im_end|>" for n in range(8)}
    step(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["conversational", "standard"])
@pytest.mark.parametrize("method", ["GRPO", "RLOO"])
def test_prompts_for_trainers_that_sample(
    plain: Path, tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, form: str, method: str
) -> None:
    import trl

    data = view_of(plain, tmp_path, "prompt-only", form)
    seen: list[str] = []

    def reward(prompts: list[Any], completions: list[Any], prompt_id: list[str], **others: Any) -> list[float]:
        seen.extend(prompt_id)
        return [float(index % 4) for index in range(len(completions))]

    settings = getattr(trl, f"{method}Config")(
        output_dir=str(tmp_path), num_generations=4, max_completion_length=8, learning_rate=1e-2, **SETTINGS
    )
    step(getattr(trl, f"{method}Trainer")(model=model, reward_funcs=reward, args=settings, train_dataset=data, processing_class=tokenizer))
    assert set(seen) <= set(data["prompt_id"])
    assert seen


@pytest.mark.slow
def test_groups_in_grpo_need_their_answers_removed(
    plain: Path, tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    from trl import GRPOConfig, GRPOTrainer

    data = view_of(plain, tmp_path, "group")

    def reward(prompts: list[Any], completions: list[Any], **others: Any) -> list[float]:
        return [float(index % 4) for index in range(len(completions))]

    def trainer(given: Dataset) -> Any:
        from copy import deepcopy

        settings = GRPOConfig(output_dir=str(tmp_path), num_generations=4, max_completion_length=8, learning_rate=1e-2, **SETTINGS)
        return GRPOTrainer(deepcopy(model), reward, args=settings, train_dataset=given, processing_class=tokenizer)

    with pytest.raises(TypeError, match="multiple values for keyword argument 'completions'"):
        trainer(data).train()
    step(trainer(data.remove_columns("completions")))
