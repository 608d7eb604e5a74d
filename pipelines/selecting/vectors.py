"""The vectors of a version's pairs: a memory-mapped file, filled batch by batch, and each vector kept with the lake by text and model.
What one model has embedded is never embedded again, by whatever run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import numpy as np

from curators.embeddings import (
    BATCH_TEXTS,
    Embedded,
    Encoder,
    LastTokenEncoder,
    SentenceEncoder,
    Vectors,
    bundled_model,
    embed_into,
    last_token_fingerprint,
    sentence_fingerprint,
)
from curators.errors import ConfigError
from storage.checkpoints import resolve_checkpoint
from storage.vectors import open_vectors

Advance = Callable[[int, int], None]
"""How many texts of how many are done."""
LAST_TOKEN = "last-token:"
CHECKPOINT = "checkpoint:"


def encoder_fingerprint(spec: str, lake_root: Path) -> str:
    """Which model a configuration's `encoder` means today. Nothing is loaded.

    Raises:
        ConfigError: it names nothing that is there.
        EngineError: the directory holds no such model.
    """
    place = _place(spec, lake_root)
    return last_token_fingerprint(place) if spec.startswith(LAST_TOKEN) else sentence_fingerprint(place)


def pinned(spec: str, lake_root: Path) -> str:
    """The same encoder with a checkpoint's number in place of a tag or nothing: it stays that one as long as the run lasts."""
    name = spec.removeprefix(LAST_TOKEN)
    if not spec.startswith(LAST_TOKEN) or not name.startswith(CHECKPOINT):
        return spec
    return f"{LAST_TOKEN}{CHECKPOINT}{resolve_checkpoint(lake_root, name.removeprefix(CHECKPOINT)).ref}"


def open_encoder(spec: str, lake_root: Path) -> Encoder:
    """The model itself; one stays loaded."""
    return _loaded(spec.startswith(LAST_TOKEN), _place(spec, lake_root), encoder_fingerprint(spec, lake_root))


@lru_cache(maxsize=1)
def _loaded(last_token: bool, place: Path, fingerprint: str) -> Encoder:
    return LastTokenEncoder(place) if last_token else SentenceEncoder(place)


def _place(spec: str, lake_root: Path) -> Path:
    if spec == "bundled":
        return bundled_model()
    last, path = spec.startswith(LAST_TOKEN), spec.removeprefix(LAST_TOKEN)
    if last and path.startswith(CHECKPOINT):
        return resolve_checkpoint(lake_root, path.removeprefix(CHECKPOINT)).path
    place = Path(path).expanduser()
    if not place.is_dir():
        raise ConfigError(
            f"encoder: no directory {path!r}; give `bundled`, a sentence-transformers directory, or last-token: before a policy's "
            "directory or checkpoint:NAME[@VERSION]"
        )
    return place


def embed_texts(lake_root: Path, out: Vectors, texts: Iterable[str | None], encoder: Encoder, advance: Advance) -> Embedded:
    """Fill `out` with one row a text, NaN where a text cannot be embedded; what the cache knows is taken from there.

    `advance` hears how many texts are done; what it raises ends the work.
    """
    with open_vectors(lake_root / "vectors.sqlite") as cache:
        told = embed_into(out, _counted(texts, len(out), advance), encoder, cache=cache)
    advance(len(out), len(out))
    return told


def mapped_vectors(directory: Path, n: int, dimensions: int) -> Vectors:
    """An array in a file, for more rows than memory should hold. The file has no name any more: it goes with the process."""
    path = directory / f"{uuid4().hex}.npy"
    out: Vectors = np.lib.format.open_memmap(path, "w+", np.float32, (n, dimensions))
    path.unlink()
    return out


def _counted(texts: Iterable[str | None], n: int, advance: Advance) -> Iterator[str | None]:
    for done, text in enumerate(texts):
        if done % BATCH_TEXTS == 0:  # a batch is embedded before the next one is begun
            advance(done, n)
        yield text
