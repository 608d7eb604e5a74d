"""Chains of arithmetic steps inside a text: found, changed at one step, and carried on from there.

A step is a line with `a op b = c` (op one of + - * / x ×, whole numbers); the last one on a line counts. An operand *depends* on the latest
earlier step whose result it repeats. Re-executing means: the results below a changed step follow from it, and the number that closes the
text (the last one after the last step, where it repeats the final result) follows too.

Deliberately not done: decimals, units, brackets, steps in words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

_WHOLE = r"-?\d{1,18}"
_EQUATION = re.compile(
    rf"(?<![\w.,])({_WHOLE})(\s*)([-+*/x×])(\s*)({_WHOLE})(\s*=\s*\$?)(<<[^<>]*>>\$?)?({_WHOLE})(?![\d,]|\.\d)(>>\$?{_WHOLE}(?![\d,]|\.\d))?"
)
_NUMBER = re.compile(r"(?<!\d)-?\d{1,18}(?!\d)")
LARGEST = 10**18
_ENUMERATOR = re.compile(r"^(\s*)(\d+)(\s*[.):]\s+)")
_SIGNS = {"x": "*", "×": "*"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Equation:
    """`a op b = c` on a line of a text. `depends` are the places of the steps that a and b come from, null for a number of the problem."""

    line: int
    a: int
    op: str
    b: int
    c: int
    depends: tuple[int | None, int | None] = (None, None)

    @property
    def sign(self) -> str:
        return _SIGNS.get(self.op, self.op)

    @property
    def right(self) -> bool:
        return result(self.sign, self.a, self.b) == self.c


def result(sign: str, a: int, b: int) -> int | None:
    """Null where it is no whole number, or one of more than 18 digits: errors may grow with every step.

    >>> result("/", 12, 4), result("/", 12, 5), result("-", 5, 12)
    (3, None, -7)
    """
    if sign == "/":
        return a // b if b and a % b == 0 else None
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return value if abs(value) < LARGEST else None


def split_lines(text: str) -> list[str]:
    """Lines, or the parts between semicolons of a text of one line; joined they are the text."""
    lines = text.splitlines(keepends=True)
    return lines if len(lines) > 1 else [part for part in re.split(r"(?<=;)", text) if part]


def chain(text: str) -> list[Equation]:
    """
    >>> [(step.a, step.op, step.b, step.c, step.depends) for step in chain("12 - 5 = 7; 7 * 2 = 14")]
    [(12, '-', 5, 7, (None, None)), (7, '*', 2, 14, (0, None))]
    """
    found: list[Equation] = []
    for number, line in enumerate(split_lines(text)):
        match = _last_step(line)
        if match is None:
            continue
        a, _, op, _, b, _, _, c, _ = match.groups()
        earlier = {step.c: place for place, step in enumerate(found)}
        depends = earlier.get(int(a)), earlier.get(int(b))
        found.append(Equation(line=number, a=int(a), op=op, b=int(b), c=int(c), depends=depends))
    return found


def carried(steps: Sequence[Equation], place: int, changed: Equation) -> list[Equation] | None:
    """The chain with one step changed, its result carried into all that depend on it; null where a result is no whole number.

    >>> steps = chain("12 - 5 = 7; 7 * 2 = 14")
    >>> [step.c for step in carried(steps, 0, replace(steps[0], c=8))]
    [8, 16]
    """
    out = [*steps[:place], changed]
    for step in steps[place + 1 :]:
        first, second = step.depends
        a = step.a if first is None else out[first].c
        b = step.b if second is None else out[second].c
        if (a, b) == (step.a, step.b):
            out.append(step)
            continue
        c = result(step.sign, a, b)
        if c is None:
            return None
        out.append(replace(step, a=a, b=b, c=c))
    return out


def written(text: str, before: Sequence[Equation], after: Sequence[Equation]) -> str | None:
    """The text with its steps as they are in `after`, and the closing number with them; null where another number than the final result
    closes the text, which then does not follow from these steps.

    >>> steps = chain("12 - 5 = 7; 7 * 2 = 14")
    >>> written("12 - 5 = 7; 7 * 2 = 14", steps, carried(steps, 0, replace(steps[0], c=8)))
    '12 - 5 = 8; 8 * 2 = 16'
    """
    lines = split_lines(text)
    for old, new in zip(before, after, strict=True):
        if old != new:
            lines[old.line] = _rewritten(lines[old.line], new)
    last, final = before[-1], after[-1]
    tail = "".join(lines[last.line + 1 :])
    numbers = list(_NUMBER.finditer(tail))
    if numbers and int(numbers[-1][0]) != last.c:
        return None
    if numbers:
        tail = f"{tail[: numbers[-1].start()]}{final.c}{tail[numbers[-1].end() :]}"
    return "".join(lines[: last.line + 1]) + tail


def without_line(text: str, line: int) -> str:
    """The text without a line; the enumerators below move up.

    >>> without_line("1. one\\n2. two\\n3. three", 1)
    '1. one\\n2. three'
    """
    lines = split_lines(text)
    moved = [_ENUMERATOR.sub(lambda found: f"{found[1]}{int(found[2]) - 1}{found[3]}", each) for each in lines[line + 1 :]]
    return "".join(lines[:line] + (moved if _ENUMERATOR.match(lines[line]) else lines[line + 1 :]))


def _last_step(line: str) -> re.Match[str] | None:
    """The last `a op b = c` of a line that is not the end of a longer expression, as `3 + 4 = 10` is in `2 * 3 + 4 = 10`."""
    alone = [found for found in _EQUATION.finditer(line) if not _continues(line[: found.start()])]
    return alone[-1] if alone else None


def _continues(before: str) -> bool:
    before = before.rstrip()
    return before[-1:] in tuple("-+*/×()") and before.strip() not in ("-", "*", "+")  # those alone are bullets


def _rewritten(line: str, step: Equation) -> str:
    """The line with another step, calculator annotations (`<<12-5=7>>7`) included."""
    found = _last_step(line)
    assert found is not None
    _, s1, _, s2, _, equals, annotation, _, closing = found.groups()
    noted = f"<<{step.a}{step.op}{step.b}={step.c}>>{'$' * annotation.endswith('$')}" if annotation else ""
    after = f">>{'$' * ('$' in closing)}{step.c}" if closing else ""
    return f"{line[: found.start()]}{step.a}{s1}{step.op}{s2}{step.b}{equals}{noted}{step.c}{after}{line[found.end() :]}"
