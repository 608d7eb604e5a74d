"""One real optimisation step of every trainer of TRL that reads a view, on the embedded policy."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.handoff import open_handoff, write_handoff
from storage.views.trainers import TRL_STEPS

pytest.importorskip("trl")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

POLICY = Path(__file__).parents[3] / "examples" / "arithmetic" / "policy"
SETTINGS: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "report_to": "none",
}
SAMPLING: dict[str, dict[str, Any]] = {
    "GRPOTrainer": {"num_generations": 4, "max_completion_length": 8},
    "RLOOTrainer": {"num_generations": 4, "max_completion_length": 8},
    "OnlineDPOTrainer": {"max_new_tokens": 8},
}


@pytest.fixture
def version(make_frozen: Callable[..., Path], rows: Any) -> Path:
    """Eight questions with two answers, scored by one judge, judged in another way by a second, with two attributes."""
    pairs = [rows.pair(f"{n} + 1?", str(n + 1), str(n), margin=0.5, p_chosen=0.9, label_source="judge") for n in range(8)]
    generations, judgments = rows.scored(pairs, judge="judge")
    for row in judgments:
        row["attributes"] = '{"right": 4, "brief": 1}' if row["scores"] == [8.0] else '{"right": 1, "brief": 2}'
    turned = [{**row, "judge": "other", "scores": [-row["scores"][0]], "judgment_id": row["judgment_id"] + "o"} for row in judgments]
    turned = [{**row, "attributes": None} for row in turned]
    return make_frozen(pairs, generations=generations, judgments=[*judgments, *turned])


def reward(completions: list[Any], **others: Any) -> list[float]:
    return [float(index % 4) for index in range(len(completions))]


def made(name: str, module: str) -> tuple[Any, Any]:
    """A trainer's class and that of its arguments."""
    found = importlib.import_module(module)
    return getattr(found, name), getattr(found, name.replace("Trainer", "Config"))


@pytest.mark.parametrize(("module", "name", "view"), TRL_STEPS, ids=lambda value: str(value).removeprefix("trl.experimental."))
def test_a_trainer_of_trl_takes_a_step_on_the_embedded_policy(version: Path, tmp_path: Path, module: str, name: str, view: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    kind = AutoModelForSequenceClassification if name == "RewardTrainer" else AutoModelForCausalLM
    model = kind.from_pretrained(POLICY, **({"num_labels": 1} if name == "RewardTrainer" else {}))
    data = open_handoff(write_handoff(version, tmp_path / "handoff", view=view)).dataset("train")
    if view == "revision":
        data = data.rename_columns({"revise_prompt": "prompt", "revise_target": "completion"})
    if view == "objectives":
        data = data.filter(lambda row: row["objective"] == "right")
    trainer_class, config_class = made(name, module)
    arguments = config_class(output_dir=str(tmp_path / "out"), **SETTINGS, **SAMPLING.get(name, {}))
    more = {"reward_funcs": reward} if name in SAMPLING else {}
    trainer = trainer_class(model=model, args=arguments, train_dataset=data, processing_class=tokenizer, **more)
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
