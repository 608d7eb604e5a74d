"""Reward models in process: real tiny ones, with the embedded policy's tokenizer."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from curators.engines import open_engine
from curators.engines.base import Engine, Reply, Request
from curators.engines.cached import CachedEngine
from curators.engines.reward_model import CELLS, _batches, open_reward_model
from curators.errors import ConfigError, EngineError
from storage.calls import CallLedger

RewardLlama: Any = LlamaForSequenceClassification
POLICY = Path(__file__).parents[3] / "examples" / "arithmetic" / "policy"


def build(folder: Path, *, heads: int = 1, context: int = 256, pad: bool = True, **config: Any) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    words = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id if pad else None, "max_position_embeddings": context}
    model = RewardLlama(LlamaConfig.from_dict(sizes | words | {"initializer_range": 0.3, "num_labels": heads} | config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("rm"))


def ask(answer: str, prompt: str = "How many?", **fields: Any) -> Request:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Request(key="reward/x", messages=turns, **fields)


ANSWERS = [f"1. {i} + 2 = {i + 2}\n" * (1 + i % 5) + f"Answer: {i}" for i in range(16)]


async def scores(engine: Engine, answers: list[str]) -> list[float]:
    replies = await asyncio.gather(*(engine.complete(ask(answer)) for answer in answers))
    return [reply.completions[0].scores["score"] for reply in replies]  # type: ignore[index]


@pytest.mark.parametrize("pad", [True, False], ids=["a pad token", "no pad token"])
async def test_a_score_is_the_model_s_own_alone_and_in_a_batch(tmp_path: Path, pad: bool) -> None:
    folder = build(tmp_path / "rm", pad=pad)
    model, tokenizer = RewardLlama.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    alone, together = open_reward_model(str(folder), max_concurrency=1, threads=1), open_reward_model(str(folder), threads=1)
    try:
        one, sixteen = await scores(alone, ANSWERS), await scores(together, ANSWERS)
    finally:
        await asyncio.gather(alone.aclose(), together.aclose())
    with torch.inference_mode():
        own = [float(model(**encoded(tokenizer, answer)).logits[0, 0]) for answer in ANSWERS]
    assert max(own) - min(own) > 0.1, "answers that all score the same would prove nothing"
    assert one == pytest.approx(own, abs=1e-5)
    assert sixteen == pytest.approx(one, abs=1e-4)


def encoded(tokenizer: Any, answer: str) -> Any:
    text = tokenizer.apply_chat_template(list(ask(answer).messages), tokenize=False)
    assert text.rstrip().endswith(f"{answer}<|im_end|>")
    return tokenizer(text, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)


async def test_what_waits_is_scored_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_reward_model(str(folder), max_concurrency=5, threads=1)
    sizes: list[int] = []
    answer = engine._answer

    def counted(requests: Sequence[Request]) -> list[Reply]:
        sizes.append(len(requests))
        return answer(requests)

    monkeypatch.setattr(engine, "_answer", counted)
    try:
        await scores(engine, ANSWERS)
    finally:
        await engine.aclose()
    assert sizes == [5, 5, 5, 1]


def test_batches_hold_every_row_once_and_not_too_much() -> None:
    rows = {i: [0] * (1 + 997 * i % 3000) for i in range(50)}
    batches = _batches(rows)
    assert sorted(i for batch in batches for i in batch) == sorted(rows)
    assert all(len(batch) * max(len(rows[i]) for i in batch) <= CELLS for batch in batches)
    assert _batches({0: [0] * (CELLS + 1)}) == [[0]]


async def test_several_heads_are_named_by_the_model(tmp_path: Path) -> None:
    names = {0: "helpfulness", 1: "verbosity"}
    engine = open_engine(f"rm:{build(tmp_path, heads=2, id2label=names, label2id={n: i for i, n in names.items()})}")
    try:
        reply = await engine.complete(ask("7"))
    finally:
        await engine.aclose()
    assert list(reply.completions[0].scores or {}) == ["helpfulness", "verbosity"]


async def test_a_text_longer_than_the_context_is_no_score_and_costs_no_other_one(tmp_path: Path) -> None:
    engine = open_reward_model(str(build(tmp_path, context=40)), threads=1)
    try:
        short, long = await asyncio.gather(engine.complete(ask("7")), engine.complete(ask("1 + 1 = 2\n" * 30)))
    finally:
        await engine.aclose()
    assert short.error is None
    assert (long.error, long.completions) == ("context_overflow", ())
    assert long.reason
    assert "the model takes 40" in long.reason


async def test_nan_is_no_score(folder: Path, tmp_path: Path) -> None:
    model = RewardLlama.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight.fill_(math.nan)
    shutil.copytree(folder, tmp_path / "rm")
    model.save_pretrained(tmp_path / "rm")
    engine = open_reward_model(str(tmp_path / "rm"))
    try:
        reply = await engine.complete(ask("7"))
    finally:
        await engine.aclose()
    assert (reply.error, reply.completions) == ("refused", ())
    assert reply.reason
    assert "the score of score is nan" in reply.reason


async def test_a_conversation_without_an_answer_or_not_for_the_template_is_an_error_in_its_reply(folder: Path) -> None:
    engine = open_reward_model(str(folder))
    try:
        asked = await engine.complete(Request(key="judge/x", messages=[{"role": "user", "content": "Which?"}]))
        broken = await engine.complete(
            Request(key="reward/x", messages=[{"role": "user", "content": 3}, {"role": "assistant", "content": 5}])
        )
        assert (asked.error, broken.error) == ("unsupported", "refused")
        assert (await engine.complete(ask("7"))).error is None
    finally:
        await engine.aclose()


def test_a_language_model_is_refused_when_it_is_opened() -> None:
    with pytest.raises(EngineError, match="LlamaForCausalLM writes text and has no head that scores; give a sequence classification model"):
        open_engine(f"rm:{POLICY}")


async def test_a_model_without_weights_for_its_head_is_refused(folder: Path, tmp_path: Path) -> None:
    """A configuration that says classification over the files of a language model: transformers would make up the head."""
    shutil.copytree(POLICY, tmp_path / "rm")
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    (tmp_path / "rm" / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    engine = open_reward_model(str(tmp_path / "rm"))
    with pytest.raises(EngineError, match=r"no weights for \['score.weight'\], which would be random"):
        await engine.complete(ask("7"))
    await engine.aclose()


async def test_a_model_without_a_chat_template_is_refused_once_for_all(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "rm")
    (tmp_path / "rm" / "chat_template.jinja").unlink()
    engine = open_reward_model(str(tmp_path / "rm"))
    for outcome in await asyncio.gather(*(engine.complete(ask(str(i))) for i in range(3)), return_exceptions=True):
        assert isinstance(outcome, EngineError)
        assert "no chat template" in str(outcome)
    with pytest.raises(EngineError, match="no chat template"):
        await engine.complete(ask("later"))
    await engine.aclose()


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("nowhere/at-all/x", EngineError, "rm:nowhere"),
        (str(POLICY / "tokenizer.json"), EngineError, "this is a file"),
    ],
)
def test_a_path_without_a_model_is_refused(path: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        open_engine(f"rm:{path}")


def test_options_are_checked(folder: Path) -> None:
    with pytest.raises(ConfigError, match="dtype is 'float8'"):
        open_engine(f"rm:{folder}", options={"dtype": "float8"})
    assert open_engine(f"rm:{folder}", options={"timeout_s": 3, "cache_mb": 5}).capabilities == {"scores"}


async def test_a_score_is_paid_once_and_a_closed_engine_says_so(folder: Path, tmp_path: Path) -> None:
    with CallLedger(tmp_path / "calls.sqlite") as ledger:
        first = CachedEngine(open_reward_model(str(folder)), ledger)
        bought = await first.complete(ask("7"))
        await first.aclose()
        with pytest.raises(EngineError, match="closed"):
            await first.complete(ask("another"))
        second = CachedEngine(open_reward_model(str(folder)), ledger)
        kept: Reply = await second.complete(ask("7"))
        await second.aclose()
    assert (second.counts.requests, kept.cached) == (0, True)
    assert kept.completions[0].scores == bought.completions[0].scores
    assert kept.prompt_tokens == bought.prompt_tokens > 0
