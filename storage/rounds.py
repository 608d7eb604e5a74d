"""The registry of rounds: which policy wrote which version, and which checkpoint came of it, each round bound to the one before.

    <lake>/rounds/<name>/<number>.json     written once; `parent` is the digest of the round before, null for the first

A chain is read whole or not at all: where a round is missing or changed, nothing that follows it can be believed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import DatasetExists, ManifestError, StorageError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round. `chain` is the digest of what is asked of every round; `policy` and `trained` are fingerprints of weights, `dataset` and
    `checkpoint` are `name@version`. `figures` are what was measured.
    """

    name: str
    number: int
    chain: str
    parent: str | None
    policy: str
    dataset: str
    dataset_digest: str
    checkpoint: str
    trained: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 over everything, the parent's digest included."""
        return hashlib.sha256(_canonical(self)).hexdigest()


def rounds(lake_root: Path, name: str) -> list[Round]:
    """The rounds of a chain, in order; none where there is no such chain.

    Raises:
        ManifestError: a round is missing, torn or not the one that the next one names.
    """
    folder = _folder(lake_root, name)
    numbers = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())
    found: list[Round] = []
    for number in numbers:
        if number != len(found) + 1:
            raise ManifestError(f"round {len(found) + 1} of {name} is gone, and round {number} follows from it; {_advice(folder)}")
        here = _read(folder / f"{number}.json")
        if here.parent != (found[-1].digest if found else None):
            raise ManifestError(f"round {number} of {name} does not follow from the round {number - 1} that is there; {_advice(folder)}")
        found.append(here)
    return found


def add_round(lake_root: Path, done: Round) -> Round:
    """Write a round down; the same one again changes nothing.

    Raises:
        DatasetExists: the chain has another round of that number.
        ManifestError: it does not follow from the last one.
    """
    known = rounds(lake_root, done.name)
    if done.number <= len(known):
        there = known[done.number - 1]
        if there.digest != done.digest:
            raise DatasetExists(f"round {done.number} of {done.name} is there and came to something else; give the chain another name")
        return there
    if (done.number, done.parent) != (len(known) + 1, known[-1].digest if known else None):
        raise ManifestError(f"round {done.number} of {done.name} does not follow from the {len(known)} rounds that are there")
    folder = _folder(lake_root, done.name)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{done.number}.{os.getpid()}"
    draft.write_bytes(_canonical(done) + b"\n")
    try:
        os.link(draft, folder / f"{done.number}.json")  # unlike rename, link fails when another process was first
    except FileExistsError:
        return add_round(lake_root, done)
    finally:
        draft.unlink()
    return done


def _folder(lake_root: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise StorageError(f"{name!r} is not a name of rounds: lower-case letters, digits, `-` and `_`")
    return lake_root / "rounds" / name


def _read(path: Path) -> Round:
    try:
        return Round(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ManifestError(f"{path}: torn, or not a round ({error}); {_advice(path.parent)}") from error


def _advice(folder: Path) -> str:
    return f"restore it from a backup of {folder}, or move that directory away and start anew: what was paid for is in the ledger"


def _canonical(done: Round) -> bytes:
    return json.dumps(asdict(done), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
