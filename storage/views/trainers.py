"""Which trainer reads which view, and how it is told to: the table of `docs/views.md`.

What TRL reads is run by `tests/storage/views/test_trl_steps.py`. The lines of the others are by their documentation and the code of their
readers (see there), and were not run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

TRL_STEPS: tuple[tuple[str, str, str], ...] = (
    ("trl", "SFTTrainer", "sft"),
    ("trl", "SFTTrainer", "revision"),
    ("trl", "DPOTrainer", "dpo"),
    ("trl", "DPOTrainer", "objectives"),
    ("trl", "DPOTrainer", "user"),
    ("trl.experimental.cpo", "CPOTrainer", "dpo"),
    ("trl.experimental.orpo", "ORPOTrainer", "dpo"),
    ("trl", "RewardTrainer", "reward"),
    ("trl", "RewardTrainer", "user"),
    ("trl", "KTOTrainer", "kto"),
    ("trl", "GRPOTrainer", "prompt-only"),
    ("trl", "RLOOTrainer", "prompt-only"),
    ("trl.experimental.online_dpo", "OnlineDPOTrainer", "prompt-only"),
)
"""Module, trainer and view: each takes one optimisation step in a test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A trainer that reads a view. `form` is that of the hand-off; `lines` are its configuration, DIR the hand-off's directory."""

    trainer: str
    views: tuple[str, ...]
    form: str
    lines: str


_TRL_LINES: Mapping[str, str] = MappingProxyType(
    {
        "revision": '.rename_columns({"revise_prompt": "prompt", "revise_target": "completion"})',
        "objectives": '.filter(lambda row: row["objective"] == "helpfulness")',
    }
)
_LLAMA = '"formatting": "alpaca", {ranking}"columns": {{"prompt": "prompt", {columns}}}'
_PAIRS = '"chosen": "chosen", "rejected": "rejected"'
OTHERS: tuple[Reader, ...] = (
    Reader(
        trainer="OpenRLHF `train_dpo`",
        views=("dpo", "user"),
        form="conversational, parquet",
        lines="--dataset DIR/train.parquet --prompt_key prompt --chosen_key chosen --rejected_key rejected --apply_chat_template",
    ),
    Reader(
        trainer="OpenRLHF `train_rm`",
        views=("reward", "user"),
        form="conversational, parquet",
        lines="the same; it reads `margin` with --margin_loss",
    ),
    Reader(
        trainer="OpenRLHF `train_sft`",
        views=("sft",),
        form="conversational, parquet",
        lines="--dataset DIR/train.parquet --input_key prompt --output_key completion --apply_chat_template",
    ),
    Reader(
        trainer="OpenRLHF `train_kto`",
        views=("kto",),
        form="standard, parquet",
        lines="--dataset DIR/train.parquet --input_key prompt --output_key completion --label_key label",
    ),
    Reader(
        trainer="OpenRLHF `train_ppo_ray`",
        views=("prompt-only",),
        form="conversational, parquet",
        lines="--prompt_data DIR/train.parquet --input_key prompt --label_key reference --apply_chat_template",
    ),
    Reader(
        trainer="LLaMA-Factory, stage sft",
        views=("sft",),
        form="standard, parquet or jsonl",
        lines=_LLAMA.format(ranking="", columns='"response": "completion"'),
    ),
    Reader(
        trainer="LLaMA-Factory, stages dpo and rm",
        views=("dpo", "reward", "user"),
        form="standard, parquet or jsonl",
        lines=_LLAMA.format(ranking='"ranking": true, ', columns=_PAIRS),
    ),
    Reader(
        trainer="LLaMA-Factory, stage kto",
        views=("kto",),
        form="standard, parquet or jsonl",
        lines=_LLAMA.format(ranking="", columns='"response": "completion", "kto_tag": "label"'),
    ),
    Reader(
        trainer="axolotl, `rl: dpo`",
        views=("dpo", "user"),
        form="standard, parquet or jsonl",
        lines='type: {field_prompt: prompt, field_chosen: chosen, field_rejected: rejected, prompt_format: "…{prompt}…"}',
    ),
    Reader(
        trainer="axolotl, `rl: kto`",
        views=("kto",),
        form="standard, parquet or jsonl",
        lines='type: {field_prompt: prompt, field_completion: completion, field_label: label, prompt_format: "…{prompt}…"}',
    ),
    Reader(
        trainer="axolotl, `rl: grpo`",
        views=("prompt-only",),
        form="conversational, parquet",
        lines="type: MODULE.FUNCTION, a transform that returns `prompt` and what the reward function reads",
    ),
    Reader(
        trainer="verl, SFT",
        views=("sft",),
        form="standard, parquet",
        lines="data.train_files=DIR/train.parquet data.prompt_key=prompt data.response_key=completion",
    ),
    Reader(
        trainer="verl, PPO and GRPO",
        views=("prompt-only",),
        form="conversational, parquet",
        lines="data.train_files=FILE data.prompt_key=prompt, after a map that adds `data_source` and `reward_model.ground_truth`",
    ),
)


def trainers_table() -> str:
    """Which trainer reads which view, as Markdown, as `docs/views.md` holds it."""
    head = "| trainer | view | hand-off | configuration | run here |\n|---|---|---|---|---|\n"
    ours = [(_named(module, name), view, "conversational", _loaded(view), "yes") for module, name, view in TRL_STEPS]
    others = [(reader.trainer, ", ".join(reader.views), reader.form, reader.lines, "no") for reader in OTHERS]
    return head + "".join(
        f"| {trainer} | {_code(views)} | {form} | {f'`{lines}`' if '`' not in lines and lines else lines} | {run} |\n"
        for trainer, views, form, lines, run in (*ours, *others)
    )


def _named(module: str, name: str) -> str:
    return f"TRL `{name}`" if module == "trl" else f"TRL `{name}` ({module.removeprefix('trl.')})"


def _loaded(view: str) -> str:
    return f'train_dataset=storage.load(REF, view="{view}", split="train"){_TRL_LINES.get(view, "")}'


def _code(views: str) -> str:
    return ", ".join(f"`{view}`" for view in views.split(", "))
