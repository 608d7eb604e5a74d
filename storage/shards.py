"""What a repository on the Hugging Face Hub holds of one version, as a folder: Parquet shards per view and split, and a card.

    <to>/README.md                               the card (`storage.card`)
    <to>/pairmill.json                           what was asked; columns, rows, digest and counts of each view; every file's SHA-256
    <to>/<view>/train-00000-of-00002.parquet     the rows in their order, with the features that `datasets` reads

It is made from the frozen copy of a version alone, and the same order gives the same bytes. A split without rows has no file: `datasets`
has no place for it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from storage.card import card, public
from storage.columns import literal
from storage.errors import DatasetExists, StorageError, ViewError
from storage.frozen import file_digest
from storage.views import VIEWS
from storage.views.files import select_split, write_parquet, write_split
from storage.views.reading import rows_digest
from storage.views.rows import FORMS, SPLITS, Rows, prepare
from storage.views.source import Frozen, read_frozen, tables

FORMAT = 1
ABOUT = "pairmill.json"
SHARD_BYTES = 450_000_000
DEFAULT_VIEWS = ("dpo", "joint", "step", "stepwise", "group", "rationale")
"""What an order without views gets, as far as the version has rows for it: the views that hold what no other of them does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What an export is asked for. No views: `DEFAULT_VIEWS`. Licences and languages are the Hub's identifiers, such as mit and en."""

    repo: str
    views: tuple[str, ...] = ()
    form: str = "conversational"
    licenses: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()


def request_of(frozen: Path, order: Order) -> dict[str, Any]:
    """The order for one version as JSON: two folders of the same request hold the same rows.

    Raises:
        ViewError: there is no such view or form.
        ManifestError: `frozen` is not the frozen copy of a version.
    """
    return _request(read_frozen(frozen), order)


def _request(source: Frozen, order: Order) -> dict[str, Any]:
    if unknown := [view for view in order.views if view not in VIEWS]:
        raise ViewError(f"there is no view {unknown[0]!r}; there are {', '.join(VIEWS)}")
    if order.form not in FORMS:
        raise ViewError(f"there is no form {order.form!r}; there are {', '.join(FORMS)}")
    views = list(dict.fromkeys(order.views or DEFAULT_VIEWS))
    sql = hashlib.sha256("".join(f"{VIEWS[view].keys}{VIEWS[view].rows}" for view in views).encode()).hexdigest()[:16]
    return {
        "format": FORMAT,
        "dataset": source.name,
        "version": source.version,
        "digest": source.digest,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(order).items()},
        "views": views,
        "named": bool(order.views),
        "view_digest": sql,
    }


