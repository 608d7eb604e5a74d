"""Several values of one answer: a missing one is null and never 0, one off its scale refuses the reply, the overall is what SQL gives."""

from __future__ import annotations

import json
import random
from importlib import resources
from typing import Any

import duckdb
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.engines.base import Completion, Reply, Request
from curators.errors import ConfigError
from curators.judging.attributes import overall, parse_attributes, parse_counts
from curators.judging.prompts import render
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.replies import critique, read_json, read_text, reply_schema, required_form
from curators.judging.rubric import Rubric, load_rubric, parse_rubric
from curators.judging.verdicts import verdicts
from curators.schema import JUDGMENTS, frame

HELPSTEER, ERRORS = load_rubric("helpsteer"), load_rubric("domain-errors")
NAMES = [attribute.name for attribute in HELPSTEER.attributes]
GIVEN = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}


def lines(values: dict[str, Any]) -> str:
    return "It answers.\n\n" + "\n".join(f"{name}: {value}" for name, value in values.items())


def text(rubric: Rubric, reply: str) -> tuple[str, float | None, dict[str, Any] | None]:
    return outcome(read_text(rubric, 1, Completion(text=reply)))


def outcome(row: dict[str, Any]) -> tuple[str, float | None, dict[str, Any] | None]:
    assert (row["state"] == "ok") == (row["scores"] is not None) == (row["reason"] is None)
    return row["state"], row["scores"][0] if row["scores"] else None, None if row["attributes"] is None else json.loads(row["attributes"])


def test_the_overall_is_the_weighted_mean_on_the_declared_scale() -> None:
    # u = 3/4, 1, 1 and, less being better, 1 - 2/4; weights 3, 3, 1, 1: (2.25 + 3 + 1 + .5) / 8 = .84375 of the scale 0-4
    assert text(HELPSTEER, lines(GIVEN)) == ("ok", pytest.approx(3.375), GIVEN)


def test_an_attribute_without_a_weight_is_kept_and_never_missed() -> None:
    state, score, kept = text(HELPSTEER, lines(GIVEN | {"complexity": "n/a"}))
    assert (state, score, kept) == ("ok", pytest.approx(3.375), GIVEN | {"complexity": None})


def test_a_missing_attribute_is_null_and_leaves_no_overall() -> None:
    state, score, kept = text(HELPSTEER, lines(GIVEN | {"correctness": "N/A"}))
    assert (state, score, kept) == ("no_score", None, GIVEN | {"correctness": None})


def test_missing_skip_takes_the_mean_of_what_is_given() -> None:
    rubric = parse_rubric("---\nprotocol: pointwise\nscale: 1-5\nattributes: a 0-4, b 1-3\nmissing: skip\n---\n# user\n{{answer}}")
    assert text(rubric, "a: 3\nb: n/a") == ("ok", 4.0, {"a": 3, "b": None})
    assert text(rubric, "a: n/a\nb: n/a") == ("no_score", None, {"a": None, "b": None})


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"verbosity": 5}, "parse_error"),
        ({"verbosity": -1}, "parse_error"),
        ({"verbosity": 2.5}, "parse_error"),
        ({"verbosity": "3/5"}, "parse_error"),
        ({"verbosity": "high"}, "parse_error"),
        ({"verbosity": "2 or 3"}, "parse_error"),
        ({"verbosity": "2\nverbosity: 3"}, "ambiguous"),
        ({"verbosity": "2\nverbosity: lots"}, "ambiguous"),
        ({"verbosity": "3/4"}, "ok"),
        ({"verbosity": "**3**"}, "ok"),
        ({"verbosity": "2\nVerbosity: 2"}, "ok"),
    ],
)
def test_one_value_off_its_scale_refuses_the_whole_reply(change: dict[str, Any], state: str) -> None:
    found, score, kept = text(HELPSTEER, lines(GIVEN | change))
    assert found == state
    assert (score is None) == (kept is None) == (state != "ok")


def test_a_line_that_is_not_there_is_no_missing_value() -> None:
    assert text(HELPSTEER, lines({name: GIVEN[name] for name in NAMES[:-1]}))[0] == "parse_error"
    assert text(HELPSTEER, "3")[0] == "parse_error"
    assert text(HELPSTEER, lines(GIVEN).replace("helpfulness:", "**Helpfulness (0-4)**:"))[0] == "ok"


