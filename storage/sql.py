"""SQL for people: reads the lake, and by DuckDB's own settings can do nothing else.

The query runs in a DuckDB of its own, an empty read-only database without extensions, whose access to anything outside is switched off and
whose configuration is locked. The lake is not attached to it. What it sees are Arrow datasets over the lake's Parquet files, which Arrow
opens and DuckDB pulls columns and filters through: DuckDB itself needs no path, so none is allowed. Attaching the lake read-only
and allowing its directory was tried and leaks: `COPY … TO` writes into an allowed directory, and `sqlite_scan` opens any SQLite file
of the machine whatever the settings say.

    prompts, generations, judgments, nodes the facts, as they are now
    releases, tags                         the versions and the history of the tags
    "<dataset>", "<dataset>@<version>"     the pairs of a version, the newest without a number
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pyarrow as pa

from storage.columns import literal
from storage.errors import StorageError
from storage.extensions import connect
from storage.facts import FACTS
from storage.lake import Lake, clear_errors, first_line, tables
from storage.versions import list_datasets, log, resolve

if TYPE_CHECKING:
    import pyarrow.dataset as pads

ALLOWED = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


def query(lake: Lake, sql: str) -> pl.DataFrame:
    """The result of one statement that reads: `SELECT`, `FROM`, `WITH`, `VALUES`, `DESCRIBE`, `SUMMARIZE`, `SHOW TABLES`, `EXPLAIN`.

    Raises:
        StorageError: the query is wrong, names a table that is not there, or tries to write or to reach a file.
    """
    sources = {**_facts(lake), **_versions(lake, sql)}
    with tempfile.TemporaryDirectory(prefix="pairmill-sql-") as place:
        con = jail(Path(place), sources)
        try:
            kinds = [statement.type for statement in con.extract_statements(sql)]
            # For the error's sake: what the settings would let pass without any effect (a temporary table, BEGIN) says so too.
            if len(kinds) != 1 or kinds[0] not in ALLOWED:
                con.execute(sql)
                raise StorageError(
                    f"sql: {', '.join(kind.name for kind in kinds) or 'nothing'} is not one statement that reads, such as SELECT"
                )
            return con.sql(sql).pl()
        except duckdb.Error as error:
            there = f"; there are {', '.join(sorted(sources))}" if isinstance(error, duckdb.CatalogException) else ""
            raise StorageError(f"sql: {first_line(error)}{there}") from error
        finally:
            con.close()


def jail(place: Path, sources: Mapping[str, pads.Dataset | pa.Table]) -> duckdb.DuckDBPyConnection:
    """A connection that reads these sources and can reach nothing else. `place`: an empty directory for its database and spilled rows."""
    connect(place / "empty.duckdb").close()
    con = connect(place / "empty.duckdb", read_only=True)
    con.execute(f"SET temp_directory = {literal(str(place / 'spill'))}")
    for name, source in sources.items():
        con.register(name, source)
    con.execute("SET python_enable_replacements = false")  # or a table name could mean a variable of the calling code
    con.execute("SET enable_external_access = false")  # no file, no ATTACH, COPY, LOAD or INSTALL; cannot be undone while running
    con.execute("SET lock_configuration = true")
    return con


def _facts(lake: Lake) -> dict[str, pads.Dataset | pa.Table]:
    """The facts as datasets over their files, which only ever grow in number; releases and tags, which are small, as tables."""
    with clear_errors(f"lake {lake.root}: cannot list its tables"), lake.reading() as con:
        there = tables(con)
        found: dict[str, pads.Dataset | pa.Table] = {name: _dataset(con, name) for name in there if name in FACTS}
        for name in ("releases", "tags"):
            found[name] = con.sql(f"FROM lake.{name}").to_arrow_table()
    return found


def _dataset(con: duckdb.DuckDBPyConnection, table: str) -> pads.Dataset:
    """Columns that were added later are null in older files."""
    import pyarrow.dataset as pads  # here, because it imports pandas, which nothing else in a flow needs

    schema = con.sql(f"FROM lake.{table} LIMIT 0").to_arrow_table().schema
    files = con.sql(f"SELECT data_file FROM ducklake_list_files('lake', {literal(table)})").fetchall()
    return pads.dataset([str(row[0]) for row in files], schema=schema, format="parquet")


def _versions(lake: Lake, sql: str) -> dict[str, pads.Dataset]:
    """The newest version of every dataset, and those other versions that the text of the query mentions."""
    import pyarrow.dataset as pads

    found = {}
    for newest in list_datasets(lake):
        named = [release for release in log(lake, newest.name) if release.ref in sql] if f"{newest.name}@" in sql else []
        for name, release in [(newest.name, newest), *((release.ref, release) for release in named)]:
            path = release.frozen / "pairs.parquet"
            if not path.exists():
                resolve(lake, release.ref)
            if name not in (*FACTS, "releases", "tags"):
                found[name] = pads.dataset(path, format="parquet")
    return found
