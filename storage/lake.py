"""The lake: where facts and dataset versions are kept; this file and its readers are the only ones that speak DuckLake.

    <root>/catalog.sqlite   DuckLake's catalog: which Parquet files make up which table at which snapshot
    <root>/data/            those files
    <root>/frozen/          every published version as plain Parquet with a manifest (`storage.frozen`)
    <root>/writer.lock      held (flock) by whoever writes
    <root>/secret           what a judge's nonces derive from; written last, so a directory without it is not yet a lake

All functions are plain: call them in a thread from a flow, and never hold `writing` across an `await`. Deliberately not done: a lake on
a network file system (flock and SQLite's WAL do not work there).

Three kinds of trouble with concurrent writers were measured, and one lock around every write answers all three: "database is locked"
for three commits in four, whatever the busy timeout says; keys inserted twice by two merges of the same new key; orphan deletion that takes
the files of an open transaction. The kernel frees the lock of a killed process.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import polars as pl

from storage.columns import Frame, bring_in, check_rows, columns_of, identifier, line_up, literal
from storage.errors import ManifestError, StorageError
from storage.extensions import connect, extension_path, load_extension
from storage.facts import fact_key

CATALOG = "__ducklake_metadata_lake"
OWN_ENTRIES = (
    "catalog.sqlite",
    "data",
    "frozen",
    "writer.lock",
    "secret",
    "tmp",
    "calls.sqlite",
    "vectors.sqlite",
    "checkpoints",
    "runs",
    "prefect",
)

_TABLES = """
CREATE SCHEMA IF NOT EXISTS lake.datasets;
CREATE TABLE IF NOT EXISTS lake.releases (dataset VARCHAR, version INTEGER, digest VARCHAR, facts_digest VARCHAR, n_pairs BIGINT,
    commit_id VARCHAR, recipe_digest VARCHAR, manifest VARCHAR, author VARCHAR, created_at VARCHAR, reused BOOLEAN);
