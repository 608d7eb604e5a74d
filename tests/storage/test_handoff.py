"""The hand-off directory: whole or not at all, the same rows in every file format, checked when it is opened."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import DatasetExists, DatasetNotFound, DigestMismatch, ManifestError, StorageError, ViewError
from storage.handoff import FORMATS, load, open_handoff, write_handoff
from storage.lake import open_lake
from storage.publishing import publish
from storage.views.files import reader, select_split

MakeFrozen = Callable[..., Path]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1e-12, "y": "a/b \u2028 😀"}}}


@pytest.fixture
def frozen(make_frozen: MakeFrozen, rows: Any) -> Path:
    pairs = [rows.pair(f"{n} + 1?", str(n + 1), str(n), margin=n / 7, split="test" if n % 4 == 0 else "train") for n in range(12)]
    chat = rows.pair(rows.question("now?"), rows.answer("noon", reasoning_content="sun"), rows.answer(None, tool_calls=[CALL]), tools=[])
    return make_frozen([*pairs, chat])


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_every_format_gives_the_same_rows_features_and_digest(frozen: Path, tmp_path: Path) -> None:
    found = [open_handoff(write_handoff(frozen, tmp_path / kind, view="dpo", format=kind)) for kind in FORMATS]
    data = [handoff.dataset_dict() for handoff in found]
    assert len({handoff.handoff_digest for handoff in found}) == 1
    for other in data[1:]:
        assert {split: part.features for split, part in other.items()} == {split: part.features for split, part in data[0].items()}
        assert {split: part.to_list() for split, part in other.items()} == {split: part.to_list() for split, part in data[0].items()}
    assert found[0].splits == {"train": 10, "test": 3}
    (chat,) = [row for row in data[0]["train"] if row["rejected"][0].get("tool_calls")]
    assert chat["rejected"] == [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    assert chat["chosen"] == [{"role": "assistant", "content": "noon", "reasoning_content": "sun"}]


def test_rows_are_ordered_by_pair_and_do_not_depend_on_the_order_of_the_file(frozen: Path, tmp_path: Path) -> None:
    first = open_handoff(write_handoff(frozen, tmp_path / "a", view="dpo"))
    assert first.dataset("train")["pair_id"][:] == sorted(first.dataset("train")["pair_id"])
    pl.read_parquet(frozen / "pairs.parquet").sample(fraction=1, shuffle=True, seed=3).write_parquet(frozen / "pairs.parquet")
    assert open_handoff(write_handoff(frozen, tmp_path / "b", view="dpo")).handoff_digest == first.handoff_digest
    for view in ("kto", "prompt-only"):
        digests = {open_handoff(write_handoff(frozen, tmp_path / f"{view}{n}", view=view)).handoff_digest for n in range(2)}
        assert len(digests) == 1


def test_handoff_json_says_what_is_there(frozen: Path, tmp_path: Path) -> None:
    about = json.loads((write_handoff(frozen, tmp_path / "out", view="reward") / "handoff.json").read_bytes())
    manifest = json.loads((frozen / "manifest.json").read_bytes())
    assert (about["dataset"], about["version"], about["digest"]) == ("sums", 1, manifest["digest"])
    assert (about["view"], about["form"], about["format"], about["handoff"]) == ("reward", "conversational", "duckdb", 1)
    assert about["columns"] == {"prompt": "messages", "chosen": "json", "rejected": "json", "pair_id": "text", "tools": "json"}
    assert about["omitted"] == {"margin": "null in 1 of 13 rows", "chat_template_kwargs": "null in 13 of 13 rows"}
    assert about["counts"] == {"pairs": {"kept": 13}}
    assert about["files"].keys() == {"data.duckdb"}


def test_the_duckdb_file_stands_alone(frozen: Path, tmp_path: Path) -> None:
    path = write_handoff(frozen, tmp_path / "out", view="dpo")
    with duckdb.connect(str(path / "data.duckdb"), read_only=True) as connection:
        assert {row[0] for row in connection.sql("SHOW TABLES").fetchall()} == {"train", "test", "manifest"}
        assert connection.sql("SELECT count(*) FROM train").fetchone() == (10,)
        assert connection.sql("SELECT DISTINCT prompt[1].role, chosen ->> '$[0].role' FROM test").fetchall() == [("user", "assistant")]
        handoff, version = connection.sql("SELECT handoff, version FROM manifest").fetchone() or ("", "")
    assert json.loads(handoff)["view"] == "dpo"
    assert json.loads(version) == json.loads((frozen / "manifest.json").read_bytes())


def test_files_are_read_only_and_nothing_else_is_left(frozen: Path, tmp_path: Path) -> None:
    for kind in FORMATS:
        path = write_handoff(frozen, tmp_path / "made" / kind, view="sft", format=kind)
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o444}
    assert {path.name for path in (tmp_path / "made").iterdir()} == set(FORMATS)


def test_writing_the_same_again_changes_nothing(frozen: Path, tmp_path: Path) -> None:
    path = write_handoff(frozen, tmp_path / "out", view="dpo")
    before = contents(path)
    assert write_handoff(frozen, tmp_path / "out", view="dpo") == path
    assert contents(path) == before


def test_writers_at_once_leave_one_whole_handoff(frozen: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: write_handoff(frozen, tmp_path / "made" / "out", view="dpo"), range(4)))
    assert paths == {tmp_path / "made" / "out"}
    assert list((tmp_path / "made").iterdir()) == [tmp_path / "made" / "out"]
    assert open_handoff(tmp_path / "made" / "out").splits["train"] == 10


@pytest.mark.parametrize(
    ("prepare", "match"),
    [
        (lambda to, frozen: write_handoff(frozen, to, view="sft"), "another hand-off .view sft; asked for view dpo"),
        (lambda to, frozen: write_handoff(frozen, to, view="dpo", format="jsonl"), "format jsonl; asked for format duckdb"),
        (lambda to, frozen: (to.mkdir(), (to / "mine.txt").write_text("x")), "not empty and holds no whole hand-off"),
        (lambda to, frozen: to.write_text("x"), "is a file"),
    ],
)
def test_a_target_that_holds_something_else_is_refused_and_kept(
    frozen: Path, tmp_path: Path, prepare: Callable[[Path, Path], Any], match: str
) -> None:
    to = tmp_path / "out"
    prepare(to, frozen)
    before = contents(to) if to.is_dir() else to.read_text()
    with pytest.raises(DatasetExists, match=match):
        write_handoff(frozen, to, view="dpo")
    assert (contents(to) if to.is_dir() else to.read_text()) == before


def test_an_empty_directory_is_taken(frozen: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert open_handoff(write_handoff(frozen, tmp_path / "out", view="dpo")).ref == "sums@1"


def test_a_changed_or_missing_file_is_noticed(frozen: Path, tmp_path: Path) -> None:
    path = write_handoff(frozen, tmp_path / "out", view="dpo", format="jsonl")
    file = path / "train.jsonl"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"11", b"12", 1))
    with pytest.raises(DigestMismatch, match=r"train\.jsonl has SHA-256 .* the file was changed"):
        open_handoff(path)
    file.unlink()
    with pytest.raises(DigestMismatch, match=r"train\.jsonl: No such file"):
        open_handoff(path)


def test_what_is_no_handoff_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"handoff\.json: No such file.*pairmill export"):
        open_handoff(tmp_path)
    for text in ("{", "[]", '{"handoff": 1}', "null"):
        (tmp_path / "handoff.json").write_text(text)
        with pytest.raises(ManifestError, match="not that of a hand-off"):
            open_handoff(tmp_path)
    (tmp_path / "handoff.json").write_text('{"handoff": 2}')
    with pytest.raises(ManifestError, match="format version 2, this Pairmill reads 1"):
        open_handoff(tmp_path)


def test_a_frozen_file_that_was_changed_is_refused(frozen: Path, tmp_path: Path) -> None:
    manifest = json.loads((frozen / "manifest.json").read_bytes())
    manifest["files"] = {"pairs.parquet": {"sha256": "0" * 64}}
    (frozen / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DigestMismatch, match=r"pairs\.parquet has SHA-256 .*the manifest of sums@1 says 0000"):
        write_handoff(frozen, tmp_path / "out", view="dpo")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ManifestError, match=r"manifest\.json: cannot be read"):
        write_handoff(tmp_path, tmp_path / "out", view="dpo")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"view": "dpoo"}, ViewError, "no view 'dpoo'; there are prompt-only, sft, dpo, dpo-ref, reward, kto, joint, group"),
        ({"view": "dpo", "form": "chat"}, ViewError, "no form 'chat'; there are conversational, standard"),
        ({"view": "dpo", "format": "csv"}, StorageError, "no hand-off format 'csv'; there are duckdb, parquet, jsonl"),
    ],
)
def test_unknown_words_are_refused(frozen: Path, tmp_path: Path, options: dict[str, str], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        write_handoff(frozen, tmp_path / "out", **options)


def test_a_place_that_refuses_is_one_error(frozen: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory; nothing was written"):
        write_handoff(frozen, tmp_path / "file" / "out", view="dpo")


def test_a_cache_that_refuses_is_one_error(frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handoff = open_handoff(write_handoff(frozen, tmp_path / "out", view="dpo"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "out" / "handoff.json")
    with pytest.raises(StorageError, match="set HF_DATASETS_CACHE"):
        handoff.dataset()


def test_a_full_disk_is_one_error_and_leaves_nothing(frozen: Path, tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from storage.errors import StorageError
from storage.handoff import write_handoff
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # a write beyond it fails as on a full disk (Python ignores the signal)
try:
    write_handoff(Path(sys.argv[1]), Path(sys.argv[2]), view="dpo")
except StorageError as error:
    print("refused:", str(error).count("\\n"), error)
"""
    to = tmp_path / "made" / "out"
    done = subprocess.run([sys.executable, "-c", script, str(frozen), str(to)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused: 0 ")
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_datasets_loads_the_directory_offline(make_frozen: MakeFrozen, rows: Any, tmp_path: Path, kind: str) -> None:
    from datasets import load_dataset

    frozen = make_frozen([rows.pair(f"{n}?", "yes", "no", split="test" if n == 3 else "train", margin=0.5) for n in range(8)])
    handoff = open_handoff(write_handoff(frozen, tmp_path / "out", view="dpo", format=kind))
    loaded = load_dataset(str(handoff.path), cache_dir=str(tmp_path / "cache"))
    assert {split: part.num_rows for split, part in loaded.items()} == {"train": 7, "test": 1}
    mine = handoff.dataset_dict()
    assert [(row["prompt"], row["chosen"]) for row in loaded["train"]] == [(row["prompt"], row["chosen"]) for row in mine["train"]]


def test_parquet_files_carry_their_features(frozen: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    handoff = open_handoff(write_handoff(frozen, tmp_path / "out", view="dpo", format="parquet"))
    files = {split: str(handoff.path / f"{split}.parquet") for split in handoff.splits}
    loaded = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    for split, part in handoff.dataset_dict().items():
        assert loaded[split].features == part.features
        assert loaded[split].to_list() == part.to_list()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def turn_of(*roles: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"role": st.sampled_from(roles), "content": TEXT | st.none()},
        optional={"name": TEXT, "tool_calls": st.lists(VALUE, max_size=2), "content_parts": VALUE},
    )


# A prompt that ends with a system message is refused: trainers do not take it.
PROMPT = st.tuples(st.lists(turn_of("system", "user", "tool"), max_size=2), turn_of("user", "tool")).map(
    lambda parts: [*parts[0], parts[1]]
)
PROMPTS = st.lists(PROMPT, min_size=1, max_size=3, unique_by=repr)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS, content=TEXT, extra=VALUE, tools=st.none() | st.lists(VALUE, max_size=2))
def test_whatever_messages_hold_is_in_the_files_exactly(
    make_frozen: MakeFrozen, rows: Any, tmp_path_factory: pytest.TempPathFactory, prompts: Any, content: str, extra: Any, tools: Any
) -> None:
    pairs = [rows.pair(prompt, rows.answer(content, extra=extra), "no", tools=tools) for prompt in prompts]
    root = tmp_path_factory.mktemp("any")
    frozen = make_frozen(pairs, version=abs(hash(root)))
    names = ("prompt", "chosen", "tools")
    wanted = {row["pair_id"]: tuple(json.loads(row[name] or "null") for name in names) for row in pairs}
    for kind in FORMATS:
        handoff = open_handoff(write_handoff(frozen, root / kind, view="dpo", format=kind))
        present = [name for name in names if name in handoff.columns]
        with closing(reader(handoff.path, kind)) as connection:
            texts = ", ".join(f"to_json({name})::VARCHAR" for name in present)
            found = connection.sql(
                f"SELECT pair_id, {texts} FROM ({select_split(handoff.path, kind, 'train', handoff.columns)})"
            ).fetchall()
        read = {row[0]: dict(zip(present, map(json.loads, (text or "null" for text in row[1:])), strict=True)) for row in found}
        assert {pair_id: tuple(row.get(name) for name in names) for pair_id, row in read.items()} == wanted


@pytest.fixture
def lake(tmp_path: Path, rows: Any) -> Path:
    from curators.schema import PAIRS

    pairs = [rows.pair(f"{n}?", "yes", "no", split="test" if n % 3 == 0 else "train", margin=0.5) for n in range(9)]
    with open_lake(tmp_path / "lake") as opened:
        publish(opened, "sums", pl.DataFrame(pairs, schema=dict(PAIRS)), manifest={}, author="a", commit_id="c1")
    return tmp_path / "lake"


def test_load_gives_a_version_by_name(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset, DatasetDict

    both = load("sums@1", view="dpo", lake=lake)
    assert isinstance(both, DatasetDict)
    assert both.num_rows == {"train": 6, "test": 3}
    monkeypatch.setenv("PAIRMILL_LAKE", str(lake))
    train = load("sums", view="dpo", split="train")
    assert isinstance(train, Dataset)
    assert train.to_list() == both["train"].to_list()
    assert load("sums", view="dpo", split="test", form="standard")["chosen"][:] == ["yes"] * 3
    with pytest.raises(ViewError, match="no split 'dev'; there are train, test"):
        load("sums", view="dpo", split="dev")
    with pytest.raises(DatasetNotFound):
        load("nothing@1", view="dpo")


def test_load_and_the_handoff_of_a_version_hold_the_same(lake: Path, tmp_path: Path) -> None:
    from storage.versions import resolve

    with open_lake(lake) as opened:
        release = resolve(opened, "sums@1")
    handoff = open_handoff(write_handoff(release.frozen, tmp_path / "out", view="kto"))
    assert handoff.digest == release.digest
    loaded = load("sums@1", view="kto", lake=lake)
    assert {split: part.to_list() for split, part in loaded.items()} == {
        split: part.to_list() for split, part in handoff.dataset_dict().items()
    }
    assert loaded["train"].features == handoff.dataset("train").features
