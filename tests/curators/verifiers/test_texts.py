"""The form of a text: each check passes one and fails another; a reference of the wrong form is an error."""

from __future__ import annotations

import pytest

from curators.sampling import make_prompt
from curators.verifiers import CHECKS, load_verifier, verify_rows

SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"], "additionalProperties": false}'


@pytest.mark.parametrize(
    ("name", "reference", "passes", "fails"),
    [
        ("regex", r"\bcat\b", "a cat", "concat"),
        ("contains", "ocean", "the Ocean", "oceanic"),
        ("contains", '["a", "b"]', "b a", "a"),
        ("length", '{"min_words": 2, "max_words": 3}', "one two", "one"),
        ("json", None, "[1]", "[1"),
        ("json", '["a"]', '{"a": 1}', "{a: 1}"),
        ("json", SCHEMA, '```json\n{"n": 1}\n```', '{"n": 0}'),
        ("json", SCHEMA, '{"n": 3}', "n = 3"),
        ("json", '{"type": "string", "pattern": "^a+$"}', '"aa"', '"ab"'),
        ("lowercase", None, "small", "Small"),
        ("uppercase", None, "BIG", "BIg"),
        ("constraints", '{"constraints": [{"kind": "contains", "value": "sea"}, {"kind": "lowercase"}]}', "the sea", "The sea"),
    ],
)
def test_a_form_met_and_not_met(name: str, reference: str | None, passes: str, fails: str) -> None:
    assert CHECKS[name](prompt="", response=passes, reference=reference) is True
    assert CHECKS[name](prompt="", response=fails, reference=reference) is False


def test_the_share_of_constraints_is_a_score() -> None:
    reference = '{"constraints": [{"kind": "contains", "value": "sea"}, {"kind": "lowercase"}]}'
    assert CHECKS["constraints_share"](prompt="", response="The sea", reference=reference) == 0.5


@pytest.mark.parametrize(
    ("name", "reference", "reason"),
    [
        ("contains", "", "does not fit: it must be"),
        ("contains", "[]", "does not fit: it must be"),
        ("contains", "[null]", "does not fit: it must be"),
        ("json", '"abc"', "does not fit: it must be"),
        ("length", '{"max_words": "50"}', "does not fit: it must be"),
        ("regex", "(", "missing ), unterminated subpattern"),
        ("json", '{"type": "whole"}', "SchemaError: 'whole' is not valid"),
        ("json", '{"$ref": "http://127.0.0.1:9/schema"}', "Unresolvable: http://127.0.0.1:9/schema"),
    ],
)
def test_a_reference_of_the_wrong_form_is_an_error_and_never_a_score(name: str, reference: str, reason: str) -> None:
    answer = {"generation_id": "g", "text": '{"a": "None b c"}', "state": "ok"}
    (row,) = verify_rows(make_prompt("Q", reference=reference), [answer], load_verifier(name))
    assert (row["state"], row.get("scores")) == ("verifier_error", None)
    assert reason in row["reason"]
