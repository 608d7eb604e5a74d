"""`pairmill judge-check --transcripts`: files as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
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
    assert (report["judges"], report["items"], report["what"], len(report["recordings"])) == (2, 3, "pairs", 2)
    assert found.stderr.splitlines()[-1] == "recordings: 2/2"
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


def test_texts_are_counted_by_pair_and_not_by_judge(tmp_path: Path) -> None:
    rows = [row(key, "ab", judge) for key in "12" for judge in "JK"]
    shown = run("--transcripts", write(tmp_path / "t.jsonl", rows)).stdout
    assert "2 recordings of 2 pairs of judge and strategy, on 2 pairs" in shown
    assert "the texts of 2 of the pairs are not known" in shown


def test_the_table_explains_its_columns_and_nothing_that_is_not_there(tmp_path: Path) -> None:
    twice = row("1", "aa")
    twice["results"].append(row("1", "ab")["results"][0])
    shown = run("--transcripts", write(tmp_path / "t.jsonl", [twice, row("2", "ab")])).stdout
    assert "2 recordings of 1 pairs of judge and strategy" in shown
    assert "(round 1, overruled): pairs that the judge was asked about again" in shown
    assert "as the file: replies (of ratings: pairs)" in shown
    assert "votes alike" not in shown
    assert "not understood" not in shown
    assert "read as something else" not in shown
    plain = run("--transcripts", write(tmp_path / "p.jsonl", [row("2", "ab")])).stdout
    assert "overruled" not in plain


def test_rows_stay_lines_in_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    judge = "a judge with a name " * 20
    shown = run("--transcripts", write(tmp_path / "t.jsonl", [row("1", "ab", judge)])).stdout.splitlines()
    (line,) = (line for line in shown if line.startswith("a judge"))
    assert line.startswith(judge)
    assert "Vanilla" in line
    assert not any(len(line) > 1000 for line in shown)


def test_a_limit_takes_the_same_pairs_of_every_judge(tmp_path: Path) -> None:
    rows = [row(str(key), "ab", judge) for key in range(9) for judge in "JK"]
    found = run("--transcripts", write(tmp_path / "t.jsonl", rows), "--limit", "4", "--json")
    other = run("--transcripts", write(tmp_path / "o.jsonl", rows[::-1]), "--limit", "4", "--json")
    report = json.loads(found.stdout)
    assert (report["items"], report["rows"]["read"], [one["items"] for one in report["recordings"]]) == (4, 18, [4, 4])
    figures = [[one["accuracy"] | one["kept"] for one in json.loads(done.stdout)["recordings"]] for done in (found, other)]
    assert figures[0] == figures[1]
    assert json.loads(run("--transcripts", str(tmp_path / "t.jsonl"), "--limit", "0", "--json").stdout)["items"] == 9


def test_options_of_a_live_judge_are_refused_in_one_line(tmp_path: Path) -> None:
    wrong = ("--rubric", "none", "--set", "bounds.x=1", "--to", str(tmp_path / "p.html"), "--map", "a=b", "--lake", "l")
    done = run("--transcripts", write(tmp_path / "t.jsonl", [row("1", "ab")]), *wrong)
    assert done.exit_code == 2
    said = "Error: not for --transcripts, whose judges have been asked already: --rubric, --map, --set, --to, --lake"
    assert done.stderr.strip().splitlines()[-1] == said


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    other = run("--transcripts", write(tmp_path / "o.jsonl", [{"prompt": "a"}]))
    assert (other.exit_code, "those of no transcript that is known" in other.stderr) == (1, True)
    bad = run("--transcripts", write(tmp_path / "b.jsonl", [{"id": "4", "evaluator": "J", "strategy": "V", "results": 5}]))
    assert (bad.exit_code, "none of its 1 rows is one of llmbar" in bad.stderr) == (1, True)
    assert run("--transcripts", str(tmp_path / "none.jsonl")).exit_code == 1
    assert run("--transcripts", "x", "--judge", "hf:y").exit_code == 2
    for judge in (("--transcripts", "x"), ("--judge", "fake:judge", "--gold", "x")):
        below = run(*judge, "--limit", "-1")
        assert (below.exit_code, "'--limit': -1 is not in the range x>=0" in below.stderr) == (2, True)
    assert run().exit_code == 2
