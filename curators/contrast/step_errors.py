"""Step errors: a right solution, one of its steps made wrong by a known operator, verified.

| operator | the step `12 - 5 = 7` becomes |
|---|---|
| `plus_one`, `minus_one` | `12 - 5 = 8`, `12 - 5 = 6` |
| `times_ten` | `12 - 5 = 70` |
| `swap_digits` | two neighbouring digits of the result change places (`= 17` becomes `= 71`) |
| `flip_operator` | `12 + 5 = 17` (+ and -, * and + for a product) |
| `swap_operands` | `5 - 12 = -7`; refused for + and * , where it changes nothing |
| `delete_step` | nothing: the steps below go on from 12 |

An error is used when it touches exactly one step, changes the final result once the steps below are re-executed from it
(`equations.carried`), keeps the ratio of lengths within bounds (deletion aside), and the verifier scores the solution with the error
carried on lower than the original.

`scope` solution: the whole original and the whole solution with the error carried on; step: both sides are the right beginning with one
step more, the right one and the wrong one (as Step-DPO, Lai et al. 2024, arXiv 2406.18629, has them), which do not end the answer: a
trainer that closes every turn would teach to stop there. What both begin with is `shared_prefix_share`, and a suffix loss (SCDPO, Lu et
al. 2024, arXiv 2407.00782) is one over the tokens after it.

Deliberately not done: flipped comparisons, dropped conversions of units, swapped steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import polars as pl

from curators.contrast.candidates import Attempt, contrasts, settings, text_of
from curators.contrast.checkers import compared, scores_of
from curators.contrast.equations import LARGEST, Equation, carried, chain, result, split_lines, without_line, written
from curators.errors import ConfigError
from curators.pairs import unit_hash
from curators.sampling import Row
from curators.verifiers import Verifier


@dataclass(frozen=True, kw_only=True, slots=True)
class StepErrorConfig:
    """`per_answer` errors are drawn for each answer, by hash of seed and id. `len_ratio` bounds are inclusive, in characters of whole
    solutions.
    """

    operators: tuple[str, ...] = ("plus_one", "minus_one", "times_ten", "swap_digits", "flip_operator", "swap_operands", "delete_step")
    scope: str = "solution"
    per_answer: int = 1
    len_ratio: tuple[float, float] = (0.9, 1.1)
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.operators) - set(OPERATORS)) or not self.operators:
            raise ConfigError(f"step errors: operators {unknown or self.operators} are not there; there are {sorted(OPERATORS)}")
        if self.scope not in ("step", "solution") or self.per_answer < 1:
            raise ConfigError(
                f"step errors: scope is {self.scope!r}, must be step or solution; per_answer is {self.per_answer}, must be ≥ 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Injected:
    """One error: the whole solution with it, and the texts up to and with the right and the wrong step."""

    place: int
    operator: str
    solution: str
    chosen_step: str
    rejected_step: str


def inject_step_errors(rows: pl.DataFrame, *, config: StepErrorConfig | None = None, verifier: Verifier) -> pl.DataFrame:
    """`contrasts` of `answers`: up to `per_answer` verified errors of each, else one row that says why there is none."""
    config = config or StepErrorConfig()
    return contrasts(made for row in rows.iter_rows(named=True) for made in _errors(row, config, verifier))


def inject(text: str, place: int, operator: str, *, len_ratio: tuple[float, float] = (0.0, float("inf"))) -> Injected | None:
    """The error at a step, null where the operator does not apply, it does not show there, the final result stays the same, or a length
    bound is broken.

    >>> error = inject("12 - 5 = 7; 7 * 2 = 14", 0, "plus_one")
    >>> error.chosen_step, error.rejected_step, error.solution
    ('12 - 5 = 7;', '12 - 5 = 8;', '12 - 5 = 8; 8 * 2 = 16')
    >>> inject("12 - 5 = 7; 7 * 2 = 14", 1, "swap_operands") is None
    True
    """
    steps = chain(text)
    step = steps[place]
    changed = OPERATORS[operator](step)
    if changed is None or changed.c == step.c or abs(changed.c) >= LARGEST or (operator == "delete_step" and place + 1 == len(steps)):
        return None
    after = carried(steps, place, changed)
    if after is None or after[-1].c == steps[-1].c:
        return None
    solution = written(text, steps, after)
    if solution is None:
        return None
    if operator == "delete_step":
        solution = without_line(solution, step.line)
    elif not len_ratio[0] <= len(solution) / len(text) <= len_ratio[1]:
        return None
    right, wrong = ("".join(split_lines(each)[: step.line + 1]).rstrip("\n") for each in (text, solution))
    if right == wrong:
        return None  # the step that moved up into the place of the one left out reads as that one did
    return Injected(place=place, operator=operator, solution=solution, chosen_step=right, rejected_step=wrong)


def _swapped_digits(step: Equation) -> Equation | None:
    digits = str(abs(step.c))
    for at in range(len(digits) - 1):
        other = digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]
        if other != digits and other[0] != "0":
            return replace(step, c=int(other) if step.c >= 0 else -int(other))
    return None


def _flipped(step: Equation) -> Equation | None:
    op = {"+": "-", "-": "+", "*": "+", "/": "*"}[step.sign]
    c = result(op, step.a, step.b)
    return None if c is None else replace(step, op=op, c=c)


def _swapped_operands(step: Equation) -> Equation | None:
    c = result(step.sign, step.b, step.a)
    return None if step.sign in "+*" or c is None else replace(step, a=step.b, b=step.a, c=c, depends=step.depends[::-1])


OPERATORS: Mapping[str, Callable[[Equation], Equation | None]] = {
    "plus_one": lambda step: replace(step, c=step.c + 1),
    "minus_one": lambda step: replace(step, c=step.c - 1),
    "times_ten": lambda step: replace(step, c=step.c * 10),
    "swap_digits": _swapped_digits,
    "flip_operator": _flipped,
    "swap_operands": _swapped_operands,
    "delete_step": lambda step: replace(step, c=step.a),  # what depends on the step goes on from what it started from
}


def _proposals(source: Row, config: StepErrorConfig) -> Iterator[Injected]:
    text = text_of(source)
    steps = chain(text)
    all_of = [(place, operator) for place in range(len(steps)) for operator in config.operators]
    for place, operator in sorted(all_of, key=lambda one: (unit_hash("error", config.seed, source["generation_id"], *one), one)):
        error = inject(text, place, operator, len_ratio=config.len_ratio)
        if error is not None:
            yield error


def _errors(source: Row, config: StepErrorConfig, verifier: Verifier) -> list[Row]:
    attempt = Attempt(
        source=source, method="step_error", axis="one step", parameters=settings(config), source_ids=[source["generation_id"]]
    )
    steps = chain(text_of(source))
    if not steps:
        return [attempt.row(source, state="unsatisfiable", reason="the answer has no step of the form a op b = c")]
    if wrong := [place for place, step in enumerate(steps) if not step.right]:
        return [attempt.row(source, state="already_wrong", reason=f"step {wrong[0] + 1} of the answer is wrong as it stands")]
    out: list[Row] = []
    for error in _proposals(source, config):
        out.append(_row(source, error, config, verifier))
        if sum(row["state"] == "ok" for row in out) == config.per_answer or out[-1]["state"] == "unverified":
            break
    passed = [row for row in out if row["state"] == "ok"]
    return passed or out[-1:] or [attempt.row(source, state="unsatisfiable", reason="no operator changes the final result of this answer")]


def _row(source: Row, error: Injected, config: StepErrorConfig, verifier: Verifier) -> Row:
    attempt = Attempt(
        source=source,
        method="step_error",
        axis="one step",
        parameters={**settings(config), "operator": error.operator, "step": error.place + 1},
        held_fixed=("the steps before",),
        source_ids=[source["generation_id"]],
    )
    checked = compared(verifier, scores_of(verifier, source, [text_of(source), error.solution]))
    whole = config.scope == "solution"
    chosen = source | {"score": None} if whole else error.chosen_step
    columns = {"degree": 1.0, **checked.columns}
    if not whole:
        columns |= {"chosen_policy": source.get("policy"), "chosen_id": None}
    rejected = error.solution if whole else error.rejected_step
    return attempt.row(chosen, rejected, state=checked.state, reason=checked.reason, checks=checked.checks, **columns)