def test_error_counts_amount_to_a_share_and_are_kept() -> None:
    counts = {"matched": 3, "false_finding": 1, "omission": 0, "wrong_detail": 2}
    assert text(ERRORS, lines(counts)) == ("ok", 0.5, counts)
    assert text(ERRORS, lines(dict.fromkeys(counts, 0))) == ("no_score", None, dict.fromkeys(counts, 0))
    assert text(ERRORS, lines(counts | {"omission": -1}))[0] == "parse_error"
    assert text(ERRORS, lines(counts | {"false_finding": "n/a"}))[0] == "no_score"
    assert text(ERRORS, lines(counts).replace("false_finding", "False finding"))[1] == 0.5


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "ok"),
        ({"correctness": None}, "no_score"),
        ({"correctness": "n/a"}, "no_score"),
        ({"correctness": 9}, "parse_error"),
        ({"correctness": True}, "parse_error"),
    ],
)
def test_json_says_the_same_as_text(change: dict[str, Any], state: str) -> None:
    values = GIVEN | change
    row = outcome(read_json(HELPSTEER, 1, Completion(text=orjson.dumps({"reason": "x", **values}).decode())))
    assert row[0] == state
    if change.get("correctness") is not True:
        assert row == text(HELPSTEER, lines({name: "n/a" if value is None else value for name, value in values.items()}))


def test_a_key_that_is_not_there_refuses_the_object() -> None:
    assert read_json(HELPSTEER, 1, Completion(text='{"reason": "x", "helpfulness": 3}'))["state"] == "parse_error"
    assert reply_schema(HELPSTEER, 1)["required"] == ["reason", *NAMES]


class Scripted:
    """A judge that answers by the text shown."""

    spec = "scripted:"
    fingerprint = "scripted"
    capabilities = frozenset[Any]()

    async def complete(self, request: Request) -> Reply:
        rng = random.Random(str(request.messages[-1]["content"]))
        values = {name: rng.choice(["n/a", 0, 1, 2, 3, 4, 4, 3]) for name in NAMES}
        return Reply(completions=tuple(Completion(text=lines(values), sample_index=i) for i in range(request.n)))

    async def aclose(self) -> None:
        return None


SQL = """
SELECT scores[1] AS stored, state,
       CASE WHEN h IS NOT NULL AND c IS NOT NULL AND o IS NOT NULL AND v IS NOT NULL
            THEN 4 * (3 * h / 4 + 3 * c / 4 + o / 4 + (1 - v / 4)) / 8 END AS recomputed
FROM (SELECT *, (attributes ->> 'helpfulness')::DOUBLE AS h, (attributes ->> 'correctness')::DOUBLE AS c,
             (attributes ->> 'coherence')::DOUBLE AS o, (attributes ->> 'verbosity')::DOUBLE AS v FROM judgments)
"""


async def test_the_overall_recomputed_in_sql_equals_the_stored_one() -> None:
    prompt = {"prompt_id": "p", "messages": '[{"role":"user","content":"q"}]', "reference": None}
    generations = [{"generation_id": f"g{i:03}", "text": f"answer {i}", "state": "ok"} for i in range(200)]
    rubric = parse_rubric((load_text("helpsteer")).replace("fence: true\n", ""))
    rows = await judge_group(prompt, generations, Scripted(), rubric=rubric, config=JudgeConfig(channel="text"))
    judgments = frame(rows, JUDGMENTS)
    with duckdb.connect() as connection:
        connection.register("judgments", judgments)
        recomputed = connection.execute(SQL).pl()
    assert set(judgments["state"]) == {"ok", "no_score"}
    for row in recomputed.iter_rows(named=True):
        assert row["stored"] == (None if row["recomputed"] is None else pytest.approx(row["recomputed"], abs=1e-12))
        assert (row["stored"] is None) == (row["state"] == "no_score")
    pairs = verdicts(judgments)
    unscored = pairs.filter(pl.col("verdict") == "unscored")
    assert 0 < unscored.height < pairs.height
    assert unscored["reason"].str.starts_with("no_score: not given: ").all()


