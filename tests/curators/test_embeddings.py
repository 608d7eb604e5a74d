"""Vectors of a toy encoder and of real models: order, cache, bad texts, and memory that does not grow with the texts."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from curators.embeddings import Embedded, LastTokenEncoder, SentenceEncoder, bundled_model, embed, embed_into, vector_key
from curators.errors import ConfigError, EngineError

POLICY = Path(__file__).parents[2] / "examples/arithmetic/policy"


class Lengths:
    """An encoder: length, and number of spaces; a text with an x cannot be encoded."""

    fingerprint = "lengths"
    dimensions = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[np.nan, 0] if "x" in text else [len(text), text.count(" ")] for text in texts], dtype=np.float32)


class Store(dict[str, bytes]):
    def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        return {key: self[key] for key in keys if key in self}

    def put_many(self, vectors: Mapping[str, bytes]) -> None:
        self.update(vectors)


def test_rows_come_in_the_order_of_texts_and_bad_ones_are_nan() -> None:
    out = np.zeros((5, 2), dtype=np.float32)
    told = embed_into(out, iter(["a b", None, "x", "  ", "a b"]), Lengths(), batch=2)
    assert out[[0, 4]].tolist() == [[3, 1], [3, 1]]
    assert np.isnan(out[[1, 2, 3], 0]).all()
    assert told == Embedded(n_texts=5, n_empty=2, n_impossible=1, n_cached=0, n_encoded=3)


def test_equal_texts_of_a_batch_are_encoded_once() -> None:
    encoder = Lengths()
    list(embed(["one", "two", "one"], encoder))
    assert encoder.asked == ["one", "two"]


def test_what_is_cached_is_not_encoded_again_and_failures_are_not_cached() -> None:
    cache, first, again = Store(), Lengths(), Lengths()
    one, other = np.zeros((3, 2), dtype=np.float32), np.zeros((3, 2), dtype=np.float32)
    embed_into(one, ["a", "bb", "x"], first, cache=cache)
    told = embed_into(other, ["a", "bb", "x"], again, cache=cache)
    assert np.array_equal(one, other, equal_nan=True)
    assert again.asked == ["x"]
    assert (told.n_cached, told.n_encoded, told.n_impossible) == (2, 1, 1)
    assert len(cache) == 2


def test_the_key_names_model_and_text() -> None:
    keys = {vector_key(model, text) for model in ("m", "n") for text in ("a", "b", "a ", "\ud800")}
    assert len(keys) == 8


@pytest.mark.parametrize(("n", "d", "message"), [(2, 2, "more texts than the 2"), (4, 2, "3 texts for 4 rows"), (3, 5, "of 2 dimensions")])
def test_an_array_that_does_not_fit_is_refused(n: int, d: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        embed_into(np.zeros((n, d), dtype=np.float32), ["a", "b", "c"], Lengths())


def test_memory_is_that_of_a_batch(tmp_path: Path) -> None:
    """20,000 texts of 1,000 characters: 20 MB, of which no more than a batch is ever held."""
    out = np.lib.format.open_memmap(tmp_path / "vectors.npy", "w+", np.float32, (20_000, 2))
    encoder = Lengths()
    encoder.encode = lambda texts: np.ones((len(texts), 2), dtype=np.float32)
    tracemalloc.start()
    embed_into(out, (f"{i:01000d}" for i in range(20_000)), encoder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    assert (out == 1).all()


@pytest.fixture(scope="module")
def sentences() -> SentenceEncoder:
    return SentenceEncoder(bundled_model(), device="cpu")


def test_the_bundled_model_knows_what_is_alike(sentences: SentenceEncoder) -> None:
    vectors = sentences.encode(["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose last week."])
    assert vectors.shape == (3, sentences.dimensions) == (3, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > 0.2 > vectors[0] @ vectors[2]


def test_batches_do_not_change_a_vector_but_for_rounding(sentences: SentenceEncoder) -> None:
    texts = ["short", "a text that is a good deal longer than the other one " * 5]
    together = sentences.encode(texts)
    assert np.stack([sentences.encode([text])[0] for text in texts]) == pytest.approx(together, abs=1e-5)
    assert sentences.fingerprint.startswith("st-")


def test_a_policys_last_token_is_what_the_model_itself_gives() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encoder = LastTokenEncoder(POLICY, device="cpu")
    texts = ["Ann has 3 apples.", "Ben buys 2 boxes with 4 apples each. How many apples does he have?"]
    found = encoder.encode(texts)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32), AutoTokenizer.from_pretrained(POLICY)
    for row, text in zip(found, texts, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            expected = model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        assert row == pytest.approx(expected.numpy(), abs=1e-4)
    assert encoder.fingerprint.startswith("last-hf-")


def test_a_text_beyond_the_policys_context_is_impossible_and_not_cut() -> None:
    encoder = LastTokenEncoder(POLICY, device="cpu")
    out = np.zeros((2, encoder.dimensions), dtype=np.float32)
    told = embed_into(out, ["3 apples", "apples " * (encoder.context + 1)], encoder)
    assert (told.n_impossible, bool(np.isnan(out[1]).all()), bool(np.isfinite(out[0]).all())) == (1, True, True)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no modules\.json"):
        SentenceEncoder(tmp_path)
    with pytest.raises(EngineError, match="no weights"):
        LastTokenEncoder(tmp_path)
