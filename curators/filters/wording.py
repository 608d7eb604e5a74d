"""Filters that read a text by itself: how long it is, and whether it declines to answer."""

from __future__ import annotations

import re

import polars as pl

from curators.errors import ConfigError
from curators.filters.marks import Fault, check_rows, mark, without_text

_UNABLE = r"(?:can'?t|cannot|can not|won'?t|will not|unable|not able)"
_DO = (
    r"(?:help|assist|provide|comply|answer|fulfill?|do that|create|write|generate|discuss|engage|continue|support|share|offer|participate)"
)
REFUSALS = (
    rf"\b(?:i'?m|i am|we'?re|we are) (?:very |so |really |truly )?(?:sorry|afraid)\b[^.!?\n]{{0,60}}\b{_UNABLE}\b",
    rf"\b(?:i|we)(?: am| are|'m|'re)? {_UNABLE} (?:to )?{_DO}\b",
    r"\bi (?:must|have to|need to) (?:respectfully )?(?:decline|refuse)\b",
    r"\bi (?:don'?t|do not) feel comfortable\b",
    r"\bi(?:'m| am) not comfortable\b",
    rf"\bas an? (?:\w+ )?(?:ai|language model)\b[^.!?\n]{{0,40}}\bi(?:'m| am)? (?:{_UNABLE}|not able|do not|don'?t)\b",
    r"\b(?:it (?:is|would be)|it'?s) (?:not appropriate|inappropriate|unethical) for me to\b",
    r"\bagainst my (?:programming|guidelines|ethical|policy|policies|principles)\b",
)
"""How assistants decline, in English; the openings of Zou et al. 2023 (arXiv:2307.15043, `test_prefixes`) as patterns."""

_REFUSAL = re.compile("|".join(f"(?:{pattern})" for pattern in REFUSALS), re.IGNORECASE)


def length(
    rows: pl.DataFrame, *, min_words: int = 1, max_words: int | None = None, min_chars: int = 1, max_chars: int | None = 100_000
) -> pl.DataFrame:
    """Marks of texts that are too short or too long. Words are parted by white space; bounds are inclusive, null: none.

    >>> length(pl.DataFrame({"row_id": ["a"], "text": ["one two"]}), min_words=3).rows()
    [('a', False, 'too_short', '2 words; at least 3')]
    """
    sizes = check_rows(rows, "text").select(
        "row_id", words=pl.col("text").str.count_matches(r"\S+"), chars=pl.col("text").str.strip_chars().str.len_chars()
    )
    faults: dict[str, Fault] = {}
    for row_id, words, chars in sizes.drop_nulls().iter_rows():
        for n, least, most, unit in ((words, min_words, max_words, "words"), (chars, min_chars, max_chars, "characters")):
            if n < least:
                faults.setdefault(row_id, ("too_short", f"{n} {unit}; at least {least}"))
            elif most is not None and n > most:
                faults.setdefault(row_id, ("too_long", f"{n} {unit}; at most {most}"))
    return mark(rows, without_text(rows) | faults)


def refusal(rows: pl.DataFrame, *, within_chars: int = 300) -> pl.DataFrame:
    """Marks of texts that decline within their first characters: who explains a refusal later on has answered first.

    >>> texts = ["I'm sorry, but I can't help with that.", "I am sorry for your loss."]
    >>> refusal(pl.DataFrame({"row_id": ["a", "b"], "text": texts})).rows()
    [('a', False, 'refusal', "I'm sorry, but I can't"), ('b', True, None, None)]

    Raises:
        ConfigError: `within_chars` is not positive.
    """
    if within_chars < 1:
        raise ConfigError(f"refusal: within_chars is {within_chars}, must be at least 1")
    texts = check_rows(rows, "text").drop_nulls("text").select("row_id", "text").iter_rows()
    faults: dict[str, Fault] = {
        row_id: ("refusal", found) for row_id, text in texts if (found := declines(text, within_chars=within_chars))
    }
    return mark(rows, without_text(rows) | faults)


def declines(text: str, *, within_chars: int = 300) -> str | None:
    """The words with which a text declines to answer; null where it does not."""
    found = _REFUSAL.search(text[:within_chars].replace("’", "'"))
    return found[0] if found else None
