"""The truth behind raters who err, each in their own way, without a gold: Dawid & Skene 1979, by expectation maximisation.

Every unit has one true value; rater r gives value w to a unit of truth v with probability C_r[v, w]. E: the probability of each truth given
all ratings. M: the confusions C_r and the prevalence of each value, with a pseudo-count, so that no rater is ever taken for infallible.
The start is each unit's share of ratings, so that the answer names the values as most raters use them; with raters who are mostly
wrong it is mostly wrong. Below three raters nothing tells who errs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curators.errors import SchemaError
from curators.statistics.intervals import Floats

PSEUDO_COUNT = 0.5
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Latent:
    """`posterior` has a row a unit: `unit`, then the probability of each of `values` as columns `p0, p1 …`. `confusion[rater]` is C_r."""

    posterior: pl.DataFrame
    values: list[Any]
    confusion: dict[Any, Floats]
    prevalence: Floats
    n_steps: int


def dawid_skene(ratings: pl.DataFrame, *, truths: list[Any] | None = None, max_steps: int = 1000) -> Latent:
    """Fit to `ratings` (`unit`, `rater`, `value`; a null is no rating). `truths` are the values that can be true, by default all.

    Raises:
        SchemaError: fewer than three raters, or a rating or truth that is no value.
    """
    given = ratings.drop_nulls("value")
    raters = given["rater"].unique().sort().to_list()
    if len(raters) < 3:
        raise SchemaError(f"Dawid-Skene needs at least three raters, there are {len(raters)}: {raters}; nothing tells who of two errs")
    values = given["value"].unique().sort().to_list()
    truth = np.array([values.index(one) for one in truths or values if one in values])
    if not len(truth):
        raise SchemaError(f"none of the truths {truths} is among the values {values}")
    units = given["unit"].unique().sort()
    onehot = np.zeros((len(units), len(raters), len(values)))
    at = [
        given[name].replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_numpy()
        for name, names in (("unit", units.to_list()), ("rater", raters), ("value", values))
    ]
    np.add.at(onehot, tuple(at), 1)
    # units that were rated alike are one pattern: EM takes time by patterns, not by units
    flat, pattern, size = np.unique(onehot.reshape(len(units), -1), axis=0, return_inverse=True, return_counts=True)
    onehot = flat.reshape(len(flat), len(raters), len(values))
    posterior = _normalised(onehot.sum(axis=1)[:, truth] + 1e-12)
    for step in range(1, max_steps + 1):  # noqa: B007
        prevalence = _normalised(size @ posterior + PSEUDO_COUNT)
        confusion = _normalised(np.einsum("u,uv,urw->rvw", size, posterior, onehot) + PSEUDO_COUNT)
        logs = np.log(prevalence) + np.einsum("urw,rvw->uv", onehot, np.log(confusion))
        moved = _normalised(np.exp(logs - logs.max(axis=1, keepdims=True)))
        change, posterior = np.abs(moved - posterior).max(), moved
        if change < _TOLERANCE:
            break
    return Latent(
        posterior=pl.DataFrame({"unit": units, **{f"p{i}": posterior[pattern, i] for i in range(len(truth))}}),
        values=[values[i] for i in truth],
        confusion=dict(zip(raters, confusion, strict=True)),
        prevalence=prevalence,
        n_steps=step,
    )


def _normalised(weights: Floats) -> Floats:
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True), dtype=np.float64)
