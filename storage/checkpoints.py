"""The checkpoint registry: which models came out of training, from what, and which one is in use.

It lives beside the lake's tables, as ordinary directories and one append-only history a name:

    <lake>/checkpoints/<name>/<version>/     a model directory, never changed once it is there
    <lake>/checkpoints/<name>/history.jsonl  one line per event: a version registered or measured again, a tag moved

Versions count from 1 and never move; tags (`prod`) do, and every move stays in the history, so that a rollback is one more line and
undoes nothing else. Weights are not rows: they are not in the lake's tables and not in a dataset version. Deleting old versions is a
person's `rm -r`; a version whose directory is gone says so when it is asked for.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.errors import CheckpointNotFound, ManifestError, StorageError

HISTORY = "history.jsonl"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TAG = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One registered model. `parent` is the fingerprint of the policy that was trained, `dataset` the version `name@V` it learned from."""

    name: str
    version: int
    path: Path
    fingerprint: str
    parent: str | None = None
    dataset: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    registered: str = ""
    tags: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


def register(
    lake_root: Path,
    name: str,
    path: Path,
    *,
    fingerprint: str,
    parent: str | None = None,
    dataset: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Copy a model directory (or a single model file) into the registry as the next version of `name`.

    Registering the same weights (fingerprint) from the same dataset again returns the version that has them; metrics that it does not have
    yet are one more event of it. The copy is made beside its place and renamed, and the history line comes last: a reader sees the whole
    version or none.

    Raises:
        StorageError: the name is not one, or there is nothing at `path`.
    """
    folder = _folder(lake_root, name)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        raise StorageError(f"checkpoint {name}: there is nothing at {path}")
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".part-{uuid.uuid4().hex}"
    try:
        if _same(lake_root, name, fingerprint, dataset) is None:
            _copy(path, part)  # it takes time, and the lock is held for moments only
        with _locked(folder):
            if found := _same(lake_root, name, fingerprint, dataset):
                _measure(lake_root, found, metrics)
                return get(lake_root, name, found.version)
            version = 1 + max((c.version for c in checkpoints(lake_root, name)), default=0)
            _place(part, folder / str(version))
            event = {"event": "registered", "version": version, "fingerprint": fingerprint, "parent": parent, "dataset": dataset}
            _append(folder, {**event, "metrics": dict(metrics or {}), "at": _now()})
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return get(lake_root, name, version)


def checkpoints(lake_root: Path, name: str | None = None) -> list[Checkpoint]:
    """Every version of one name, oldest first; without a name of all names, in order of name. An unknown name has none.

    Of a version that was measured more than once, the metrics are the latest.
    """
    if name is None:
        root = lake_root / "checkpoints"
        names = sorted(p.parent.name for p in root.glob(f"*/{HISTORY}"))
        return [checkpoint for each in names for checkpoint in checkpoints(lake_root, each)]
    return list({checkpoint.version: checkpoint for checkpoint in measurements(lake_root, name)}.values())


def measurements(lake_root: Path, name: str) -> list[Checkpoint]:
    """The versions once for every time that metrics were recorded, oldest first, each time with those metrics."""
    folder, tagged = _folder(lake_root, name), tags(lake_root, name)
    registered: dict[int, dict[str, Any]] = {}
    found = []
    for event in history(lake_root, name):
        version = event["version"]
        if event["event"] == "registered":
            registered[version] = event
        elif event["event"] != "measured":
            continue
        first = registered[version]
        found.append(
            Checkpoint(
                name=name,
                version=version,
                path=folder / str(version),
                fingerprint=first["fingerprint"],
                parent=first["parent"],
                dataset=first["dataset"],
                metrics=event["metrics"],
                registered=first["at"],
                tags=tuple(sorted(tag for tag, where in tagged.items() if where == version)),
            )
        )
    return found


def get(lake_root: Path, name: str, version: int) -> Checkpoint:
    """One version.

    Raises:
        CheckpointNotFound: it was never registered, or its directory is gone.
    """
    known = {checkpoint.version: checkpoint for checkpoint in checkpoints(lake_root, name)}
    if version not in known:
        raise CheckpointNotFound(f"no checkpoint {name}@{version}; {_there_is(lake_root, name)}")
    if not known[version].path.exists():
        raise CheckpointNotFound(f"checkpoint {name}@{version} was registered, but its directory {known[version].path} is gone")
    return known[version]


def latest(lake_root: Path, name: str) -> Checkpoint:
    """The highest version, tagged or not."""
    known = checkpoints(lake_root, name)
    if not known:
        raise CheckpointNotFound(f"no checkpoint {name}; {_there_is(lake_root, name)}")
    return get(lake_root, name, known[-1].version)


def resolve_checkpoint(lake_root: Path, ref: str) -> Checkpoint:
    """`NAME@3`, `NAME@prod`, or `NAME` for its latest version.

    Raises:
        CheckpointNotFound: no such name, version or tag; the message lists what there is.
        StorageError: the reference does not parse.
    """
    name, at, which = ref.partition("@")
    if not _NAME.fullmatch(name) or (at and not which):
        raise StorageError(f"{ref!r} is not a checkpoint; write NAME, NAME@VERSION or NAME@TAG")
    if not at:
        return latest(lake_root, name)
    if which.isdecimal():
        return get(lake_root, name, int(which))
    tagged = tags(lake_root, name)
    if which not in tagged:
        raise CheckpointNotFound(f"no checkpoint {ref}; {_there_is(lake_root, name)}")
    return get(lake_root, name, tagged[which])


def promote(lake_root: Path, name: str, version: int, *, tag: str = "prod") -> Checkpoint:
    """Move the tag to that version; where it was stays in the history."""
    if not _TAG.fullmatch(tag):
        raise StorageError(f"{tag!r} is not a tag; a tag begins with a letter: lower-case letters, digits, `-` and `_`")
    with _locked(_existing(lake_root, name)) as folder:
        get(lake_root, name, version)
        if tags(lake_root, name).get(tag) != version:
            _append(folder, {"event": "tagged", "tag": tag, "version": version, "at": _now()})
    return get(lake_root, name, version)


def rollback(lake_root: Path, name: str, *, tag: str = "prod", version: int | None = None) -> Checkpoint:
    """Move the tag back: to `version`, or to where it was before its last promotion. Twice rolls back two promotions.

    Raises:
        CheckpointNotFound: the tag was never anywhere else, or that version is not there.
    """
    with _locked(_existing(lake_root, name)) as folder:
        stack = _stack(lake_root, name, tag)
        if version is None and len(stack) < 2:
            raise CheckpointNotFound(f"{name}@{tag} cannot be rolled back: it was never at another version; {_there_is(lake_root, name)}")
        target = get(lake_root, name, stack[-2] if version is None else version)
        _append(folder, {"event": "rolled_back", "tag": tag, "version": target.version, "at": _now()})
    return get(lake_root, name, target.version)


def tags(lake_root: Path, name: str) -> dict[str, int]:
    """Where each tag is now."""
    return {event["tag"]: event["version"] for event in history(lake_root, name) if "tag" in event}


def history(lake_root: Path, name: str) -> list[dict[str, Any]]:
    """Every event, oldest first. A last line that a crash cut off is not an event.

    Raises:
        ManifestError: a line before the last does not parse.
    """
    path = _folder(lake_root, name) / HISTORY
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line or number == len(lines):  # without its newline, a line was never finished
            continue
        try:
            events.append(json.loads(line))
        except ValueError as cause:
            raise ManifestError(
                f"{path}, line {number} is not JSON ({cause}); restore the file, versions are the directories beside it"
            ) from cause
    return events


def _stack(lake_root: Path, name: str, tag: str) -> list[int]:
    """Where the tag was, oldest first, with what a rollback undid taken off."""
    stack: list[int] = []
    for event in history(lake_root, name):
        if event.get("tag") != tag:
            continue
        if event["event"] == "tagged":
            stack.append(event["version"])
        elif event["version"] in stack:
            del stack[len(stack) - stack[::-1].index(event["version"]) :]
        else:  # a version that the tag was never at takes the place of the one that was undone
            stack[-1:] = [event["version"]]
    return stack


def _same(lake_root: Path, name: str, fingerprint: str, dataset: str | None) -> Checkpoint | None:
    return next((c for c in checkpoints(lake_root, name) if (c.fingerprint, c.dataset) == (fingerprint, dataset) and c.path.exists()), None)


def _place(part: Path, target: Path) -> None:
    if target.exists():  # a registration that was killed between its rename and its line: nobody has seen it
        shutil.rmtree(target)
    os.rename(part, target)


def _measure(lake_root: Path, found: Checkpoint, metrics: Mapping[str, Any] | None) -> None:
    """Record metrics that the version does not have yet; the caller holds the lock."""
    known = [c.metrics for c in measurements(lake_root, found.name) if c.version == found.version]
    if metrics and dict(metrics) not in known:
        _append(_folder(lake_root, found.name), {"event": "measured", "version": found.version, "metrics": dict(metrics), "at": _now()})


def _copy(source: Path, target: Path) -> None:
    """Copy with links followed (a hub cache is made of links) and files flushed to disk."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        target.mkdir()
        shutil.copy2(source, target)
    for file in sorted(target.rglob("*")):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _folder(lake_root: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise StorageError(f"{name!r} is not a checkpoint name: lower-case letters, digits, `-` and `_`")
    return lake_root / "checkpoints" / name


def _existing(lake_root: Path, name: str) -> Path:
    folder = _folder(lake_root, name)
    if not folder.exists():
        raise CheckpointNotFound(f"no checkpoint {name}; {_there_is(lake_root, name)}")
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """One writer a name at a time, over all processes of this machine."""
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _append(folder: Path, event: Mapping[str, Any]) -> None:
    try:
        line = json.dumps(event, allow_nan=False, ensure_ascii=False).encode() + b"\n"
    except (TypeError, ValueError) as cause:
        raise StorageError(f"checkpoint {folder.name}: metrics must be JSON: {cause}") from cause
    path = folder / HISTORY
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(file.seek(file.read().rfind(b"\n") + 1))  # what a crash cut off in the middle was never an event
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _there_is(lake_root: Path, name: str) -> str:
    known = checkpoints(lake_root, name)
    if known:
        return "there is " + ", ".join(" ".join([c.ref, *(f"({tag})" for tag in c.tags)]) for c in known)
    names = sorted({c.name for c in checkpoints(lake_root)})
    return f"the registry has {', '.join(names) or 'no checkpoint yet; `pairmill run train` makes one'}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
