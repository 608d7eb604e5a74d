"""Two texts side by side with what differs marked."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from html import escape

_PIECE = re.compile(r"\s+|\w+|[^\w\s]")
MOST_PIECES = 3000
"""The matcher is quadratic: longer texts are shown unmarked."""


def marked(one: str, other: str) -> tuple[str, str]:
    """Both texts as HTML, words that the other lacks in `<mark>`.

    >>> marked("2 + 2 = 4", "2 + 2 = 5 <b>")
    ('2 + 2 = <mark>4</mark>', '2 + 2 = <mark>5 &lt;b&gt;</mark>')
    """
    left, right = _PIECE.findall(one), _PIECE.findall(other)
    if max(len(left), len(right)) > MOST_PIECES:
        return escape(one), escape(other)
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    sides = ["", ""]
    for kind, a0, a1, b0, b1 in blocks:
        for side, text in enumerate(("".join(left[a0:a1]), "".join(right[b0:b1]))):
            sides[side] += f"<mark>{escape(text)}</mark>" if kind != "equal" and text else escape(text)
    return sides[0], sides[1]
