"""Views of pairs with rationales: only those that passed, in the template's words, and twins with the same rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from curators.judging.prompts import conversation_text
from curators.rationales.prompts import side_text
from storage.errors import ViewError
from storage.handoff import Handoff, open_handoff, write_handoff

VIEWS = ("rationale", "rationale-random-order", "rationale-permuted", "rationale-twin")
Export = Callable[..., Handoff]


def rationale(pair: Any, *, kind: str = "general", state: str = "ok", attempt: int = 0, text: str | None = None) -> dict[str, Any]:
    text = text or f'Because of {pair["pair_id"]} ({kind}).\nIt "says" so.'
    return {
        "rationale_id": f"r-{pair['pair_id']}-{kind}-{state}-{attempt}",
        "prompt_id": pair["prompt_id"],
        "pair_id": pair["pair_id"],
        "kind": kind,
        "attempt": attempt,
        "state": state,
        "text": text,
    }


@pytest.fixture
def pairs(rows: SimpleNamespace) -> list[dict[str, Any]]:
    return [rows.pair(f"question {i}", f"good {i}", f"bad {i}", margin=float(i), split="test" if i >= 8 else "train") for i in range(12)]


@pytest.fixture
def export(make_frozen: Callable[..., Path], tmp_path: Path) -> Export:
    def run(view: str, pairs: Any, rationales: Any, *, form: str = "conversational", name: str = "sums", format: str = "duckdb") -> Handoff:
        root = tmp_path / "frozen" / name / "v1"
        frozen = root if root.exists() else make_frozen(pairs, rationales=rationales, name=name)
        return open_handoff(write_handoff(frozen, tmp_path / f"{name}-{view}-{form}-{format}", view=view, form=form, format=format))

    return run


def test_a_row_is_a_pair_and_its_rationale_in_the_words_of_the_template(export: Export, pairs: list[dict[str, Any]]) -> None:
    handoff = export("rationale", pairs, [rationale(pair) for pair in pairs])
    assert {split: len(handoff.dataset(split)) for split in ("train", "test")} == {"train": 8, "test": 4}
    by_id = {pair["pair_id"]: pair for pair in pairs}
    for row in handoff.dataset("train"):
        pair = by_id[row["pair_id"]]
        number = orjson.loads(pair["prompt"])[0]["content"].split()[1]
        assert row["rationale_prompt"] == [
            {
                "role": "user",
                "content": f"question {number}\n\nWhich of these two responses is preferable and follows the prompt better, and why?\n\n"
                f"The response above:\ngood {number}\n\nor\n\nthe response below:\nbad {number}",
            }
        ]
        assert row["rationale"] == [{"role": "assistant", "content": rationale(pair)["text"]}]
        assert (row["rationale_kind"], row["margin"]) == ("general", pair["margin"])
        assert row["chosen"] == orjson.loads(pair["chosen"])


def test_only_rationales_that_passed_become_rows_and_every_other_pair_says_why(export: Export, pairs: list[dict[str, Any]]) -> None:
    told = [
        rationale(pairs[0]),
        rationale(pairs[1], state="contradicts"),
        rationale(pairs[2], state="leaks_position"),
        rationale(pairs[2], attempt=1, text="Better now."),
        rationale(pairs[3], state="budget_skipped", attempt=1),
        rationale(pairs[3]),
    ]
    handoff = export("rationale", pairs, told)
    assert handoff.about["counts"]["pairs and kinds"] == {"kept": 3, "contradicts": 1, "no_rationale": 8}
    texts = {row["pair_id"]: row["rationale"][0]["content"] for row in handoff.dataset("train")}
    assert set(texts) == {pairs[i]["pair_id"] for i in (0, 2, 3)}
    assert texts[pairs[2]["pair_id"]] == "Better now."


@pytest.mark.parametrize("format", ["duckdb", "parquet", "jsonl"])
def test_the_twin_has_the_same_rows_and_dpos_columns(export: Export, pairs: list[dict[str, Any]], format: str) -> None:
    told = [rationale(pair, kind=kind) for pair in pairs[:7] for kind in ("general", "detailed")]
    found = {view: export(view, pairs, told, format=format).dataset("train") for view in VIEWS}
    kept = [(row["pair_id"], row["rationale_kind"]) for row in found["rationale"]]
    assert len(kept) == 14
    for view in VIEWS[1:]:
        assert [(row["pair_id"], row["rationale_kind"]) for row in found[view]] == kept
    twin = found["rationale-twin"]
    assert {"prompt", "chosen", "rejected", "margin", "p_chosen", "pair_id"} <= set(twin.column_names)
    assert not {"rationale", "rationale_prompt"} & set(twin.column_names)
    same = list(twin.column_names)
    assert [{name: row[name] for name in same} for row in found["rationale"]] == list(twin)


def test_permuted_rationales_are_another_pairs_and_the_order_can_be_drawn(export: Export, pairs: list[dict[str, Any]]) -> None:
    told = [rationale(pair, kind=kind) for pair in pairs for kind in ("general", "detailed")]
    plain, drawn, moved = (export(view, pairs, told).dataset("train") for view in VIEWS[:3])
    for kind in ("general", "detailed"):
        own, other = ([row["rationale"][0]["content"] for row in rows if row["rationale_kind"] == kind] for rows in (plain, moved))
        assert sorted(own) == sorted(other)
        assert all(a != b for a, b in zip(own, other, strict=True))
    assert moved["rationale_prompt"] == plain["rationale_prompt"]
    first = {"above:\ngood" in row["rationale_prompt"][0]["content"] for row in drawn}
    assert first == {True, False}
    assert drawn["rationale"] == plain["rationale"]


def test_texts_alone_in_form_standard(export: Export, pairs: list[dict[str, Any]]) -> None:
    row = export("rationale", pairs, [rationale(pairs[0])], form="standard").dataset("train")[0]
    assert row["rationale_prompt"].startswith("question 0\n\nWhich of these")
    assert row["rationale"] == rationale(pairs[0])["text"]


def test_conversations_and_tool_calls_are_told_as_a_judge_reads_them(export: Export, rows: SimpleNamespace) -> None:
    call = {"function": {"name": "find", "arguments": '{"a": 1}'}}
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "found"},
    ]
    pair = rows.pair(prompt, rows.answer("Here.", reasoning_content="hidden"), rows.answer("", tool_calls=[call]))
    two = rows.pair("q", rows.answer("One.") + rows.question("And?") + rows.answer("Two."), rows.answer("No."))
    handoff = export("rationale", [pair, two], [rationale(pair), rationale(two)])
    for row in handoff.dataset("train"):
        made = pair if row["pair_id"] == pair["pair_id"] else two
        asked = row["rationale_prompt"][0]["content"]
        assert asked.startswith(conversation_text(orjson.loads(made["prompt"])) + "\n\nWhich of")
        assert f"above:\n{side_text(made['chosen'])}\n\nor\n\nthe response below:\n{side_text(made['rejected'])}" in asked


def test_a_version_without_rationales_says_so(export: Export, pairs: list[dict[str, Any]]) -> None:
    with pytest.raises(ViewError, match=r"view rationale needs rationales, and sums@1 has no rationales\.parquet"):
        export("rationale", pairs, [])
    with pytest.raises(ViewError, match="none of the pairs and kinds becomes a row: 1 contradicts, 11 no_rationale"):
        export("rationale", pairs, [rationale(pairs[0], state="contradicts")], name="refused")
