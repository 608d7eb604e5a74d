"""Small trees as expanders: what tests, benchmarks and a driver without an engine search.

T1: two first steps A and B with two answers below each. T2: three steps, three levels, values and outcomes by formula. Their values are
worked out in the tests. `arms`: answers only. `wild`: anything, by hash of the place.
Every prior is given, so that no tokens are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from curators.pairs import unit_hash
from curators.stepsearch.step import Step
from curators.stepsearch.tree import Expander, Tree

_T1 = {"": (("A", 0.6), ("B", 0.7)), "A": (("A1", 1.9), ("A2", -0.8)), "B": (("B1", -0.6), ("B2", -0.7))}
_T2_PRIORS = (0.5, 0.3, 0.2)


def t1(tree: Tree, node: int) -> list[Step]:
    """The steps below a node of T1."""
    at = tree.text(node)
    return [
        Step(text=name[len(at) :], value=value, terminal=bool(at), outcome=(1 if value > 0 else -1) if at else None, prior=0.5)
        for name, value in _T1[at]
    ]


def t2(tree: Tree, node: int) -> list[Step]:
    """The steps below a node of T2: R(i) = (3i+2 mod 10)/10, R(ij) = (3i+2j+1 mod 10)/10, R(ijk) = O + (7i+5j+3k+1 mod 10)/10.

    O is 1 where i + 2j + 3k is a multiple of 5, else -1.
    """
    place = tree.place(node)
    return [_t2_step((*place, k), prior) for k, prior in enumerate(_T2_PRIORS)]


def _t2_step(place: tuple[int, ...], prior: float) -> Step:
    last = place[-1]
    text = f"{last} "
    if len(place) == 1:
        return Step(text=text, value=(3 * last + 2) % 10 / 10, prior=prior)
    if len(place) == 2:
        return Step(text=text, value=(3 * place[0] + 2 * last + 1) % 10 / 10, prior=prior)
    i, j, k = place
    outcome = 1 if (i + 2 * j + 3 * k) % 5 == 0 else -1
    self_eval = (7 * i + 5 * j + 3 * k + 1) % 10 / 10
    return Step(text=text, value=outcome + self_eval, outcome=outcome, self_eval=self_eval, terminal=True, prior=prior)


def arms(values: Sequence[float], priors: Sequence[float] | None = None) -> Expander:
    """Answers with these values and priors (null: uniform), directly below the prompt."""
    given = [1 / len(values)] * len(values) if priors is None else priors

    def expand(tree: Tree, node: int) -> list[Step]:
        return [Step(text=f"{i}", value=value, terminal=True, prior=p) for i, (value, p) in enumerate(zip(values, given, strict=True))]

    return expand


def wild(seed: int, breadth: int = 4, deepest: int = 4) -> Expander:
    """Up to `breadth` steps at every node, some of them answers, some cut off, some no step at all; deeper than `deepest` nothing comes."""

    def expand(tree: Tree, node: int) -> list[Step]:
        place = tree.place(node)
        if len(place) == deepest:
            return []
        n = 1 + int(unit_hash(seed, place, "n") * breadth)
        return [_wild_step(seed, (*place, i), 1 / n) for i in range(n)]

    return expand


def _wild_step(seed: int, place: tuple[int, ...], prior: float) -> Step:
    kind, value = unit_hash(seed, place, "kind"), unit_hash(seed, place, "value")
    text = f"{place[-1]} "
    if kind < 0.1:
        return Step(text=text, state="duplicate", reason="another sample is the same step")
    if kind < 0.2:
        return Step(text=text, value=value - 1, outcome=-1, self_eval=value, state="truncated", prior=prior)
    if kind < 0.5:
        outcome = 1 if kind < 0.3 else -1
        return Step(text=text, value=value + outcome, outcome=outcome, self_eval=value, terminal=True, prior=prior)
    return Step(text=text, value=value, self_eval=value, prior=prior)
