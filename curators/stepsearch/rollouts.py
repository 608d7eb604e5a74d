"""Labels for the steps of a given solution from rollouts: how often the policy, continuing a prefix of it, comes to the right answer.

Two ways, both asking and being answered, so that whoever has an engine decides when and with what else rollouts are sampled:

* `Estimates` (Math-Shepherd, arXiv 2312.08935): n rollouts from every prefix. Soft: the share that is right; hard: whether one is.
* `FirstError` (OmegaPRM, arXiv 2406.06592): the first wrong step of a wrong solution by binary search, with rollouts from about log2 of
  its prefixes. A prefix from which one rollout is right is taken to be right; one from which none is, to have the error in it.

A prefix is named by its number of steps. A rollout that failed or could not be graded is no answer: ask again or leave it. Hard labels
are noisy: a prefix that comes out right with probability q has the label true with probability 1 - (1 - q)^n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curators.errors import ConfigError, CurationError


class Estimates:
    """Rollouts from every prefix of a solution of `n_steps`, from one step to all of them, `n_rollouts` each; answers in any order.

    With `hard_only` a prefix needs no more once one rollout from it is right.

    >>> estimates = Estimates(2, n_rollouts=2)
    >>> estimates.due
    {1: 2, 2: 2}
    >>> for prefix, right in ((1, True), (1, False), (2, False), (2, False)):
    ...     estimates.answer(prefix, right)
    >>> estimates.due, estimates.soft, estimates.hard
    ({}, [0.5, 0.0], [True, False])
    """

    def __init__(self, n_steps: int, *, n_rollouts: int = 8, hard_only: bool = False) -> None:
        if n_steps < 1 or n_rollouts < 1:
            raise ConfigError(f"estimates: n_steps is {n_steps} and n_rollouts {n_rollouts}, must be ≥ 1")
        self.n_rollouts = n_rollouts
        self.hard_only = hard_only
        self.n_right = [0] * n_steps
        self.n_answered = [0] * n_steps

    @property
    def due(self) -> Mapping[int, int]:
        """How many rollouts are still wanted, by prefix."""
        open_steps = [i for i, right in enumerate(self.n_right) if not (self.hard_only and right)]
        return {i + 1: self.n_rollouts - self.n_answered[i] for i in open_steps if self.n_answered[i] < self.n_rollouts}

    def answer(self, prefix: int, right: bool) -> None:
        """The outcome of one rollout from a prefix; more than were wanted count as well."""
        if not 1 <= prefix <= len(self.n_right):
            raise CurationError(f"estimates: there is no prefix of {prefix} steps; the solution has {len(self.n_right)}")
        self.n_right[prefix - 1] += right
        self.n_answered[prefix - 1] += 1

    @property
    def soft(self) -> list[float | None]:
        """The share of right rollouts by step, null without an answer. With `hard_only` it is biased."""
        return [right / n if n else None for right, n in zip(self.n_right, self.n_answered, strict=True)]

    @property
    def hard(self) -> list[bool | None]:
        """Whether a rollout was right, by step; null without an answer."""
        return [right > 0 if n else None for right, n in zip(self.n_right, self.n_answered, strict=True)]


class FirstError:
    """The first wrong step of a wrong solution of `n_steps`.

    First it asks for the prompt alone (prefix 0; `solvable` says that this is known): where no rollout from there is right, nothing can be
    told of the steps, and `hopeless` is true. At most ⌈log2 n_steps⌉ + 1 prefixes are asked for.

    >>> search = FirstError(6, solvable=True)
    >>> while search.ask is not None:  # the fourth step is wrong
    ...     search.answer([search.ask < 4])
    >>> search.first_error, search.labels
    (4, [True, True, True, False, False, False])
    """

    def __init__(self, n_steps: int, *, solvable: bool = False) -> None:
        if n_steps < 1:
            raise ConfigError(f"first error: n_steps is {n_steps}, must be ≥ 1")
        self.n_steps = n_steps
        self.rollouts: dict[int, tuple[int, int]] = {}  # prefix: right ones, all
        self.hopeless = False
        self._right, self._wrong = (0 if solvable else -1), n_steps

    @property
    def ask(self) -> int | None:
        """The prefix to continue from; null once the search is over."""
        if self.hopeless or (self._wrong - self._right == 1 and self._right >= 0):
            return None
        return 0 if self._right < 0 else (self._right + self._wrong) // 2

    def answer(self, right: Sequence[bool]) -> None:
        """The outcomes of the rollouts from the prefix asked for; without one, nothing is known and the same prefix is asked for again."""
        prefix = self.ask
        if prefix is None:
            raise CurationError("first error: the search is over; nothing was asked")
        if not right:
            return
        self.rollouts[prefix] = sum(right), len(right)
        if any(right):
            self._right = prefix
        elif prefix == 0:
            self.hopeless = True
        else:
            self._wrong = prefix

    @property
    def first_error(self) -> int | None:
        """The number of the first wrong step, from 1; null while it is not known, and where no rollout from the prompt is right."""
        return self._wrong if self.ask is None and not self.hopeless else None

    @property
    def labels(self) -> list[bool] | None:
        """Right before the first error, wrong from it on; null where it is not known."""
        error = self.first_error
        return None if error is None else [step < error for step in range(1, self.n_steps + 1)]
