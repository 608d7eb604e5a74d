"""What a state is worth, and what a searched tree says about its steps.

    R(s) = w_v O(s) + w_s C(s) + w_r ρ(s)        O: 1 right, -1 wrong answer, 0 unfinished        C: self-evaluation        ρ: reward

Three values of a node: W by visits, R + V with γ = 1, is what the search believes, and tends to W_max as it goes on ("is there a right
answer below"); W_mean is what to expect of the policy that sampled the steps ("how likely is it right from here"). After few simulations
the first may even order siblings the wrong way round, so all are kept. Labels: Math-Shepherd's hard (some right answer below) and soft
(share of right answers) estimates (arXiv 2312.08935), from the tree's own answers instead of rollouts.

Lists returned here are indexed by node number. Steps that were no children (duplicates, failures) take no part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from curators.stepsearch.config import SearchConfig
from curators.stepsearch.tree import Tree

T = TypeVar("T")
Weights = Literal["uniform", "prior"]
"""How siblings count in a mean. Sampled from the policy they already come as often as they should, so uniform is the unbiased one."""

NOVEL = 5 / 4


def state_value(
    outcome: float | None,
    self_eval: float | None,
    config: SearchConfig,
    *,
    reward: float | None = None,
    truncated: bool = False,
    parent_depth: int = 0,
    parent_value: float = 0.0,
    novel: bool = False,
    choice: bool = False,
) -> float:
    """R of the state after a step: its parts by `config.weights`, a null part as 0. `outcome` is null while the answer is unfinished, and
    for one that was cut off. `self_eval` is in [0, 1], `reward` is what its source says.

    With the adjustments `ref`, as the reference's code has them: C + ρ is divided by parent_depth - 3 from depth 5 on; O of a right answer
    is multiplied by 5/4 when its text is `novel` (not a beginning of the reference solution); a right multiple `choice` counts nothing
    directly below the prompt and half one step later; a value of exactly 0 becomes the parent's. An answer that was cut off has no O there.

    >>> state_value(1, 0.5, SearchConfig()), state_value(None, 0.25, SearchConfig(), truncated=True)
    (1.5, -0.75)
    >>> from curators.stepsearch.config import ValueWeights
    >>> state_value(1, 0.5, SearchConfig(weights=ValueWeights(self_eval=0.5, reward=0.25)), reward=2.0)
    1.75
    """
    if truncated:
        outcome = config.truncated_outcome
    weights = config.weights
    graded = weights.verifier * (outcome or 0.0)
    judged = weights.self_eval * (self_eval or 0.0) + weights.reward * (reward or 0.0)
    if config.adjustments == "none":
        return graded + judged
    if graded > 0 and choice:
        graded *= 0 if parent_depth == 0 else 0.5 if parent_depth == 1 else 1
    elif graded > 0 and novel:
        graded *= NOVEL
    return graded + judged / max(parent_depth - 3, 1) or parent_value


def w_visits(tree: Tree) -> list[float]:
    """The mean of the children's values by visits (N or max(1, N)), down to R where no simulation went further: R + V when γ is 1."""
    least = 1 if tree.config.backup_weights == "at_least_one" else 0

    def combine(node: int, values: Sequence[float]) -> float:
        weights = [tree.N[child] or least for child in tree.children(node)]
        return _mean(values, weights) if tree.N[node] > tree.ended[node] else tree.R[node]

    return _fold(tree, lambda node: tree.R[node], combine)


def w_mean(tree: Tree, weights: Weights = "uniform") -> list[float]:
    """The mean of R over what lies at the ends of the tree below a node, siblings weighted alike or by prior."""

    def combine(node: int, values: Sequence[float]) -> float:
        return _mean(values, [tree.prior[child] if weights == "prior" else 1 for child in tree.children(node)])

    return _fold(tree, lambda node: tree.R[node], combine)


def w_max(tree: Tree) -> list[float]:
    """The largest R at the ends of the tree below a node."""
    return _fold(tree, lambda node: tree.R[node], lambda _, values: max(values))


def answers(tree: Tree) -> list[tuple[int, int]]:
    """How many right and wrong answers stand at or below a node."""
    counts: list[tuple[int, int]] = _fold(tree, lambda node: _graded(tree, node), _sums)
    return counts


def soft_labels(tree: Tree, weights: Weights = "uniform") -> list[float | None]:
    """The share of right answers below a node, in [0, 1]; null where none is graded.

    At every node the mean over the children that have one, so that a child with many answers below counts no more than one with a single.
    """

    def leaf(node: int) -> float | None:
        right, wrong = _graded(tree, node)
        return float(right) if right + wrong else None

    def combine(node: int, values: Sequence[float | None]) -> float | None:
        known = [(value, child) for child, value in zip(tree.children(node), values, strict=True) if value is not None]
        return _mean([v for v, _ in known], [tree.prior[c] if weights == "prior" else 1 for _, c in known]) if known else None

    return _fold(tree, leaf, combine)


def hard_labels(tree: Tree) -> list[bool | None]:
    """Whether a right answer stands at or below a node; null where none is graded."""
    return [right > 0 if right + wrong else None for right, wrong in answers(tree)]


def regrets(values: Sequence[float]) -> list[float]:
    """How much worse than the best sibling each one is.

    >>> regrets([1.0, 3.0])
    [2.0, 0.0]
    """
    return [max(values) - value for value in values]


def _graded(tree: Tree, node: int) -> tuple[int, int]:
    """(1, 0) for a right answer, (0, 1) for a wrong or truncated one, (0, 0) for anything else."""
    step = tree.steps[node]
    outcome = step.outcome
    if step.state == "truncated":
        outcome = tree.config.truncated_outcome
    if outcome is None:
        return 0, 0
    return int(outcome > 0), int(outcome < 0)


def _sums(_: int, counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(right for right, _ in counts), sum(wrong for _, wrong in counts)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def _fold(tree: Tree, leaf: Callable[[int], T], combine: Callable[[int, Sequence[T]], T]) -> list[T]:
    """A value for every node from those of its children; children have larger numbers, so one pass from the end is enough."""
    values: list[T] = [leaf(0)] * len(tree)
    for node in range(len(tree) - 1, -1, -1):
        below = tree.children(node)
        values[node] = combine(node, values[below.start : below.stop]) if below else leaf(node)
    return values
