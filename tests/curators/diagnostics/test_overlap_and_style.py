"""The ends of the scale, known values in between, and edits of style and of content told apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.diagnostics.overlap import overlap
from curators.diagnostics.style import style_share


def test_an_identical_pair_shares_everything_and_a_disjoint_one_nothing() -> None:
    same = overlap("The cat sat.", "The cat sat.")
    assert (same["edit_distance"], same["shared_token_share"], same["prefix_share"]) == (0, 1.0, 1.0)
    assert same["duplicate"]
    assert same["entangled"]
    apart = overlap("one two", "three four five")
    assert (apart["edit_share"], apart["shared_token_share"], apart["prefix_tokens"]) == (1.0, 0.0, 0)
    assert not apart["entangled"]
    assert not apart["duplicate"]


def test_known_values() -> None:
    # a b c d | a b x d d: one replaced, one added; shared a b d = 3 of a b c d x d = 6; prefix a b of 5
    found = overlap("a b c d", "a b x d d")
    assert found["edit_distance"] == 2
    assert found["edit_share"] == pytest.approx(2 / 5)
    assert found["shared_token_share"] == pytest.approx(3 / 6)
    assert (found["prefix_tokens"], found["prefix_share"]) == (2, pytest.approx(2 / 5))


def test_case_makes_no_duplicate_another_and_the_flag_has_its_bound() -> None:
    assert overlap("Yes, it is", "yes , IT is")["duplicate"]
    assert overlap("a b c d e", "a b c d x", entangled_from=4 / 6)["entangled"]
    assert not overlap("a b c d e", "a b c d x", entangled_from=0.67)["entangled"]


def test_empty_sides() -> None:
    assert overlap("", "")["shared_token_share"] == 1.0
    assert overlap("", "a")["shared_token_share"] == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join), st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join))
def test_the_sides_may_be_exchanged(one: str, other: str) -> None:
    assert overlap(one, other) == overlap(other, one)
    assert style_share(one, other) == style_share(other, one)


TEXT = "The capital of France is Paris. It has 2 million people."
STYLE_ONLY = [
    "THE CAPITAL OF FRANCE IS PARIS. IT HAS 2 MILLION PEOPLE!",
    "**The capital** of France is _Paris_. It has 2 million people.",
    "- The capital of France is Paris.\n- It has 2 million people.",
    "1. The capital of France is Paris.\n2. It has 2 million people.",
    "# The capital of France is Paris\n\nIt has 2 million people 😀",
    "Sure! The capital of France is Paris. Additionally, it has 2 million people. Hopefully, thanks!",
]
CONTENT_ONLY = [
    "The capital of France is Lyon. It has 2 million people.",
    "The capital of France is Paris. It has 3 million people.",
    "The capital of France is Paris. It has 2 million people cafes.",
    "The capital of France is Paris. It has 2% million people.",
]


@pytest.mark.parametrize("text", STYLE_ONLY, ids=range(len(STYLE_ONLY)))
def test_edits_of_style_are_nothing_but_style(text: str) -> None:
    assert style_share(TEXT, text) == 1.0


@pytest.mark.parametrize("text", CONTENT_ONLY, ids=range(len(CONTENT_ONLY)))
def test_edits_of_content_are_no_style(text: str) -> None:
    assert style_share(TEXT, text) == 0.0


def test_both_are_counted_by_token_and_nothing_is_null() -> None:
    # Paris against Lyon are two tokens of content; ! against . two of style
    assert style_share("It is Paris.", "It is Lyon!") == pytest.approx(2 / 4)
    assert style_share(TEXT, TEXT) is None
    assert style_share("a b", "b a") is None  # moved, not changed
    assert style_share("", "") is None
