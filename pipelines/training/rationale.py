"""DPO that also learns why: TRL's `DPOTrainer` on rows of the view `rationale`, with the likelihood of the rationale in the loss.

    loss = TRL's loss of the pair - rationale_weight * L_r        L_r = log pi(rationale and the end of its turn | rationale_prompt)

RDPO of "Data-Centric Human Preference with Rationales" (arXiv 2407.14477), the form of the paper. Its code takes - log sigmoid(gamma * L_r)
instead, whose floor near L_r = 0 is ln 2. L_r is summed over tokens there, so that long rationales weigh more; `rationale_reduction: mean`,
the default, divides by their number. The reference model plays no part in the term.

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

COLUMNS = ("rationale_prompt", "rationale")
TOKENS = ("rationale_prompt_ids", "rationale_ids")
BATCH = ("rationale_input_ids", "rationale_attention_mask", "rationale_labels")
IGNORED = -100


def is_rationales(dataset: Dataset) -> bool:
    """Whether the rows are those of the view `rationale`, or of its relatives with a rationale."""
    return isinstance(dataset, Dataset) and set(COLUMNS) <= set(dataset.column_names)


@dataclass
class RationaleCollator(DataCollatorForPreference):
    """TRL's batch with the rationales beside it: int64 tensors of shape [pairs, tokens], labels -100 where nothing is scored."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        rows = [(example[TOKENS[0]] + example[TOKENS[1]])[: self.max_length] for example in examples]
        width = max(map(len, rows))
        filled: dict[str, list[list[int]]] = {name: [] for name in BATCH}
        for ids, example in zip(rows, examples, strict=True):
            padding, asked = width - len(ids), len(example[TOKENS[0]])
            filled[BATCH[0]].append(ids + [self.pad_token_id] * padding)
            filled[BATCH[1]].append([1] * len(ids) + [0] * padding)
            filled[BATCH[2]].append([IGNORED] * asked + ids[asked:] + [IGNORED] * padding)
        return {**batch, **{name: torch.tensor(values) for name, values in filled.items()}}


class RationaleDPOTrainer(DPOTrainer):
    """`DPOTrainer` for rows of the view `rationale`; `weight` and `reduction` (sum, mean) are of the rationale's term."""

    def __init__(self, *, args: Any, processing_class: Any, weight: float, reduction: str, **more: Any) -> None:
        self.rationale_weight, self.rationale_reduction = weight, reduction
        collator = RationaleCollator(pad_token_id=processing_class.pad_token_id, max_length=args.max_length)
        super().__init__(args=args, processing_class=processing_class, data_collator=collator, **more)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        rows = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        rows = rows.map(lambda row: rationale_tokens(row, processing_class), desc=f"Tokenizing rationales of {dataset_name} dataset")
        rows = rows.filter(lambda row: max(len(row["prompt_ids"]), len(row[TOKENS[0]])) < args.max_length)
        if not len(rows):
            raise CurationError(
                f"none of {len(dataset)} pairs has both answers below {args.max_length} tokens, as its rationale needs; "
                "raise train.params.max_length"
            )
        return rows

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        columns: list[str] = self._signature_columns or []
        self._signature_columns: Any = [*(name for name in columns if name not in TOKENS), *TOKENS]

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        known = {name: value for name, value in inputs.items() if name not in BATCH}
        return super().compute_ref_log_probs(model, known)  # type: ignore[no-untyped-call]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """TRL's loss of the pairs, and the mean over them of the rationale's term."""
        pairs = {name: value for name, value in inputs.items() if name not in BATCH}
        found = super()._compute_loss(model, pairs, return_outputs)  # type: ignore[no-untyped-call]
        loss, *outputs = found if return_outputs else (found,)
        likelihood = log_likelihood(model, inputs, reduction=self.rationale_reduction)
        loss = loss - self.rationale_weight * likelihood.mean()
        return (loss, *outputs) if return_outputs else loss


def log_likelihood(model: Any, inputs: Mapping[str, Any], *, reduction: str) -> torch.Tensor:
    """L_r of every row, in nats, shape [pairs]: the sum over the scored tokens, or their mean."""
    ids, mask, labels = (inputs[name] for name in BATCH)
    logps = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, use_cache=False).log_probs
    total: torch.Tensor = logps[:, 1 - ids.size(1) :].sum(dim=1)
    return total / (labels[:, 1:] != IGNORED).sum(dim=1) if reduction == "mean" else total


def rationale_tokens(row: Mapping[str, Any], tokenizer: Any) -> dict[str, list[int]]:
    """`rationale_prompt_ids` and `rationale_ids` of a row; all of the latter are scored: the rationale's tokens and an end of sequence.

    Raises:
        CurationError: the rationale is empty.
    """
    asked, told = row["rationale_prompt"], row["rationale"]
    if isinstance(asked, str):
        prompt = tokenizer(asked)["input_ids"]
    else:
        options = row.get("chat_template_kwargs") or {}
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True, **options)["input_ids"]
    text = told if isinstance(told, str) else told[0]["content"]
    if not text.strip():
        raise CurationError(f"pair {row.get('pair_id')}: its rationale is empty; rows of the view `rationale` have one")
    return {TOKENS[0]: prompt, TOKENS[1]: [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]}