def load_text(name: str) -> str:
    return (resources.files("curators.judging") / "rubrics" / f"{name}.md").read_text(encoding="utf-8")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(st.none(), st.integers(0, 4)), min_size=3, max_size=3), st.booleans())
def test_the_overall_stays_on_its_scale_and_rises_with_what_is_good(values: dict[str, int | None], skip: bool) -> None:
    attributes = parse_attributes("a 0-4, b 0-4, c 0-4", "a 2, b -0.5", "r")
    score, why = overall(values, attributes, scale=(1, 5), skip_missing=skip)
    assert (score is None) == (why is not None)
    if score is not None:
        assert 1 <= score <= 5
        for name, better in (("a", 1), ("b", -1)):
            x = values[name]
            if x is not None and 0 <= x + better <= 4:
                more, _ = overall(values | {name: x + better}, attributes, scale=(1, 5), skip_missing=skip)
                assert more is not None
                assert more > score


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ("protocol: pairwise\nattributes: a 0-4", "pairwise; a pointwise rubric has"),
        ("protocol: pointwise\nattributes: a 0-4\ncounts: b +, c -", "counts"),
        ("protocol: pointwise\ncounts: b +, c -\nscale: 1-5", r"with \['scale'\]"),
        ("protocol: pointwise\noverall: a 1", "overall"),
        ("protocol: pointwise\nattributes: a 0-4\nlabels: A, B, C, D, E", r"with \['labels'\]"),
        ("protocol: pointwise\nattributes: a 0-4\nmissing: zero", "missing"),
        ("protocol: pointwise\nattributes: a 4-0", "from the lower to the higher"),
        ("protocol: pointwise\nattributes: a 0-4, a 1-5", "each name once"),
        ("protocol: pointwise\nattributes: score 0-4", "none of"),
        ("protocol: pointwise\nattributes: a", "has 'a'"),
        ("protocol: pointwise\nattributes: a 0-4\noverall: b 1", r"overall names \['b'\]"),
        ("protocol: pointwise\nattributes: a 0-4\noverall: a 0", "no attribute a weight"),
        ("protocol: pointwise\ncounts: a +, b +", "at least one"),
        ("protocol: pointwise\nverdict: levels", "verdict is 'levels'"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(header: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_rubric(f"---\n{header}\n---\n# user\n{{{{answer}}}}")


def test_counts_need_no_scale() -> None:
    assert [attribute.weight for attribute in parse_counts("a +, b -, c -", "r")] == [1, -1, -1]
    assert ERRORS.scale == (0, 1)


@pytest.mark.parametrize("name", ["helpsteer", "reference", "domain-errors"])
def test_the_shipped_rubrics_ask_for_the_form_that_is_read(name: str) -> None:
    rubric = load_rubric(name)
    assert rubric.needs_reference == (name != "helpsteer")
    shown = render(rubric, prompt="p", answers=["x"], reference="r" if rubric.needs_reference else None, fence_nonce="n0nce")
    for attribute in rubric.attributes:
        assert f"\n{attribute.name}: [" in shown[-1]["content"]
        assert f'"{attribute.name}: N"' in required_form(rubric, 1)


@pytest.mark.parametrize(
    ("rubric", "raw", "expected"),
    [
        (load_rubric("pointwise"), "Good.\n\nBut long.\nScore: 3", "Good.\n\nBut long."),
        (load_rubric("pointwise"), "<think>no</think>Good.\nScore: 3", "Good."),
        (load_rubric("pointwise"), "Score: 3", None),
        (load_rubric("pointwise"), "no score at all", None),
        (load_rubric("pointwise"), "<think>Score: 3", None),
        (load_rubric("pointwise"), '{"reason": "Good.", "score": 3}', "Good."),
        (load_rubric("pointwise"), '{"reason": "Good.", "score": 3} {"reason": "Bad.", "score": 3}', None),
        (load_rubric("pairwise"), "A is short.\n**Verdict: A**\nThanks.", "A is short."),
        (HELPSTEER, lines(GIVEN), "It answers."),
    ],
)
def test_the_critique_is_what_stands_before_the_verdict(rubric: Rubric, raw: str, expected: str | None) -> None:
    assert critique(raw, rubric) == expected
