"""Which model exactly: a hash over everything on disk that decides what a model answers."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from curators.errors import EngineError

PARTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "*.tiktoken",
    "spiece.model",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
)
"""What counts, in a model directory: weights, configuration, tokenizer, chat template. A README does not."""


def fingerprint(path: Path) -> str:
    """`hf-` and 16 hex digits of a sha256 over names and contents; a `.gguf` file holds everything itself.

    Files are read in blocks, once per process as long as their time and size stay.

    Raises:
        EngineError: the directory has no weights.
    """
    if path.is_file():
        return "hf-" + _file_digest(path, *_state(path))[:16]
    files = sorted({file for part in PARTS for file in path.glob(part) if file.is_file()})
    if not any(file.suffix in (".safetensors", ".bin") for file in files):
        raise EngineError(f"{path}: no weights (*.safetensors or pytorch_model*.bin) in this directory; save a transformers model there")
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(path).as_posix()}\0{_file_digest(file, *_state(file))}\n".encode())
    return f"hf-{whole.hexdigest()[:16]}"


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=4096)
def _file_digest(file: Path, _modified_ns: int, _size: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
