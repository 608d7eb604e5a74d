"""The registry: versions that never change, tags that move and move back, a history that survives a crash."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from storage.checkpoints import checkpoints, history, latest, measurements, promote, register, resolve_checkpoint, rollback
from storage.errors import CheckpointNotFound, ManifestError, StorageError


def model(folder: Path, weights: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


def three(lake: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        register(lake, "math", model(tmp_path / "trained", f"w{number}"), fingerprint=f"f{number}", dataset=f"d@{number}")


def test_a_version_is_a_copy_that_stays_as_it_was(tmp_path: Path) -> None:
    lake, trained = tmp_path / "lake", model(tmp_path / "trained", "w1")
    first = register(lake, "math", trained, fingerprint="f1", parent="f0", dataset="d@1", metrics={"gain": 0.25})
    model(trained, "w2")
    second = register(lake, "math", trained, fingerprint="f2", parent="f1", dataset="d@2")

    assert (first.ref, second.ref) == ("math@1", "math@2")
    assert (first.path / "model.safetensors").read_text() == "w1"
    assert (second.path / "model.safetensors").read_text() == "w2"
    again = resolve_checkpoint(lake, "math@1")
    assert (again.parent, again.dataset, again.metrics) == ("f0", "d@1", {"gain": 0.25})
    assert latest(lake, "math") == resolve_checkpoint(lake, "math") == second


def test_the_same_weights_from_the_same_data_are_registered_once(tmp_path: Path) -> None:
    lake, trained = tmp_path / "lake", model(tmp_path / "trained", "w1")
    first = register(lake, "math", trained, fingerprint="f1", dataset="d@1")
    assert register(lake, "math", trained, fingerprint="f1", dataset="d@1") == first
    assert register(lake, "math", trained, fingerprint="f1", dataset="d@2").version == 2
    assert len(history(lake, "math")) == 2


def test_the_same_weights_measured_again_are_one_version_with_both_metrics(tmp_path: Path) -> None:
    lake, trained = tmp_path / "lake", model(tmp_path / "trained", "w1")
    for gain in (0.1, 0.2, 0.2, 0.1):
        found = register(lake, "math", trained, fingerprint="f1", parent="f0", dataset="d@1", metrics={"gain": gain})
        assert found.version == 1
    promote(lake, "math", 1)
    assert [(c.version, c.metrics, c.parent, c.tags) for c in measurements(lake, "math")] == [
        (1, {"gain": gain}, "f0", ("prod",)) for gain in (0.1, 0.2)
    ]
    assert [c.metrics for c in checkpoints(lake, "math")] == [{"gain": 0.2}]
    assert [e["event"] for e in history(lake, "math")] == ["registered", "measured", "tagged"]
    assert register(lake, "math", trained, fingerprint="f1", dataset="d@1").metrics == {"gain": 0.2}


def test_links_are_followed_so_that_a_cache_can_be_emptied(tmp_path: Path) -> None:
    blobs, snapshot = model(tmp_path / "blobs", "w1"), tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(blobs / "model.safetensors")
    registered = register(tmp_path / "lake", "math", snapshot, fingerprint="f1")
    (blobs / "model.safetensors").unlink()
    assert (registered.path / "model.safetensors").read_text() == "w1"


def test_a_single_file_is_a_checkpoint_too(tmp_path: Path) -> None:
    (tmp_path / "policy.gguf").write_text("weights")
    assert (register(tmp_path / "lake", "math", tmp_path / "policy.gguf", fingerprint="f").path / "policy.gguf").read_text() == "weights"


def test_a_tag_moves_and_moves_back(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    three(lake, tmp_path)
    for version in (1, 2, 3, 3):
        promote(lake, "math", version)
    assert resolve_checkpoint(lake, "math@prod").version == 3
    assert rollback(lake, "math").version == 2
    assert rollback(lake, "math").version == 1
    with pytest.raises(CheckpointNotFound, match=r"math@prod cannot be rolled back.*math@1 \(prod\), math@2, math@3"):
        rollback(lake, "math")
    promote(lake, "math", 3)
    promote(lake, "math", 2)
    assert rollback(lake, "math", version=1).version == 1
    assert checkpoints(lake, "math")[0].tags == ("prod",)
    assert latest(lake, "math").version == 3
    assert [e["event"] for e in history(lake, "math")] == ["registered"] * 3 + ["tagged"] * 3 + ["rolled_back"] * 2 + ["tagged"] * 2 + [
        "rolled_back"
    ]


def test_what_a_rollback_undid_does_not_come_back(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    three(lake, tmp_path)
    promote(lake, "math", 1)
    promote(lake, "math", 3)
    assert rollback(lake, "math", version=2).version == 2, "a version that was never prod"
    assert rollback(lake, "math").version == 1
    with pytest.raises(CheckpointNotFound, match="cannot be rolled back"):
        rollback(lake, "math")


def test_tags_are_independent(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    three(lake, tmp_path)
    promote(lake, "math", 1)
    promote(lake, "math", 2, tag="canary")
    promote(lake, "math", 3)
    assert rollback(lake, "math").version == 1
    assert resolve_checkpoint(lake, "math@canary").version == 2


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("maths", "no checkpoint maths; the registry has math"),
        ("math@9", r"no checkpoint math@9; there is math@1, math@2, math@3"),
        ("math@prod", "no checkpoint math@prod; there is math@1"),
    ],
)
def test_an_unknown_reference_says_what_there_is(tmp_path: Path, ref: str, message: str) -> None:
    three(tmp_path / "lake", tmp_path)
    with pytest.raises(CheckpointNotFound, match=message):
        resolve_checkpoint(tmp_path / "lake", ref)


@pytest.mark.parametrize("ref", ["", "math@", "../x", "Math", "math/1"])
def test_a_reference_that_is_none(tmp_path: Path, ref: str) -> None:
    with pytest.raises(StorageError, match="is not a checkpoint"):
        resolve_checkpoint(tmp_path, ref)


def test_refusals(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with pytest.raises(StorageError, match="there is nothing at"):
        register(lake, "math", tmp_path / "missing", fingerprint="f")
    with pytest.raises(StorageError, match="not a checkpoint name"):
        register(lake, "../math", model(tmp_path / "m", "w"), fingerprint="f")
    with pytest.raises(StorageError, match="metrics must be JSON"):
        register(lake, "math", model(tmp_path / "m", "w"), fingerprint="f", metrics={"gain": float("nan")})
    assert checkpoints(lake) == []
    assert register(lake, "math", model(tmp_path / "m", "w"), fingerprint="f").version == 1
    with pytest.raises(StorageError, match="is not a tag"):
        promote(lake, "math", 1, tag="3")
    with pytest.raises(CheckpointNotFound, match=r"no checkpoint math@7; there is math@1"):
        promote(lake, "math", 7)
    with pytest.raises(CheckpointNotFound, match=r"no checkpoint other; the registry has math"):
        promote(lake, "other", 1)


def test_what_a_crash_left_half_done_is_not_there(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    three(lake, tmp_path)
    folder = lake / "checkpoints" / "math"
    model(folder / "4", "renamed, but its line was never written")
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"event": "registered", "vers')
    assert latest(lake, "math").version == 3
    assert (register(lake, "math", model(tmp_path / "m", "w4"), fingerprint="f4").path / "model.safetensors").read_text() == "w4"
    assert [c.version for c in checkpoints(lake)] == [1, 2, 3, 4]
    assert not list(folder.glob(".part-*"))


def test_a_damaged_history_and_a_deleted_version_say_so(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    three(lake, tmp_path)
    version = latest(lake, "math").path
    for file in version.iterdir():
        file.unlink()
    version.rmdir()
    with pytest.raises(CheckpointNotFound, match=r"math@3 was registered, but its directory .* is gone"):
        latest(lake, "math")
    path = lake / "checkpoints" / "math" / "history.jsonl"
    path.write_bytes(b"garbage\n" + path.read_bytes())
    with pytest.raises(ManifestError, match="line 1 is not JSON"):
        checkpoints(lake, "math")


def _register_five(lake: Path, source: Path, worker: int) -> None:
    for number in range(5):
        register(lake, "math", source, fingerprint=f"{worker}-{number}")


def test_several_processes_at_once_lose_no_version(tmp_path: Path) -> None:
    source = model(tmp_path / "m", "w")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_register_five, args=(tmp_path / "lake", source, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    found = checkpoints(tmp_path / "lake", "math")
    assert [c.version for c in found] == list(range(1, 16))
    assert len({c.fingerprint for c in found}) == 15
