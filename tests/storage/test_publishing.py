from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from storage import Lake, Release, diff, find_by_commit, lineage, list_datasets, open_lake, preview, publish, read_at, resolve, scan, verify
from storage.errors import DigestMismatch, StorageError
from storage.lake import CATALOG

ROWS = 200
PAIRS = pl.DataFrame(
    {
        "pair_id": [f"pair{i:04}" for i in range(ROWS)],
        "prompt_id": [f"prompt{i // 2:04}" for i in range(ROWS)],
        "chosen": [f"answer {i} é" for i in range(ROWS)],
        "rejected": [None if i % 7 == 0 else f"no {i}" for i in range(ROWS)],
        "margin": [i / ROWS for i in range(ROWS)],
    }
)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with open_lake(tmp_path / "lake") as opened:
        yield opened


def published(lake: Lake, pairs: Any, commit_id: str, name: str = "math", **manifest: Any) -> Release:
    return publish(lake, name, pairs, manifest=manifest, author="ada", commit_id=commit_id)


def inserted(lake: Lake, snapshot: int) -> int:
    """How many rows of pairs that commit wrote."""
    with lake.reading() as con:
        found = con.sql(f"SELECT count(*) FROM lake.datasets.math WHERE snapshot_id = {snapshot}").fetchone()
    assert found is not None
    return int(found[0])


def test_a_version_is_its_rows_its_manifest_and_the_snapshot_of_its_commit(lake: Lake) -> None:
    release = published(lake, PAIRS[::-1], "run-1", recipe={"flow": "curate"}, gates=[{"name": "size", "passed": True}])
    assert (release.ref, release.n_pairs, release.author, release.reused, release.tags) == ("math@1", ROWS, "ada", False, ())
    assert scan(release).collect().equals(PAIRS)
    assert read_at(lake, release).equals(PAIRS)
    assert release.manifest["recipe"] == {"flow": "curate"}
    assert release.manifest["digest"] == release.digest
    assert release.manifest["files"]["pairs.parquet"]["rows"] == ROWS
    with lake.reading() as con:
        found = con.sql(f"SELECT snapshot_id FROM {CATALOG}.ducklake_snapshot_changes WHERE commit_extra_info = 'run-1'").fetchall()
    assert found == [(release.snapshot,)]
    assert find_by_commit(lake, "run-1") == resolve(lake, "math") == release
    assert find_by_commit(lake, "run-2") is None


def test_an_old_version_reads_the_same_after_a_new_one(lake: Lake) -> None:
    first = published(lake, PAIRS, "1")
    changed = PAIRS.filter(pl.col("pair_id") > "pair0003").with_columns(
        chosen=pl.when(pair_id="pair0100").then(pl.lit("another answer")).otherwise("chosen"), judge=pl.lit("strict")
    )
    added = changed[-1:].with_columns(pair_id=pl.lit("pair9999"))
    second = published(lake, pl.concat([added, changed]), "2")
    assert second.ref == "math@2"
    assert read_at(lake, first).equals(PAIRS)
    assert scan(resolve(lake, "math@1")).collect().equals(PAIRS)
    assert read_at(lake, second).equals(pl.concat([changed, added]))
    assert verify(lake, "math@1")["ok"]
    assert verify(lake, "math@2")["files"] == {"pairs.parquet": ROWS - 3}


def test_only_changed_rows_are_written(lake: Lake) -> None:
    published(lake, PAIRS, "1")
    second = published(lake, PAIRS.with_columns(rejected=pl.when(pair_id="pair0007").then(pl.lit("")).otherwise("rejected")), "2")
    assert inserted(lake, second.snapshot) == 1
    assert second.n_pairs == ROWS
    third = published(lake, PAIRS.with_columns(margin=-pl.col("margin")), "3")
    assert inserted(lake, third.snapshot) == ROWS - 1  # 0.0 and -0.0 are one number


def test_a_repeated_commit_returns_what_it_made(lake: Lake) -> None:
    first = published(lake, PAIRS, "run")
    second = published(lake, PAIRS[:10], "run-2")
    assert published(lake, PAIRS[:50], "run") == first
    assert resolve(lake, "math") == second
    with pytest.raises(StorageError, match=r"the commit id run published math@1 already, not other"):
        published(lake, PAIRS, "run", name="other")
    with pytest.raises(StorageError, match="the commit id is empty"):
        published(lake, PAIRS, "")


