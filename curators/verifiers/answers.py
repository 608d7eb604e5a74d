"""Checks of a final answer: as text, as a number, in a box, as mathematics, as a letter.

A reference is the answer itself, a JSON object with the key `answer`, or a solution that ends in `#### answer` (GSM8K). Numbers may have
a sign, thousands separators, an exponent, or be a fraction (`3/4`, `\\frac{3}{4}`). A percent sign counts for nothing: the reference
code of MCTS-DPO also takes x · 100 and x / 100 for x, which makes wrong answers right.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from curators.judging.parsing import normalise

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+"
_NUMBER = re.compile(rf"((?:(?<![\w.)\]])[-+\u2212])?\$?(?:{_PLAIN}))(?: ?/ ?({_PLAIN}))?")
_FRACTION = re.compile(r"\\[dt]?frac\{(-?[\d.,]+)\}\{([\d.,]+)\}")
_LATEX_NOISE = re.compile(r"\\(?:left|right|displaystyle|[,;!: ])|\s|\\?[$%]|\^\{?\\circ\}?|\.$")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\{([^{}]*)\}")
_LATEX_UNIT = re.compile(r"(?<=\d)[\s~\\,;]*\\(?:text|mathrm|mbox)\{[^{}]*\}(?:\^\{?[23]\}?)?$")
_LATEX = re.compile(r"\$|\\\(|\\\[|\\boxed")
LETTERS = "ABCDEFGHIJ"


def exact(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """The response is the reference, white space aside."""
    return None if reference is None else normalise(response) == normalise(reference)


def numeric(*, prompt: str, response: str, reference: str | None, rel_tol: float = 1e-6) -> bool | None:
    """The last number of the response (or its JSON key `answer`) is that of the reference, to a relative tolerance.

    >>> numeric(prompt="", response="So 3 * 411 = 1,233.0 apples", reference="#### 1233")
    True
    >>> numeric(prompt="", response="about 3.1", reference="3.14159", rel_tol=0.02)
    True
    """
    expected = last_number(answer_of(reference or ""))
    if expected is None:
        return None
    said = last_number(answer_of(response))
    return said is not None and close(said, expected, rel_tol)


def boxed(*, prompt: str, response: str, reference: str | None, rel_tol: float = 1e-6) -> bool | None:
    r"""What stands in the last `\boxed{…}` of the response is the answer, as a number (a `\text{unit}` aside) or else as text; without a
    box its last number is.

    >>> boxed(prompt="", response=r"2 of 4, so \boxed{\frac{1}{2}}", reference="0.5")
    True
    """
    if reference is None:
        return None
    expected, said = last_boxed(reference) or answer_of(reference), last_boxed(response)
    wanted = _whole_number(expected)
    if said is None or wanted is not None:
        found = last_number(response) if said is None else _whole_number(said)
        return found is not None and wanted is not None and close(found, wanted, rel_tol)
    return bool(plain(said)) and plain(said) == plain(expected)


def choice(*, prompt: str, response: str, reference: str | None, letters: str = "ABCD") -> bool | None:
    """The letter that the response settles on is the reference's: `B`, or JSON `{"answer": "B", "options": ["red", "blue"]}`.

    Looked for in this order: the last box; the last `answer is B`, `Answer: (B)` or `option B`; a last line that is a letter or begins
    with one, as `B) blue`; with options also a last line that names exactly one of them. None of these, or two letters at once: wrong.

    >>> choice(prompt="", response="A is out, so the answer is (B).", reference="B")
    True
    """
    if reference is None:
        return None
    options = _options(reference)
    letters = LETTERS[: len(options)] if options else letters
    expected = answer_of(reference).strip(" ().").upper()
    if expected not in list(letters):
        raise ValueError(f"the reference {reference[:80]!r} names none of the letters {letters}")
    return _letter(response, letters, options) == expected


def equivalent(*, prompt: str, response: str, reference: str | None) -> bool | None:
    """The response's final expression equals the reference's as mathematics, by `math-verify`; what cannot be compared is not equal.

    >>> equivalent(prompt="", response=r"$\\frac{2}{4}$", reference="0.5")
    True
    """
    if reference is None:
        return None
    from math_verify import parse, verify

    for name in ("parser", "grader"):  # it warns that nobody sets a time limit; the process that runs this has one
        logging.getLogger(f"math_verify.{name}").setLevel(logging.ERROR)
    answer = answer_of(reference)
    expected = parse(answer if _LATEX.search(answer) else rf"\boxed{{{answer}}}", parsing_timeout=None)
    return verify(expected, parse(response, parsing_timeout=None), timeout_seconds=None) if expected else None


def answer_of(text: str) -> str:
    """The answer that a text states: its JSON key `answer`, else what stands after its last `####`, else all of it."""
    value = _json_object(text)
    if "answer" in value:
        return str(value["answer"])
    return text.rpartition("####")[2].strip()


def last_number(text: str) -> float | None:
    """The last number in a text, null if there is none or it is not finite.

    >>> last_number("from 3-4 to -1/2"), last_number("1,234.5 of 2e3"), last_number("none")
    (-0.5, 2000.0, None)
    """
    found = list(_NUMBER.finditer(_FRACTION.sub(r"\1/\2", text)))
    return _value(found[-1]) if found else None


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}` of a text, null if there is none or it is not closed."""
    _, found, rest = text.rpartition("\\boxed{")
    depth = 1
    for i, character in enumerate(rest if found else ""):
        depth += (character == "{") - (character == "}")
        if not depth:
            return rest[:i].strip()
    return None


