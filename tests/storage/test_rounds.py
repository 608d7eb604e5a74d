"""Rounds are bound to each other: written once, in order, and read whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import DatasetExists, ManifestError, StorageError
from storage.rounds import Round, add_round, rounds

FIRST = Round(
    name="sums", number=1, chain="c", parent=None, policy="hf-0", dataset="sums@1", dataset_digest="d1", checkpoint="sums@1", trained="hf-1"
)


def chain(root: Path, n: int) -> list[Round]:
    for number in range(1, n + 1):
        parent = rounds(root, "sums")[-1].digest if number > 1 else None
        add_round(
            root, replace(FIRST, number=number, parent=parent, policy=f"hf-{number - 1}", trained=f"hf-{number}", figures={"n": number})
        )
    return rounds(root, "sums")


def test_a_chain_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = chain(tmp_path, 3)
    assert [(each.number, each.trained, each.figures) for each in found] == [(i, f"hf-{i}", {"n": i}) for i in (1, 2, 3)]
    assert [each.parent for each in found] == [None, found[0].digest, found[1].digest]
    assert rounds(tmp_path, "others") == []


def test_the_same_round_again_changes_nothing_and_another_is_refused(tmp_path: Path) -> None:
    found = chain(tmp_path, 2)
    assert add_round(tmp_path, found[0]) == found[0]
    with pytest.raises(DatasetExists, match="round 1 of sums is there and came to something else"):
        add_round(tmp_path, replace(found[0], trained="hf-9"))
    with pytest.raises(ManifestError, match="round 4 of sums does not follow from the 2 rounds"):
        add_round(tmp_path, replace(FIRST, number=4, parent=found[-1].digest))


def test_a_round_that_is_gone_or_changed_blocks_what_follows(tmp_path: Path) -> None:
    chain(tmp_path, 3)
    place = tmp_path / "rounds" / "sums"
    kept = (place / "2.json").read_text()
    (place / "2.json").write_text(kept.replace("hf-2", "hf-7"))
    with pytest.raises(ManifestError, match="round 3 of sums does not follow from the round 2"):
        rounds(tmp_path, "sums")
    (place / "2.json").unlink()
    with pytest.raises(ManifestError, match="round 2 of sums is gone, and round 3 follows from it"):
        rounds(tmp_path, "sums")
    (place / "2.json").write_text("{")
    with pytest.raises(ManifestError, match=r"2\.json: torn"):
        rounds(tmp_path, "sums")


def test_a_name_cannot_leave_the_lake(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not a name of rounds"):
        rounds(tmp_path, "../elsewhere")
