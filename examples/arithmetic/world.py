"""Multi-step word problems with an exact checker: the world that the embedded policy and judge live in.

A problem starts from a number and applies 3 to 8 operations (+, -, and * by 2, 3 or 4); every number on the way is
between 1 and 99. A solution is one numbered line per step and an answer line. Pure Python, seeded, order-free: problem
`i` of a seed does not depend on how many are asked for.

Three splits never share a sequence of numbers: `train` (the models' training), `demo` (the same sentence patterns,
problems that no model was trained on) and `heldout` (other numbers and other sentence patterns, see `phrases.py`).

`check_answer` and `check_steps` have the signature of a user's verifier, `module:function`; what they need is in
`reference`, a JSON string `{"answer": 34, "steps": ["12 - 11 = 1", ...]}`.

Deliberately not done: units, fractions, negative numbers, or more than one right way through a problem.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from examples.arithmetic.phrases import PEOPLE, THINGS, Patterns, patterns

SPLITS = ("train", "demo", "heldout")
LENGTHS = {3: 26, 4: 26, 5: 20, 6: 13, 7: 9, 8: 6}
SLIP_SHARE = {2: 0.1, 3: 0.3, 4: 0.6}
RANDOM_SLIP_SHARE = 0.01
LARGEST = 99

_LINE = re.compile(r"^\s*(?:\d+\s*[.):]\s+)?(.*?)\s*$")
_STEP = re.compile(r"^(\d+)\s*([+*-])\s*(\d+)\s*=\s*(\d+)$")
_ANSWER = re.compile(r"^Answer:\s*(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One word problem. `operations` are (operator, operand) in order, applied to `start`."""

    text: str
    start: int
    operations: tuple[tuple[str, int], ...]
    steps: tuple[str, ...]
    answer: int

    @property
    def solution(self) -> str:
        """The gold solution, as the policy would write it."""
        return write_solution(self.steps, self.answer)

    @property
    def reference(self) -> str:
        """What the checkers need, as one JSON string."""
        return json.dumps({"answer": self.answer, "steps": list(self.steps)})


