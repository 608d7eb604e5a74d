"""What a reply becomes, and what is refused of it."""

from __future__ import annotations

import pytest

from curators.rationales.checks import CheckBounds, check_text, longest_run
from curators.rationales.prompts import Sides
from curators.rationales.wording import answered, occurs, reworded

CHOSEN = "1. 12 - 4 = 8\n2. 8 * 3 = 24\nAnswer: 24"
REJECTED = "1. 12 - 4 = 8\n2. 8 * 3 = 25\nAnswer: 25"
FIRST = Sides(prompt="Ana has 12 books and gives away 4.", chosen=CHOSEN, rejected=REJECTED, order=0)
SECOND = Sides(prompt=FIRST.prompt, chosen=CHOSEN, rejected=REJECTED, order=1)
LONG = " It goes on for a while about what the problem asks for, so that there are enough words for a rationale."


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Answer A is right.", "The chosen answer is right."),
        ("I prefer Response B.", "I prefer the rejected answer."),
        ("The **Answer A** is right, unlike solution (B).", "The chosen answer is right, unlike the rejected answer."),
        ('Answer "A" is right.', "The chosen answer is right."),
        ("One is right (Answer A), **Answer B** is not.", "One is right (the chosen answer), the rejected answer is not."),
        ("Answers A and B start alike. Both answers A and B end.", "The two answers start alike. The two answers end."),
        ("To answer a question is not enough.", "To answer a question is not enough."),
        ("An answer A4 page long.", "An answer A4 page long."),
    ],
)
def test_letters_become_what_they_stand_for(said: str, meant: str) -> None:
    assert reworded(said, FIRST) == meant
    swapped = meant.replace("chosen", "?").replace("rejected", "chosen").replace("?", "rejected")
    assert reworded(said, SECOND) == swapped


def test_a_cited_line_is_named_and_quoted_only_where_lines_are_labelled() -> None:
    critique = "A2: 8 * 3 = 24, is 24 ok\nB2: 8 * 3 = 25, is 24 no"
    assert reworded(critique, FIRST, line_labels=True) == (
        'Line 2 of the chosen answer: "8 * 3 = 24", is 24 ok\nLine 2 of the rejected answer: "8 * 3 = 25", is 24 no'
    )
    assert reworded(critique, FIRST) == critique
    assert "A9" in reworded("A9 is wrong, A2 is not.", FIRST, line_labels=True), "there is no such line"
    assert '"' not in reworded("B2: 8 * 3 = 26, is 24 no", FIRST, line_labels=True), "that is not what the line says"


def test_a_quotation_from_the_pair_is_never_touched() -> None:
    sides = Sides(prompt="?", chosen="See Answer A for more.", rejected="No.")
    assert reworded('It says "See Answer A for more."', sides) == 'It says "See Answer A for more."'


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Because.", ("Because.", None)),
        ("<think>B?</think>Because.\n\n**Verdict: A**\n", ("Because.", "first")),
        ("Because.\nVerdict: tie", ("Because.", "tie")),
        ("<think>never closed", None),
        ("  \n", None),
        ("Verdict: A", None),
    ],
)
def test_what_is_left_of_a_reply(raw: str, expected: object) -> None:
    assert answered(raw) == expected


@pytest.mark.parametrize(
    "text",
    [
        "The first answer is right.",
        "Response 1 is right.",
        "The former is right.",
        "The latter one lost a book.",
        "The answer above is right.",
        "It is B that slips.",
        "Clearly A is right.",
        "A's result is right.",
        "The second one multiplies wrongly.",
        "Assistant 2 multiplies wrongly.",
    ],
)
def test_places_and_letters_are_refused(text: str) -> None:
    state, reason, _ = check_text(text + LONG, FIRST, kind="general")
    assert state == "leaks_position", text
    assert reason


