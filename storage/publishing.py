"""Publish: a frame of pairs becomes the next version of a dataset.

Publishing content that the newest version already has (the same pairs and the same facts) makes no new version: the newest one is returned
with `reused=True`, and the commit id is remembered, so that asking again by commit finds it. The recipe on record stays that of the first.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson
import polars as pl
import pyarrow as pa

from storage import frozen
from storage.columns import SMALL_BYTES, Columns, Frame, bring_in, check_rows, columns_of, identifier, line_up, literal
from storage.digests import SLICE_ROWS, digest_frame, digest_sorted
from storage.errors import StorageError
from storage.facts import FACTS, Chosen, Own, chosen, facts_query
from storage.lake import Lake, clear_errors, commit, prepare_table, tables
from storage.versions import FIELDS, Release, find_by_commit, now, pairs_table, row_of


def publish(
    lake: Lake,
    name: str,
    pairs: Frame,
    *,
    manifest: Mapping[str, Any],
    author: str,
    commit_id: str,
    facts: Own | None = None,
) -> Release:
    """Make the dataset's pairs exactly these, as the next version, and freeze it.

    One transaction holds the pairs and the release's row. A second call with the same `commit_id` writes nothing and returns what the first
    one published, so a run that was killed anywhere may simply be repeated. Only rows that are new, gone or changed are written.

    Args:
        pairs: `pair_id` (text, unique, no nulls), `prompt_id` (text) and any other columns; an empty frame is an empty version.
        manifest: JSON values: recipe, recipe_digest, parents, funnel, gates … Storage adds the keys in `frozen.OWN_KEYS`.
        facts: by fact table, a frame of columns whose values the version's own facts have, or the name of a column that they share with
            its pairs (`storage.facts`); of a table without one, and of all of them where this is null, every fact of the pairs' prompts
            belongs to the version.

    Raises:
        StorageError: a bad name, frame or manifest, a commit id that published another dataset, or no space; nothing is half-written.
    """
    record(lake, name, pairs, manifest=manifest, author=author, commit_id=commit_id, facts=facts)
    release = find_by_commit(lake, commit_id)
    if release is None:
        raise StorageError(f"publish {name}: the commit {commit_id} was made but is not in the lake {lake.root}; run `pairmill doctor`")
    return release


def record(
    lake: Lake,
    name: str,
    pairs: Frame,
    *,
    manifest: Mapping[str, Any],
    author: str,
    commit_id: str,
    facts: Own | None = None,
) -> None:
    """The commit of `publish`, without the frozen copy, which whoever asks for the version next completes."""
    pairs_table(name)  # a name that cannot be one is refused before anything is computed
    which = chosen(facts or {})
    document = _document(manifest, which)
    if not commit_id:
        raise StorageError(f"publish {name}: the commit id is empty; give what names this run, so that a repeated call is recognised")
    with lake.writing(f"publish {name}") as con:
        known = row_of(con, f"commit_id = {literal(commit_id)}")
        if known and known["dataset"] != name:
            raise StorageError(
                f"the commit id {commit_id} published {known['dataset']}@{known['version']} already, not {name}; use a new one"
            )
        if not known:
            with _brought_in(con, lake, name, pairs) as staged:
                row = _new_row(con, name, columns_of(con, "incoming"), pairs, which)
                row |= {"commit_id": commit_id, "manifest": document, "author": author, "created_at": now()}
                if not row["reused"]:
                    _write_pairs(con, name, columns_of(con, "incoming"), staged)
                values = ", ".join(literal(row[each.strip()]) for each in FIELDS.split(","))  # as SQL: a parameter would import pandas
                con.execute(f"INSERT INTO lake.releases ({FIELDS}) VALUES ({values})")
                commit(con, author=author, message=f"publish {name}@{row['version']}", commit_id=commit_id)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What publishing would come to. `reused`: the newest version has this content. The counts are against it: null where there is none."""

    version: int
    digest: str
    reused: bool
    before: str | None
    n_added: int | None
    n_removed: int | None
    n_changed: int | None


