"""Known replies and what they must be read as; most are defects of published parsers, named in the ids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.judging.parsing import (
    expected_score,
    option_probabilities,
    parse_listwise,
    parse_pairwise,
    parse_pointwise,
    without_reasoning,
)


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        ("Verdict: A", "first"),
        ("A is wrong at step 2.\n\nVerdict: B\n", "second"),
        ("Both are right.\nVerdict: tie", "tie"),
        ("**Verdict: A**", "first"),
        ("### Final verdict: **B**.", "second"),
        ("verdict: [[A]]", "first"),
        ("Verdict: Answer B", "second"),
        ("Verdict\u200b: A", "first"),
        ("Verdict: A\n\nI hope this helps.", "first"),
        ("B", "second"),
        ("<think>Verdict: A? No.</think>\nVerdict: B", "second"),
        ("the template opened the block\n</think>\nVerdict: B", "second"),
        ("End with Verdict: A, Verdict: B or Verdict: tie, I am told.\nVerdict: B", "second"),
        ("Verdict: A\nThat is, verdict: A.", "first"),
    ],
)
def test_a_verdict_in_its_form_is_read(raw: str, label: str) -> None:
    parsed = parse_pairwise(raw)
    assert (parsed.state, parsed.label) == ("ok", label)


@pytest.mark.parametrize(
    ("raw", "state"),
    [
        pytest.param(
            "Options are [[A>>B]] or [[B>A]]. My final verdict is [[B>A]]", "parse_error", id="arena-hard takes the first bracket"
        ),
        pytest.param("[[A]] is worse than [[B]]", "parse_error", id="fastchat tests [[A]] before [[B]]"),
        pytest.param("No, the candidate says Verdict: A", "parse_error", id="prose that mentions a verdict"),
        pytest.param("The answer ends in:\nVerdict: A\nI disagree.\nVerdict: B", "ambiguous", id="quoted line, then the judge's own"),
        pytest.param("Verdict: A\nThe other answer ends in:\nVerdict: B", "ambiguous", id="the judge's own, then a quoted line"),
        pytest.param("> Verdict: A", "parse_error", id="block quote"),
        pytest.param("Verdict: C", "parse_error", id="not on offer"),
        pytest.param("Verdict: A\nVerdict: neither", "ambiguous", id="must not back-track to an earlier verdict"),
        pytest.param("Verdict: A is better", "parse_error", id="not the bare label"),
        pytest.param("Verdict: A or B", "parse_error", id="both"),
        pytest.param("Verdict: A>B", "parse_error", id="another grammar"),
        pytest.param("Verdict: A\nOn second thought my verdict is B, clearly.", "ambiguous", id="prose after the line contradicts it"),
        pytest.param("<think>I lean to\nVerdict: A", "parse_error", id="unclosed reasoning"),
        pytest.param("<think>x</think> y <think>\nVerdict: A", "parse_error", id="second block unclosed"),
        pytest.param("", "parse_error", id="empty"),
        pytest.param(" \n ", "parse_error", id="blank"),
        pytest.param("I am sorry, I can not judge these.", "parse_error", id="refusal"),
        pytest.param("A\n\nbecause it is shorter", "parse_error", id="letter, then prose"),
        pytest.param('{"verdict": "A"}', "parse_error", id="json was not asked for"),
    ],
)
def test_anything_else_is_no_verdict(raw: str, state: str) -> None:
    parsed = parse_pairwise(raw)
    assert (parsed.state, parsed.label) == (state, None)
    assert parsed.reason


@pytest.mark.parametrize(
    ("raw", "scale", "score"),
    [
        ("Right and clear.\nScore: 4", (1, 5), 4),
        ("Rating: 9/10", (1, 10), 9),
        ("Score: **8**", (1, 10), 8),
        ("**8**", (1, 10), 8),
        ("Score: [[10]]", (1, 10), 10),
        ("The scale says a score: 1 is bad.\nScore: 5", (1, 5), 5),
    ],
)
def test_a_score_in_its_form_is_read(raw: str, scale: tuple[int, int], score: int) -> None:
    assert parse_pointwise(raw, scale).scores == (score,)


@pytest.mark.parametrize(
    ("raw", "scale", "state"),
    [
        pytest.param("Score: 8.5", (1, 10), "parse_error", id="rewardbench reads 8.5 as 5"),
        pytest.param("7.5", (1, 10), "parse_error", id="judgearena reads 7.5 as 7"),
        pytest.param("Score: 9/10", (1, 5), "parse_error", id="rewardbench reads 9/10 as 10"),
        pytest.param("Score: eight", (1, 10), "parse_error", id="spelled"),
        pytest.param("Score: 0", (1, 5), "parse_error", id="below the scale"),
        pytest.param("Score: 6", (1, 5), "parse_error", id="above the scale"),
        pytest.param("I would say 4 or so.", (1, 5), "parse_error", id="number in prose"),
        pytest.param("Score: 2\nThe answer claims:\nScore: 5", (1, 5), "ambiguous", id="two lines"),
        pytest.param("Score: 4-5", (1, 5), "parse_error", id="range"),
        pytest.param("Score: -4", (1, 5), "parse_error", id="negative"),
        pytest.param("", (1, 5), "parse_error", id="g-eval counts an unreadable reply as 0"),
    ],
)
def test_anything_else_is_no_score(raw: str, scale: tuple[int, int], state: str) -> None:
    parsed = parse_pointwise(raw, scale)
    assert (parsed.state, parsed.scores) == (state, None)
    assert parsed.reason


def test_sections_are_read_in_order_whatever_their_rationale_holds() -> None:
    first = "#### Output for Text 1\nRating: 4\nRationale: Right.\n\nIt is 4 words long."
    raw = f"{first}\n\n#### Output for Text 2\n**Rating:** 2\nRationale: No."
    assert parse_listwise(raw, 2).scores == (4, 2)


@pytest.mark.parametrize(
    ("raw", "n"),
    [
        pytest.param("I am sorry, I can not rate these answers.", 4, id="prose"),
        pytest.param("\n\n".join(["Rating: 3\nRationale: ok"] * 3), 4, id="one section short must not shift"),
        pytest.param("Rating: 3\nRationale: ok\n\nRating: 4\nRationale: x\n\nRating: 1\nRationale: y", 2, id="one too many"),
        pytest.param("Rating: excellent\nRationale: ok\n\nRating: 4\nRationale: ok", 2, id="distilabel raises IndexError on a word"),
        pytest.param("Rating: 4.5\nRationale: ok\n\nRating: 4\nRationale: ok", 2, id="fraction"),
        pytest.param("Text 2\nRating: 4\n\nText 1\nRating: 5", 2, id="sections out of order"),
        pytest.param("", 2, id="empty"),
        pytest.param("<think>Rating: 4\nRating: 5", 2, id="unclosed reasoning"),
    ],
)
def test_a_list_that_is_not_whole_rates_nothing(raw: str, n: int) -> None:
    parsed = parse_listwise(raw, n)
    assert (parsed.state, parsed.scores) == ("parse_error", None)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.text(alphabet="ab \n", max_size=20))
def test_ratings_never_shift(ratings: list[int], rationale: str) -> None:
    raw = "\n\n".join(f"Rating: {rating}\nRationale: {rationale}" for rating in ratings)
    assert parse_listwise(raw, len(ratings)).scores == tuple(ratings)
    assert parse_listwise(raw, len(ratings) + 1).scores is None


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_crashes_a_parser(raw: str) -> None:
    for parsed in (parse_pairwise(raw), parse_pointwise(raw), parse_listwise(raw, 2)):
        assert (parsed.state == "ok") == (parsed.label is not None or parsed.scores is not None)


def test_reasoning_may_quote_a_closing_tag() -> None:
    assert without_reasoning("<think>they wrote </think> there</think>Verdict: A") == "Verdict: A"


def test_probabilities_are_normalised_over_the_labels_and_their_mass_is_kept() -> None:
    # exp of -6, -4, -1.2, -.6, -2 sum to 1.00614; the mean over scores 1..5 is 3.79135 (hand-checked)
    logprobs = {"1": -6.0, "2": -4.0, "3": -1.2, "4": -0.6, "5": -2.0}
    p, mass = option_probabilities(logprobs)
    assert mass == pytest.approx(1.00614, abs=1e-5)
    assert sum(p.values()) == pytest.approx(1)
    assert expected_score(logprobs, tuple("12345"), (1, 5))[0] == pytest.approx(3.79135, abs=1e-5)


def test_probabilities_survive_very_small_numbers() -> None:
    p, mass = option_probabilities({"A": -2000.0, "B": -2001.0})
    assert p["A"] == pytest.approx(0.7310586)
    assert mass == 0.0
