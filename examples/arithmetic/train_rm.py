"""Train a reward model on a hand-off of the view `reward` with TRL's RewardTrainer: a trainer of one's own, as `train.command` starts it.

    pairmill run train --set dataset=arithmetic --set view=reward --set evaluation=null --set checkpoint=arithmetic-rm \\
        --set 'command=python -m examples.arithmetic.train_rm {handoff} {policy} {out} {params}'
    pairmill run curate --config examples/arithmetic/reward.yaml --set reward=rm:checkpoint:arithmetic-rm

The policy gets a head of one number, read at the last token of the conversation, and learns that the chosen answer scores above the
rejected one (Bradley-Terry: -log sigmoid(r_chosen - r_rejected), Ouyang et al. 2022, arXiv 2203.02155). The margins of the version stay
out of the loss: those of a checker are all 1.

Metrics are of the split `test`, whose prompts were not trained on: `accuracy`, the share of pairs whose chosen answer scores higher, with
its Wilson 95 % interval. What the model does to answers that are chosen by it: `examples/arithmetic/best_of_n.py`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer  # type: ignore[attr-defined]

from curators.statistics.intervals import share
from storage.handoff import open_handoff

DEFAULTS: Mapping[str, Any] = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "num_train_epochs": 2.0,
    "per_device_train_batch_size": 32,
    "weight_decay": 0.01,
    "logging_steps": 20,
    "disable_tqdm": True,
    "seed": 0,
}
READ = ("prompt", "chosen", "rejected", "tools", "chat_template_kwargs")


def pairs_of(rows: Dataset) -> Dataset:
    """The columns that the loss is to see."""
    return rows.remove_columns([name for name in rows.column_names if name not in READ])


@torch.inference_mode()
def measure(trainer: RewardTrainer) -> dict[str, Any]:
    """How often the chosen answer of an unseen prompt scores higher; a tie is a miss.

    Not by `trainer.predict`: that cuts the last batch to as many rows as there are pairs in it, and a pair is two rows.
    """
    model: Any = trainer.model
    model.eval()
    hits = n = 0
    for batch in trainer.get_eval_dataloader():
        chosen, rejected = model(**batch).logits.reshape(-1).chunk(2)
        hits, n = hits + int((chosen > rejected).sum()), n + len(chosen)
    figure = share(hits, n)
    return {"n_test_pairs": n, "accuracy": figure["share"], "accuracy_low": figure["low"], "accuracy_high": figure["high"]}


def main() -> None:
    """Read the hand-off, train, measure, write the checkpoint and `result.json` last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("handoff", "policy", "out", "params"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    settings = {**DEFAULTS, **json.loads(args.params.read_text())}
    torch.set_num_threads(settings.pop("threads", torch.get_num_threads()))
    torch.manual_seed(settings["seed"])  # the head is new
    tokenizer = AutoTokenizer.from_pretrained(args.policy)
    model = AutoModelForSequenceClassification.from_pretrained(args.policy, num_labels=1, dtype=torch.float32)
    handoff = open_handoff(args.handoff)
    splits = {name: pairs_of(handoff.dataset(name)) for name in ("train", "test")}
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            str(args.out / "work"),
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            max_length=getattr(model.config, "max_position_embeddings", 1024),
            **settings,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["test"] if len(splits["test"]) else None,
        processing_class=tokenizer,
    )
    metrics = {"n_train_pairs": len(splits["train"]), "loss": trainer.train().training_loss}
    if len(splits["test"]):
        metrics |= measure(trainer)
    trainer.save_model(str(args.out / "model"))
    (args.out / "result.part").write_text(json.dumps({"checkpoint": "model", "metrics": metrics}))
    os.replace(args.out / "result.part", args.out / "result.json")
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
