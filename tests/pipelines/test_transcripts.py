"""`pairmill judge-check --transcripts`: files as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from pipelines.commands.judging import judge_check


def run(*arguments: str) -> Result:
    return CliRunner().invoke(judge_check, arguments)


def row(key: str, letters: str, evaluator: str = "J") -> dict[str, Any]:
    result = {
        f"swap = {swap}": {"completion": [f"Output ({letter})", "stop"], "winner": None}
        for swap, letter in zip((False, True), letters, strict=True)
    }
    return {"id": key, "evaluator": evaluator, "strategy": "Vanilla", "label": 1, "results": [result]}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in rows))
    return str(path)


def test_every_row_is_read_or_counted_with_a_reason(tmp_path: Path) -> None:
    rows = [
        row("1", "ab"),
        row("2", "aa"),
        row("3", "ab", "K"),
        "{broken\n",
        {"id": "4", "evaluator": "J", "strategy": "Vanilla", "results": 5},
    ]
    found = run("--transcripts", write(tmp_path / "t.jsonl", rows), "--json")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert (report["layout"], report["rows"]["read"], report["without_texts"]) == ("llmbar", 3, 3)
    assert sum(report["rows"]["dropped"].values()) == 2
    assert {(one["judge"], one["replies"], one["kept"]["hits"]) for one in report["recordings"]} == {("J", 4, 1), ("K", 2, 1)}


def test_the_texts_come_from_a_file_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [row("1", "ab"), row("2", "ab")])
    texts = [
        {"id": key, "input": "Say it.", "output_1": "one", "output_2": second, "label": 2} for key, second in (("1", "two"), ("2", "one"))
    ]
    shown = run("--transcripts", file, "--gold", write(tmp_path / "g.jsonl", texts))
    assert shown.exit_code == 0, shown.output
    assert "gated 1" in shown.stdout  # two equal texts need no judge
    assert "0.0%" in shown.stdout  # the file's label counts, and it is the other side
    assert "texts are not known" not in shown.stdout


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    other = run("--transcripts", write(tmp_path / "o.jsonl", [{"prompt": "a"}]))
    assert (other.exit_code, "those of no transcript that is known" in other.stderr) == (1, True)
    bad = run("--transcripts", write(tmp_path / "b.jsonl", [{"id": "4", "evaluator": "J", "strategy": "V", "results": 5}]))
    assert (bad.exit_code, "none of its 1 rows is one of llmbar" in bad.stderr) == (1, True)
    assert run("--transcripts", str(tmp_path / "none.jsonl")).exit_code == 1
    assert run("--transcripts", "x", "--judge", "hf:y").exit_code == 2
    assert run().exit_code == 2
