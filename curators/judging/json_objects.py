"""The JSON objects in a text, whatever stands around them: prose, a code fence, a second object.

Each is read from where its brace opens to where it closes, strings and nesting respected; nothing inside an object or a string is
taken for an object of its own. An object that is malformed or does not close spoils the whole text, since a quotation inside it would
pass for an object: `{"reason": "it says {"verdict": "A"}", "verdict": "B"}`. The time is linear in the text.
"""

from __future__ import annotations

import json
import re
from typing import Any

from curators.errors import VerdictError

_OPENING = re.compile(r'\{\s*"')


def objects_in(text: str) -> list[dict[str, list[Any]]]:
    """The outermost objects in order, each as its keys with **every** value that the key came with.

    >>> objects_in('Sure! ```json\\n{"verdict": "A", "verdict": "B"}``` {"n": {"verdict": "C"}} {not json}')
    [{'verdict': ['A', 'B']}, {'n': [{'verdict': 'C'}]}]

    Raises:
        VerdictError: an object is malformed or does not close.
    """
    found: list[dict[str, list[Any]]] = []
    place = 0
    while match := _OPENING.search(text, place):
        try:
            pairs, place = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError) as error:
            raise VerdictError("a JSON object is malformed or does not close") from error
        found.append(_every_value(pairs))
    return found


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written, before a key that stands twice hides its first value."""


def _every_value(pairs: _Pairs) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(_plain(value))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(each) for key, each in value}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_refuse, strict=False)
