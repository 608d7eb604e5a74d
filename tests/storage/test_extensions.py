from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from storage.errors import StorageError
from storage.extensions import connect, extension_path, load_extension


@pytest.mark.parametrize("where", [100, 0.5, -100])
def test_an_extension_with_one_changed_byte_is_refused(tmp_path: Path, where: float) -> None:
    original = extension_path("sqlite_scanner")
    content = bytearray(original.read_bytes())
    content[int(where * len(content)) if isinstance(where, float) else where] ^= 1
    tampered = tmp_path / original.name
    tampered.write_bytes(content)
    with connect() as con:
        with pytest.raises(
            StorageError, match=r"DuckDB refuses the extension .*sqlite_scanner\.duckdb_extension.*reinstall its wheel"
        ) as caught:
            load_extension(con, tampered)
        assert "\n" not in str(caught.value)
        load_extension(con, original)


def test_unsigned_extensions_stay_off_and_nothing_is_fetched() -> None:
    with connect() as con:
        names = "('allow_unsigned_extensions', 'autoinstall_known_extensions', 'autoload_known_extensions')"
        assert con.sql(f"SELECT DISTINCT value FROM duckdb_settings() WHERE name IN {names}").fetchall() == [("false",)]
        with pytest.raises(duckdb.Error, match="allow_unsigned_extensions"):
            con.execute("SET allow_unsigned_extensions = true")


def test_a_missing_extension_says_which_package() -> None:
    with pytest.raises(StorageError, match=rf"install duckdb-extension-postgres-none=={duckdb.__version__}"):
        extension_path("postgres_none")
