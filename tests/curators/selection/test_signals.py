"""Margins and losses of pairs: known values, and what swapping the sides does to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.selection.signals import alignment_potential, dpo_loss, fuse, implicit_margin, likelihood_gap, margin_probability

numbers = st.floats(-100, 100)


def test_a_worked_batch_of_fused_margins() -> None:
    """Rewards with bounds -2 and 8, implicit margins with bounds -4 and 6."""
    external = margin_probability(np.array([5.0, -3, 9, 1]), -2, 8)
    implicit = margin_probability(np.array([1.0, 6, -4, 3]), -4, 6)
    assert external == pytest.approx([0.7, 0, 1, 0.3])
    assert implicit == pytest.approx([0.5, 1, 0, 0.7])
    assert fuse(external, implicit) == pytest.approx([0.7, 0.5, 0.5, 0.5])


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_fusion_is_symmetric_and_a_half_is_neutral(p: float, q: float) -> None:
    one, other = np.array([p]), np.array([q])
    assert fuse(one, other) == pytest.approx(fuse(other, one))
    assert fuse(one, np.array([0.5])) == pytest.approx(one)
    assert np.isfinite(fuse(one, other)).all()


def test_alignment_potential_and_its_orders() -> None:
    margin, gap = np.array([1.0, 2, 3, 6]), np.array([0.2, 0.1, 0.5, 0.4])
    found = alignment_potential(margin, gap)
    assert found == pytest.approx([-0.43659, 0.73039, -1.26491, 0.97111], abs=1e-5)
    assert np.argsort(-found).tolist() == [3, 1, 0, 2]
    assert np.argsort(-alignment_potential(margin, gap, 2.5)).tolist() == [1, 0, 3, 2]
    assert alignment_potential(np.ones(3), np.ones(3)).tolist() == [0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(numbers, numbers, numbers, numbers)
def test_swapped_sides_negate_the_margin_and_leave_the_gap(a: float, b: float, c: float, d: float) -> None:
    w, w_ref, lost, lost_ref = (np.array([each]) for each in (a, b, c, d))
    assert implicit_margin(w, w_ref, lost, lost_ref) == pytest.approx(-implicit_margin(lost, lost_ref, w, w_ref), abs=1e-9)
    assert likelihood_gap(w, lost) == likelihood_gap(lost, w)


def test_the_loss_does_not_overflow() -> None:
    assert dpo_loss(np.array([2.0, -3, 0])) == pytest.approx([0.59813887, 0.85435524, 0.69314718], abs=1e-8)
    assert dpo_loss(np.array([-1e5]), beta=1.0) == pytest.approx([1e5])


def test_margins_that_are_all_the_same_say_nothing() -> None:
    assert margin_probability(np.full(4, 3.0)).tolist() == [0.5] * 4
