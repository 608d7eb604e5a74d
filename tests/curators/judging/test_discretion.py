"""Consensus, conflicts and the priority of principles, by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from curators.errors import SchemaError
from curators.judging.discretion import discretion, ranking_distance

SIGN = {"+": 1, "0": 0, "-": -1}


def frames(rows: list[tuple[str, str]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    votes = [(f"p{i}", f"c{k}", SIGN[sign]) for i, (signs, _) in enumerate(rows) for k, sign in enumerate(signs)]
    labels = [(f"p{i}", f"p{i}", SIGN[label]) for i, (_, label) in enumerate(rows)]
    return (
        pl.DataFrame(votes, schema=["pair_id", "principle", "vote"], orient="row"),
        pl.DataFrame(labels, schema=["pair_id", "prompt_id", "side"], orient="row"),
    )


def test_kinds_and_arbitrariness_by_hand() -> None:
    """+++ and --0 are labelled as all who care say, ++0 against them; +-0 and +-+ are conflicts; nobody cares about 000."""
    found = discretion(*frames([("+++", "+"), ("++0", "-"), ("+-0", "+"), ("+-+", "-"), ("--0", "-"), ("000", "+")]), n_resamples=0)
    assert found.kinds == {"conflict": 2, "consensus": 3, "indifferent": 1}
    assert (found.arbitrariness.value, found.arbitrariness.n) == (pytest.approx(1 / 3), 3)
    # c0 against c1: won once (label +), lost once; c1 against c2: won once
    assert found.priorities.select("principle", "other", "n", "share").rows() == [("c0", "c1", 2, 0.5), ("c1", "c2", 1, 1.0)]


def test_a_planted_order_of_principles_is_found_again() -> None:
    """Labels follow the sum of weighted votes, weights 2, 1, .3 in logits."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 0, 1], size=(1500, 3))
    p = 1 / (1 + np.exp(-signs @ np.array([2.0, 1.0, 0.3])))
    side = np.where(rng.random(1500) < p, 1, -1)
    votes = pl.DataFrame(
        [(f"p{i}", f"c{k}", int(signs[i, k])) for i in range(1500) for k in range(3)], schema=["pair_id", "principle", "vote"], orient="row"
    )
    labels = pl.DataFrame({"pair_id": [f"p{i}" for i in range(1500)], "prompt_id": [f"q{i // 2}" for i in range(1500)], "side": side})
    found = discretion(votes, labels, n_resamples=20)
    assert found.ratings is not None
    assert found.ratings.table["player"].to_list() == ["c0", "c1", "c2"]
    assert (found.priorities["share"] > 0.5).all()
    shuffled = discretion(votes.sample(fraction=1, shuffle=True, seed=1), labels.reverse(), n_resamples=0)
    assert shuffled.priorities.equals(found.priorities)


def test_rankings_and_refusals() -> None:
    assert ranking_distance("abc", "cba") == 1.0
    assert ranking_distance("abc", "abc") == 0.0
    assert ranking_distance("a", "b") is None
    votes, labels = frames([("++", "+")])
    assert discretion(votes, labels).ratings is None
    with pytest.raises(SchemaError, match="1, 0 or -1"):
        discretion(votes.with_columns(vote=pl.lit(2)), labels)
    with pytest.raises(SchemaError, match="votes twice"):
        discretion(pl.concat([votes, votes]), labels)
    with pytest.raises(SchemaError, match="at least two are needed"):
        discretion(*frames([("+", "+")]))
