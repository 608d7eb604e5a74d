"""The built-in trainer: TRL sees the tokens of the chat template, the loss is the documented one, the checkpoint loads anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Json, List

from curators.engines.base import canonical
from curators.errors import CurationError
from curators.schema import PAIRS, PROMPTS, frame
from pipelines.training.dpo import prepare, train
from pipelines.training.job import TrainerError, progress, run_trainer
from pipelines.training.params import DpoParams, read_params
from storage.handoff import open_handoff, write_handoff
from storage.lake import open_lake
from storage.publishing import publish

# What the libraries say among themselves: transformers 5.23 renamed what TRL 1.16 still asks for.
pytestmark = [pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")]

TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": 1}}}
RICH = {
    "prompt": [
        {"role": "user", "content": "one and two?"},
        {"role": "assistant", "reasoning_content": "use the tool", "tool_calls": [CALL]},
        {"role": "tool", "content": "three"},
    ],
    "chosen": [{"role": "assistant", "reasoning_content": "it said three", "content": "the answer is three"}],
    "rejected": [{"role": "assistant", "content": "two"}],
    "tools": [TOOL],
    "chat_template_kwargs": {"thinking": "on"},
}
PLAIN = {
    "prompt": [{"role": "user", "content": "one?"}],
    "chosen": [{"role": "assistant", "content": "the answer is one"}],
    "rejected": [{"role": "assistant", "content": "it is two, or so"}],
    "tools": None,
    "chat_template_kwargs": None,
}
QUICK = DpoParams(batch_size=2, max_steps=2, threads=1, learning_rate=1e-3)


def pairs(n: int = 8) -> Dataset:
    names = ("prompt", "chosen", "rejected")
    rows = [{name: [{**turn, "content": f"{turn['content']} {i}"} for turn in PLAIN[name]] for name in names} for i in range(n)]  # type: ignore[union-attr]
    return Dataset.from_list(rows, features=Features({name: List(Json()) for name in names}))


@pytest.fixture
def handoff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two rows published in a lake and handed off, as a training job gets them."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf-cache")
    rows = []
    for number, row in enumerate((RICH, PLAIN)):
        texts = {name: canonical(row[name]).decode() if row[name] is not None else None for name in row}
        rows.append({**texts, "pair_id": f"p{number}", "prompt_id": f"q{number}", "kind": "response", "split": "train"})
    prompts = [{"prompt_id": row["prompt_id"], "messages": row["prompt"], "state": "ok"} for row in rows]
    with open_lake(tmp_path / "lake") as lake:
        lake.append("prompts", frame(prompts, PROMPTS), commit_id="facts")
        release = publish(lake, "sums", frame(rows, PAIRS), manifest={}, author="test", commit_id="publish")
    return write_handoff(release.frozen, tmp_path / "handoff", view="dpo")


def test_one_step_sees_exactly_the_tokens_of_the_chat_template(policy: Path, handoff: Path, tmp_path: Path) -> None:
    """Three turns, tools, a tool call, reasoning content and template arguments, beside a row that has none of them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy)
    dataset = open_handoff(handoff).dataset("train")
    trainer, _ = prepare(dataset, str(policy), tmp_path, QUICK, emit=lambda record: None)
    (batch,) = list(trainer.get_train_dataloader())
    seen = {
        (tuple(ids[mask.bool()].tolist()), tuple(ids[learned.bool()].tolist()))
        for ids, mask, learned in zip(batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True)
    }
    expected = set()
    for row in (json.loads(canonical(row)) for row in (RICH, PLAIN)):  # facts keep the keys of an object in sorted order
        options: Any = {"tools": row["tools"], **(row["chat_template_kwargs"] or {})}
        for answer in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(row["prompt"] + row[answer], **options)["input_ids"]
            asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **options)["input_ids"]
            assert whole[: len(asked)] == asked
            expected.add((tuple(whole), tuple(whole[len(asked) :])))
    assert seen == expected
    text = tokenizer.decode(max(seen, key=lambda pair: len(pair[0]))[0])
    for part in (
        '{"function": {',
        "<think>use the tool</think>",
        "<call>{",
        "<mode>on</mode><think>it said three</think>the answer is three<|end|>",
    ):
        assert part in text
    assert "None" not in text
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.slow
async def test_the_built_in_job_trains_on_a_hand_off(policy: Path, handoff: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    params = {"max_steps": 3, "batch_size": 2, "threads": 1}
    result = await run_trainer(
        None, handoff, policy_path=policy, out_dir=tmp_path / "out", params=params, timeout_s=200, on_line=lines.append
    )
    steps = [record for line in lines if (record := progress(line)) and record["event"] == "step"]
    assert [record["step"] for record in steps] == [1, 2, 3]
    assert all(record["steps"] == 3 and record["loss"] > 0 for record in steps)
    assert (result.checkpoint / "model.safetensors").exists()
    assert (result.metrics["n_pairs"], result.metrics["steps"], result.metrics["params"]["learning_rate"]) == (2, 3, 5e-5)
    assert "sums@1" in (result.checkpoint / "README.md").read_text()


@pytest.mark.slow
async def test_what_is_wrong_with_a_job_is_its_last_line(policy: Path, handoff: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"ended with exit code 1\.(?s:.*)\| train\.params\.bta is not a parameter.*did you mean 'beta'"):
        await run_trainer(None, handoff, policy_path=policy, out_dir=tmp_path / "out", params={"bta": 1}, timeout_s=200)


@pytest.mark.slow
def test_the_step_learns_the_end_of_the_turn(policy: Path, tmp_path: Path) -> None:
    trainer, _ = prepare(pairs(), str(policy), tmp_path, QUICK, emit=lambda record: None)
    end = trainer.processing_class.eos_token_id
    assert all(end in ids for ids in trainer.train_dataset["chosen_ids"])


@pytest.mark.slow
@pytest.mark.parametrize(("sft_weight", "label_smoothing"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.2)])
def test_the_loss_is_the_documented_one(policy: Path, tmp_path: Path, sft_weight: float, label_smoothing: float) -> None:
    """After a few steps away from the reference, TRL's loss against the formula, computed here from token log-probabilities."""
    import torch
    from transformers import AutoModelForCausalLM

    params = DpoParams(
        batch_size=4, max_steps=3, learning_rate=1e-2, beta=0.3, sft_weight=sft_weight, label_smoothing=label_smoothing, threads=1
    )
    trainer, _ = prepare(pairs(4), str(policy), tmp_path, params, emit=lambda record: None)
    trainer.train()
    trainer.model.train()
    (batch,) = list(trainer.get_train_dataloader())
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}

    def token_logps(model: Any) -> torch.Tensor:
        with torch.no_grad():
            logps = torch.log_softmax(model(**given).logits[:, :-1], dim=-1)
        return torch.gather(logps, 2, batch["input_ids"][:, 1:, None])[..., 0] * batch["completion_mask"][:, 1:]

    chosen, rejected = token_logps(trainer.model).chunk(2)
    ref_chosen, ref_rejected = token_logps(AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)).sum(1).chunk(2)
    logit = params.beta * ((chosen.sum(1) - ref_chosen) - (rejected.sum(1) - ref_rejected))
    right, wrong = -torch.nn.functional.logsigmoid(logit), -torch.nn.functional.logsigmoid(-logit)
    preference = ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
    sft = -chosen.sum() / batch["completion_mask"][:4, 1:].sum()
    expected = preference.mean() + sft_weight * sft
    with torch.no_grad():
        found = trainer.compute_loss(trainer.model, batch)
    assert abs(float(logit.mean())) > 0.01
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_training_moves_the_policy_towards_chosen_and_is_the_same_twice(policy: Path, tmp_path: Path) -> None:
    params = DpoParams(batch_size=4, epochs=5, learning_rate=5e-3, threads=1, seed=3)
    records: list[dict[str, Any]] = []
    first = train(pairs(16), str(policy), tmp_path / "a", params, emit=lambda r: records.append(dict(r)), about="pairs@1")
    again = train(pairs(16), str(policy), tmp_path / "b", params, emit=lambda record: None, about="pairs@1")
    weights = [(tmp_path / side / "checkpoint" / "model.safetensors").read_bytes() for side in "ab"]
    assert weights[0] == weights[1]
    assert first["last"] == again["last"]
    assert first["steps"] == 20
    assert first["last"]["margin"] > 0.1
    assert first["last"]["chosen_logp"] > first["first"]["chosen_logp"]
    assert [r["event"] for r in records][:2] == ["start", "step"]
    assert all(set(r) >= {"step", "steps", "loss", "margin", "accuracy"} for r in records[1:])
    assert json.loads(json.dumps(first, allow_nan=False)) == first


