"""Constraints: texts that pass and texts that fail, for every kind."""

from __future__ import annotations

import re
from typing import Any

import pytest

from curators.constraints import KINDS, constraints_of, holds, language, n_sentences

CORPUS: list[tuple[str, Any, str, str]] = [
    ("max_words", 3, "one two three", "one two three four"),
    ("min_words", 3, "one two three", "one two"),
    ("n_words", 2, "well-known fact", "one"),
    ("max_sentences", 1, "Only 3.5 percent.", "One. Two."),
    ("min_sentences", 2, "One! Two", "One."),
    ("n_sentences", 2, "One. Two?", "One"),
    ("max_chars", 3, "abc", "abcd"),
    ("min_chars", 3, "abc", "ab"),
    ("n_paragraphs", 2, "one\n\n\ntwo", "one\ntwo"),
    ("n_lines", 2, "one\n\ntwo", "one"),
    ("n_bullets", 2, "List:\n- a\n* b", "- a\n1. b"),
    ("n_numbered", 2, "1. a\n2) b", "1. a"),
    ("contains", "ocean", "The Ocean.", "oceanic"),
    ("contains_all", ["a", "b"], "b and a", "a"),
    ("contains_any", ["a", "b"], "b", "c"),
    ("not_contains", "very", "every day", "very good"),
    ("starts_with", "Sure", " Sure thing", "Not sure"),
    ("ends_with", "bye", "good bye\n", "bye now"),
    ("regex", r"^\d+$", "42", "forty"),
    ("lowercase", None, "all small 1.", "Not all"),
    ("uppercase", None, "LOUD!", "LOUd"),
    ("no_commas", None, "a and b", "a, b"),
    ("json", ["a"], '```json\n{"a": 1}\n```', '{"b": 1}'),
    ("language", "fr", "Le chat est sur la table et il dort.", "The cat is on the table and it sleeps."),
]


@pytest.mark.parametrize(("kind", "value", "passes", "fails"), CORPUS, ids=[row[0] for row in CORPUS])
def test_a_constraint_passes_and_fails(kind: str, value: Any, passes: str, fails: str) -> None:
    assert holds(passes, {"kind": kind, "value": value})
    assert not holds(fails, {"kind": kind, "value": value})


def test_every_kind_has_a_passing_and_a_failing_text() -> None:
    assert {row[0] for row in CORPUS} == set(KINDS)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Der Wal ist ein Tier und er lebt im Meer.", "de"),
        ("The whale is an animal and it lives in the sea.", "en"),
        ("La ballena es un animal que vive en el mar y respira.", "es"),
        ("La baleine est un animal qui vit dans la mer et elle respire.", "fr"),
        ("La balena è un animale che vive nel mare e respira con i polmoni.", "it"),
        ("A baleia é um animal que vive no mar e não respira na água como os peixes.", "pt"),
        ("", None),
    ],
)
def test_languages(text: str, code: str | None) -> None:
    assert language(text) == code


def test_a_text_without_words_has_no_sentence() -> None:
    assert n_sentences("... !") == 0


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"kind": "max_wrods", "value": 3}, "constraint kind is 'max_wrods'; allowed are"),
        ({"kind": "max_words"}, "constraint max_words: value None does not fit"),
        ({"kind": "regex", "value": "("}, "constraint regex: value '\\(' does not fit"),
        ({"kind": "language", "value": "xx"}, r"constraint language: value 'xx' does not fit: it must be one of \['de', 'en'"),
    ],
)
def test_a_wrong_constraint_is_refused(constraint: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        holds("text", constraint)


WRONG: dict[str, list[Any]] = {
    "a whole number from 0": [None, "50", [50], True, 2.5, -1, float("nan"), {}],
    "a text that is not empty": [None, "", 3, ["a"], True],
    "a text that is not empty, or a whole number": [None, "", 2.5, ["a"], True],
    "a list of at least one text or whole number": [None, [], "abc", 3, [None], [""], {"a": 1}],
    "a list of keys, or absent": ["abc", True, 3, [1], {"a": 1}],
    "absent (or true)": [False, "yes", 1],
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_value_of_another_type_is_refused_and_never_a_score(kind: str) -> None:
    said = KINDS[kind].form.said
    for value in WRONG.get(said, [None, 3, ["de"], {}]):
        for text in ("None", "a b", "", '{"a": 1}'):
            with pytest.raises(ValueError, match=rf"^constraint {kind}: value .* does not fit: it must be {re.escape(said)}$"):
                holds(text, {"kind": kind, "value": value})


def test_numbers_are_keywords_and_whole_floats_are_counts() -> None:
    assert holds("The answer is 42.", {"kind": "contains", "value": 42})
    assert holds("one two", {"kind": "n_words", "value": 2.0})
    assert holds("[1]", {"kind": "json", "value": []})
    assert holds("small", {"kind": "lowercase", "value": True})


@pytest.mark.parametrize("reference", [None, "", "max 50 words", "[]", '{"constraints": []}', '{"constraints": ["a"]}'])
def test_a_reference_without_constraints_is_refused(reference: str | None) -> None:
    with pytest.raises(ValueError, match="it must be like"):
        constraints_of(reference)
