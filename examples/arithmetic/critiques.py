"""What the judge is taught to write: quote a step, then check it; stop at the first wrong one; give a verdict.

"A2: 30 + 26 = 58, is 56 no" was the one form of four that a model of this size could learn: the quote makes it read
the claim, the check makes it solve the step, and the verdict follows from the walked lines. A step that works on the
wrong operation or number is answered with the operation that the problem asks for: "A2: 30 - 26 = 4, is 30 + 26 no".
"""

from __future__ import annotations

import json

from examples.arithmetic.world import first_wrong, solution_lines


def walk(letter: str, response: str, reference: str) -> list[str]:
    """The critique lines of one solution, up to and with its first wrong line.

    >>> gold = '{"answer": 23, "steps": ["12 - 11 = 1", "1 + 22 = 23"]}'
    >>> print("\\n".join(walk("A", "1. 12 - 11 = 1\\n2. 1 + 22 = 24\\nAnswer: 24", gold)))
    A1: 12 - 11 = 1, is 1 ok
    A2: 1 + 22 = 24, is 23 no
    >>> walk("B", "1. 12 + 11 = 23\\nAnswer: 23", gold)
    ['B1: 12 + 11 = 23, is 12 - 11 no']
    """
    gold = json.loads(reference)
    wrong, lines = first_wrong(response, reference), solution_lines(response)
    expected = [*gold["steps"], f"Answer: {gold['answer']}"]
    out = []
    for i in range(len(lines) if wrong is None else wrong + 1):
        said = lines[i] if i < len(lines) else "nothing"
        mark = "no" if i == wrong else "ok"
        out.append(f"{letter}{i + 1}: {said}, is {_truth(said, expected[i] if i < len(expected) else None)} {mark}")
    return out


def _truth(said: str, expected: str | None) -> str:
    """What a line should have been: its result if the rest is right, else the operation (or Answer, or nothing)."""
    if expected is None:
        return "nothing"
    if expected.startswith("Answer"):
        return expected.removeprefix("Answer: ") if said.startswith("Answer:") else "Answer"
    operation, result = expected.split(" = ")
    return result if said.split(" = ")[0] == operation else operation


def critique(first: str, second: str, reference: str) -> str:
    """The whole gold critique of a pair, in the order shown, ending in its verdict line."""
    lines = walk("A", first, reference) + walk("B", second, reference)
    return "\n".join([*lines, f"Verdict: {verdict(first, second, reference)}"])


def verdict(first: str, second: str, reference: str) -> str:
    """`A` or `B` if exactly that one is right at every step, else `tie`."""
    right = [first_wrong(text, reference) is None for text in (first, second)]
    return "tie" if right[0] == right[1] else "A" if right[0] else "B"
