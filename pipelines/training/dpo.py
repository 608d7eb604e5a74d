"""The built-in trainer: DPO with an SFT term on a hand-off, by TRL's `DPOTrainer`. `python -m pipelines.training.dpo --help`.

    loss = -log sigmoid(beta * h) + sft_weight * mean over chosen tokens of -log pi(token)
    h = log pi(chosen)/ref(chosen) - log pi(rejected)/ref(rejected)

Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290) with the term of RPO (Liu et al. 2024, arXiv:2405.16436), without
which DPO may lower the probability of both answers. `label_smoothing` selects the loss of robust DPO (Chowdhury et al. 2024,
arXiv:2403.00409): TRL's ordinary loss ignores that field. The reference is the policy as it came, its log-probabilities computed once.
Rows of the view `step` bring an α of their own and steps that do not end the answer: `pipelines.training.steps`. Those of the view
`rationale` bring a text that is learned beside the pair: `pipelines.training.rationale`.

It trains every weight on one device: 32-bit on a CPU, bfloat16 autocast over 32-bit weights on a GPU. Adapters, several GPUs and
resuming are deliberately not here: they are what `train.command` is for. Imports of torch and TRL (seconds) happen inside functions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curators.errors import CurationError
from pipelines.training.job import RESULT, write_json
from pipelines.training.params import DpoParams, rate_for, read_params

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Emit = Callable[[Mapping[str, Any]], None]

LARGE = 100_000_000
"""From so many parameters on, a checkpoint keeps the 16-bit type of its policy; below, it stays in 32 bits and rounding costs nothing."""


def train(dataset: Dataset, policy: str, out: Path, params: DpoParams, *, emit: Emit, about: str = "") -> dict[str, Any]:
    """Train `policy` (a directory or hub name) on pairs, write `out/checkpoint` (an ordinary model directory), return the metrics.

    Args:
        dataset: columns `prompt`, `chosen`, `rejected`, and where present `tools` and `chat_template_kwargs`, as the view `dpo` gives them:
            turns with nothing but role and text, or JSON. (As Arrow structs every turn would have every key, with null, and a template
            that asks `is defined` would render other tokens.) Or rows of the view `step` or `rationale`.
        about: one line for the model card: which data.

    Raises:
        CurationError: no pair is left under `max_length`, the loss stopped being a finite number, or the pairs are of a view that this
            trainer cannot end rightly.
    """
    begun = time.monotonic()
    trainer, params = prepare(dataset, policy, out, params, emit=emit)
    metrics = _lengths(trainer, len(dataset), params)
    emit({"event": "start", **metrics, **asdict(params)})
    prepared = time.monotonic()
    outcome = trainer.train()
    last = [record for record in trainer.state.log_history if "loss" in record]
    metrics |= {
        "steps": trainer.state.global_step,
        "loss": outcome.training_loss,
        "first": _record(last[0]),
        "last": _record(last[-1]),
        "prepare_s": round(prepared - begun, 2),
        "train_s": round(time.monotonic() - prepared, 2),
        "params": asdict(params),
    }
    metrics["dtype"] = save(trainer.model, trainer.processing_class, out / "checkpoint", about=about, params=params)
    return metrics


def prepare(dataset: Dataset, policy: str, out: Path, params: DpoParams, *, emit: Emit) -> tuple[Any, DpoParams]:
    """A `DPOTrainer`, ready to run, and the parameters with their nulls and autos filled in."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl.trainer.dpo_trainer import DPOTrainer

    from pipelines.training.rationale import RationaleDPOTrainer, is_rationales
    from pipelines.training.steps import StepDPOTrainer, is_steps

    if "rejected_prompt" in dataset.column_names:
        raise CurationError("these rows are of the view `joint`, with two prompts a pair; the built-in trainer takes the view `dpo`")
    if params.threads is not None:
        torch.set_num_threads(params.threads)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    context = getattr(model.config, "max_position_embeddings", None) or params.max_length
    on_gpu = torch.cuda.is_available()
    params = replace(
        params,
        learning_rate=params.learning_rate if params.learning_rate is not None else rate_for(model.num_parameters()),
        max_length=min(params.max_length, context),
        precision=params.precision
        if params.precision != "auto"
        else "bfloat16"
        if on_gpu and torch.cuda.is_bf16_supported()
        else "float32",
    )
    steps = is_steps(dataset)
    if steps:
        _check_steps(dataset, params)
    elif not any(_prompt_length(row, tokenizer) < params.max_length for row in dataset):
        raise CurationError(f"none of {len(dataset)} pairs has a prompt below {params.max_length} tokens; raise train.params.max_length")
    progress = TrainerCallback()
    progress.on_log = _on_log(emit)  # type: ignore[method-assign]
    arguments = _arguments(params, out / "trainer", on_gpu=on_gpu)
    kind: Any = StepDPOTrainer if steps else DPOTrainer
    if is_rationales(dataset):
        kind = partial(RationaleDPOTrainer, weight=params.rationale_weight, reduction=params.rationale_reduction)
    trainer = kind(model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer, callbacks=[progress])
    trainer.remove_callback(PrinterCallback)
    return trainer, params


def _check_steps(dataset: Dataset, params: DpoParams) -> None:
    """Refuse what would train on something else than asked."""
    if params.label_smoothing:
        raise CurationError(
            f"train.params.label_smoothing is {params.label_smoothing}, but rows of the view `step` have one of their own; leave it out"
        )
    if not isinstance(dataset[0]["chosen"], str):
        raise CurationError("these rows are of the view `step-dpo`, for other trainers; the built-in one takes the view `step`")


