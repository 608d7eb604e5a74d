"""Generators of constraints that a given text meets, or does not: what makes two prompts differ for one answer.

A generator is `make(text, flag, draw) → constraint`, of the kinds of `curators.constraints`, which verify it: with flag true the text
meets the constraint, with flag false it does not, for every text; null where there is none such (an empty text has no word that it
contains). `draw` is any whole number and picks among those possible. Generators of one `topic` exclude each other, so that no prompt asks
for two lengths at once.

The kinds follow MAPL (arXiv 2505.12845), whose own list could not be read; the wordings are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from curators import constraints
from curators.constraints import FUNCTION_WORDS, holds

Constraint = dict[str, Any]
Make = Callable[[str, bool, int], "Constraint | None"]

KEYWORDS = ("ocean", "lantern", "harvest", "compass", "velvet", "thunder", "orchard", "marble", "whistle", "glacier", "pepper", "anchor")
OPENINGS = ("Certainly", "In short", "To begin", "Well", "Briefly", "First of all")
CLOSINGS = ("That is all.", "Thank you.", "Done.", "The end.", "Over and out.")


class Generator(NamedTuple):
    """See the module."""

    topic: str
    make: Make


def _at_least(kind: str, count: Callable[[str], int]) -> Make:
    def make(text: str, flag: bool, draw: int) -> Constraint | None:
        n = count(text)
        if flag:
            return {"kind": kind, "value": n - draw % (n // 2 + 1)} if n else None
        return {"kind": kind, "value": n + 1 + draw % (n // 2 + 2)}

    return make


def _at_most(kind: str, count: Callable[[str], int]) -> Make:
    def make(text: str, flag: bool, draw: int) -> Constraint | None:
        n = count(text)
        if flag:
            return {"kind": kind, "value": max(n, 1) + draw % (n // 2 + 2)}
        return {"kind": kind, "value": n - 1 - draw % ((n + 1) // 2)} if n > 1 else None

    return make


def _exactly(kind: str, count: Callable[[str], int]) -> Make:
    def make(text: str, flag: bool, draw: int) -> Constraint | None:
        n = count(text)
        return _checked(kind, n if flag else n + 1 + draw % 3, text, flag) if n or not flag else None

    return make


def _contains(text: str, flag: bool, draw: int) -> Constraint | None:
    return _keyword("contains", text, flag, draw)


def _not_contains(text: str, flag: bool, draw: int) -> Constraint | None:
    return _keyword("not_contains", text, not flag, draw)


def _keyword(kind: str, text: str, present: bool, draw: int) -> Constraint | None:
    words = sorted({word.lower() for word in constraints.words(text) if len(word) > 3}) if present else list(KEYWORDS)
    return _first({"kind": kind, "value": word} for word in _from(words, draw) if constraints.contains(text, word) == present)


def _quotable(words: list[str]) -> list[str]:
    """Those that can stand between quotation marks in a prompt."""
    return [word for word in words if not set(word) & set('"\u201c\u201d\u201e')]


def _starts_with(text: str, flag: bool, draw: int) -> Constraint | None:
    options = _quotable(text.split()[:1]) if flag else list(OPENINGS)
    return _first(_checked("starts_with", value, text, flag) for value in _from(options, draw))


def _ends_with(text: str, flag: bool, draw: int) -> Constraint | None:
    options = _quotable(text.split()[-1:]) if flag else list(CLOSINGS)
    return _first(_checked("ends_with", value, text, flag) for value in _from(options, draw))


def _case(text: str, flag: bool, draw: int) -> Constraint | None:
    return _first(_checked(kind, None, text, flag) for kind in _from(["lowercase", "uppercase"], draw))


def _json(text: str, flag: bool, draw: int) -> Constraint | None:
    return _checked("json", None, text, flag)


def _language(text: str, flag: bool, draw: int) -> Constraint | None:
    if constraints.language(text) is None:
        return None
    return _first(_checked("language", code, text, flag) for code in _from(sorted(FUNCTION_WORDS), draw))


def _digits(text: str, flag: bool, draw: int) -> Constraint | None:
    return _first(_checked("regex", value, text, flag) for value in DIGITS)


def _no_commas(text: str, flag: bool, draw: int) -> Constraint | None:
    return _checked("no_commas", None, text, flag)


def _checked(kind: str, value: Any, text: str, flag: bool) -> Constraint | None:
    constraint = {"kind": kind} if value is None else {"kind": kind, "value": value}
    return constraint if holds(text, constraint) == flag else None


def _from(options: list[str], draw: int) -> list[str]:
    start = draw % len(options) if options else 0
    return options[start:] + options[:start]


def _first(found: Any) -> Constraint | None:
    return next((constraint for constraint in found if constraint is not None), None)


DIGITS = {r"\d": "Use at least one digit.", r"\A\D*\Z": "Use no digits."}


def _n(kind: str) -> Callable[[str], int]:
    """How many the verifier of a kind counts in a text of up to 199 of them."""
    return lambda text: next((n for n in range(200) if holds(text, {"kind": kind, "value": n})), 200)


GENERATORS: Mapping[str, Generator] = {
    "words_at_least": Generator("words", _at_least("min_words", lambda text: len(constraints.words(text)))),
    "words_at_most": Generator("words", _at_most("max_words", lambda text: len(constraints.words(text)))),
    "sentences_at_least": Generator("sentences", _at_least("min_sentences", constraints.n_sentences)),
    "sentences_at_most": Generator("sentences", _at_most("max_sentences", constraints.n_sentences)),
    "paragraphs": Generator("paragraphs", _exactly("n_paragraphs", constraints.n_paragraphs)),
    "bullets": Generator("bullets", _exactly("n_bullets", _n("n_bullets"))),
    "contains": Generator("contains", _contains),
    "not_contains": Generator("not_contains", _not_contains),
    "starts_with": Generator("start", _starts_with),
    "ends_with": Generator("end", _ends_with),
    "case": Generator("case", _case),
    "json": Generator("json", _json),
    "language": Generator("language", _language),
    "digits": Generator("digits", _digits),
    "no_commas": Generator("commas", _no_commas),
}

_LANGUAGES = {"de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese"}


def wording(constraint: Constraint) -> str:
    """A constraint as an instruction.

    >>> wording({"kind": "min_words", "value": 2}), wording({"kind": "no_commas"})
    ('Use at least 2 words.', 'Use no commas.')
    """
    kind: str = constraint["kind"]
    value: Any = constraint.get("value")
    if kind == "regex":
        return DIGITS[value]
    if kind == "language":
        return f"Write in {_LANGUAGES[value]}."
    one = "" if value == 1 else "s"
    return {
        "min_words": f"Use at least {value} word{one}.",
        "max_words": f"Use at most {value} word{one}.",
        "min_sentences": f"Write at least {value} sentence{one}.",
        "max_sentences": f"Write at most {value} sentence{one}.",
        "n_paragraphs": f"Write exactly {value} paragraph{one}, parted by empty lines.",
        "n_bullets": f"Use exactly {value} bullet point{one}.",
        "contains": f'Use the word "{value}".',
        "not_contains": f'Do not use the word "{value}".',
        "starts_with": f'Begin with "{value}".',
        "ends_with": f'End with "{value}".',
        "lowercase": "Write in lower case only.",
        "uppercase": "Write in upper case only.",
        "json": "Answer with JSON and nothing else.",
        "no_commas": "Use no commas.",
    }[kind]
