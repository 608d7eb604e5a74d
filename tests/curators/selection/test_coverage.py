"""Coverage, determinant and score-first selection: known orders with their gains, and the properties of each greedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_digits

from curators.selection.coverage import farthest_first, lazy_greedy, similarities
from curators.selection.determinant import greedy_map
from curators.selection.diversity import evol_score, expected_rating, score_first
from curators.selection.pool import unit

SIMILAR = np.array([[1, 0.8, 0.1, 0.2], [0.8, 1, 0.3, 0.2], [0.1, 0.3, 1, 0.6], [0.2, 0.2, 0.6, 1]])


def plain_greedy(similar: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """Every gain of every step, computed anew."""
    covered, order, gains = np.zeros(len(similar)), [], []
    for _ in range(k):
        gain = np.maximum(similar - covered, 0).sum(axis=1).round(9)
        gain[order] = -1
        order.append(int(np.argmax(gain)))
        gains.append(float(gain[order[-1]]))
        covered = np.maximum(covered, similar[order[-1]])
    return order, gains


def test_facility_location_on_four_rows() -> None:
    order, gains = lazy_greedy(SIMILAR, 4)
    assert order.tolist() == [1, 2, 3, 0]
    assert gains == pytest.approx([2.3, 1.1, 0.4, 0.2])  # they sum up to 4, every row covering itself


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return np.asarray(load_digits().data, dtype=np.float64)


def _euclidean(x: np.ndarray) -> np.ndarray:
    squares = np.square(x).sum(axis=1)
    distance = squares[:, None] + squares - 2 * x @ x.T
    return np.asarray(distance.max() - distance)


@pytest.mark.parametrize(
    ("similar", "first", "gains"),
    [
        (lambda x: np.square(np.corrcoef(x)), [424, 1647, 396, 339, 1030, 331, 983], [736.794, 114.2782, 65.4154, 61.3037]),
        (_euclidean, [945, 392, 1507, 793, 1417, 1039], [7448636, 384346, 250615]),
        (lambda x: np.square(unit(x) @ unit(x).T), [424, 615, 1545, 1385, 1482], [1126.631, 76.1809, 43.868]),
    ],
    ids=["corr", "euclidean", "cosine"],
)
def test_facility_location_on_apricots_public_fixtures(digits: np.ndarray, similar: Any, first: list[int], gains: list[float]) -> None:
    order, found = lazy_greedy(similar(digits), len(first))
    assert order.tolist() == first
    assert found[: len(gains)] == pytest.approx(gains, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_lazy_is_plain_dense_or_sparse_and_gains_never_grow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((120, 5)).astype(np.float32)
    rows[60:70] = rows[:10]  # ties
    similar = similarities(rows, 8).astype(np.float64)
    order, gains = lazy_greedy(similar, 120)
    assert (order.tolist(), gains.tolist()) == plain_greedy(similar, 120)
    assert (np.diff(gains) <= 1e-9).all()
    assert sorted(order.tolist()) == list(range(120))
    again, gains_again = lazy_greedy(sparse.csr_array(similar), 120)
    assert gains_again == pytest.approx(gains, abs=1e-8)
    assert again[:40].tolist() == order[:40].tolist()


def test_a_copy_of_a_kept_row_gains_nothing() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    similar = similarities(np.vstack([rows, rows[:1]]), 8)
    order, gains = lazy_greedy(similar, 31)
    later = max(order.tolist().index(0), order.tolist().index(30))
    assert gains[later] == pytest.approx(0, abs=1e-5)


def test_with_all_neighbours_the_sparse_similarities_are_the_dense_ones() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    dense, few = similarities(rows, 50), similarities(rows, 50, dense_rows=10)
    assert sparse.issparse(few)
    assert few.toarray() == pytest.approx(dense, abs=1e-3)
    own = similarities(rows, 3, dense_rows=10)
    assert (np.diff(own.T.tocsr().indptr) == 3).all()  # each y has three that may stand for it
    assert own.diagonal() == pytest.approx(1, abs=1e-3)


def test_farthest_first_on_four_rows() -> None:
    order, found, radius = farthest_first(lambda i: 1 - SIMILAR[i], 4, 3)
    assert order.tolist() == [0, 2, 3]
    assert found[1:] == pytest.approx([0.9, 0.4])
    assert radius == pytest.approx(0.2)


def test_farthest_first_is_within_twice_the_best_radius() -> None:
    """Against every choice of three centres of twelve points."""
    points = np.random.default_rng(2).standard_normal((12, 2))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    best = min(distance[[a, b, c]].min(axis=0).max() for a in range(12) for b in range(a) for c in range(b))
    _, found, radius = farthest_first(lambda i: distance[i], 12, 3)
    assert best <= radius <= 2 * best
    assert found[2] <= found[1]


def test_the_determinant_on_four_rows() -> None:
    """Rows whose inner products are SIMILAR; the gains' product is its determinant."""
    order, gains = greedy_map(np.linalg.cholesky(SIMILAR), 4)
    assert order.tolist() == [0, 2, 3, 1]
    assert gains == pytest.approx([1, 0.99, 0.62020202, 0.29837134], abs=1e-8)
    assert gains.prod() == pytest.approx(np.linalg.det(SIMILAR))
    order, gains = greedy_map(np.array([1, 1.2, 0.9, 1])[:, None] * np.linalg.cholesky(SIMILAR), 3)
    assert order.tolist() == [1, 3, 2]
    assert gains == pytest.approx([1.44, 0.96, 0.4910625], abs=1e-7)