@pytest.mark.parametrize(
    "text",
    [
        "The chosen answer gets the first step right, and a second one does not matter here."[:46],
        "A good answer multiplies, and the first wrong step decides.",
        "The rejected answer drops a term in the second step.",
        "In the first line both are right.",
    ],
)
def test_ordinary_words_are_no_places(text: str) -> None:
    assert check_text(text + LONG, FIRST, kind="general")[0] == "ok", text


def test_a_letter_that_the_pair_itself_uses_is_no_leak() -> None:
    sides = Sides(prompt="Is vitamin B good?", chosen="Yes, B is.", rejected="No.")
    assert check_text("The chosen answer knows what B is good for." + LONG, sides, kind="general")[0] == "ok"


def test_a_general_rationale_may_repeat_seven_words_and_not_eight() -> None:
    sides = Sides(prompt="?", chosen="one two three four five six seven eight nine", rejected="ten")
    assert check_text("It has one two three four five six seven." + LONG, sides, kind="general")[0] == "ok"
    state, reason, found = check_text("It has One, two three four five six seven eight." + LONG, sides, kind="general")
    assert (state, found["longest_copy"]) == ("copies", 8)
    assert reason == "8 words in a row stand in one of the answers; fewer than 8 may"
    assert check_text("It has one two three four five six seven eight." + LONG, sides, kind="detailed")[0] == "ok"


def test_a_detailed_rationale_must_show_what_decides_and_quote_it_rightly() -> None:
    assert check_text("The rejected answer multiplies wrongly." + LONG, FIRST, kind="detailed")[0] == "quotes_nothing"
    assert check_text('The rejected answer says "8*3=25", which is wrong.' + LONG, FIRST, kind="detailed")[0] == "ok"
    state, reason, found = check_text('It says "8 * 3 = 25" and not "8 * 3 = 23".' + LONG, FIRST, kind="detailed")
    assert (state, found["misquoted"]) == ("misquotes", ["8 * 3 = 23"])
    assert "'8 * 3 = 23'" in str(reason)
    assert check_text('It says "8 * 3 = 25" of "12 books".' + LONG, FIRST, kind="detailed")[0] == "ok", "the prompt may be quoted"


def test_words_are_counted_inclusively() -> None:
    bounds = CheckBounds(min_words=3, max_words=5)
    lengths = {n: check_text(" ".join(["word"] * n), FIRST, kind="general", bounds=bounds)[0] for n in (2, 3, 5, 6)}
    assert lengths == {2: "too_short", 3: "ok", 5: "ok", 6: "too_long"}


def test_quotations_compare_without_white_space_and_with_ellipses() -> None:
    assert occurs("8  *3 = 25.", REJECTED)
    assert occurs("12 - 4 … Answer: 25", REJECTED)
    assert not occurs("12 - 4 … Answer: 25", CHOSEN)
    assert not occurs("…", CHOSEN)


def test_the_longest_run_is_symmetric_and_capped() -> None:
    assert longest_run("a b c d", "x b c d y") == longest_run("x b c d y", "a b c d") == 3
    assert longest_run("a b c d", "a b c d", most=2) == 2
    assert longest_run("", "a") == 0


def test_a_labelled_line_that_is_cited_as_what_it_is_not_is_misquoted() -> None:
    told = reworded("B1: 12 - 4 = 8, is 8 ok\nB2: 8 * 3 = 26, is 24 no." + LONG, FIRST, line_labels=True)
    assert check_text(told, FIRST, kind="detailed")[0] == "ok", "without labels it is a way to put it"
    state, reason, _ = check_text(told, FIRST, kind="detailed", line_labels=True)
    assert (state, "Line 2 of the rejected answer: 8 * 3 = 26" in str(reason)) == ("misquotes", True)
    right = reworded("B2: 8 * 3 = 25, is 24 no." + LONG, FIRST, line_labels=True)
    assert check_text(right, FIRST, kind="detailed", line_labels=True)[0] == "ok"
