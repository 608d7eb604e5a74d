"""The directory that a training job opens: a view of one version, complete in itself, checked and never changed.

    <to>/handoff.json    which version, view and form; columns, rows and digest of each split, what was dropped and why, the files' SHA-256
    <to>/data.duckdb     tables `train`, `test` and `manifest`; or train.parquet and test.parquet; or train.jsonl and test.jsonl

It is made from the frozen copy of a version alone, so a job depends on no lake and no catalog. It appears whole or not at all, its files
are read-only, and writing the same one to the same place again changes nothing. The digest of a hand-off is over its rows: the same in
every file format and on every machine (the bytes of a `.duckdb` file are not; those of the others are).

    {"handoff": 1, "dataset": "math", "version": 3, "digest": …, "view": "dpo", "form": "conversational", "format": "duckdb",
     "columns": {"prompt": "messages", …}, "features": {…}, "splits": {"train": {"rows": 90, "digest": …}, "test": …},
     "counts": {"pairs": {"kept": 100, "duplicate": 2}}, "omitted": {"margin": "null in 3 of 100 rows"}, "files": {"data.duckdb": {…}}, …}
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from storage.errors import DatasetExists, DigestMismatch, ManifestError, StorageError, ViewError
from storage.views import VIEWS
from storage.views.files import FORMATS, Format, attach, reader, select_split, write_manifest, write_split
from storage.views.reading import features_of, read_dataset, rows_digest
from storage.views.rows import FORMS, SPLITS, Rows, prepare
from storage.views.source import Frozen, read_frozen, tables

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

VERSION = 1
HANDOFF = "handoff.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Handoff:
    """An open hand-off. `about` is the whole of handoff.json; the rest of the fields are its parts."""

    path: Path
    name: str
    version: int
    digest: str
    view: str
    form: str
    format: Format
    columns: Mapping[str, str]
    splits: Mapping[str, int]
    handoff_digest: str
    about: Mapping[str, Any] = field(repr=False)

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"

    def dataset(self, split: str = "train") -> Dataset:
        """One split, memory-mapped. The features are those of handoff.json, whatever the file format.

        Raises:
            ViewError: no such split.
        """
        if split not in self.splits:
            raise ViewError(f"hand-off {self.path}: there is no split {split!r}; there are {', '.join(self.splits)}")
        with closing(reader(self.path, self.format)) as connection:
            select = select_split(self.path, self.format, split, self.columns)
            return read_dataset(connection, select, self.columns, key=self.handoff_digest, split=split)

    def dataset_dict(self) -> DatasetDict:
        """Every split, `train` first."""
        from datasets import DatasetDict

        return DatasetDict({split: self.dataset(split) for split in self.splits})


def write_handoff(frozen: Path, to: Path, *, view: str, form: str = "conversational", format: str = "duckdb") -> Path:
    """Write the hand-off of a frozen version into the directory `to`, which must be new, empty, or hold the same hand-off already.

    Raises:
        ViewError: unknown view or form, the version lacks what the view needs, or rows that the form cannot hold.
        DatasetExists: `to` holds something else.
        ManifestError: `frozen` is not the frozen copy of a version.
        StorageError: unknown format, or the disk refused; nothing is left behind.
    """
    source, to = read_frozen(frozen), Path(to).resolve()
    request = _request(source, view, form, format)
    if _holds(to, request):
        return to
    part = to.parent / f".{to.name}.part-{uuid.uuid4().hex}"
    try:
        part.mkdir(parents=True)
        about = _fill(part, source, request)
        _finish(part, about)
        try:
            os.rename(part, to)
        except OSError:
            if not _holds(to, request):  # else another process was faster with the same
                raise
    except OSError as error:
        raise StorageError(
            f"hand-off {to}: {error.strerror or error}; nothing was written. Give another directory, or make room"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _sync(to.parent)
    return to


def open_handoff(path: Path, *, verify: bool = True) -> Handoff:
    """Read a hand-off directory; its files are hashed and compared unless `verify` is off.

    Raises:
        ManifestError: there is no handoff.json, it is not one, or it is of another format version.
        DigestMismatch: a file is missing or not what handoff.json says.
    """
    path = Path(path)
    try:
        about = json.loads((path / HANDOFF).read_bytes())
        if about["handoff"] != VERSION:
            raise ManifestError(f"{path / HANDOFF} has format version {about['handoff']!r}, this Pairmill reads {VERSION}; export it again")
        handoff = Handoff(
            path=path,
            name=about["dataset"],
            splits={split: described["rows"] for split, described in about["splits"].items()},
            about=about,
            **{name: about[name] for name in ("version", "digest", "view", "form", "format", "columns", "handoff_digest")},
        )
    except OSError as error:
        raise ManifestError(f"{path / HANDOFF}: {error.strerror or error}; give a directory that `pairmill export` wrote") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path / HANDOFF} is not that of a hand-off ({error!r}); export it again") from error
    for name, described in about["files"].items() if verify else ():
        _check_file(path / name, described)
    return handoff


@overload
def load(ref: str, view: str, *, split: None = None, form: str = ..., lake: str | Path | None = ...) -> DatasetDict: ...
@overload
def load(ref: str, view: str, *, split: str, form: str = ..., lake: str | Path | None = ...) -> Dataset: ...
def load(
    ref: str, view: str, *, split: str | None = None, form: str = "conversational", lake: str | Path | None = None
) -> DatasetDict | Dataset:
    """A view of a published version: a `DatasetDict` of its splits, or with `split` one `Dataset`.

    Args:
        ref: `name`, `name@3` or `name@prod`.
        lake: its directory; null: `PAIRMILL_LAKE`, else `./lake`.

    Raises:
        DatasetNotFound, ViewError: as their messages say.
    """
    from storage.lake import open_lake
    from storage.versions import resolve

    with open_lake(lake or os.environ.get("PAIRMILL_LAKE") or "lake", create=False) as opened:
        source = read_frozen(resolve(opened, ref).frozen)
    request = _request(source, view, form, "duckdb")
    if split not in (None, *SPLITS):
        raise ViewError(f"{source.ref}, view {view}: there is no split {split!r}; there are {', '.join(SPLITS)}")
    key = hashlib.sha256(_json({**request, "manifest": source.manifest_sha256})).hexdigest()
    with tempfile.TemporaryDirectory(prefix="pairmill-") as spill, tables(source, VIEWS[view].needs, view=view, spill=Path(spill)) as con:
        rows = prepare(con, view, VIEWS[view], request["form"])
        found = {
            each: read_dataset(con, rows.of_split(each), rows.columns, key=key, split=each) for each in ((split,) if split else SPLITS)
        }
    if split:
        return found[split]
    from datasets import DatasetDict

    return DatasetDict(found)


def _request(source: Frozen, view: str, form: str, format: str) -> dict[str, Any]:
    """What was asked for: two hand-offs with the same request hold the same rows."""
    if view not in VIEWS:
        raise ViewError(f"there is no view {view!r}; there are {', '.join(VIEWS)}")
    if form not in FORMS:
        raise ViewError(f"view {view}: there is no form {form!r}; there are {', '.join(FORMS)}")
    if format not in FORMATS:
        raise StorageError(f"there is no hand-off format {format!r}; there are {', '.join(FORMATS)}")
    sql = hashlib.sha256(f"{VIEWS[view].keys}{VIEWS[view].rows}".encode()).hexdigest()[:16]
    return {
        "handoff": VERSION,
        "dataset": source.name,
        "version": source.version,
        "digest": source.digest,
        "view": view,
        "form": form,
        "format": format,
        "view_digest": sql,
    }


def _holds(to: Path, request: Mapping[str, Any]) -> bool:
    """Whether that hand-off is there; false when there is nothing."""
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return False
    if not to.is_dir():
        raise DatasetExists(f"{to} is a file; give a new directory")
    try:
        about = open_handoff(to).about
    except (ManifestError, DigestMismatch) as error:
        raise DatasetExists(f"{to} is not empty and holds no whole hand-off ({error}); give a new directory") from error
    if different := [name for name, value in request.items() if about.get(name) != value]:
        shown = [name for name in different if name != "view_digest"] or different
        there = ", ".join(f"{name} {about.get(name)}" for name in shown)
        asked = ", ".join(f"{name} {request[name]}" for name in shown)
        raise DatasetExists(f"{to} holds another hand-off ({there}; asked for {asked}); give a new directory")
    return True


def _fill(part: Path, source: Frozen, request: Mapping[str, Any]) -> dict[str, Any]:
    """Write the data files; returns what handoff.json says, but for the files."""
    name, form, format = request["view"], request["form"], request["format"]
    with tables(source, VIEWS[name].needs, view=name, spill=part / "spill") as connection:
        rows = prepare(connection, name, VIEWS[name], form)
        attach(connection, part, format, read_only=False)
        splits = {}
        for split in SPLITS:
            write_split(connection, part, format, split, rows)
            select = select_split(part, format, split, rows.columns)
            count = connection.execute(f"SELECT count(*) FROM ({select})").fetchone()
            splits[split] = {"rows": count[0] if count else 0, "digest": rows_digest(connection, select, rows.columns)}
        about = _about(source, request, rows, splits)
        write_manifest(connection, format, about, source.manifest)
    shutil.rmtree(part / "spill", ignore_errors=True)
    return about


def _about(source: Frozen, request: Mapping[str, Any], rows: Rows, splits: Mapping[str, Any]) -> dict[str, Any]:
    content = {
        **{name: value for name, value in request.items() if name not in ("format", "view_digest")},
        "columns": dict(rows.columns),
        "splits": dict(splits),
        "counts": {unit: dict(fates) for unit, fates in rows.counts.items()},
    }
    return {
        **request,
        **content,
        "handoff_digest": hashlib.sha256(_json(content)).hexdigest(),
        "features": features_of(rows.columns),
        "omitted": dict(rows.omitted),
        "notes": dict(rows.notes),
        "manifest_sha256": source.manifest_sha256,
    }


def _finish(part: Path, about: dict[str, Any]) -> None:
    """Hash, sync and lock the data files, then write handoff.json beside them."""
    files = sorted(part.iterdir())
    about["files"] = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files}
    (part / HANDOFF).write_bytes(json.dumps(about, indent=1, ensure_ascii=False).encode() + b"\n")
    for file in (*files, part / HANDOFF):
        _sync(file)
        file.chmod(0o444)
    _sync(part)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_file(path: Path, described: Mapping[str, Any]) -> None:
    try:
        found = _sha256(path)
    except OSError as error:
        raise DigestMismatch(f"{path}: {error.strerror or error}, and handoff.json names it; export the hand-off again") from error
    if found != described["sha256"]:
        raise DigestMismatch(f"{path} has SHA-256 {found}, handoff.json says {described['sha256']}; the file was changed: export it again")