def test_the_same_content_is_the_same_version(lake: Lake) -> None:
    lake.append("prompts", PAIRS.select("prompt_id").unique(), commit_id="facts")
    first = published(lake, PAIRS, "1", recipe="one")
    again = published(lake, PAIRS.sample(fraction=1, shuffle=True, seed=3), "2", recipe="two")
    assert (again.ref, again.reused, again.digest, again.manifest["recipe"]) == ("math@1", True, first.digest, "one")
    assert find_by_commit(lake, "2") == again
    assert [release.version for release in list_datasets(lake)] == [1]
    generation = pl.DataFrame({"generation_id": ["g"], "prompt_id": ["prompt0001"]})
    lake.append("generations", generation, commit_id="more facts")
    child = published(lake, PAIRS, "3")
    assert (child.ref, child.reused, child.digest == first.digest, child.facts_digest == first.facts_digest) == (
        "math@2",
        False,
        True,
        False,
    )
    lake.append("generations", generation.with_columns(generation_id=pl.lit("h"), prompt_id=pl.lit("elsewhere")), commit_id="others")
    assert published(lake, PAIRS, "4").reused
    published(lake, PAIRS[:3], "5")
    assert (published(lake, PAIRS, "6").ref, published(lake, PAIRS, "6").reused) == ("math@4", False)


def test_a_version_holds_the_facts_of_its_prompts_at_its_moment(lake: Lake) -> None:
    prompts = pl.DataFrame({"prompt_id": ["prompt0000", "prompt0001", "stranger"], "messages": ["a", "b", "c"]})
    lake.append("prompts", prompts, commit_id="1")
    release = published(lake, PAIRS[:3], "2")
    lake.append("prompts", pl.DataFrame({"prompt_id": ["prompt0002"]}), commit_id="3")
    lake.append("judgments", pl.DataFrame({"judgment_id": ["j"], "prompt_id": ["prompt0000"]}), commit_id="4")
    assert sorted(path.name for path in release.frozen.iterdir()) == ["manifest.json", "pairs.parquet", "prompts.parquet"]
    assert pl.read_parquet(release.frozen / "prompts.parquet").equals(prompts[:2])
    second = published(lake, PAIRS[:4], "5")
    assert pl.read_parquet(second.frozen / "judgments.parquet")["judgment_id"].to_list() == ["j"]
    assert second.manifest["files"]["judgments.parquet"]["rows"] == 1


def test_a_version_can_name_its_own_facts(lake: Lake) -> None:
    """Another night's samples of the same prompts, and nulls, which equal nulls."""
    nights = pl.DataFrame({"generation_id": ["g1", "g2", "g3"], "prompt_id": ["p1"] * 3, "policy": ["a", "a", "b"], "seed": [1, None, 1]})
    lake.append("generations", nights, commit_id="facts")
    pairs = pl.DataFrame({"pair_id": ["x"], "prompt_id": ["p1"]})
    of = {"policy": ["a"], "seed": [None]}
    own = {"generations": pl.DataFrame(of, schema={"policy": pl.String, "seed": pl.Int64})}
    first = publish(lake, "math", pairs, manifest={}, author="ada", commit_id="1", facts=own)
    assert pl.read_parquet(first.frozen / "generations.parquet")["generation_id"].to_list() == ["g2"]
    assert [row["generation_id"] for row in lineage(lake, "math@1", "x")["generations"]] == ["g2"]
    assert verify(lake, "math@1")["ok"]
    whole = publish(lake, "math", pairs, manifest={}, author="ada", commit_id="2")
    assert whole.version == 2, "the same pairs with other facts are another version"
    assert pl.read_parquet(whole.frozen / "generations.parquet").height == 3


def nodes_of(tree: str, prompt: str, n: int = 3) -> pl.DataFrame:
    """Of a tree the id, prompt and token ids of its nodes."""
    ids = [f"{tree}/{i}" for i in range(n)]
    return pl.DataFrame({"node_id": ids, "tree_id": [tree] * n, "prompt_id": [prompt] * n, "token_ids": [[i, 7] for i in range(n)]})