def write_folder(
    frozen: Path, to: Path, order: Order, *, quality: Sequence[Mapping[str, Any]] = (), shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """Write the folder `to`, which must be new, empty, or of the same request; it appears whole or not at all. Returns its `pairmill.json`.

    Args:
        quality: what the version's judge or searches are like, one row a figure, for the card.
        shard_bytes: about how large a file may be.

    Raises:
        ViewError: the version has no columns or no rows for a view that was asked for, or for none of the default ones.
        DatasetExists: `to` holds something else.
        StorageError: the disk refused; nothing is left behind.
    """
    source, to = read_frozen(frozen), Path(to).resolve()
    request = _request(source, order)
    if (there := _there(to, request)) is not None:
        return there
    part = to.parent / f".{to.name}.part-{uuid.uuid4().hex}"
    try:
        part.mkdir(parents=True)
        about = _fill(part, source, request, quality, shard_bytes)
        os.rename(part, to)
    except OSError as error:
        raise StorageError(f"{to}: {error.strerror or error}; nothing was written. Give another directory, or make room") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return about


def _there(to: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `pairmill.json` of a folder of the same request; null when there is nothing."""
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return None
    try:
        about: dict[str, Any] = json.loads((to / ABOUT).read_bytes())
        same = about["request"] == request
        whole = all(file_digest(to / name) == said["sha256"] for name, said in about["files"].items())
        alone = {path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file()} == {ABOUT, *about["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetExists(f"{to} is there and is no folder of an export; give a new directory") from error
    if not (same and whole and alone):
        raise DatasetExists(f"{to} holds {'a changed' if same else 'another'} export; give a new directory")
    return about


def _fill(part: Path, source: Frozen, request: Mapping[str, Any], quality: Sequence[Mapping[str, Any]], shard_bytes: int) -> dict[str, Any]:
    views, without = {}, {}
    for view in request["views"]:
        try:
            views[view] = _write_view(part, source, view, request["form"], shard_bytes)
        except _Lacking as error:
            if request["named"]:
                raise
            without[view] = str(error)
    if not views:
        raise ViewError(f"{source.ref} has rows for none of the views {', '.join(without)}; the first says: {next(iter(without.values()))}")
    about = {"request": dict(request), "views": views, "without": without, "manifest": public(source.manifest)}
    (part / "README.md").write_text(card(about, quality), encoding="utf-8")
    files = sorted(path for path in part.rglob("*") if path.is_file())
    about["files"] = {path.relative_to(part).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in files}
    (part / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return about


class _Lacking(ViewError):
    """The version has no columns or no rows for a view, which is no fault of a default one. Rows that a form cannot hold are."""


def _write_view(part: Path, source: Frozen, view: str, form: Any, shard_bytes: int) -> dict[str, Any]:
    spill, has_rows = part / ".spill", False
    try:
        with tables(source, VIEWS[view].needs, view=view, spill=spill) as connection:
            try:
                rows = prepare(connection, view, VIEWS[view], form)
            finally:
                has_rows = _has_rows(connection)
            (part / view).mkdir()
            splits = {split: _write_split(connection, part / view, split, rows, shard_bytes) for split in SPLITS}
    except ViewError as error:
        raise error if has_rows else _Lacking(str(error)) from error
    finally:
        shutil.rmtree(spill, ignore_errors=True)
    return {
        "columns": dict(rows.columns),
        "splits": {split: written for split, written in splits.items() if written["rows"]},
        "counts": {unit: dict(fates) for unit, fates in rows.counts.items()},
        "omitted": dict(rows.omitted),
        "notes": dict(rows.notes),
    }


def _has_rows(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether `prepare` found any row for the view, whatever it said of them then."""
    try:
        return connection.execute("SELECT count(*) FROM keys WHERE drop IS NULL").fetchone() != (0,)
    except duckdb.CatalogException:  # it did not come so far
        return False


def _write_split(connection: duckdb.DuckDBPyConnection, folder: Path, split: str, rows: Rows, shard_bytes: int) -> dict[str, Any]:
    """One split as shards of about as many rows each, none much above `shard_bytes`."""
    write_split(connection, folder, "parquet", split, rows)
    whole = folder / f"{split}.parquet"
    n_rows, n_shards = pq.read_metadata(whole).num_rows, math.ceil(whole.stat().st_size / shard_bytes)
    found = {"rows": n_rows, "digest": rows_digest(connection, select_split(folder, "parquet", split, rows.columns), rows.columns)}
    n_shards = min(n_shards, n_rows)
    names = [f"{split}-{number:05d}-of-{n_shards:05d}.parquet" for number in range(n_shards)]
    if n_shards == 1:
        whole.rename(folder / names[0])
        return {**found, "files": names}
    for number, name in enumerate(names):
        low, high = (n_rows * edge // n_shards for edge in (number, number + 1))
        source = f"read_parquet({literal(str(whole))}, file_row_number = true)"
        where = f"file_row_number >= {low} AND file_row_number < {high}"
        select = f"SELECT * EXCLUDE (file_row_number) FROM {source} WHERE {where}"
        write_parquet(connection, select, folder / name, rows.columns)
    whole.unlink()
    return {**found, "files": names}
