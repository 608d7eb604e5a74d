"""A sampled step, and how likely it is among its siblings."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from curators.stepsearch.config import SearchConfig

SELECTABLE = ("ok", "truncated")
"""The states of a sampled step that becomes a child; any other is kept as what was sampled, and no simulation goes there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A sampled step and its value. `text` has its own trailing delimiter, so that steps concatenate without loss.

    `value` is R of the state after the step (`values.state_value`). A step that is not ok or truncated needs none. `prior` overrides what
    `sum_logprob` over `n_tokens` tokens would give. `injected`: not sampled but taken from a reference solution.
    """

    text: str
    value: float = 0.0
    terminal: bool = False
    outcome: float | None = None
    self_eval: float | None = None
    reward: float | None = None
    token_ids: Sequence[int] | None = None
    n_tokens: int | None = None
    sum_logprob: float | None = None
    prior: float | None = None
    injected: bool = False
    state: str = "ok"
    reason: str | None = None


def priors(steps: Sequence[Step], config: SearchConfig) -> list[float]:
    """p of sibling steps, in (0, 1]; uniform where the engine gave no log-probability for one of them.

    >>> one, two = Step(text="a", sum_logprob=-1.0, n_tokens=1), Step(text="b", sum_logprob=-4.0, n_tokens=2)
    >>> [round(p, 4) for p in priors([one, two], SearchConfig())]
    [0.7311, 0.2689]
    """
    given = [step.prior for step in steps if step.prior is not None]
    if given and len(given) == len(steps):
        return given
    known = [(step.sum_logprob, max(1, step.n_tokens or len(step.token_ids or ()))) for step in steps if step.sum_logprob is not None]
    if len(known) < len(steps):
        return [1 / len(steps)] * len(steps)
    tiny = sys.float_info.min  # a step of probability 0 in floats is still possible
    if config.prior_mode == "paper":
        return [max(tiny, math.exp(logprob) / n**config.length_power) for logprob, n in known]
    scaled = [logprob / n**config.length_power for logprob, n in known]
    if config.prior_mode == "ref":
        return [max(tiny, math.exp(value)) for value in scaled]
    weights = [math.exp((value - max(scaled)) / config.prior_temperature) for value in scaled]
    return [max(tiny, weight / sum(weights)) for weight in weights]
