"""Dataset versions: look them up, tag them, list them.

A version is the dataset's pairs and every fact of their prompts at one snapshot of the lake. Snapshots number the whole lake's commits, so
the table `releases` says which dataset and version a commit made. Its row is written by that commit: the row's own snapshot is the
version's, and there is no moment between the two at which a kill could leave one without the other.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import orjson

from storage import frozen
from storage.columns import identifier, literal
from storage.errors import DatasetNotFound, StorageError
from storage.lake import Lake, clear_errors, commit

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
TAG = re.compile(r"[a-z][a-z0-9_.-]{0,99}")
FIELDS = "dataset, version, digest, facts_digest, n_pairs, commit_id, manifest, author, created_at, reused"


@dataclass(frozen=True, kw_only=True)
class Release:
    """One published version.

    `digest` is over the pairs' content, `facts_digest` over the ids of the facts. `frozen` is the directory with `pairs.parquet`,
    the facts' Parquet files and `manifest.json`. `created_at` is UTC in ISO form. `reused`: publishing found the content already there.
    """

    name: str
    version: int
    digest: str
    facts_digest: str
    n_pairs: int
    snapshot: int
    commit_id: str
    manifest: Mapping[str, Any] = field(repr=False)
    frozen: Path
    created_at: str
    author: str
    tags: tuple[str, ...] = ()
    reused: bool = False

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


def pairs_table(name: str) -> str:
    """The dataset's table as SQL; names that could not be a table, a directory and a part of `name@3` alike are refused."""
    if not NAME.fullmatch(name):
        raise StorageError(f"{name!r} cannot name a dataset: allowed are up to 100 of a-z, 0-9, _ and -, beginning with a letter or digit")
    return f"lake.datasets.{identifier(name)}"


def resolve(lake: Lake, ref: str) -> Release:
    """The version that `name` (the newest), `name@3` or `name@prod` means, its frozen copy complete.

    Raises:
        DatasetNotFound: with what there is.
    """
    name, at, which = ref.partition("@")
    if at and not which:
        raise DatasetNotFound(f"{ref!r} names no version; write {name}, {name}@1 or {name}@TAG")
    with clear_errors(f"lake {lake.root}: cannot look up {ref}"), lake.reading() as con:
        rows = _rows(con, f"dataset = {literal(name)} AND NOT reused ORDER BY version")
        if not rows:
            raise DatasetNotFound(_no_dataset(con, name))
        tags = _tags(con, name)
    version = rows[-1]["version"] if not at else int(which) if which.isdecimal() else tags.get(which)
    for row in rows:
        if row["version"] == version:
            return _complete(lake, _release(lake, row, tags))
    have = ", ".join([f"versions 1 to {rows[-1]['version']}", *(f"{tag} (version {at})" for tag, at in sorted(tags.items()))])
    raise DatasetNotFound(f"there is no {ref}; of {name} there are {have}")


def find_by_commit(lake: Lake, commit_id: str) -> Release | None:
    """What that commit published, or null. `reused` where it found the content there already."""
    with clear_errors(f"lake {lake.root}: cannot look up the commit {commit_id}"), lake.reading() as con:
        row = row_of(con, f"commit_id = {literal(commit_id)}")
        if row is None:
            return None
        name = row["dataset"]
        made = row_of(con, f"dataset = {literal(name)} AND version = {row['version']} AND NOT reused") if row["reused"] else row
        tags = _tags(con, name)
    return _complete(lake, replace(_release(lake, made or row, tags), reused=bool(row["reused"])))


def list_datasets(lake: Lake) -> list[Release]:
    """The newest version of every dataset, by name."""
    with clear_errors(f"lake {lake.root}: cannot list the datasets"), lake.reading() as con:
        rows = _rows(con, "NOT reused QUALIFY version = max(version) OVER (PARTITION BY dataset) ORDER BY dataset")
        return [_release(lake, row, _tags(con, row["dataset"])) for row in rows]


