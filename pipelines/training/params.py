"""The `params` of the built-in trainer: names, defaults, bounds. A typo or a value that cannot work is refused before a model is loaded."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from curators.errors import ConfigError

LEARNING_RATES = ((10_000_000, 5e-5), (1_000_000_000, 1e-5), (math.inf, 1e-6))
"""Up to so many parameters, this rate: measured for the embedded policy, usual for 0.1-1 B, TRL's own default beyond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DpoParams:
    """The `params` of the built-in trainer.

    A step is `batch_size * gradient_accumulation` pairs. `learning_rate` null: by the policy's size (`LEARNING_RATES`). It rises over the
    first `warmup_share` of the steps and falls linearly to 0. `max_length` counts tokens of prompt and answer: a longer answer is cut at
    its end, a pair whose prompt alone is longer is dropped; both are counted. `precision` auto: bfloat16 on a GPU that has it.
    `rationale_weight` and `rationale_reduction` (mean or sum over tokens) are for rows with a rationale, and of no effect on others.
    """

    learning_rate: float | None = None
    beta: float = 0.1
    sft_weight: float = 1.0
    label_smoothing: float = 0.0
    rationale_weight: float = 1.0
    rationale_reduction: str = "mean"
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 8
    gradient_accumulation: int = 1
    warmup_share: float = 0.1
    max_grad_norm: float = 1.0
    max_length: int = 1024
    seed: int = 0
    threads: int | None = None
    precision: str = "auto"


_BOUNDS: Mapping[str, tuple[float, float]] = {
    "learning_rate": (0, 1),
    "beta": (1e-9, math.inf),
    "sft_weight": (0, math.inf),
    "label_smoothing": (0, 0.499),
    "rationale_weight": (0, math.inf),
    "epochs": (1e-9, math.inf),
    "max_steps": (1, math.inf),
    "batch_size": (1, math.inf),
    "gradient_accumulation": (1, math.inf),
    "warmup_share": (0, 1),
    "max_grad_norm": (0, math.inf),
    "max_length": (2, math.inf),
    "seed": (0, 2**32 - 1),
    "threads": (1, math.inf),
}
_NULLABLE = {"learning_rate", "max_steps", "threads"}
_WHOLE = {"max_steps", "batch_size", "gradient_accumulation", "max_length", "seed", "threads"}
PRECISIONS = ("auto", "float32", "bfloat16")
_CHOICES = {"precision": PRECISIONS, "rationale_reduction": ("mean", "sum")}


def read_params(values: Mapping[str, Any]) -> DpoParams:
    """The parameters from JSON values; what is not given has its default.

    >>> read_params({"beta": 0.5, "epochs": 1}).beta
    0.5

    Raises:
        ConfigError: an unknown name, a value of another type or out of bounds.
    """
    names = [field.name for field in fields(DpoParams)]
    for name, value in values.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"train.params.{name} is not a parameter of the DPO job; {hint}There are {', '.join(names)}")
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise ConfigError(f"train.params.{name} is {value!r}, must be one of {', '.join(_CHOICES[name])}")
        elif not (value is None and name in _NULLABLE):
            _check_number(name, value)
    return DpoParams(**values)


def _check_number(name: str, value: object) -> None:
    low, high = _BOUNDS[name]
    kind = "a whole number" if name in _WHOLE else "a number"
    right_type = isinstance(value, int if name in _WHOLE else int | float) and not isinstance(value, bool)
    if not right_type or not low <= float(value) <= high:  # type: ignore[arg-type]
        raise ConfigError(f"train.params.{name} is {value!r}, must be {kind} from {low:g} to {high:g}")


def rate_for(n_parameters: int) -> float:
    """The learning rate of a policy of that size, where the run names none.

    >>> rate_for(670_000), rate_for(135_000_000), rate_for(7_000_000_000)
    (5e-05, 1e-05, 1e-06)
    """
    return next(rate for up_to, rate in LEARNING_RATES if n_parameters <= up_to)
