"""What a rationale must be like before anything learns from it; the first check that it fails is its state.

| state | the text |
|---|---|
| `leaks_position` | names a letter or a place ("Response 1", "the former"), which a trainer's template does not use or uses otherwise |
| `copies` | general: a run of `copied_words` words also stands in one of the answers |
| `quotes_nothing` | detailed: neither a quotation nor a run of `quoted_words` words comes from an answer |
| `misquotes` | detailed: a quotation stands in neither answer and not in the prompt, or a labelled line is cited as what it is not |
| `too_short`, `too_long` | has fewer than `min_words` or more than `max_words` words (parted by white space) |

Whether it agrees with the label is asked of a model: `agreement`. A program can check no more than this: that what is quoted is there does
not make what is said about it true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curators.rationales.prompts import Sides
from curators.rationales.wording import QUOTATION, occurs, quotations

_NOUN = r"(?:answer|response|solution|option|candidate|completion|assistant|reply)"
_PLACES = re.compile(
    rf"\b{_NOUN}s?\s+(?:\(?[12]\)?\b|#\s?[12]|one\b|two\b|[ab]\b(?=\s*(?:[.,;:!?)]|is\b|was\b|has\b|and\b|or\b|$)))"
    rf"|\b(?:first|second|former|latter|left|right-hand|left-hand|1st|2nd|preceding|following)\s+(?:{_NOUN}|one)\b"
    rf"|\b{_NOUN}\s+(?:above|below|on the (?:left|right))\b"
    r"|\bthe\s+(?:former|latter)\b",
    re.IGNORECASE,
)
_CITED_OTHERWISE = re.compile(r"\bline \d+ of the (?:chosen|rejected) answer: (?!\")[^\n]*", re.IGNORECASE)
# A letter by itself. As an article, A begins a sentence and a noun follows; B is never one.
_LETTERS = re.compile(
    r"(?<![+*/=-] )(?<![\w'.-])B(?![\w'+#-]|\.\w)"
    r"|\b[AB]'s\b|\b[AB]\d+:"
    r"|(?<=[a-z,;] )A\b(?!\s+[a-z]+\s+(?:of|is)\b)|\bA(?=\s+(?:is|was|has|does|gives|says|states|and|or|correctly|fails)\b)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckBounds:
    """Inclusive. Words are parted by white space where they are counted, and runs of letters and digits where they are compared."""

    min_words: int = 20
    max_words: int = 400
    copied_words: int = 8
    quoted_words: int = 6


def check_text(
    text: str, sides: Sides, *, kind: str, bounds: CheckBounds | None = None, line_labels: bool = False
) -> tuple[str, str | None, dict[str, Any]]:
    """State, reason and measurements of a rationale that speaks of the chosen and the rejected answer.

    With `line_labels`, a cited line (`Line 2 of the chosen answer: …`) is a quotation: `wording` has set it in marks if it is true.

    >>> sides = Sides(prompt="What is 2 + 2?", chosen="It is 4.", rejected="It is 5.")
    >>> check_text('The rejected answer says "It is 6." and so on.', sides, kind="detailed")[:2]
    ('quotes_nothing', 'neither a quotation nor 6 words in a row come from one of the answers')
    >>> check_text('Right is "It is 4.", wrong is "It is 6."', sides, kind="detailed")[:2]
    ('misquotes', "'It is 6.' stands in neither answer and not in the prompt")
    """
    bounds = bounds or CheckBounds()
    found = measure(text, sides, bounds)
    if line_labels:
        found["misquoted"] += [match[0] for match in _CITED_OTHERWISE.finditer(text)]
    return *_state(found, kind, bounds), found


def measure(text: str, sides: Sides, bounds: CheckBounds) -> dict[str, Any]:
    """The numbers behind every check, also of those that the kind does not ask for."""
    quoted = quotations(text)
    answers = (sides.chosen, sides.rejected)
    bare = QUOTATION.sub(lambda match: "“”" if occurs(match[0][1:-1], *answers) else match[0], text)
    used = f"{sides.prompt}\n{sides.chosen}\n{sides.rejected}"
    places = [match[0] for match in _PLACES.finditer(bare)]
    letters = [match[0].strip() for match in _LETTERS.finditer(bare) if not re.search(rf"\b{match[0].strip()[0]}\b", used)]
    return {
        "n_words": len(text.split()),
        "positions": sorted({*places, *letters}),
        "longest_copy": max(longest_run(text, answer, most=bounds.max_words) for answer in answers),
        "n_quoted": sum(occurs(quote, *answers) for quote in quoted),
        "misquoted": [quote for quote in quoted if not occurs(quote, *answers, sides.prompt)],
    }


def _state(found: Mapping[str, Any], kind: str, bounds: CheckBounds) -> tuple[str, str | None]:
    if found["positions"]:
        return "leaks_position", f"it says {found['positions'][0]!r}, a letter or a place that a reader of the pair does not see"
    if kind == "general" and found["longest_copy"] >= bounds.copied_words:
        return "copies", f"{found['longest_copy']} words in a row stand in one of the answers; fewer than {bounds.copied_words} may"
    if kind == "detailed" and not found["n_quoted"] and found["longest_copy"] < bounds.quoted_words:
        return "quotes_nothing", f"neither a quotation nor {bounds.quoted_words} words in a row come from one of the answers"
    if kind == "detailed" and found["misquoted"]:
        return "misquotes", f"{found['misquoted'][0][:80]!r} stands in neither answer and not in the prompt"
    if found["n_words"] < bounds.min_words:
        return "too_short", f"{found['n_words']} words; at least {bounds.min_words}"
    if found["n_words"] > bounds.max_words:
        return "too_long", f"{found['n_words']} words; at most {bounds.max_words}"
    return "ok", None


def longest_run(text: str, other: str, *, most: int = 400) -> int:
    """The most words in a row, case and punctuation aside, that both texts hold; no more than `most` are looked for.

    >>> longest_run("He said the answer is four, twice.", "The answer is four")
    4
    """
    mine, theirs = (re.findall(r"\w+", each.casefold()) for each in (text, other))
    length = 0
    while length < most and _runs(mine, length + 1) & _runs(theirs, length + 1):
        length += 1
    return length


def _runs(words: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}
