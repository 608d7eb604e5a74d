"""The frozen copy of a version: plain sorted Parquet and a manifest that training jobs read without the catalog.

    <root>/frozen/<name>/v<version>/{pairs,prompts,generations,judgments,nodes,…}.parquet   ordered by id, zstd; always the same bytes
    <root>/frozen/<name>/v<version>/manifest.json            what made the version, and each file's rows and SHA-256

A fact table that did not exist when the version was made has no file. The directory appears whole, by a rename, and is never changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from storage.columns import identifier, literal
from storage.digests import SLICE_ROWS, digest_sorted
from storage.errors import DigestMismatch, ManifestError
from storage.facts import FACTS, facts_query
from storage.lake import Lake, clear_errors, tables

if TYPE_CHECKING:
    from storage.versions import Release

FORMAT = "pairmill-version-1"
OWN_KEYS = frozenset(
    {"format", "name", "version", "digest", "facts_digest", "n_pairs", "snapshot", "commit_id", "author", "created_at", "files", "facts"}
)
"""What storage writes into a manifest; everything else comes from the flow."""


def freeze(lake: Lake, release: Release) -> None:
    """Write the frozen copy where it is missing. Two processes may do it at once: the bytes are the same, and the first rename stands.

    Raises:
        DigestMismatch: the catalog's rows are not those that were published.
    """
    if (release.frozen / "manifest.json").exists():
        return
    draft = release.frozen.parent / f".v{release.version}.{uuid.uuid4().hex}"
    with clear_errors(f"{release.ref} is published, but its frozen copy cannot be written to {release.frozen} (the next use tries again)"):
        draft.mkdir(parents=True)
        try:
            with lake.reading() as con:
                files = {path.name: _described(path, rows) for path, rows in _write(con, release, draft)}
            manifest = {**release.manifest, "files": files}
            _write_durably(draft / "manifest.json", orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
            sync(draft)
            if not (release.frozen / "manifest.json").exists():
                draft.rename(release.frozen)
                sync(release.frozen.parent)
        except OSError:
            if not (release.frozen / "manifest.json").exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _write(con: duckdb.DuckDBPyConnection, release: Release, draft: Path) -> list[tuple[Path, int]]:
    """The files with their row counts; pairs are read back and compared with the release's digest before anything is believed."""
    pairs = f"lake.datasets.{identifier(release.name)} AT (VERSION => {release.snapshot})"
    written = [_copy(con, f"FROM {pairs} ORDER BY pair_id", draft / "pairs.parquet")]
    if digest_of(written[0][0]) != release.digest:
        raise DigestMismatch(f"{release.ref}: the catalog's rows at snapshot {release.snapshot} do not have the digest {release.digest}")
    for table in tables(con, snapshot=release.snapshot):
        if table in FACTS:
            rows = facts_query(table, pairs=pairs, which=release.manifest["facts"], at=f"AT (VERSION => {release.snapshot})")
            written.append(_copy(con, rows, draft / f"{table}.parquet"))
    return written


def _copy(con: duckdb.DuckDBPyConnection, rows: str, path: Path) -> tuple[Path, int]:
    count = con.execute(f"COPY ({rows}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)").fetchone()
    return path, int(count[0]) if count else 0


def _described(path: Path, rows: int) -> dict[str, Any]:
    path.chmod(0o444)
    sync(path)
    return {"rows": rows, "bytes": path.stat().st_size, "sha256": file_digest(path)}


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path) -> str:
    """The content digest of a frozen file, whose rows are in the order of their id."""
    with pq.ParquetFile(path) as file:
        return digest_sorted(file.iter_batches(batch_size=SLICE_ROWS))


def read_manifest(release: Release) -> dict[str, Any]:
    """The manifest of the frozen copy.

    Raises:
        ManifestError: it is missing, torn, or of another format or version.
    """
    path = release.frozen / "manifest.json"
    advice = f"move {release.frozen} away and it is made again from the catalog"
    try:
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}; {advice}") from error
    except orjson.JSONDecodeError as error:
        raise ManifestError(f"{path}: torn or not JSON ({error.msg} at character {error.pos}); {advice}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("files"), dict):
        raise ManifestError(f"{path}: not a manifest of the format {FORMAT}; {advice}")
    for key in ("name", "version", "digest", "facts_digest"):
        if found.get(key) != getattr(release, key):
            raise DigestMismatch(f"{path}: {key} is {found.get(key)!r}, the catalog says {getattr(release, key)!r}; {advice}")
    return found


def scan(release: Release) -> pl.LazyFrame:
    """The version's pairs, lazily, from the frozen copy, ordered by `pair_id`."""
    path = release.frozen / "pairs.parquet"
    if not path.exists():
        raise ManifestError(f"{path} is missing; resolve {release.ref} again to have it made from the catalog")
    return pl.scan_parquet(path)


def verify(lake: Lake, release: Release) -> dict[str, Any]:
    """Hash every frozen file, and compute the content digest from the frozen rows and from the catalog's.

    Raises:
        DigestMismatch: names the file, or the catalog's snapshot, that is not what the manifest says.
    """
    manifest = read_manifest(release)
    for name, said in manifest["files"].items():
        _verify_file(release.frozen / name, said)
    try:
        if digest_of(release.frozen / "pairs.parquet") != release.digest:
            raise DigestMismatch(f"{release.frozen / 'pairs.parquet'}: its rows do not have the digest {release.digest} of {release.ref}")
        with clear_errors(f"{release.ref}: cannot read snapshot {release.snapshot} of the catalog"), lake.reading() as con:
            rows = con.sql(f"FROM lake.datasets.{identifier(release.name)} AT (VERSION => {release.snapshot}) ORDER BY pair_id")
            found = digest_sorted(rows.to_arrow_reader(SLICE_ROWS))
    except pa.ArrowException as error:
        raise DigestMismatch(f"{release.ref}: rows cannot be read: {error}") from error
    if found != release.digest:
        raise DigestMismatch(f"{release.ref}: the catalog's rows at snapshot {release.snapshot} do not have the digest {release.digest}")
    counts = {name: said["rows"] for name, said in manifest["files"].items()}
    return {"name": release.name, "version": release.version, "digest": release.digest, "files": counts, "ok": True}


def _verify_file(path: Path, said: dict[str, Any]) -> None:
    if not path.is_file():
        raise DigestMismatch(f"{path}: the file is missing; the manifest lists it with {said['rows']} rows")
    if path.stat().st_size != said["bytes"] or file_digest(path) != said["sha256"]:
        raise DigestMismatch(f"{path}: its bytes are not those of the manifest (SHA-256 {said['sha256']})")


def _write_durably(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o444)
    sync(path)


def sync(path: Path) -> None:
    """What the path holds is on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