def preview(lake: Lake, name: str, pairs: Frame, *, facts: Own | None = None) -> Preview:
    """What `publish` would make of these pairs and the facts that the lake has now; nothing is written.

    Raises:
        StorageError: as `publish`.
    """
    which, target = chosen(facts or {}), pairs_table(name)
    with clear_errors(f"{name}: cannot say what a publish would come to"), lake.reading() as con:
        incoming = bring_in(con, pairs)
        row = _new_row(con, name, incoming, pairs, which)
        found = {"version": row["version"], "digest": row["digest"], "reused": row["reused"]}
        if name not in tables(con, "datasets"):
            return Preview(**found, before=None, n_added=None, n_removed=None, n_changed=None)
        before = f"{name}@{row['version'] - (not row['reused'])}"
        stored = columns_of(con, target)
        added = line_up(name, stored, incoming)
        more = "".join(f", CAST(NULL AS {kind}) AS {identifier(column)}" for column, kind in added.items())
        con.execute(f"CREATE TEMP VIEW stored AS SELECT *{more} FROM {target}")
        _gather_changes(con, "stored", {**stored, **added}, incoming)
        counts = con.sql(
            "SELECT count(*) FILTER (NOT was), count(*) FILTER (NOT now), count(*) FILTER (was AND now) FROM changes"
        ).fetchone()
        n_added, n_removed, n_changed = counts or (0, 0, 0)
        return Preview(**found, before=before, n_added=n_added, n_removed=n_removed, n_changed=n_changed)


