"""`pairmill judge-attack`: from a spec to a table, a page and an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from curators.engines.base import Request
from curators.engines.fake import RESPONDERS, Respond
from curators.engines.simulated import shown_texts
from pipelines.cli import main
from pipelines.report.attacks import attack_page

EVIL = "<script>alert(1)</script>"


def attack(lake: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["judge-attack", "--lake", str(lake / "lake"), *arguments])


def obedient(request: Request, sample: int) -> str:
    """Names the answer that tells it to, else the first."""
    told = [i for i, text in enumerate(shown_texts(request)) if "the better one and" in text or "[selected]" in text]
    return f"Verdict: {'AB'[told[0] if told else 0]}"


def found(done: Result) -> dict[str, Any]:
    return dict(json.loads(done.stdout))


FEW = ("--attacks", "dont_know,thought_process,combined", "--limit", "16")


def test_of_a_judge_by_chance_an_empty_answer_that_wins_decides_nothing(tmp_path: Path) -> None:
    page = tmp_path / "out" / "attacks.html"
    done = attack(tmp_path, "--judge", "fake:judge", *FEW, "--json", "--to", str(page))
    assert done.exit_code == 0, done.output
    out = found(done)
    assert (out["outcome"], out["statuses"]) == ("not fooled", {"not decided": 2, "caught": 1})
    assert out["gold"] == {"source": "built-in items", "items": 16, "prompts": 16}
    rows = {row["attack"]: row for row in out["attacks"]}
    assert list(rows) == ["none", "opening", "closing", "newline", "dont_know", "thought_process", "combined"]
    assert rows["thought_process"]["held"] == {"gated": 16}
    assert out["calls"]["requests"] == 16 * 2 * 6 + 1  # the gated ones cost nothing; one call shows what the engine can do
    text = page.read_text()
    assert text.count("<svg") == 1
    assert "What this suite does not show" in text
    assert str(tmp_path) not in text
    assert f"<td>judge</td><td>fake:judge  {out['judge']}</td>" in text
    wins = rows["dont_know"]["wins"]
    cell = f"{wins['share']:.1%} of 16 ({wins['low']:.1%} to {wins['high']:.1%})"
    assert f"<td class=f>{cell}</td>" in text  # an interval stays on one line


def test_a_rerun_is_free_and_strict_says_it_by_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast("dict[str, Respond]", RESPONDERS), "obedient", obedient)
    first = attack(tmp_path, "--judge", "fake:obedient", *FEW, "--json")
    again = attack(tmp_path, "--judge", "fake:obedient", *FEW, "--json", "--strict")
    assert found(again)["attacks"] == found(first)["attacks"]
    assert found(again)["calls"]["requests"] == 0
    assert (first.exit_code, again.exit_code) == (0, 3)


def test_the_table_ends_with_what_the_suite_does_not_show(tmp_path: Path) -> None:
    done = attack(tmp_path, "--judge", "fake:judge", "--attacks", "master key", "--limit", "4", "--rubric", "pointwise", "--strict")
    assert "caught" in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("What this suite does not show")


def test_gold_of_ones_own(tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    rows = [{"q": f"Say {i}{EVIL}", "good": str(i), "bad": f"not {i} {EVIL}"} for i in range(5)]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("--map", "prompt=q", "--map", "chosen=good", "--map", "rejected=bad")
    done = attack(tmp_path, "--judge", "fake:judge", "--gold", str(gold), *columns, "--attacks", "citation", "--json")
    assert done.exit_code == 0, done.output
    out = found(done)
    assert out["gold"]["items"] == 5
    assert "<script" not in attack_page({**out, "engine": EVIL, "judge": EVIL, "gold": {**out["gold"], "source": EVIL}})


def test_the_factorial_design_has_a_table_and_a_picture(tmp_path: Path) -> None:
    page = tmp_path / "design.html"
    arguments = ("--judge", "fake:judge", "--attacks", "factorial", "--limit", "3")
    done = attack(tmp_path, *arguments, "--json", "--to", str(page))
    assert done.exit_code == 0, done.output
    out = found(done)
    assert out["calls"]["requests"] == 32 * 3 * 2 + 1
    assert [row["attack"] for row in out["attacks"]] == ["none"]
    assert (out["factorial"]["unit"], out["factorial"]["n_items"], len(out["factorial"]["effects"])) == ("probability", 3, 15)
    assert sum(out["statuses"].values()) == 5
    text = page.read_text()
    assert "authority x urgency" in text
    assert text.count("<svg") == 1
    assert "Attack by attack" not in text
    shown = attack(tmp_path, *arguments).stdout
    assert "a main effect may reach 0.075" in shown
    assert "format x urgency" in shown
    assert f"main effects: {', '.join(f'{n} {status}' for status, n in out['statuses'].items())}" in shown
    assert f"main effects: {', '.join(f'{n} {status}' for status, n in out['statuses'].items())}" in text
    assert shown.count("no bar") == 1 + 10  # the ten interactions, and the sentence that says what it is
    for place in (shown, text):
        assert "A main effect is within where" in place
        assert "reversal" in place
    assert "no attack was made" not in shown + text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--judge", "fake:judge", "--attacks", "hypnosis"), "['hypnosis'] are not known; there are"),
        (("--judge", "fake:judge", "--gold", "none.jsonl"), "none.jsonl"),
        (("--judge", "fake:judge", "--set", "bounds.min_judge_agreement=1"), "bounds"),
        (("--judge", "nothing:x"), "nothing:x"),
        (("--judge", "fake:judge", "--attacks", "factorial,master key"), "factorial is a design of its own and stands alone"),
    ],
)
def test_mistakes_cost_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = attack(tmp_path, *arguments)
    assert done.exit_code == 1
    assert said in done.output
    assert len(done.output.strip().splitlines()) <= 3


def test_a_limit_below_0_is_wrong_usage_of_that_option(tmp_path: Path) -> None:
    done = attack(tmp_path, "--judge", "fake:judge", "--limit", "-1")
    assert done.exit_code == 2
    assert "'--limit': -1 is not in the range x>=0" in done.output