def problems(n: int, *, seed: int, split: str) -> list[Problem]:
    """The first `n` distinct problems of a split and a seed.

    >>> one = problems(1, seed=0, split="demo")[0]
    >>> check_steps(prompt=one.text, response=one.solution, reference=one.reference)
    True
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed are {list(SPLITS)}")
    found: dict[str, Problem] = {}
    stream = problem_stream(seed=seed, split=split)
    while len(found) < n:
        problem = next(stream)
        found.setdefault(problem.text, problem)
    return list(found.values())


def problem_stream(*, seed: int, split: str) -> Iterator[Problem]:
    """Problems of a split without end; texts may repeat, though hardly ever."""
    rng = random.Random(f"{split}-{seed}")
    while True:
        start, operations = draw_operations(rng)
        if split_of(start, operations) == split:
            yield tell(rng, start, operations, _patterns(split == "heldout"))


@cache
def _patterns(heldout: bool) -> Patterns:
    return patterns(heldout=heldout)


def split_of(start: int, operations: tuple[tuple[str, int], ...]) -> str:
    """The split that a sequence of numbers belongs to: a tenth `heldout`, a tenth `demo`, the rest `train`."""
    digest = zlib.crc32(f"{start}{''.join(f'{op}{n}' for op, n in operations)}".encode()) % 10
    return {0: "heldout", 1: "demo"}.get(digest, "train")


def draw_operations(rng: random.Random) -> tuple[int, tuple[tuple[str, int], ...]]:
    """A start (2 to 40) and 3 to 8 operations that keep every value between 1 and 99."""
    value = start = rng.randint(2, 40)
    length = rng.choices(list(LENGTHS), weights=list(LENGTHS.values()))[0]
    operations = []
    for _ in range(length):
        factors = [f for f in (2, 3, 4) if value * f <= LARGEST]
        possible = ["+"] * (value < 90) + ["-"] * (value > 3) + ["*"] * bool(factors)
        op = rng.choice(possible)
        if op == "*":
            operand = rng.choice(factors)
        else:
            operand = rng.randint(2, min(40, LARGEST - value)) if op == "+" else rng.randint(2, min(40, value - 1))
        operations.append((op, operand))
        value = apply(op, value, operand)
    return start, tuple(operations)


def apply(op: str, value: int, operand: int) -> int:
    """The result of one operation.

    >>> apply("*", 7, 4), apply("-", 7, 4)
    (28, 3)
    """
    return {"+": value + operand, "-": value - operand, "*": value * operand}[op]


def tell(rng: random.Random, start: int, operations: tuple[tuple[str, int], ...], written: Patterns) -> Problem:
    """Put a sequence of numbers into words, and work out its steps and answer."""
    name, pronoun = rng.choice(PEOPLE)
    things = rng.choice(THINGS)
    first, question = rng.choice(written.frames)
    sentences, steps, value = [first.format(name=name, n=start, things=things)], [], start
    for op, operand in operations:
        opening, clause = rng.choice(written.steps[op])
        who = rng.choice((name, pronoun))
        sentence = opening + clause.format(who=who, n=operand, things=things) + "."
        sentences.append(sentence[0].upper() + sentence[1:])
        result = apply(op, value, operand)
        steps.append(f"{value} {op} {operand} = {result}")
        value = result
    text = " ".join([*sentences, question.format(name=name, things=things)])
    return Problem(text=text, start=start, operations=operations, steps=tuple(steps), answer=value)


def write_solution(steps: tuple[str, ...] | list[str], answer: int) -> str:
    """Numbered lines and the answer line; the last line has no newline.

    >>> print(write_solution(["12 - 11 = 1", "1 + 22 = 23"], 23))
    1. 12 - 11 = 1
    2. 1 + 22 = 23
    Answer: 23
    """
    return "".join(f"{i}. {step}\n" for i, step in enumerate(steps, 1)) + f"Answer: {answer}"


def slipped_solution(problem: Problem, rng: random.Random, *, scale: float = 1.0) -> str:
    """A solution with the policy's slips: `a * b + 1` on a share of the products, now and then any other slip.

    A slip is carried on: later steps start from the wrong value. `scale` multiplies both shares. A product slips with
    probability `SLIP_SHARE[factor] * scale`, any step slips otherwise with `RANDOM_SLIP_SHARE * scale`.
    """
    value, steps = problem.start, []
    for op, operand in problem.operations:
        written_op, written_operand, result = op, operand, apply(op, value, operand)
        if not 1 <= result <= LARGEST + 20:
            return slipped_solution(problem, rng, scale=scale)
        if op == "*" and rng.random() < SLIP_SHARE[operand] * scale:
            result += 1
        elif rng.random() < RANDOM_SLIP_SHARE * scale:
            written_op, written_operand, result = random_slip(rng, op, value, operand)
        steps.append(f"{value} {written_op} {written_operand} = {result}")
        value = result
    return write_solution(steps, value)


def random_slip(rng: random.Random, op: str, value: int, operand: int) -> tuple[str, int, int]:
    """Another (operator, operand, result): usually a wrong result, sometimes a misread operation or number."""
    kind = rng.random()
    if kind < 0.7:
        right = apply(op, value, operand)
        off = [right + d for d in (-10, -2, -1, 1, 2, 10) if right + d > 0]
        return op, operand, rng.choice(off)
    if kind < 0.85 and op != "*":
        other = "-" if op == "+" and value > operand else "+"
        if other != op:
            return other, operand, apply(other, value, operand)
    near = operand + rng.choice((1, 2) if op != "-" or value > operand + 2 else (0,))
    result = apply(op, value, near)
    return (op, near, result) if near != operand else (op, operand, result + 1)


def corrupted_solution(problem: Problem, rng: random.Random) -> str:
    """The gold solution with one error planted at a random line, carried on from there; never right.

    >>> one = problems(1, seed=0, split="demo")[0]
    >>> check_steps(prompt=one.text, response=corrupted_solution(one, random.Random(0)), reference=one.reference)
    False
    """
    where = rng.randrange(len(problem.operations) + 1)
    value, steps = problem.start, []
    for i, (op, operand) in enumerate(problem.operations):
        written_op, written_operand, result = op, operand, apply(op, value, operand)
        if not 1 <= result <= LARGEST + 20:
            return corrupted_solution(problem, rng)
        if i == where:
            written_op, written_operand, result = random_slip(rng, op, value, operand)
        steps.append(f"{value} {written_op} {written_operand} = {result}")
        value = result
    off = rng.choice([d for d in (-10, -1, 1, 10) if value + d > 0]) if where == len(steps) else 0
    return write_solution(steps, value + off)


def solution_lines(text: str) -> list[str]:
    """The non-empty lines of a solution without their numbers.

    >>> solution_lines("1. 12 - 11 = 1\\n\\nAnswer: 1")
    ['12 - 11 = 1', 'Answer: 1']
    """
    return [_LINE.sub(r"\1", line) for line in text.splitlines() if line.strip()]


def step_matches(line: str, step: str) -> bool:
    """Whether a line is the gold step, up to spaces and the order of the operands of + and *.

    >>> step_matches("11+12 = 23", "12 + 11 = 23"), step_matches("11 - 12 = 1", "12 - 11 = 1")
    (True, False)
    """
    given, gold = _STEP.match(line), _STEP.match(step)
    if not given or not gold or given[2] != gold[2] or int(given[4]) != int(gold[4]):
        return False
    left, right = (int(given[1]), int(given[3])), (int(gold[1]), int(gold[3]))
    return left == right or (gold[2] in "+*" and left == right[::-1])


def first_wrong(response: str, reference: str) -> int | None:
    """The index from 0 of the first wrong line of a solution, its length if lines are missing, None if it is right.

    >>> gold = '{"answer": 23, "steps": ["12 - 11 = 1", "1 + 22 = 23"]}'
    >>> first_wrong("1. 12 - 11 = 1\\n2. 1 + 22 = 24\\nAnswer: 24", gold), first_wrong("1. 12 - 11 = 1\\n", gold)
    (1, 1)
    """
    gold = json.loads(reference)
    lines, steps = solution_lines(response), gold["steps"]
    for i, line in enumerate(lines):
        if i < len(steps) and not step_matches(line, steps[i]):
            return i
        if i == len(steps) and read_answer(line) != gold["answer"]:
            return i
        if i > len(steps):
            return i
    return None if len(lines) == len(steps) + 1 else len(lines)


def read_answer(text: str) -> int | None:
    """The number on the last answer line, or None.

    >>> read_answer("1. 1 + 1 = 2\\nAnswer: 2"), read_answer("two")
    (2, None)
    """
    found = [match for line in solution_lines(text) if (match := _ANSWER.match(line))]
    return int(found[-1][1]) if found else None


def check_answer(*, prompt: str, response: str, reference: str | None) -> bool:
    """Whether the answer line is right, whatever the steps say. A verifier: `prompt` is not read."""
    if reference is None:
        raise ValueError("check_answer: the prompt has no reference; it needs a JSON string with 'answer' and 'steps'")
    return read_answer(response) == int(json.loads(reference)["answer"])


def check_steps(*, prompt: str, response: str, reference: str | None) -> bool:
    """Whether every step and the answer are right. A verifier: `prompt` is not read."""
    if reference is None:
        raise ValueError("check_steps: the prompt has no reference; it needs a JSON string with 'answer' and 'steps'")
    return first_wrong(response, reference) is None
