"""What a version was, what changed between two, and what is behind one row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import duckdb
import polars as pl

from storage import frozen
from storage.columns import literal
from storage.errors import DatasetNotFound, StorageError
from storage.facts import FACTS, facts_query
from storage.lake import Lake, clear_errors, tables
from storage.versions import Release, pairs_table, resolve


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What turns version `before` into version `after`.

    `changes`: `pair_id`, `change` (added | removed | changed), one row an id, ordered by id. `rows`: null, or with `full` the rows
    themselves: `change`, `side` (before | after) and all columns; a changed id has two.
    """

    before: str
    after: str
    n_added: int
    n_removed: int
    n_changed: int
    changes: pl.DataFrame = field(repr=False)
    rows: pl.DataFrame | None = field(default=None, repr=False)


def read_at(lake: Lake, release: Release) -> pl.DataFrame:
    """The version's pairs out of the catalog, ordered by `pair_id`: what was published, whatever has been published since."""
    with clear_errors(f"{release.ref}: cannot read snapshot {release.snapshot}"), lake.reading() as con:
        return con.sql(f"FROM {pairs_table(release.name)} AT (VERSION => {release.snapshot}) ORDER BY pair_id").pl()


def verify(lake: Lake, ref: str) -> dict[str, Any]:
    """Check a version against its manifest: bytes of the frozen files, content of the frozen rows and of the catalog's.

    Raises:
        DigestMismatch: names what is not as published.
    """
    return frozen.verify(lake, resolve(lake, ref))


def diff(lake: Lake, before: str, after: str, *, full: bool = False) -> Difference:
    """Compare two versions of one dataset by the catalog's record of changes: the cost is that of the changes, not of the versions."""
    a, b = resolve(lake, before), resolve(lake, after)
    if a.name != b.name:
        raise StorageError(f"{a.ref} and {b.ref} are versions of different datasets; give two versions of one")
    forward = a.snapshot <= b.snapshot
    added, removed = ("added", "removed") if forward else ("removed", "added")
    old, new = ("before", "after") if forward else ("after", "before")
    with clear_errors(f"cannot compare {a.ref} with {b.ref}"), lake.reading() as con:
        _gather_changes(con, a.name, *sorted((a.snapshot, b.snapshot)), full=full)
        change = f"CASE WHEN was AND now THEN 'changed' WHEN was THEN '{removed}' ELSE '{added}' END AS change"
        changes = con.sql(f"SELECT pair_id, {change} FROM changes ORDER BY pair_id").pl()
        rows = None
        if full:
            rows = con.sql(
                f"SELECT {change}, if(gone, '{old}', '{new}') AS side, feed.* EXCLUDE (rowid, snapshot_id, change_type, gone, step)"
                " FROM feed JOIN changes USING (pair_id) WHERE if(gone, was AND step = first, now AND step = last)"
                " ORDER BY pair_id, side = 'after'"
            ).pl()
    counts = dict(changes["change"].value_counts().iter_rows())
    sizes = {f"n_{kind}": int(counts.get(kind, 0)) for kind in ("added", "removed", "changed")}
    return Difference(before=a.ref, after=b.ref, **sizes, changes=changes, rows=rows)


def _gather_changes(con: duckdb.DuckDBPyConnection, name: str, low: int, high: int, *, full: bool) -> None:
    """Make the temporary tables `feed` (every event after snapshot `low` up to `high`) and `changes` (what they amount to for an id).

    An id was there at `low` if its first event is a deletion, and is there at `high` if its last is an insertion. An id with events in
    several snapshots may have come back as it was: those are compared by content.
    """
    columns = "*" if full else "pair_id, snapshot_id, change_type"
    events = "FROM (SELECT NULL::VARCHAR AS pair_id, 0 AS snapshot_id, '' AS change_type) LIMIT 0"
    if low < high:
        # Never fetch a change feed from `con.execute`: streamed results of a few MB hang for ever, beyond interrupting. A table is safe.
        events = f"SELECT {columns} FROM ducklake_table_changes('lake', 'datasets', {literal(name)}, {low + 1}, {high})"
    elif full:
        events = f"SELECT *, 0 AS snapshot_id, '' AS change_type, 0 AS rowid FROM {pairs_table(name)} AT (VERSION => {low}) LIMIT 0"
    con.execute(
        f"CREATE TEMP TABLE feed AS SELECT *, change_type IN ('delete', 'update_preimage') AS gone,"
        f" snapshot_id * 2 + (change_type NOT IN ('delete', 'update_preimage'))::INTEGER AS step FROM ({events})"
    )
    con.execute(
        "CREATE TEMP TABLE changes AS SELECT pair_id, arg_min(gone, step) AS was, NOT arg_max(gone, step) AS now,"
        " min(step) AS first, max(step) AS last FROM feed GROUP BY pair_id HAVING was OR now"
    )
    again = "SELECT pair_id FROM changes WHERE was AND now AND last - first > 1"
    if con.sql(again).fetchone():
        table = pairs_table(name)
        sides = " UNION ALL BY NAME ".join(f"SELECT * FROM {table} AT (VERSION => {at}) WHERE pair_id IN ({again})" for at in (low, high))
        same = f"SELECT pair_id FROM (SELECT *, count(*) AS n FROM ({sides}) GROUP BY ALL) WHERE n = 2"
        con.execute(f"DELETE FROM changes WHERE pair_id IN ({same})")


def lineage(lake: Lake, ref: str, pair_id: str) -> dict[str, Any]:
    """Every fact behind one pair, as the version has them: `version`, `pair`, `prompt`, and lists ordered by id:
    `generations`, `judgments`, `nodes` (of its search tree), `contrasts` (the attempts whose pair it is).

    A part is null, or an empty list, where the version has no such fact (imported pairs may come without).

    Raises:
        DatasetNotFound: the version has no such pair.
    """
    release = resolve(lake, ref)
    at = f"AT (VERSION => {release.snapshot})"
    with clear_errors(f"{release.ref}: cannot trace {pair_id}"), lake.reading() as con:
        found = con.sql(f"SELECT pair FROM (FROM {pairs_table(release.name)} {at}) AS pair WHERE pair_id = {literal(pair_id)}").fetchone()
        if not found:
            raise DatasetNotFound(f"{release.ref} has no pair {pair_id!r}; it has {release.n_pairs} pairs, which `pairmill sql` lists")
        pair, its_row = found[0], f"(FROM {pairs_table(release.name)} {at} WHERE pair_id = {literal(pair_id)})"
        facts: dict[str, list[dict[str, Any]]] = {table: [] for table in FACTS}
        for table in FACTS.keys() & set(tables(con, snapshot=release.snapshot)):
            about = "pair_id" if table == "contrasts" else None
            its = facts_query(table, pairs=its_row, which=release.manifest["facts"], at=at, about=about)
            facts[table] = [row[0] for row in con.sql(f"SELECT fact FROM ({its}) AS fact").fetchall()]
    prompts = facts.pop("prompts")
    return {"version": release.ref, "pair": pair, "prompt": prompts[0] if prompts else None, **facts}