def log(lake: Lake, name: str) -> list[Release]:
    """Every version of a dataset, the newest first."""
    with clear_errors(f"lake {lake.root}: cannot read the history of {name}"), lake.reading() as con:
        rows = _rows(con, f"dataset = {literal(name)} AND NOT reused ORDER BY version DESC")
        if not rows:
            raise DatasetNotFound(_no_dataset(con, name))
        tags = _tags(con, name)
        return [_release(lake, row, tags) for row in rows]


def tag(lake: Lake, ref: str, name: str) -> Release:
    """Point the tag `name` at a version. Tags move, versions do not; every move stays in the table `tags`."""
    if not TAG.fullmatch(name):
        raise StorageError(f"{name!r} cannot be a tag: allowed are a-z, 0-9, _, . and -, beginning with a letter (numbers are versions)")
    release = resolve(lake, ref)
    with lake.writing(f"tag {release.ref} as {name}") as con:
        if _tags(con, release.name).get(name) != release.version:
            moves = con.execute("SELECT coalesce(max(move), 0) + 1 FROM lake.tags").fetchone()
            row = [
                release.name,
                name,
                release.version,
                (moves or (1,))[0],
                now(),
            ]
            con.execute(f"INSERT INTO lake.tags (dataset, tag, version, move, moved_at) VALUES ({', '.join(map(literal, row))})")
            commit(con, author="", message=f"tag {release.ref} as {name}", commit_id="")
    return resolve(lake, f"{release.name}@{release.version}")


def now() -> str:
    """UTC in ISO form, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _rows(con: duckdb.DuckDBPyConnection, where: str) -> list[dict[str, Any]]:
    # `snapshot_id` is DuckLake's own column of a row: the commit that wrote it.
    names = [*FIELDS.split(", "), "snapshot"]
    # Literals and not parameters, here and below: to convert a parameter DuckDB imports pandas, which costs a mere look a second and 50 MB.
    found = con.sql(f"SELECT {FIELDS}, snapshot_id FROM lake.releases WHERE {where}").fetchall()
    return [dict(zip(names, row, strict=True)) for row in found]


def row_of(con: duckdb.DuckDBPyConnection, where: str) -> dict[str, Any] | None:
    return next(iter(_rows(con, where)), None)


def _tags(con: duckdb.DuckDBPyConnection, name: str) -> dict[str, int]:
    found = con.sql(
        f"SELECT tag, arg_max(version, move) FROM lake.tags WHERE dataset = {literal(name)} GROUP BY tag ORDER BY tag"
    ).fetchall()
    return {str(each): int(version) for each, version in found}


def _no_dataset(con: duckdb.DuckDBPyConnection, name: str) -> str:
    names = [str(row[0]) for row in con.sql("SELECT DISTINCT dataset FROM lake.releases ORDER BY 1").fetchall()]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return (
        f"there is no dataset {name!r} in the lake: there are {', '.join(names)}{hint}"
        if names
        else f"no dataset {name!r}: the lake is empty"
    )


def _release(lake: Lake, row: Mapping[str, Any], tags: Mapping[str, int]) -> Release:
    known = {key: row[key] for key in ("version", "digest", "facts_digest", "n_pairs", "snapshot", "commit_id", "author", "created_at")}
    manifest = {**orjson.loads(row["manifest"]), **known, "name": row["dataset"], "format": frozen.FORMAT}
    return Release(
        **known,
        name=row["dataset"],
        manifest=manifest,
        frozen=lake.root / "frozen" / row["dataset"] / f"v{row['version']}",
        tags=tuple(each for each, version in tags.items() if version == row["version"]),
    )


def _complete(lake: Lake, release: Release) -> Release:
    """With its frozen copy there (a kill may have come between commit and copy) and the copy's manifest, which lists the files."""
    frozen.freeze(lake, release)
    return replace(release, manifest=frozen.read_manifest(release))
