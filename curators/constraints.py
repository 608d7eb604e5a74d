"""Constraints on a text that a program can check: length, format, keywords, language.

A constraint is `{"kind": "max_words", "value": 50}`; kinds without a value (`lowercase`) need none. A value of another type than the
kind's is an error, never a score. Words are runs of letters and digits
(with inner apostrophes and hyphens), sentences end in . ! or ?, paragraphs are parted by empty lines.

Deliberately not done: meaning. The language check counts function words of six languages, which is enough to tell a German
answer from an English one and too little for a sentence without any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?=[\s\"')\]\u201d]|$)")
_BULLET = re.compile(r"^\s*[-*\u2022]\s+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*\d+[.)]\s+\S", re.MULTILINE)
_JSON_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)

_FUNCTION_WORD_LISTS = {
    "de": "der die das und ist nicht ein eine zu den mit von auf für sich dem im als auch es wir sind wird oder aber",
    "en": "the and is of to in that it for was on are with as this be by not or from but you they have which",
    "es": "el la los las y es de que en un una por con no se para del al como más pero su son este o",
    "fr": "le la les et est de des un une que en dans pour pas qui sur avec au ce il elle sont du plus mais",
    "it": "il lo la gli le e è di che in un una per con non si del della sono come più ma anche questo nel",
    "pt": "o a os as e é de que em um uma por com não se para do da como mais mas são seu este no",
}
FUNCTION_WORDS = {code: frozenset(text.split()) for code, text in _FUNCTION_WORD_LISTS.items()}


def words(text: str) -> list[str]:
    """
    >>> words("Don't stop: well-known 3.")
    ["Don't", 'stop', 'well-known', '3']
    """
    return _WORD.findall(text)


def n_sentences(text: str) -> int:
    """
    >>> n_sentences("One. Two at 3.5 percent! Three")
    3
    """
    return sum(bool(_WORD.search(part)) for part in _SENTENCE_END.split(text))


def n_paragraphs(text: str) -> int:
    return sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text))


def language(text: str) -> str | None:
    """The language whose function words are most frequent, null without at least two of them or between equals.

    >>> language("Der Hund und die Katze sind im Garten."), language("Tokyo 2024")
    ('de', None)
    """
    found = [word.lower() for word in words(text)]
    hits = {code: sum(word in known for word in found) for code, known in FUNCTION_WORDS.items()}
    best = max(hits.values())
    leaders = [code for code, n in hits.items() if n == best]
    return leaders[0] if best >= 2 and len(leaders) == 1 else None


def parse_json(text: str) -> Any:
    """The value of a text that is JSON and nothing else, alone in a code fence or bare; ValueError if it is not."""
    fenced = _JSON_FENCE.fullmatch(text)
    return json.loads(fenced[1] if fenced else text)


def is_json(text: str, keys: Sequence[str] | None = None) -> bool:
    """Whether the text is JSON; with `keys`, an object that has them all.

    >>> is_json('{"a": 1}', ["a"]), is_json('Sure: {"a": 1}'), is_json("[1]", ["a"])
    (True, False, False)
    """
    try:
        value = parse_json(text)
    except ValueError:
        return False
    return not keys or (isinstance(value, dict) and all(key in value for key in keys))


def contains(text: str, keyword: str | int) -> bool:
    """Whether the keyword stands in the text as a whole word or phrase, upper and lower case the same.

    >>> contains("The Ocean is deep.", "ocean"), contains("oceanic", "ocean")
    (True, False)
    """
    return re.search(rf"(?<!\w){re.escape(str(keyword))}(?!\w)", text, re.IGNORECASE) is not None


def _cased(text: str, *, upper: bool) -> bool:
    return any(character.isalpha() for character in text) and text == (text.upper() if upper else text.lower())


class Form(NamedTuple):
    """What a kind's value must be, in words and as a test."""

    said: str
    fits: Callable[[Any], bool]


class Kind(NamedTuple):
    """A kind of constraint: the form of its value, and whether a text meets it."""

    form: Form
    met: Callable[[str, Any], bool]


