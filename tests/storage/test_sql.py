from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import polars as pl
import pytest

from storage import Lake, open_lake, publish, query
from storage.errors import StorageError
from storage.sql import jail


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with open_lake(tmp_path_factory.mktemp("query") / "lake") as opened:
        opened.append("prompts", pl.DataFrame({"prompt_id": ["p1", "p2"], "messages": ["[1]", "[2]"]}), commit_id="1")
        opened.append("prompts", pl.DataFrame({"prompt_id": ["p3"], "reference": [7]}), commit_id="2")
        opened.append("generations", pl.DataFrame({"generation_id": ["g1"], "prompt_id": ["p1"], "token_ids": [[1, 2]]}), commit_id="3")
        for version in (1, 2):
            pairs = pl.DataFrame({"pair_id": ["a", "b"][:version], "prompt_id": ["p1", "p2"][:version], "margin": [0.5, 0.1][:version]})
            publish(opened, "math-steps", pairs, manifest={}, author="ada", commit_id=f"publish {version}")
        yield opened


def test_facts_pairs_and_releases_have_names(lake: Lake) -> None:
    found = query(lake, "SELECT prompt_id, reference FROM prompts WHERE prompt_id >= 'p2' ORDER BY prompt_id")
    assert found.rows() == [("p2", None), ("p3", 7)]
    assert query(lake, "FROM generations").rows() == [("g1", "p1", [1, 2])]
    joined = query(lake, 'SELECT pair_id, messages FROM "math-steps" JOIN prompts USING (prompt_id) ORDER BY margin')
    assert joined.rows() == [("b", "[2]"), ("a", "[1]")]
    assert query(lake, 'SELECT count(*) FROM "math-steps@1"').item() == 1
    assert query(lake, "SELECT version, author FROM releases ORDER BY version").rows() == [(1, "ada"), (2, "ada")]
    assert query(lake, "SHOW TABLES")["name"].to_list() == ["generations", "math-steps", "prompts", "releases", "tags"]
    assert query(lake, "WITH one AS (FROM prompts) SELECT a.prompt_id FROM one a JOIN one b USING (prompt_id)").height == 3
    assert query(lake, "SELECT 1 WHERE false").height == 0


def escapes(lake: Lake) -> list[str]:
    inside = next((lake.root / "data").rglob("*.parquet"))
    return [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM '/etc/passwd'",
        f"SELECT * FROM read_text('{lake.root}/secret')",
        f"SELECT * FROM read_parquet('{inside}')",
        f"SELECT * FROM sqlite_scan('{lake.root}/catalog.sqlite', 'ducklake_snapshot')",
        f"ATTACH 'ducklake:sqlite:{lake.root}/catalog.sqlite' AS stolen",
        f"ATTACH '{lake.root}/catalog.sqlite' AS stolen (TYPE sqlite)",
        f"COPY prompts TO '{lake.root}/data/new.parquet'",
        f"COPY prompts TO '{inside}'",
        f"COPY (SELECT 1) TO '{lake.root}/out.csv'",
        f"ATTACH '{lake.root}/new.duckdb' AS other",
        f"EXPORT DATABASE '{lake.root}/export'",
        "CREATE TABLE kept (x INTEGER)",
        "CREATE VIEW kept AS SELECT 1",
        "CREATE TABLE lake.kept (x INTEGER)",
        "DELETE FROM prompts",
        "UPDATE prompts SET messages = ''",
        "INSERT INTO prompts VALUES ('x', 'y', 1)",
        "DROP TABLE prompts",
        "LOAD sqlite_scanner",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET allowed_directories = ['/']",
        "RESET enable_external_access",
        "SET threads = 1",
        "PRAGMA enable_external_access = true",
        f"SELECT * FROM enable_profiling(save_location = '{lake.root}/profile.json'), range(3)",
        "SELECT * FROM lake",
        "SELECT getenv('HOME')",
        "CALL dbgen(sf = 0.001)",
    ]


def test_nothing_but_reading_the_lake_is_possible(lake: Lake) -> None:
    before = sorted(path for path in lake.root.rglob("*") if "catalog" not in path.name)
    for sql in escapes(lake)[::3]:
        with pytest.raises(StorageError, match=r"^sql: ") as caught:
            query(lake, sql)
        assert "\n" not in str(caught.value), sql
    assert sorted(path for path in lake.root.rglob("*") if "catalog" not in path.name) == before
    assert query(lake, "FROM prompts").height == 3


def test_it_is_duckdbs_settings_that_hold(lake: Lake, tmp_path: Path) -> None:
    """The same statements on the bare connection, where nobody looks at their text or kind."""
    lake_ = "lake_attached_read_write"
    lake_sources = {"prompts": lake.facts("prompts").to_arrow(), "lake": pl.DataFrame({"x": [1]}).to_arrow()}
    with jail(tmp_path, lake_sources) as con:
        assert con.sql("SELECT count(*) FROM prompts").fetchall() == [(3,)]
        with pytest.raises(duckdb.Error, match="does not exist"):
            con.sql(f"FROM {lake_}")
        for sql in escapes(lake):
            if sql != "SELECT * FROM lake":
                with pytest.raises(duckdb.Error):
                    con.sql(sql).fetchall()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM promts", "Table with name promts does not exist.*; there are generations, math-steps, prompts, releases, tags"),
        ('FROM "math-steps@9"', "Table with name math-steps@9 does not exist"),
        ("SELECT nothing FROM prompts", 'Referenced column "nothing" not found'),
        ("SELEC 1", "syntax error"),
        ("", "nothing is not one statement that reads, such as SELECT"),
        ("BEGIN", "TRANSACTION is not one statement that reads"),
        ("CREATE TEMP TABLE x (i INTEGER)", "CREATE is not one statement that reads"),
        ("SELECT 1; SELECT 2", "SELECT, SELECT is not one statement that reads"),
    ],
)
def test_a_wrong_query_is_one_line(lake: Lake, sql: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        query(lake, sql)
