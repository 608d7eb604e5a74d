"""The parameters of the built-in trainer are read strictly."""

from __future__ import annotations

import math
from typing import Any

import pytest

from curators.errors import ConfigError
from pipelines.training.params import DpoParams, read_params


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1e-4}, r"train\.params\.learning_rat is not a parameter of the DPO job; did you mean 'learning_rate'\?"),
        ({"beta": "0.1"}, r"train\.params\.beta is '0\.1', must be a number from 1e-09 to inf"),
        ({"batch_size": 1.5}, r"train\.params\.batch_size is 1\.5, must be a whole number from 1"),
        ({"batch_size": True}, r"train\.params\.batch_size is True"),
        ({"beta": None}, r"train\.params\.beta is None"),
        ({"label_smoothing": 0.5}, r"train\.params\.label_smoothing is 0\.5, must be a number from 0 to 0\.499"),
        ({"learning_rate": math.nan}, r"train\.params\.learning_rate is nan"),
        ({"precision": "fp8"}, r"train\.params\.precision is 'fp8', must be one of auto, float32, bfloat16"),
    ],
)
def test_parameters_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_params(values)


def test_nulls_mean_the_default_where_there_is_one_by_size() -> None:
    assert read_params({"learning_rate": None, "max_steps": None, "threads": None}) == DpoParams()