def _is_count(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return (whole or (isinstance(value, float) and value.is_integer())) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_keyword(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def _is_list(value: Any, each: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(each, value))


COUNT = Form("a whole number from 0", _is_count)
TEXT = Form("a text that is not empty", _is_text)
KEYWORD = Form("a text that is not empty, or a whole number", _is_keyword)
KEYWORDS = Form("a list of at least one text or whole number", lambda value: _is_list(value, _is_keyword) and bool(value))
KEYS = Form("a list of keys, or absent", lambda value: value is None or _is_list(value, _is_text))
LANGUAGE = Form(f"one of {sorted(FUNCTION_WORDS)}", lambda value: isinstance(value, str) and value in FUNCTION_WORDS)
NOTHING = Form("absent (or true)", lambda value: value is None or value is True)

KINDS: Mapping[str, Kind] = {
    "max_words": Kind(COUNT, lambda text, value: len(words(text)) <= value),
    "min_words": Kind(COUNT, lambda text, value: len(words(text)) >= value),
    "n_words": Kind(COUNT, lambda text, value: len(words(text)) == value),
    "max_sentences": Kind(COUNT, lambda text, value: n_sentences(text) <= value),
    "min_sentences": Kind(COUNT, lambda text, value: n_sentences(text) >= value),
    "n_sentences": Kind(COUNT, lambda text, value: n_sentences(text) == value),
    "max_chars": Kind(COUNT, lambda text, value: len(text) <= value),
    "min_chars": Kind(COUNT, lambda text, value: len(text) >= value),
    "n_paragraphs": Kind(COUNT, lambda text, value: n_paragraphs(text) == value),
    "n_lines": Kind(COUNT, lambda text, value: sum(bool(line.strip()) for line in text.splitlines()) == value),
    "n_bullets": Kind(COUNT, lambda text, value: len(_BULLET.findall(text)) == value),
    "n_numbered": Kind(COUNT, lambda text, value: len(_NUMBERED.findall(text)) == value),
    "contains": Kind(KEYWORD, contains),
    "contains_all": Kind(KEYWORDS, lambda text, value: all(contains(text, keyword) for keyword in value)),
    "contains_any": Kind(KEYWORDS, lambda text, value: any(contains(text, keyword) for keyword in value)),
    "not_contains": Kind(KEYWORD, lambda text, value: not contains(text, value)),
    "starts_with": Kind(TEXT, lambda text, value: text.strip().startswith(value)),
    "ends_with": Kind(TEXT, lambda text, value: text.strip().endswith(value)),
    "regex": Kind(TEXT, lambda text, value: re.search(value, text) is not None),
    "lowercase": Kind(NOTHING, lambda text, _: _cased(text, upper=False)),
    "uppercase": Kind(NOTHING, lambda text, _: _cased(text, upper=True)),
    "no_commas": Kind(NOTHING, lambda text, _: "," not in text),
    "json": Kind(KEYS, is_json),
    "language": Kind(LANGUAGE, lambda text, value: language(text) == value),
}


def holds(text: str, constraint: Mapping[str, Any]) -> bool:
    """Whether one constraint holds.

    >>> holds("blue whale", {"kind": "max_words", "value": 2})
    True

    Raises:
        ValueError: an unknown kind, or a value of the wrong type for it.
    """
    name, value = constraint.get("kind"), constraint.get("value")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"constraint kind is {name!r}; allowed are {sorted(KINDS)}")
    kind = KINDS[name]
    if not kind.form.fits(value):
        raise ValueError(f"constraint {name}: value {value!r:.80} does not fit: it must be {kind.form.said}")
    try:
        return kind.met(text, value)
    except re.error as error:
        raise ValueError(f"constraint {name}: value {value!r} does not fit: {error}") from error


def constraints_of(reference: str | None) -> list[Mapping[str, Any]]:
    """The constraints of a prompt's reference, `{"constraints": [{"kind": …, "value": …}, …]}`.

    Raises:
        ValueError: there is no reference, or it has another form.
    """
    form = '{"constraints": [{"kind": "max_words", "value": 50}]}'
    try:
        found = json.loads(reference or "null")
    except ValueError as error:
        raise ValueError(f"the reference is not JSON ({error}); it must be like {form}") from error
    constraints = found.get("constraints") if isinstance(found, dict) else None
    if not isinstance(constraints, list) or not constraints or not all(isinstance(c, dict) for c in constraints):
        raise ValueError(f"the reference is {str(reference)[:80]!r}; it must be like {form}")
    return constraints