def test_a_version_holds_the_trees_that_its_pairs_come_from(lake: Lake) -> None:
    """Not another search of the same prompt, nor a tree without a pair; frozen, verified and traced like every fact."""
    trees = [nodes_of("t1", "p1"), nodes_of("t2", "p2"), nodes_of("earlier", "p1"), nodes_of("no pair", "p3")]
    lake.append("nodes", pl.concat(trees), commit_id="facts")
    pairs = pl.DataFrame({"pair_id": ["a", "b", "c"], "prompt_id": ["p1", "p1", "p2"], "tree_id": ["t1", "t1", "t2"]})

    def of_trees(rows: pl.DataFrame, commit_id: str) -> Release:
        return publish(lake, "math", rows, manifest={}, author="ada", commit_id=commit_id, facts={"nodes": "tree_id"})

    first = of_trees(pairs, "1")
    assert first.manifest["facts"] == {"nodes": "tree_id"}
    assert pl.read_parquet(first.frozen / "nodes.parquet").equals(pl.concat(trees[:2]))
    assert verify(lake, "math@1")["files"] == {"pairs.parquet": 3, "nodes.parquet": 6}
    assert [node["node_id"] for node in lineage(lake, "math@1", "a")["nodes"]] == trees[0]["node_id"].to_list()
    assert of_trees(pairs, "2").reused
    other = of_trees(pairs.with_columns(tree_id=pl.col("tree_id").replace({"t1": "earlier"})), "3")
    assert (other.version, other.facts_digest == first.facts_digest) == (2, False)
    shutil.rmtree(first.frozen)
    assert resolve(lake, "math@1").manifest["files"] == first.manifest["files"], "the same bytes, whatever came later"
    with pytest.raises(StorageError, match="math: the pairs lack the column that names their nodes by tree_id"):
        of_trees(pairs.drop("tree_id"), "4")


def test_a_fact_of_a_new_kind_that_the_version_has_none_of_makes_no_new_version(lake: Lake) -> None:
    lake.append("prompts", PAIRS.select("prompt_id").unique(), commit_id="facts")
    published(lake, PAIRS, "1")
    lake.append("nodes", nodes_of("t", "elsewhere"), commit_id="trees")
    assert published(lake, PAIRS, "2").reused
    lake.append("nodes", nodes_of("t2", "prompt0001"), commit_id="more trees")
    assert published(lake, PAIRS, "3").version == 2


def test_a_corrected_reference_reaches_the_next_version_and_no_earlier_one(lake: Lake) -> None:
    pairs = pl.DataFrame({"pair_id": ["x"], "prompt_id": ["p1"]})
    for version, reference in enumerate(("4", "5"), 1):
        rows = pl.DataFrame({"prompt_id": ["p1", "p2"], "reference": [reference, None], "source": [f"file:{version}"] * 2})
        lake.append("prompts", rows, commit_id=str(version), replacing="reference")
        release = publish(lake, "math", pairs, manifest={}, author="ada", commit_id=f"v{version}")
        assert (release.version, release.reused) == (version, False)
        assert pl.read_parquet(release.frozen / "prompts.parquet")["reference"].to_list() == [reference]
    assert lake.facts("prompts")["source"].to_list() == ["file:2", "file:1"], "nothing but the correction was written"
    shutil.rmtree(release.frozen.parent)
    assert pl.read_parquet(resolve(lake, "math@1").frozen / "prompts.parquet")["reference"].to_list() == ["4"]


def test_readers_tables_and_frames_make_the_same_version(lake: Lake) -> None:
    first = published(lake, PAIRS, "1")
    assert published(lake, PAIRS.to_arrow(), "2").reused
    assert published(lake, PAIRS.to_arrow().to_reader(max_chunksize=7), "3").reused
    elsewhere = published(lake, PAIRS.to_arrow().to_reader(max_chunksize=7), "4", name="other")
    assert (elsewhere.ref, elsewhere.digest) == ("other@1", first.digest)


