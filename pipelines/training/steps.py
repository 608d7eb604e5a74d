"""DPO on pairs of steps: TRL's `DPOTrainer` on rows of the view `step`, with what it lacks for them.

    loss = -(1 - α) log sigmoid(beta * h) - α log sigmoid(-beta * h)        h as in `dpo`, over the tokens of the step alone

Conservative DPO with one α a pair (MCTS-DPO, Xie et al. 2024, arXiv 2405.00451, section 3; its minimum is at beta * h = ln((1 - α) / α)).
TRL's sigmoid loss takes no α at all and its robust loss one for all rows. Since log sigmoid(-x) = log sigmoid(x) - x, the loss is TRL's
sigmoid loss plus α * beta * h, and that term is what is added here.

A step that does not end the answer is followed by nothing. TRL appends the end of a turn to every row, which would teach the model to
stop after one step. The prefix is part of the prompt: it is the same on both sides and nothing is learned from it.

torch and TRL are imported with this module: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from curators.errors import CurationError

ALPHA = "label_smoothing"
COLUMNS = ("prefix", "chosen_terminal", "rejected_terminal", ALPHA)


def is_steps(dataset: Dataset) -> bool:
    """Whether the rows are those of the view `step`."""
    return isinstance(dataset, Dataset) and set(COLUMNS) <= set(dataset.column_names)


@dataclass
class StepCollator(DataCollatorForPreference):
    """TRL's batch with α beside it, a float32 tensor of shape [pairs]."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        return {**batch, ALPHA: torch.tensor([example[ALPHA] for example in examples], dtype=torch.float32)}


class StepDPOTrainer(DPOTrainer):
    """`DPOTrainer` for rows of the view `step`. Its loss types must have `sigmoid` first; `train_dataset` then has token ids and α."""

    def __init__(self, *, args: Any, processing_class: Any, **more: Any) -> None:
        collator = StepCollator(pad_token_id=processing_class.pad_token_id, max_length=args.max_length)
        super().__init__(args=args, processing_class=processing_class, data_collator=collator, **more)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        rows = dataset.map(
            lambda row: step_tokens(row, processing_class),
            remove_columns=[name for name in dataset.column_names if name != ALPHA],
            desc=f"Tokenizing {dataset_name} dataset",
        )
        rows = rows.filter(lambda row: len(row["prompt_ids"]) < args.max_length)
        if not len(rows):
            raise CurationError(
                f"none of {len(dataset)} pairs has a prompt and prefix below {args.max_length} tokens; raise train.params.max_length"
            )
        return rows

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        columns: list[str] = self._signature_columns or []
        self._signature_columns: Any = [*(name for name in columns if name != ALPHA), ALPHA]

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        known = {name: value for name, value in inputs.items() if name != ALPHA}
        return super().compute_ref_log_probs(model, known)  # type: ignore[no-untyped-call]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """TRL's loss plus the mean of α * beta * h, with h from the same forward pass."""
        inputs = dict(inputs)
        alpha = inputs.pop(ALPHA)
        passes: list[Any] = []

        def forward(**arguments: Any) -> Any:
            passes.append(model(**arguments))
            return passes[-1]

        found = super()._compute_loss(forward, inputs, return_outputs)  # type: ignore[no-untyped-call]
        loss, *outputs = found if return_outputs else (found,)
        length = inputs["completion_mask"].size(1) - 1
        chosen, rejected = passes[0].log_probs[:, -length:].sum(dim=1).chunk(2, dim=0)
        h = (chosen - inputs["ref_chosen_logps"]) - (rejected - inputs["ref_rejected_logps"])
        loss = loss + self.loss_weights[0] * (alpha * self.beta * h).mean()
        return (loss, *outputs) if return_outputs else loss


def step_tokens(row: Mapping[str, Any], tokenizer: Any) -> dict[str, list[int]]:
    """`prompt_ids` (prompt and prefix), `chosen_ids` and `rejected_ids` of a row of the view `step`.

    Sampled token ids are used where this tokenizer reads them as the row's texts: text may come back as other tokens than were sampled.
    An end-of-sequence token follows only the last step of an answer.
    """
    if isinstance(row["prompt"], str):
        prompt = tokenizer(row["prompt"])["input_ids"]
    else:
        options = {"tools": row.get("tools"), **(row.get("chat_template_kwargs") or {})}
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True, **options)["input_ids"]
    prefix = _as_sampled(row.get("prefix_token_ids"), row["prefix"], tokenizer)
    if prefix is None:
        prefix = _tokens(row["prefix"], tokenizer)
    ids = {"prompt_ids": prompt + prefix}
    for side in ("chosen", "rejected"):
        sampled = _as_sampled(row.get(f"{side}_token_ids"), row[side], tokenizer)
        step = sampled if sampled is not None else _continuation(row["prefix"], row[side], tokenizer)
        end = [tokenizer.eos_token_id] if row[f"{side}_terminal"] and step[-1:] != [tokenizer.eos_token_id] else []
        ids[f"{side}_ids"] = step + end
    return ids


def _as_sampled(ids: list[int] | None, text: str, tokenizer: Any) -> list[int] | None:
    """The ids where they spell the text, else null: they are another tokenizer's, or were never known."""
    if ids is None or any(not 0 <= token < len(tokenizer) for token in ids):
        return None
    return ids if tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text else None


def _continuation(before: str, after: str, tokenizer: Any) -> list[int]:
    """The tokens of `after` as the model would write them behind `before`."""
    head, whole = _tokens(before, tokenizer), _tokens(before + after, tokenizer)
    return whole[len(head) :] if whole[: len(head)] == head else _tokens(after, tokenizer)


def _tokens(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