def test_the_determinants_gains_are_those_of_the_kernel_with_a_ridge() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 6))
    order, gains = greedy_map(rows, 20, ridge=0.01)
    kernel = rows @ rows.T + 0.01 * np.eye(40)
    assert np.log(gains).sum() == pytest.approx(np.linalg.slogdet(kernel[np.ix_(order, order)])[1], rel=1e-8)
    assert (np.diff(gains) <= 1e-9).all()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    assert greedy_map(rows @ rotation, 20, ridge=0.01)[0].tolist() == order.tolist()


def test_without_a_ridge_copies_are_never_both_taken() -> None:
    rows = np.random.default_rng(0).standard_normal((10, 6))
    order, _ = greedy_map(np.vstack([rows, rows]), 20)
    assert len(order) == 6  # the dimensions
    assert len({place % 10 for place in order}) == 6


def test_score_first_keeps_what_is_not_too_similar() -> None:
    rows = np.array([[1, 0], [0.96, 0.28], [0, 1], [0.6, 0.8]], dtype=np.float32)
    assert score_first(rows, np.arange(4), 4, 0.9)[0].tolist() == [0, 2, 3]
    kept, turned_down = score_first(rows, np.arange(4), 4, 0.7)
    assert (kept.tolist(), turned_down.tolist()) == ([0, 2], [1, 3])


def test_score_first_is_the_sequential_definition_over_blocks() -> None:
    rows = unit(np.random.default_rng(0).standard_normal((900, 3)).astype(np.float32))
    kept, turned_down = score_first(rows, np.arange(900), 900, 0.95)
    expected: list[int] = []
    for i, row in enumerate(rows):
        if not expected or (rows[expected] @ row).max() <= 0.95:
            expected.append(i)
    assert kept.tolist() == expected
    assert len(kept) + len(turned_down) == 900
    off = rows[kept] @ rows[kept].T - 2 * np.eye(len(kept))
    assert off.max() <= 0.95 + 1e-6


def test_ratings() -> None:
    assert expected_rating([0, 0, 0, 0, np.log(3), np.log(5)]) == pytest.approx(4.583333, abs=1e-6)
    assert expected_rating([1.0] * 6) == pytest.approx(3.5)
    assert expected_rating([0, None, 0, 0, 0, 0]) is None  # a rating that failed is none, and not 3
    assert expected_rating([]) is None
    assert evol_score([], []) is None