def test_an_empty_version_is_a_version(lake: Lake) -> None:
    release = published(lake, PAIRS[:0], "1")
    assert (release.n_pairs, scan(release).collect().height) == (0, 0)
    assert verify(lake, "math")["ok"]
    assert published(lake, PAIRS, "2").version == 2


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (pl.concat([PAIRS, PAIRS[5:6]]), "1 of 201 rows repeat a pair_id, such as pair0005; ids must be unique"),
        (pl.concat([PAIRS, PAIRS[5:6]]).to_arrow().to_reader(), "1 of 201 rows repeat a pair_id, such as pair0005"),
        (PAIRS.with_columns(pair_id=pl.when(pair_id="pair0001").then(None).otherwise("pair_id")), "1 of 200 rows have no pair_id"),
        (PAIRS.drop("pair_id"), "the id column pair_id must be text, it is missing"),
        (PAIRS.drop("prompt_id"), "the column prompt_id must be text, it is missing"),
        (PAIRS.with_columns(wait=pl.duration(days=1)), "column wait is duration"),
        ([{"pair_id": "a"}], "cannot store a list; give a polars DataFrame"),
    ],
)
def test_frames_that_cannot_be_a_version_are_refused(lake: Lake, pairs: Any, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        published(lake, pairs, "1")
    assert list_datasets(lake) == []


def test_names_and_manifests_that_cannot_be_are_refused(lake: Lake) -> None:
    for name in ("Math", "a b", "../up", "", "-x", "a@1", "a" * 101):
        with pytest.raises(StorageError, match="cannot name a dataset: allowed are"):
            published(lake, PAIRS, "1", name=name)
    with pytest.raises(StorageError, match=r"the manifest's keys \['digest', 'version'\] are written by storage"):
        published(lake, PAIRS, "1", version=3, digest="x")
    with pytest.raises(StorageError, match="the manifest is not JSON"):
        published(lake, PAIRS, "1", when=object())


def test_rows_that_the_catalog_did_not_keep_are_not_frozen(lake: Lake) -> None:
    """The frozen copy is compared with the digest of what was handed in: a wrong row in the catalog cannot become a frozen version."""
    release = published(lake, PAIRS, "1")
    for path in release.frozen.iterdir():
        path.unlink()
    release.frozen.rmdir()
    with lake.writing("spoil") as con:
        con.execute(f"UPDATE lake.releases SET digest = '{'0' * 64}'")
        con.execute("COMMIT")
    with pytest.raises(DigestMismatch, match="the catalog's rows at snapshot"):
        resolve(lake, "math@1")
    assert not release.frozen.exists()


KILLED = """
import os, signal, sys
import polars as pl
import pyarrow.parquet as pq
from storage import open_lake, publish
import storage.publishing, storage.frozen
module, name = {"commit": (storage.publishing, "commit"), "committed": (storage.publishing, "find_by_commit"),
                "rename": (storage.frozen, "_write_durably"), "insert": (storage.publishing, "_write_pairs")}[sys.argv[3]]
before = getattr(module, name)
def die(*arguments, **named):
    if sys.argv[3] == "insert":
        before(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, name, die)
with open_lake(sys.argv[1]) as lake:
    publish(lake, "math", pl.read_parquet(sys.argv[2]), manifest={}, author="ada", commit_id="run")
"""


@pytest.mark.parametrize("moment", ["insert", "commit", "committed", "rename"])
def test_a_publish_that_is_killed_leaves_all_or_nothing_and_can_be_repeated(lake: Lake, tmp_path: Path, moment: str) -> None:
    """Killed after the rows are written, before the commit, after it, and in the middle of the frozen copy."""
    published(lake, PAIRS[:20], "before")
    lake.close()
    PAIRS.write_parquet(tmp_path / "pairs.parquet")
    process = subprocess.run(
        [sys.executable, "-c", KILLED, lake.root, tmp_path / "pairs.parquet", moment], capture_output=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    made = moment in ("committed", "rename")
    assert not (lake.root / "frozen/math/v2").exists()
    assert [release.version for release in list_datasets(lake)] == [2 if made else 1]
    assert verify(lake, "math@1")["ok"]
    release = published(lake, PAIRS, "run")
    assert (release.ref, release.reused) == ("math@2", False)
    assert scan(release).collect().equals(PAIRS)
    assert verify(lake, "math@2")["ok"]
    assert len(list_datasets(lake)) == 1


def test_a_large_new_dataset_is_a_file_of_polars_and_reads_diffs_and_verifies_like_any_other(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.publishing.SMALL_BYTES", 0)
    pairs = PAIRS.with_columns(none=pl.lit(None), kept=pl.lit(True), n=pl.lit(3, pl.Int32))
    first = published(lake, pairs, "1")
    (file,) = (lake.root / "data" / "datasets" / "math").glob("*.parquet")
    assert "Polars" in str(pq.read_metadata(file).created_by)
    assert read_at(lake, first).equals(scan(first).collect())
    assert verify(lake, "math@1")["ok"]
    second = published(lake, pairs.filter(pl.col("pair_id") != "pair0003").with_columns(n=pl.lit(4, pl.Int32)), "2")
    found = diff(lake, "math@1", "math@2")
    assert (second.version, found.n_removed, found.n_changed) == (2, 1, ROWS - 1)
    assert read_at(lake, first).height == ROWS
    lists = pairs.with_columns(scores=pl.lit([1.0, 2.0], pl.List(pl.Float64)))
    assert publish(lake, "lists", lists, manifest={}, author="ada", commit_id="3").n_pairs == ROWS
    assert verify(lake, "lists@1")["ok"]


def test_a_version_holds_its_own_runs_rationales_of_its_own_pairs(lake: Lake) -> None:
    """Not an earlier night's of the same pair, nor one of another pair of the same prompt."""
    wanted = {"rationale_id": "r1", "prompt_id": "p1", "pair_id": "x", "writer": "w", "sampling": "tonight"}
    facts = [wanted, wanted | {"rationale_id": "r2", "sampling": "last night"}, wanted | {"rationale_id": "r3", "pair_id": "y"}]
    lake.append("rationales", pl.DataFrame(facts), commit_id="facts")
    pairs = pl.DataFrame({"pair_id": ["x"], "prompt_id": ["p1"]})
    own = {"rationales": pl.DataFrame({"writer": ["w"], "sampling": ["tonight"]})}
    first = publish(lake, "math", pairs, manifest={}, author="ada", commit_id="1", facts=own)
    assert pl.read_parquet(first.frozen / "rationales.parquet")["rationale_id"].to_list() == ["r1"]
    assert [row["rationale_id"] for row in lineage(lake, "math@1", "x")["rationales"]] == ["r1"]
    none = {"rationales": pl.DataFrame(schema={"writer": pl.String, "sampling": pl.String})}
    assert publish(lake, "math", pairs, manifest={}, author="ada", commit_id="2", facts=none).version == 2


def test_a_preview_says_what_a_publish_comes_to_and_writes_nothing(lake: Lake) -> None:
    first = preview(lake, "math", PAIRS)
    assert (first.version, first.reused, first.before, first.n_added) == (1, False, None, None)
    assert list_datasets(lake) == []
    one = published(lake, PAIRS, "run-1")
    assert first.digest == one.digest
    same = preview(lake, "math", PAIRS[::-1])
    assert (same.version, same.reused, same.n_added, same.n_removed, same.n_changed) == (1, True, 0, 0, 0)
    changed = pl.concat([PAIRS[2:], PAIRS[:1].with_columns(pair_id=pl.lit("new"))]).with_columns(
        margin=pl.when(pl.col("pair_id") == "pair0007").then(9.0).otherwise("margin"), label=pl.lit(None, dtype=pl.String)
    )
    said = preview(lake, "math", changed)
    two = published(lake, changed, "run-2")
    real = diff(lake, "math@1", "math@2")
    assert (said.version, said.digest, said.before) == (2, two.digest, "math@1")
    assert (said.n_added, said.n_removed, said.n_changed) == (real.n_added, real.n_removed, real.n_changed) == (1, 2, 1)
    with pytest.raises(StorageError, match="column margin is VARCHAR"):
        preview(lake, "math", PAIRS.with_columns(pl.col("margin").cast(pl.String)))