def _document(manifest: Mapping[str, Any], which: Chosen) -> str:
    if taken := sorted(frozen.OWN_KEYS & manifest.keys()):
        raise StorageError(f"the manifest's keys {taken} are written by storage; leave them out")
    try:
        return orjson.dumps({**manifest, "facts": which}, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError as error:
        raise StorageError(f"the manifest is not JSON: {error}; give text, numbers, lists and objects") from error


def _new_row(con: duckdb.DuckDBPyConnection, name: str, incoming: Columns, pairs: Frame, which: Chosen) -> dict[str, Any]:
    """What identifies the next version: its number, digests and size."""
    rows, different = check_rows(con, name, incoming, "pair_id")
    if different != rows:
        twice = con.sql("SELECT pair_id FROM incoming GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1").fetchone()
        raise StorageError(f"{name}: {rows - different} of {rows} rows repeat a pair_id, such as {(twice or ('',))[0]}; ids must be unique")
    if incoming.get("prompt_id") != "VARCHAR":
        raise StorageError(
            f"{name}: the column prompt_id must be text, it is {incoming.get('prompt_id', 'missing')}; there are {list(incoming)}"
        )
    if lacking := [f"{table} by {shared}" for table, shared in which.items() if isinstance(shared, str) and shared not in incoming]:
        raise StorageError(f"{name}: the pairs lack the column that names their {', '.join(lacking)}; there are {list(incoming)}")
    if isinstance(pairs, pa.RecordBatchReader):
        digest = digest_sorted(con.sql("FROM incoming ORDER BY pair_id").to_arrow_reader(SLICE_ROWS))
    else:
        digest = digest_frame(pl.DataFrame(pairs), "pair_id")
    facts_digest = _facts_digest(con, which)
    latest = row_of(con, f"dataset = {literal(name)} AND NOT reused ORDER BY version DESC LIMIT 1")
    reused = latest is not None and (latest["digest"], latest["facts_digest"]) == (digest, facts_digest)
    version = (latest["version"] if latest else 0) + (not reused)
    return {"dataset": name, "version": version, "digest": digest, "facts_digest": facts_digest, "n_pairs": rows, "reused": reused}


def _facts_digest(con: duckdb.DuckDBPyConnection, which: Chosen) -> str:
    """Over the ids of the version's facts, which are content ids, and over its prompts, whose reference may change.

    A table of which the version has nothing is as one that is not there: a lake's first tree makes no new version of what has none.
    """
    found = {}
    for table in sorted(FACTS.keys() & set(tables(con))):
        shown = "*" if table == "prompts" else FACTS[table]
        ids = con.sql(f"SELECT {shown} {facts_query(table, pairs='incoming', which=which)}")
        found[table] = digest_sorted(ids.to_arrow_reader(SLICE_ROWS))
    found = {table: digest for table, digest in found.items() if digest != NO_ROWS}
    return hashlib.sha256(orjson.dumps(found, option=orjson.OPT_SORT_KEYS)).hexdigest()


NO_ROWS = digest_sorted([])

PLAIN = frozenset({pl.String, pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Float32, pl.Float64, pl.Null})
"""Column types whose Parquet is the same from polars and from DuckDB."""


@dataclass
class _Staged:
    """A large frame as a Parquet file among the lake's own; `taken`: the lake has it, nobody else may touch it."""

    path: Path
    taken: bool = False


@contextmanager
def _brought_in(con: duckdb.DuckDBPyConnection, lake: Lake, name: str, pairs: Frame) -> Iterator[_Staged | None]:
    """The pairs under the name `incoming`.

    A large frame becomes a file, which polars writes in less than half of the time in which DuckDB would scan the frame and write it, and
    which a new table takes over as it is. DuckLake deletes what it owns, so nobody else may know the file. One that a killed process
    leaves is an orphan, for `gc`.
    """
    if not isinstance(pairs, pl.DataFrame) or pairs.estimated_size() <= SMALL_BYTES or not PLAIN.issuperset(pairs.dtypes):
        bring_in(con, pairs)
        yield None
        return
    staged = _Staged(lake.root / "data" / "datasets" / name / f"ducklake-{uuid.uuid4()}.parquet")
    staged.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # In the streaming engine: it keeps all cores busy, also where the frame is one chunk.
        pairs.lazy().select(pl.exclude(pl.Null)).sink_parquet(staged.path, compression="zstd", compression_level=1)
        con.execute(f"CREATE TEMP VIEW incoming AS FROM read_parquet({literal(str(staged.path))})")
        yield staged
    except BaseException:
        staged.taken = False
        raise
    finally:
        if not staged.taken:
            staged.path.unlink(missing_ok=True)


def _write_pairs(con: duckdb.DuckDBPyConnection, name: str, incoming: Columns, staged: _Staged | None) -> None:
    """Delete what is gone or changed, insert what is new or changed.

    Rows are compared by 128 bits of DuckDB's own hash, computed for both sides here and now, so nothing need be stored for it. Freezing
    checks the outcome against the digest, which is SHA-256.
    """
    target = pairs_table(name)
    first = name not in tables(con, "datasets")
    stored = prepare_table(con, target, incoming, what=name)
    if first and staged is not None:
        frozen.sync(staged.path)
        con.execute(f"CALL ducklake_add_data_files('lake', {literal(name)}, {literal(str(staged.path))}, schema => 'datasets')")
        staged.taken = True
        return
    if first:
        con.execute(f"INSERT INTO {target} BY NAME FROM incoming")
        return
    _gather_changes(con, target, stored, incoming)
    con.execute(f"DELETE FROM {target} WHERE pair_id IN (SELECT pair_id FROM changes WHERE was)")
    con.execute(f"INSERT INTO {target} BY NAME FROM incoming WHERE pair_id IN (SELECT pair_id FROM changes)")


def _gather_changes(con: duckdb.DuckDBPyConnection, target: str, stored: Columns, incoming: Columns) -> None:
    """The temporary table `changes`: the ids whose row is only in `target` (`was`), only in `incoming` (`now`), or another in each."""
    there = ", ".join(map(identifier, stored))
    here = ", ".join(f"CAST({identifier(name) if name in incoming else 'NULL'} AS {kind})" for name, kind in stored.items())
    con.execute(
        "CREATE TEMP TABLE changes AS SELECT coalesce(old.pair_id, new.pair_id) AS pair_id, old.pair_id IS NOT NULL AS was,"
        " new.pair_id IS NOT NULL AS now"
        f" FROM (SELECT pair_id, hash({there}) AS h, hash('again', {there}) AS k FROM {target}) AS old"
        f" FULL JOIN (SELECT pair_id, hash({here}) AS h, hash('again', {here}) AS k FROM incoming) AS new USING (pair_id)"
        " WHERE old.h IS DISTINCT FROM new.h OR old.k IS DISTINCT FROM new.k"
    )