CREATE TABLE IF NOT EXISTS lake.tags (dataset VARCHAR, tag VARCHAR, version INTEGER, move BIGINT, moved_at VARCHAR);
"""


class Lake:
    """An open lake. Get it from `open_lake`; every method may be called from any thread, and several processes may have it open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._instance: duckdb.DuckDBPyConnection | None = None
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        return f"Lake({str(self.root)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the catalog; the next use opens it again."""
        with self._opening:
            if self._instance is not None:
                self._instance.close()
                self._instance = None

    @property
    def secret(self) -> bytes:
        """32 random bytes, made with the lake and never changed."""
        with clear_errors(f"lake {self.root}: cannot read its secret"):
            text = (self.root / "secret").read_text("ascii", "replace").strip()
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != 32:
            raise ManifestError(f"{self.root / 'secret'} must hold 64 hexadecimal digits; restore it: nonces of judges derive from it")
        return value

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection on which everything is read as of one moment. Results outlive it only when they were fetched whole."""
        with self.connection() as con:
            con.execute("BEGIN")
            yield con

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own, for one thread; a transaction that is open at the end is undone."""
        with self._opening:
            if self._instance is None:
                self._instance = _attach(self.root)
            con = self._instance.cursor()
        try:
            yield con
        except duckdb.FatalException:
            self.close()
            raise
        finally:
            con.close()

    @contextmanager
    def writing(self, what: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """The one writer: the lock, and a transaction in which `commit` must be called; leaving without it undoes everything."""
        with clear_errors(f"{what}: nothing was written to the lake {self.root}"), locked(self.root), self.reading() as con:
            yield con

    def append(self, table: str, frame: Frame, *, commit_id: str, author: str = "pairmill", replacing: str | None = None) -> int:
        """Insert the facts whose id is not there yet, in one transaction, and return how many those were.

        Asking twice is harmless: the ids decide, and `commit_id` only says in the catalog's history which write brought the rows. New
        columns are added to the table, columns that the frame lacks are null. A row with another, non-null value in the column
        `replacing` takes the place of the stored one (a corrected reference); versions keep the row that they were published with.

        Raises:
            StorageError: no such fact table, an id or `prompt_id` that is missing or null, a column whose type does not fit, or no space.
        """
        key = fact_key(table)
        with self.writing(f"append to {table}") as con:
            incoming = bring_in(con, frame)
            rows, different = check_rows(con, table, incoming, key)
            if "prompt_id" not in incoming:
                raise StorageError(f"{table}: the column prompt_id is missing; there are {list(incoming)}")
            target = f"lake.{table}"
            prepare_table(con, target, incoming, what=table)
            if replacing in incoming:
                column = identifier(str(replacing))
                con.execute(
                    f"DELETE FROM {target} AS there WHERE EXISTS (FROM incoming WHERE incoming.{key} = there.{key}"
                    f" AND incoming.{column} IS NOT NULL AND incoming.{column} IS DISTINCT FROM there.{column})"
                )
            once = f"DISTINCT ON ({key}) *" if different < rows else "*"
            # BY NAME: another process may have added a column, and by position the values would then go to the wrong ones.
            added = con.execute(
                f"INSERT INTO {target} BY NAME SELECT {once} FROM incoming"
                f" WHERE NOT EXISTS (FROM {target} AS there WHERE there.{key} = incoming.{key})"
            ).fetchone()
            count = int(added[0]) if added else 0
            if count:
                commit(con, author=author, message=f"append {count} {table}", commit_id=commit_id)
        return count

    def facts(self, table: str, prompt_ids: pl.Series | None = None, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The facts of one table as they are now, of these prompts or of all, ordered by id; no columns when nothing was ever appended."""
        key = fact_key(table)
        with clear_errors(f"lake {self.root}: cannot read {table}"), self.reading() as con:
            if table not in tables(con):
                return pl.DataFrame()
            where = ""
            if prompt_ids is not None and prompt_ids.len():
                bring_in(con, pl.DataFrame({"prompt_id": prompt_ids.cast(pl.String)}), "wanted")
                # The bounds let whole files be passed over, which a semi-join does not.
                low, high = literal(str(prompt_ids.min())), literal(str(prompt_ids.max()))
                where = f"WHERE prompt_id BETWEEN {low} AND {high} AND prompt_id IN (SELECT prompt_id FROM wanted)"
            elif prompt_ids is not None:
                where = "WHERE false"
            shown = "*" if columns is None else ", ".join(map(identifier, columns))
            return con.sql(f"SELECT {shown} FROM lake.{table} {where} ORDER BY {key}").pl()


def open_lake(url: str | Path, *, create: bool = True) -> Lake:
    """The lake in that directory. A missing or empty directory becomes a new lake, unless `create` is off.

    Raises:
        ManifestError: the directory holds something else, or there is none and `create` is off.
        StorageError: it cannot be written, or the URL is not a directory.
    """
    if "://" in str(url) or str(url).startswith(("postgresql:", "s3:")):
        raise StorageError(f"{url}: lakes are directories on a local disk so far; give a path")
    root = Path(url).absolute()
    if root.exists() and not root.is_dir():
        raise ManifestError(f"{root} is a file, not a lake; give a directory")
    entries = sorted(entry.name for entry in root.iterdir()) if root.exists() else []
    if "catalog.sqlite" in entries and "secret" in entries:
        return Lake(root)
    strange = [name for name in entries if not name.startswith(OWN_ENTRIES)]
    if strange:
        raise ManifestError(f"{root} is not a lake: it holds {', '.join(strange[:5])}; give a lake, an empty directory or a new name")
    if not create:
        raise ManifestError(f"there is no lake at {root}; `pairmill run` or `pairmill import` makes one, PAIRMILL_LAKE names another place")
    lake = Lake(root)
    _create(lake)
    return lake


def _create(lake: Lake) -> None:
    """Make the catalog and its first tables; every step may have been done by a process that was killed or is doing it now."""
    root = lake.root
    with clear_errors(f"cannot make a lake at {root}"):
        (root / "data").mkdir(parents=True, exist_ok=True)
        (root / "frozen").mkdir(exist_ok=True)
        with locked(root):
            with lake.connection() as con:
                con.execute("CALL lake.set_option('parquet_compression', 'zstd')")  # the default is snappy, 1.7 times as big
                con.execute("CALL lake.set_option('parquet_compression_level', 1)")  # as small as level 3 on text, two thirds of its time
                con.execute("BEGIN; " + _TABLES + " COMMIT")
            if not (root / "secret").exists():
                draft = root / f"secret.{os.getpid()}"
                draft.touch(mode=0o600)
                draft.write_text(secrets.token_hex(32) + "\n", "ascii")
                draft.replace(root / "secret")


def _attach(root: Path) -> duckdb.DuckDBPyConnection:
    con = connect()
    try:
        load_extension(con, extension_path("ducklake"))
        load_extension(con, extension_path("sqlite_scanner"))
        # Spilled rows go beside the lake, one directory a process: DuckDB's own default is the working directory, under shared names.
        with suppress(OSError):  # who may not write to the lake may still read small things
            (root / "tmp").mkdir(exist_ok=True)
        con.execute(f"SET temp_directory = {literal(str(root / 'tmp' / uuid.uuid4().hex))}")
        # Off, because `verify` must see the bytes on the disk, and the operating system keeps them in memory anyway.
        con.execute("SET enable_external_file_cache = false")
        # Inlining off: each version is real Parquet, and two of DuckLake's open bugs (rows reappear after a delete) are about inlining.
        con.execute(
            f"ATTACH {literal('ducklake:sqlite:' + str(root / 'catalog.sqlite'))} AS lake (DATA_PATH {literal(str(root / 'data') + '/')},"
            " OVERRIDE_DATA_PATH true, META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT 30000, DATA_INLINING_ROW_LIMIT 0)"
        )
    except duckdb.Error as error:
        con.close()
        raise ManifestError(f"{root / 'catalog.sqlite'} is not a lake's catalog: {first_line(error)}") from error
    except StorageError:
        con.close()
        raise
    return con


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Wait for the writer's lock and hold it. Two threads of one process exclude each other too: each opens the file itself."""
    with (root / "writer.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def commit(con: duckdb.DuckDBPyConnection, *, author: str, message: str, commit_id: str) -> None:
    con.execute(f"CALL lake.set_commit_message({literal(author)}, {literal(message)}, extra_info => {literal(commit_id)})")
    con.execute("COMMIT")


def prepare_table(con: duckdb.DuckDBPyConnection, target: str, incoming: Mapping[str, str], *, what: str) -> Mapping[str, str]:
    """Make the table, or add the columns that it lacks; returns its columns."""
    con.execute(f"CREATE TABLE IF NOT EXISTS {target} AS FROM incoming LIMIT 0")
    stored = columns_of(con, target)
    added = line_up(what, stored, incoming)
    for name, kind in added.items():
        con.execute(f"ALTER TABLE {target} ADD COLUMN {identifier(name)} {kind}")
    return {**stored, **added}


def tables(con: duckdb.DuckDBPyConnection, schema: str = "main", snapshot: int | None = None) -> list[str]:
    """The tables of a schema, now or at a snapshot."""
    at = f" AND t.begin_snapshot <= {snapshot}" if snapshot is not None else ""
    rows = con.sql(
        f"SELECT t.table_name FROM {CATALOG}.ducklake_table t JOIN {CATALOG}.ducklake_schema s USING (schema_id)"
        f" WHERE t.end_snapshot IS NULL AND s.schema_name = {literal(schema)}{at} ORDER BY 1"
    ).fetchall()
    return [str(row[0]) for row in rows]


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def clear_errors(doing: str) -> Iterator[None]:
    """What DuckDB, polars and the file system raise, as one line that says what was being done."""
    try:
        yield
    except (duckdb.Error, pl.exceptions.PolarsError, OSError) as error:
        advice = "; free some space and run it again" if any(sign in str(error) for sign in _NO_SPACE) else ""
        raise StorageError(f"{doing}: {first_line(error)}{advice}") from error


_NO_SPACE = ("No space left", "disk is full", "File too large", "Disk quota")
