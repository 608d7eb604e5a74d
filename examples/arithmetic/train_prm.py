"""Train a process reward model on a hand-off of the view `stepwise`: a trainer of one's own, as `train.command` starts it.

    pairmill run train --set dataset=arithmetic-steps --set view=stepwise --set evaluation=null --set checkpoint=arithmetic-prm \\
        --set 'command=python -m examples.arithmetic.train_prm {handoff} {policy} {out} {params}'

The policy gets a head of two classes and learns at the last token of every step whether a right answer was found at or below it
(Math-Shepherd, Wang et al. 2023, arXiv 2312.08935: per-step cross-entropy on hard labels). Every other token has the label -100. TRL has no
trainer for this since September 2026; `transformers` needs none.

Metrics are of the split `test`, whose prompts were not trained on: `step_auc`, the probability that a step labelled true scores above one
labelled false; `answer_auc`, the same for whole answers scored by their worst step; `base`, the larger share of labels.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from storage.handoff import open_handoff

IGNORED = -100
ENCODED = Features({name: List(Value("int32")) for name in ("input_ids", "attention_mask", "labels")})
DEFAULTS: Mapping[str, Any] = {"learning_rate": 3e-4, "num_train_epochs": 3.0, "per_device_train_batch_size": 16, "seed": 0}


def encode(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list[int]]:
    """Token ids of prompt and answer; labels 0 and 1 stand at the last token of every step."""
    options = {"tools": row.get("tools"), **(row.get("chat_template_kwargs") or {})}
    asked: Any = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True, **options)
    ids = list(asked["input_ids"])
    labels = [IGNORED] * len(ids)
    for step, label in zip(row["completions"], row["labels"], strict=True):
        tokens = tokenizer(step, add_special_tokens=False)["input_ids"]
        ids += tokens
        labels += [IGNORED] * (len(tokens) - 1) + [int(label)]
    return {"input_ids": ids[:max_length], "attention_mask": [1] * len(ids[:max_length]), "labels": labels[:max_length]}


def auc(scores: Any, labels: Any) -> float | None:
    """The probability that a true one scores above a false one, ties half; null where one kind is missing."""
    found, truth = np.asarray(scores), np.asarray(labels, dtype=bool)
    if truth.all() or not truth.any():
        return None
    above = (found[truth][:, None] > found[~truth]).mean()
    return float(above + 0.5 * (found[truth][:, None] == found[~truth]).mean())


def measure(trainer: Trainer, data: Dataset, outcomes: Sequence[float]) -> dict[str, Any]:
    """How well the scores order the steps and the answers of unseen prompts."""
    found: Any = trainer.predict(data)
    probability = torch.softmax(torch.tensor(found.predictions), dim=-1)[..., 1].numpy()
    rows = [(p[known], labels[known] == 1) for p, labels in zip(probability, found.label_ids, strict=True) if (known := labels >= 0).any()]
    scores, labels = np.concatenate([p for p, _ in rows]), np.concatenate([right for _, right in rows])
    worst = [float(p.min()) for p, _ in rows]
    return {
        "n_test_answers": len(rows),
        "n_test_steps": len(labels),
        "base": round(float(max(labels.mean(), 1 - labels.mean())), 4),
        "step_accuracy": round(float(((scores > 0.5) == labels).mean()), 4),
        "step_auc": auc(scores, labels),
        "answer_auc": auc(worst, [outcome > 0 for outcome in outcomes][: len(worst)]),
    }


def main() -> None:
    """Read the hand-off, train, measure, write the checkpoint and `result.json` last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("handoff", "policy", "out", "params"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    settings = {**DEFAULTS, **json.loads(args.params.read_text())}
    torch.set_num_threads(settings.pop("threads", torch.get_num_threads()))
    tokenizer = AutoTokenizer.from_pretrained(args.policy)
    names = {"id2label": {0: "wrong", 1: "right"}, "label2id": {"wrong": 0, "right": 1}}
    model = AutoModelForTokenClassification.from_pretrained(args.policy, num_labels=2, dtype=torch.float32, **names)
    longest = getattr(model.config, "max_position_embeddings", 1024)
    handoff = open_handoff(args.handoff)
    splits = {name: handoff.dataset(name) for name in ("train", "test")}
    # Features are given: `map` would cast the new column `labels` to the type of the old one, and -100 to true.
    encoded = {
        name: rows.map(lambda row: encode(row, tokenizer, longest), remove_columns=rows.column_names, features=ENCODED)
        for name, rows in splits.items()
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(args.out / "work"), save_strategy="no", report_to="none", use_cpu=not torch.cuda.is_available(), **settings
        ),
        train_dataset=encoded["train"],
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
    )
    metrics = {"n_train_answers": len(encoded["train"]), "loss": trainer.train().training_loss}
    if len(encoded["test"]):
        metrics |= measure(trainer, encoded["test"], splits["test"]["outcome"][:])
    trainer.save_model(str(args.out / "model"))
    (args.out / "result.part").write_text(json.dumps({"checkpoint": "model", "metrics": metrics}))
    os.replace(args.out / "result.part", args.out / "result.json")
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
