from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.calls import open_ledger
from storage.errors import StorageError
from storage.usage import LedgerReader


def row(key: str, **values: Any) -> dict[str, Any]:
    given = {"key": key, "value": key.encode(), "run_id": "r", "engine": "e:", "fingerprint": "e", "request_key": f"judge/{key}/0/0"}
    return given | {"sent": 1, "prompt_tokens": 7, "completion_tokens": 2, "cost_usd": None, "latency_s": 0.5, **values}


def test_a_reader_sees_answers_and_what_they_took_and_changes_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with open_ledger(path) as ledger:
        ledger.write(answers=[row("a"), row("b", request_key="sample/p", sent=0, prompt_tokens=0), row("c", fingerprint="other")])
    before = path.read_bytes()
    with LedgerReader(path) as reader:
        assert reader.get_many(["a", "z"]) == {"a": b"a"}
        found = reader.recent(["e"])
        assert [(each["request_key"], each["sent"], each["prompt_tokens"]) for each in found] == [("sample/p", 0, 0), ("judge/a/0/0", 1, 7)]
        assert [each["request_key"] for each in reader.recent(["e"], most=1)] == ["sample/p"]
        assert reader.recent([]) == []
        with pytest.raises(AssertionError, match="writes nothing"):
            reader.write()
    assert path.read_bytes() == before


def test_no_ledger_is_an_empty_one_and_something_else_is_refused(tmp_path: Path) -> None:
    with LedgerReader(tmp_path / "none.sqlite") as reader:
        assert (reader.get_many(["a"]), reader.recent(["e"])) == ({}, [])
    assert not (tmp_path / "none.sqlite").exists()
    (tmp_path / "calls.sqlite").write_text("no database, but a text of some length")
    with pytest.raises(StorageError, match="call ledger"):
        LedgerReader(tmp_path / "calls.sqlite")
