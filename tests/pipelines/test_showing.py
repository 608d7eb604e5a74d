"""What a person reads at the end of a run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.commands.output import print_rows
from pipelines.commands.showing import print_outcome

CALLS = {"samples": 8, "hits": 3, "requests": 1200, "failures": 1, "prompt_tokens": 10, "completion_tokens": 20, "usd": None}
STAGE = {"stage": "pairs", "unit": "prompts", "n_in": 4, "n_kept": 3, "dropped": {"tie": 1}}
PUBLISHED: dict[str, Any] = {
    "outcome": "published",
    "dataset": "sums",
    "version": 3,
    "digest": "a" * 64,
    "capped": None,
    "funnel": [STAGE],
    "gates": [],
    "refusal": None,
    "calls": CALLS,
    "seconds": 12.3,
}


def said(outcome: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    print_outcome(outcome)
    return capsys.readouterr().out


def test_a_published_run_says_what_came_of_its_prompts_and_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(PUBLISHED, capsys)
    for part in ("pairs", "1 tie", "published  sums@3  digest aaaaaaaaaaaa", "1,200 sent, 1 failed, 3 samples", "pairmill report sums@3"):
        assert part in text
    assert "early" not in text
    assert "by the cap on calls" in said({**PUBLISHED, "capped": "calls"}, capsys)
    assert "1.50 $" in said({**PUBLISHED, "calls": {**CALLS, "usd": 1.5}}, capsys)


def test_a_refused_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    text = said({**PUBLISHED, "outcome": "refused", "version": None, "digest": None, "refusal": "[min_pairs] 3 of 10"}, capsys)
    assert "refused  [min_pairs] 3 of 10" in text
    assert "next" not in text


def test_a_training_says_what_it_gained(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = {"low": 0.01, "high": 0.05, "gain": 0.03, "accuracy_before": 0.57, "accuracy_after": 0.6, "n_prompts": 400}
    outcome = {"outcome": "trained", "dataset": "sums@3", "checkpoint": "sums@1", "path": "/c/1", "evaluation": evaluation, "seconds": 60.0}
    text = said(outcome, capsys)
    assert "trained  sums@1 from sums@3  /c/1" in text
    assert "57.0% → 60.0%, gain +3.0% (95% interval +1.0% to +5.0%) on 400 unseen prompts" in text


def test_a_wide_table_is_shortened_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"n": i, "text": f"row {i}\n" + "long " * 40} for i in range(12)]
    print_rows(rows, as_json=False, most_rows=10, widest=20)
    text = capsys.readouterr().out
    assert "row 9 long long lon…" in text
    assert "row 10" not in text
    assert "… 2 more rows; --json shows all of them" in text
    print_rows(rows, as_json=True, most_rows=10, widest=20)
    assert json.loads(capsys.readouterr().out) == rows


def test_an_export_says_where_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    sent = {"to": "hf://ann/sums", "tag": "v3", "url": "https://hub/datasets/ann/sums/tree/v3", "commit": "c0ffee", "seconds": 2.0}
    exported = {**sent, "outcome": "exported", "dataset": "sums", "version": 3, "digest": "a" * 64}
    text = said(exported, capsys)
    for part in ("exported  sums@3 → hf://ann/sums, tag v3  digest aaaaaaaaaaaa", "c0ffee", sent["url"]):
        assert part in text
    assert "pairmill report" not in text
    assert "none: the Hub has it already" in said({**exported, "outcome": "reused", "commit": None}, capsys)