@pytest.mark.slow
def test_the_checkpoint_is_an_ordinary_model_directory(policy: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metrics = train(pairs(), str(policy), tmp_path, QUICK, emit=lambda record: None, about="pairs@7")
    folder = tmp_path / "checkpoint"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert metrics["dtype"] == "float32"
    assert model.dtype == torch.float32
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(policy).chat_template
    card = (folder / "README.md").read_text()
    assert "Trained on pairs@7" in card
    assert str(tmp_path) not in card + (folder / "config.json").read_text()
    again = train(pairs(), str(folder), tmp_path / "next", QUICK, emit=lambda record: None)
    assert again["n_pairs"] == 8


@pytest.mark.slow
def test_long_rows_are_counted_and_a_bound_below_all_is_refused(policy: Path, tmp_path: Path) -> None:
    rows = [
        *pairs(3),
        {**PLAIN, "prompt": [{"role": "user", "content": "one " * 100}]},
        {**PLAIN, "chosen": [{"role": "assistant", "content": "1 " * 90}]},
    ]
    names = ("prompt", "chosen", "rejected")
    dataset = Dataset.from_list(
        [{name: row[name] for name in names} for row in rows], features=Features({name: List(Json()) for name in names})
    )
    metrics = train(
        dataset, str(policy), tmp_path, read_params({"max_length": 80, "max_steps": 1, "batch_size": 4, "threads": 1}), emit=lambda r: None
    )
    assert (metrics["n_pairs"], metrics["n_pairs_dropped"], metrics["n_pairs_cut"], metrics["n_pairs_without_end"]) == (5, 1, 1, 0)
    with pytest.raises(CurationError, match=r"none of 5 pairs has a prompt below 4 tokens; raise train\.params\.max_length"):
        train(dataset, str(policy), tmp_path, read_params({"max_length": 4}), emit=lambda r: None)
    with pytest.raises(CurationError, match="the view `joint`, with two prompts a pair; the built-in trainer takes the view `dpo`"):
        train(dataset.add_column("rejected_prompt", dataset["prompt"][:]), str(policy), tmp_path, read_params({}), emit=lambda r: None)


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_training(policy: Path, tmp_path: Path) -> None:
    params = DpoParams(batch_size=4, max_steps=50, sft_weight=1e39, threads=1)
    with pytest.raises(CurationError, match=r"training diverged: the loss is (nan|inf) at step \d+; lower train\.params\.learning_rate"):
        train(pairs(), str(policy), tmp_path, params, emit=lambda r: None)
    assert not (tmp_path / "checkpoint").exists()
