"""Rubric files: what the format can express, of ours and of other people's prompts."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from curators.engines.base import Completion
from curators.errors import ConfigError
from curators.judging.prompts import render
from curators.judging.replies import read_text, reply_schema
from curators.judging.rubric import Rubric, load_rubric, parse_rubric

FASTCHAT = Path(__file__).parents[3] / "../shared/data/fastchat_judge_prompts.jsonl.gz"
VALUES = {
    "question": "What is {2} + {{prompt}}?",
    "answer": "4 {answer_b}",
    "answer_a": "4",
    "answer_b": "5 {{first}}",
    "ref_answer_1": "four",
}


def turns(who: str, answers: list[str]) -> str:
    return "\n\n".join(f"### User:\n{question}\n\n### {who}:\n{answer}" for question, answer in zip(["q1", "q2"], answers, strict=True))


CONVERSATIONS = {
    "first": turns("Assistant A", ["a1", "a2"]),
    "second": turns("Assistant B", ["b1", "b2"]),
    "answer": turns("Assistant A", ["a1", "a2"]),
    "reference": turns("Reference answer", ["r1", "r2"]),
}
TURNS = {"question_1": "q1", "question_2": "q2", "answer_1": "a1", "answer_2": "a2", "ref_answer_1": "r1", "ref_answer_2": "r2"}
TURNS |= {"answer_a_1": "a1", "answer_a_2": "a2", "answer_b_1": "b1", "answer_b_2": "b2"}


def as_rubric(row: dict[str, str]) -> Rubric:
    """A FastChat template as a rubric file; a conversation of two turns is shown as one answer."""
    template = re.sub(r"### User:\n\{question_1\}.*?\{((?:ref_)?answer)(_[ab])?_2\}", r"{\1\2}", row["prompt_template"], flags=re.DOTALL)
    ours = {"question": "prompt", "answer_a": "first", "answer_b": "second", "ref_answer_1": "reference", "ref_answer": "reference"}
    user = re.sub(r"\{(\w+)\}", lambda match: f"{{{{{ours.get(match[1], match[1])}}}}}", template)
    kind = {"pairwise": "pairwise", "single": "pointwise"}[row["type"]]
    return parse_rubric(
        f"---\nprotocol: {kind}\nverdict: brackets\nscale: 1-10\n---\n# system\n{row['system_prompt'].strip()}\n\n# user\n{user}\n"
    )


@pytest.mark.skipif(not FASTCHAT.exists(), reason="the shared data are not here")
def test_fastchats_templates_are_rendered_as_fastchat_does() -> None:
    with gzip.open(FASTCHAT, "rt") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 8
    for row in rows:
        rubric = as_rubric(row)
        pair = rubric.protocol == "pairwise"
        several = "multi-turn" in row["name"]
        values: dict[str, Any] = TURNS if several else VALUES
        if several:
            answers = [CONVERSATIONS["first"], CONVERSATIONS["second"]] if pair else [CONVERSATIONS["answer"]]
        else:
            answers = [VALUES["answer_a"], VALUES["answer_b"]] if pair else [VALUES["answer"]]
        reference = CONVERSATIONS["reference"] if several else VALUES["ref_answer_1"]
        messages = render(rubric, prompt=VALUES["question"], answers=answers, reference=reference)
        assert messages[0]["content"] == row["system_prompt"].strip()
        assert messages[1]["content"] == re.sub(r"\{(\w+)\}", lambda match: values[match[1]], row["prompt_template"])  # noqa: B023
        assert rubric.needs_reference == ("math" in row["name"])
        said = read_text(
            rubric, len(answers), Completion(text="Both are short. My final verdict: [[B]]" if pair else "Short. Rating: [[7]]")
        )
        assert (said["label"], said["scores"]) == (("second", None) if pair else (None, [7.0]))


@pytest.mark.parametrize(
    "name", ["pairwise", "pairwise-letter", "pointwise", "listwise", "step", "helpsteer", "reference", "domain-errors"]
)
def test_a_shipped_rubric_says_what_it_is(name: str) -> None:
    rubric = load_rubric(name)
    assert rubric.name == name
    assert rubric.reply
    assert reply_schema(rubric, 2)["required"]


def test_labels_that_differ_only_in_case_are_two() -> None:
    rubric = parse_rubric("---\nprotocol: pairwise\nlabels: m, M\n---\n# user\n{{first}} {{second}}")
    read = {text: read_text(rubric, 2, Completion(text=text))["label"] for text in ("m", "M", " M.", "n", "M or m")}
    assert read == {"m": "first", "M": "second", " M.": "second", "n": None, "M or m": None}


def test_labels_stand_for_the_scores_of_the_scale() -> None:
    rubric = parse_rubric("---\nprotocol: pointwise\nscale: 0-1\nlabels: no, yes\n---\n# user\n{{answer}}")
    read = {text: read_text(rubric, 1, Completion(text=text))["scores"] for text in ("Yes.", "NO", "maybe", "1", "Verdict: yes")}
    assert read == {"Yes.": [1.0], "NO": [0.0], "maybe": None, "1": None, "Verdict: yes": [1.0]}


def test_what_is_no_rubric_is_refused() -> None:
    with pytest.raises(ConfigError, match="no file"):
        load_rubric("nowhere.md")
    with pytest.raises(ConfigError, match="is not shipped; there are"):
        load_rubric("nowhere")
    with pytest.raises(ConfigError, match="unknown header keys"):
        parse_rubric("---\nprotocol: pairwise\ncolour: red\n---\n# user\nx")
    with pytest.raises(ConfigError, match="'# user' is missing"):
        parse_rubric("---\nprotocol: pairwise\n---\n# reply\nx")


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("name: x\nprotocol pairwise", "the header line 'protocol pairwise' is not `key: value`"),
        ("name: x\nprotocol: pairwise\nverdict: lines", "verdict is 'lines'"),
    ],
)
def test_a_broken_header_is_named_before_anything_else(header: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_rubric(f"---\n{header}\n---\nno sections at all")


def test_a_file_of_another_kind_is_no_rubric(tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match=r"is a file, but not a \.md file"):
        load_rubric(str(tmp_path / "gold.jsonl"))