def _prompt_length(row: Mapping[str, Any], tokenizer: Any) -> int:
    if isinstance(row["prompt"], str):
        return len(tokenizer(row["prompt"])["input_ids"])
    options = {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
    return len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True, **options)["input_ids"])


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, about: str, params: DpoParams) -> str:
    """Write an ordinary model directory by rename; returns the type of its weights."""
    import shutil

    import torch

    source_type = getattr(model.config, "dtype", None)
    if model.num_parameters() >= LARGE:
        model = model.to(source_type if source_type in (torch.bfloat16, torch.float16) else torch.bfloat16)  # type: ignore[arg-type]
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    settings = ", ".join(f"{name} {value}" for name, value in asdict(params).items())
    (part / "README.md").write_text(
        f"# A policy trained with DPO\n\nTrained on {about or 'preference pairs'}. Settings: {settings}.\n", encoding="utf-8"
    )
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return str(model.dtype).removeprefix("torch.")


def _arguments(params: DpoParams, out: Path, *, on_gpu: bool) -> Any:
    from trl.trainer.dpo_config import DPOConfig

    assert params.learning_rate is not None
    losses = {"robust" if params.label_smoothing else "sigmoid": 1.0}
    if params.sft_weight:
        losses["sft"] = params.sft_weight
    return DPOConfig(
        output_dir=str(out),
        learning_rate=params.learning_rate,
        beta=params.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        label_smoothing=params.label_smoothing,
        num_train_epochs=params.epochs,
        max_steps=params.max_steps or -1,
        per_device_train_batch_size=params.batch_size,
        gradient_accumulation_steps=params.gradient_accumulation,
        warmup_steps=params.warmup_share,
        max_grad_norm=params.max_grad_norm,
        max_length=params.max_length,
        seed=params.seed,
        bf16=params.precision == "bfloat16",
        use_cpu=not on_gpu,
        activation_checkpointing=on_gpu,  # trades time for memory, which a CPU does not lack
        precompute_ref_log_probs=True,
        dataloader_pin_memory=on_gpu,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        logging_steps=0.02,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # else a loss that is not a number is logged as the one before
        disable_tqdm=True,
    )


def _lengths(trainer: Any, n_pairs: int, params: DpoParams) -> dict[str, Any]:
    """What the trainer really sees of the pairs: how many are dropped, cut, or never show the end of a turn."""
    rows = trainer.train_dataset
    end = trainer.processing_class.eos_token_id
    lengths = [len(p) + max(len(c), len(r)) for p, c, r in zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)]
    return {
        "n_pairs": n_pairs,
        "n_pairs_dropped": n_pairs - len(rows),
        "n_pairs_cut": sum(length > params.max_length for length in lengths),
        "n_pairs_without_end": sum(end not in ids for ids in rows["chosen_ids"]),
        "mean_tokens": round(sum(lengths) / max(len(lengths), 1), 1),
        "max_tokens": max(lengths, default=0),
    }


def _on_log(emit: Emit) -> Callable[..., None]:
    """A callback that turns TRL's log records into progress lines, and ends a training whose loss is no longer a number."""

    def on_log(args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        record = _record({**logs, "step": state.global_step})
        if not math.isfinite(record["loss"]):
            raise CurationError(
                f"training diverged: the loss is {record['loss']} at step {state.global_step}; lower train.params.learning_rate"
            )
        emit({"event": "step", "steps": state.max_steps, **record})

    return on_log


_LOGGED = {
    "step": "step",
    "loss": "loss",
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "chosen_logp": "logps/chosen",
    "rejected_logp": "logps/rejected",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


def _record(logs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        ours: float(f"{float(logs[theirs]):.5g}") if ours != "step" else logs[theirs] for ours, theirs in _LOGGED.items() if theirs in logs
    }


def _quiet() -> None:
    """No progress bars: stdout carries one JSON object a line."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    # TRL refuses a process that sees several GPUs; `accelerate launch` sets WORLD_SIZE and divides them itself.
    if "WORLD_SIZE" not in os.environ:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    # What TRL 1.16 and transformers 5.23 say to each other about a renamed attribute is no news to a user.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _print(record: Mapping[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the hand-off, train, write `result.json` last. A mistake of the user is one line on stderr and exit code 1."""
    from storage.errors import StorageError
    from storage.handoff import open_handoff

    parser = argparse.ArgumentParser(prog="python -m pipelines.training.dpo", description="DPO with an SFT term on a hand-off directory.")
    parser.add_argument("--handoff", required=True, type=Path, help="directory with handoff.json and data.duckdb")
    parser.add_argument("--policy", required=True, help="model directory or hub name")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--params", type=Path, help="JSON file; see DpoParams")
    given = parser.parse_args(arguments)
    try:
        params = read_params(json.loads(given.params.read_bytes()) if given.params else {})
        handoff = open_handoff(given.handoff)
        _quiet()
        dataset = handoff.dataset("train")
        metrics = train(dataset, given.policy, given.out, params, emit=_print, about=f"{handoff.name}@{handoff.version}")
        write_json(given.out / RESULT, {"checkpoint": "checkpoint", "metrics": metrics})
    except (CurationError, StorageError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
