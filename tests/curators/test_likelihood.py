"""Log-probabilities of given answers: those of the model's own forward pass, whatever stands beside them in the batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from curators import likelihood
from curators.errors import EngineError
from curators.likelihood import Scorer, Text

POLICY = Path(__file__).parents[2] / "examples/arithmetic/policy"


def text(question: str, answer: str) -> Text:
    return Text(prompt=json.dumps([{"role": "user", "content": question}]), answer=json.dumps([{"role": "assistant", "content": answer}]))


TEXTS = [
    text(
        f"Ana has {n} pens. She buys {n + 3} pens more. How many pens does she have?",
        f"1. {n} + {n + 3} = {2 * n + 3}\nAnswer: {2 * n + 3}",
    )
    for n in range(2, 14)
] + [text("Hi", "Answer: 1")]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(POLICY, device="cpu")


def test_the_sum_is_over_the_answers_tokens_alone(scorer: Scorer) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32), AutoTokenizer.from_pretrained(POLICY)
    one = TEXTS[0]
    (found,) = scorer.score([one])
    asked, said = json.loads(one.prompt), json.loads(one.answer)
    before = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*asked, *said], return_dict=True)["input_ids"]
    assert whole[: len(before)] == before
    assert tokenizer.eos_token_id in whole[len(before) :], "the end of the turn is part of the answer"
    with torch.inference_mode():
        logps = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    by_hand = sum(float(logps[i - 1, whole[i]]) for i in range(len(before), len(whole)))
    assert found.n_tokens == len(whole) - len(before)
    assert found.logp == pytest.approx(by_hand, abs=1e-4)


def test_padding_changes_nothing(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    together = scorer.score(TEXTS)
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 1)  # every text alone
    alone = scorer.score(TEXTS)
    assert [each.n_tokens for each in together] == [each.n_tokens for each in alone]
    assert [each.logp for each in together] == pytest.approx([each.logp for each in alone], abs=1e-4)
    assert len({each.logp for each in alone}) == len(TEXTS)


def test_what_cannot_be_scored_says_why_and_the_others_are(scorer: Scorer) -> None:
    long = text("word " * scorer.context, "Answer: 1")
    wrong = Text(prompt="[]", answer="[]")
    found = scorer.score([long, TEXTS[0], wrong])
    assert found[0].logp is None
    assert f"and the model holds {scorer.context}" in str(found[0].reason)
    assert found[1].logp is not None
    assert found[2].logp is None
    assert found[2].reason


def test_keys_are_of_text_and_weights() -> None:
    keys = [TEXTS[0].key("a"), TEXTS[0].key("b"), TEXTS[1].key("a"), TEXTS[0].key("a")]
    assert (len(set(keys)), keys[0] == keys[3]) == (3, True)


def test_no_model_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no weights"):
        Scorer(tmp_path)