def close(a: float, b: float, rel_tol: float) -> bool:
    return math.isclose(a, b, rel_tol=rel_tol, abs_tol=1e-9)


def plain(latex: str) -> str:
    r"""LaTeX without what changes nothing but its looks.

    >>> plain(r"\left( \dfrac{1}{2},\ \text{blue} \right)")
    '(\\frac{1}{2},blue)'
    """
    return _LATEX_NOISE.sub("", _LATEX_TEXT.sub(r"\1", latex).strip()).replace("dfrac", "frac").replace("tfrac", "frac")


def _whole_number(text: str) -> float | None:
    match = _NUMBER.fullmatch(plain(_FRACTION.sub(r"\1/\2", _LATEX_UNIT.sub("", text))))
    return _value(match) if match else None


def _value(match: re.Match[str]) -> float | None:
    above, below = (float(part.replace(",", "").replace("$", "").replace("\u2212", "-")) for part in (match[1], match[2] or "1"))
    value = above / below if below else math.nan
    return value if math.isfinite(value) else None


def _json_object(text: str) -> Mapping[str, Any]:
    if not text.lstrip().startswith("{"):
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _options(reference: str) -> list[str]:
    options = _json_object(reference).get("options") or []
    values = list(options.values()) if isinstance(options, dict) else options
    if not isinstance(values, list) or len(values) > len(LETTERS):
        raise ValueError(f"the options are {options!r:.80}; they are a list or an object of at most {len(LETTERS)} texts")
    return [str(value) for value in values]


def _letter(response: str, letters: str, options: Sequence[str]) -> str | None:
    one = rf"\(?([{letters}])\)?"
    end = r"(?=[\s.,:;*)\]}]|$)"
    in_box = re.fullmatch(rf"{one}(?:[.:)].*)?", plain(last_boxed(response) or ""))
    if in_box:
        return in_box[1]
    said = list(re.finditer(rf"(?i:answer|option|choice)(?i: is)?[ *:]{{0,4}}{one}{end}(?! *(?:or|and|/) *\(?[{letters}]\b)", response))
    if said:
        return said[-1][1]
    last = next((line.strip(" *_`") for line in reversed(response.splitlines()) if line.strip(" *_`")), "")
    if alone := re.fullmatch(rf"{one}[.:)]?|\(?([{letters}])[.:)] .*", last):
        return alone[1] or alone[2]
    named = [letter for letter, option in zip(letters, options, strict=False) if option.lower() in last.lower()]
    return named[0] if len(named) == 1 else None
