"""Which part of the difference between two sides is style: how it is said, not what.

The difference is what one side holds more often than the other (multisets of tokens, so that a moved sentence is no difference). Stylistic
are line breaks, list marks, headings, emphasis, punctuation, emoji, case, and words of courtesy, transition and emphasis (a fixed list,
after the stylistic tokens of Lin et al. 2024, URIAL, arXiv:2312.01552: discourse markers, greetings, disclaimers). Signs that calculate
or name a unit (`+ = < > % $ /` …) are content, and so is every other word. English only.
"""

from __future__ import annotations

import re
from collections import Counter

_TOKEN = re.compile(r"^[ \t]*(?:[-*•+]|\d{1,3}[.)])(?=\s)|\n|[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_", re.MULTILINE)
_MARK = re.compile(r"[ \t]*(?:[-*•+]|\d{1,3}[.)])|[^=+<>%^$€£/\\|&@~\w]|_")
_WORDS = """
absolutely actually additionally also apologies apologize basically certainly clearly conclusion course dear definitely especially
essentially feel finally firstly free furthermore generally glad great happy hello helps hence here's hey hi hope hopefully
however i'd i'll i'm important importantly indeed instead just know lastly let let's likewise meanwhile moreover nevertheless next
nonetheless note obviously of ok okay otherwise overall particularly please quite really remember secondly similarly simply so
sorry summary sure thank thanks then therefore thirdly thus truly typically usually very welcome well yes you're
"""
STYLE_WORDS = frozenset(_WORDS.split())
"""Casefolded. Words that carry no answer in themselves."""

Tokens = Counter[str]


def style_share(chosen: str, rejected: str) -> float | None:
    """The share of differing tokens that are stylistic; null where no token differs.

    >>> style_share("**The answer** is 4!", "the answer is 4."), style_share("The answer is 4.", "The answer is 5.")
    (1.0, 0.0)
    """
    stylistic = content = 0
    one, other = _tokens(chosen), _tokens(rejected)
    folded = _folded(one), _folded(other)
    for more, less in (folded, folded[::-1]):
        for token, n in (more - less).items():
            if is_stylistic(token):
                stylistic += n
            else:
                content += n
    # what differs in its case alone is left over in the raw count
    raw = sum(((one - other) + (other - one)).values()) - stylistic - content
    total = raw + stylistic + content
    return (raw + stylistic) / total if total else None


def is_stylistic(token: str) -> bool:
    """Whether a casefolded token is a mark or a style word.

    >>> [is_stylistic(token) for token in ("**"[0], "however", "2.", "4", "=", "paris")]
    [True, True, True, False, False, False]
    """
    return token == "\n" or token in STYLE_WORDS or _MARK.fullmatch(token) is not None


def _tokens(text: str) -> Tokens:
    return Counter(match[0].strip(" \t") for match in _TOKEN.finditer(text))


def _folded(tokens: Tokens) -> Tokens:
    out: Tokens = Counter()
    for token, n in tokens.items():
        out[token.casefold()] += n
    return out
