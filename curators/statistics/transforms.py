"""Rewards made comparable: between prompts, between objectives, with a reference, and as the weight of a pair.

All work on columns of a frame and keep nulls: a reward that is missing stays missing. All but `and_sum` keep the order of one column
within a prompt. Sources: within-prompt quantiles and z-scores as used for mixing objectives; `log_sigmoid_gain` and `and_sum`: Wang et al.
2024 (arXiv:2402.00742), where a reward below the reference costs much and one far above gains little, and their sum stands for AND.
"""

from __future__ import annotations

import polars as pl


def prompt_quantile(reward: str, *, prompt: str = "prompt_id") -> pl.Expr:
    """The mid-rank of a reward among its prompt's, in 0..1: (rank - 1/2) / n, equals share theirs; null stays null.

    >>> pl.DataFrame({"prompt_id": ["p"] * 4, "r": [1.0, 3.0, 3.0, 9.0]}).select(q=prompt_quantile("r"))["q"].to_list()
    [0.125, 0.5, 0.5, 0.875]
    """
    value = pl.col(reward)
    return ((value.rank("average") - 0.5) / value.count()).over(prompt)


def z_score(reward: str, *, by: str | None = None) -> pl.Expr:
    """(reward - mean) / standard deviation, over all rows or those of one `by`; 0 where all are alike."""
    value = pl.col(reward)
    spread = value.std()
    scaled = pl.when(spread.fill_null(0.0) > 0).then((value - value.mean()) / spread).when(value.is_not_null()).then(0.0)
    return scaled.over(by) if by else scaled


def log_sigmoid_gain(reward: str, reference: str) -> pl.Expr:
    """log s(reward - reference): the log-probability that a Bradley–Terry judge prefers the text to the reference; at most 0.

    >>> pl.DataFrame({"r": [2.0, 50.0], "ref": [2.0, 0.0]}).select(g=log_sigmoid_gain("r", "ref").round(4))["g"].to_list()
    [-0.6931, -0.0]
    """
    gap = pl.col(reward) - pl.col(reference)
    return gap.clip(upper_bound=0.0) - (-gap.abs()).exp().log1p()


def and_sum(gains: list[str]) -> pl.Expr:
    """The sum of `log_sigmoid_gain`s: the log-probability that all are met at once; null where one is missing."""
    return pl.sum_horizontal([pl.col(name) for name in gains], ignore_nulls=False)


def pair_weight(margin: str, *, scale: float = 1.0) -> pl.Expr:
    """The weight of a pair by the margin of its rewards, 2 s(margin / scale) - 1: 0 at no margin (or a negative one), 1 at a wide one."""
    return ((pl.col(margin) / (2 * scale)).tanh()).clip(lower_bound=0.0)


def label_smoothing(n_chosen: str, n_rejected: str) -> pl.Expr:
    """1 - 1 / (1 + n_rejected / max(1, n_chosen)): the weight of the flipped label by votes or visits.

    >>> pl.DataFrame({"w": [3, 4, 0], "l": [1, 0, 0]}).select(s=label_smoothing("w", "l"))["s"].to_list()
    [0.25, 0.0, 0.0]
    """
    return 1 - 1 / (1 + pl.col(n_rejected) / pl.max_horizontal(1, n_chosen))
