"""Final answers as models write them, right and wrong; nothing a model writes raises or takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.verifiers import CHECKS, load_verifier
from curators.verifiers.answers import answer_of, last_boxed, last_number
from curators.verifiers.registry import QUICK_CHARS


def says(name: str, response: str, reference: str | None) -> object:
    return load_verifier(name).check(prompt="", response=response, reference=reference)


@pytest.mark.parametrize(
    ("name", "reference", "passes", "fails"),
    [
        ("exact", "a  b", " a b\n", "A b"),
        ("numeric", "#### 1,234", "The total is $1234.00", "1234 of 5678"),
        ("numeric", '{"answer": 34, "steps": ["1 + 2 = 3"]}', "Answer: 34", "Answer: 3"),
        ("numeric", "-3", "x = -3", "x = 3"),
        ("numeric", "3", "3", "no number"),
        ("numeric", "0.75", "it is 3/4.", "it is 4"),
        ("numeric", "0.002", "2e-3", "2e3"),
        ("numeric", "4", "3-4", "-4"),
        ("numeric", "4", "(3, 4)", "(4, 3)"),
        ("numeric", "-5", "a loss of \u22125", "a loss of 5"),
        ("numeric", "50", "50 %", "0.5"),
        ("numeric", r"\frac{1}{2}", "1/2", "2"),
        ("numeric", "1000000", "1,000,000.0", "1,000"),
        ("numeric(rel_tol=0.01)", "3.14159", "about 3.14", "about 3.2"),
        ("numeric(rel_tol=0)", "0.3333333", "0.3333333", "0.3333334"),
        ("boxed", "5", r"so \boxed{5}, not 6", r"so \boxed{6}, not 5"),
        ("boxed", "5", r"\boxed{3} no, \boxed{5}", r"\boxed{5} no, \boxed{3}"),
        ("boxed", r"2 \boxed{\frac{1}{2}}", r"\boxed{0.5}", r"\boxed{2}"),
        ("boxed", "1234", r"\boxed{1,234}", r"\boxed{1,23}"),
        ("boxed", "5", r"\boxed{5\,\text{cm}^2}", r"\boxed{5x}"),
        ("boxed", "(1, 2)", r"\boxed{\left(1,\,2\right)}", r"\boxed{(2,1)}"),
        ("boxed", "blue", r"\boxed{\text{blue}}", r"\boxed{}"),
        ("boxed", "5", "without a box it is 5", "without a box it is 5 or 6"),
        ("boxed(rel_tol=0.1)", "100", r"\boxed{109}", r"\boxed{89}"),
        ("choice", "B", "The answer is B.", "The answer is A."),
        ("choice", "(B)", "**Answer: (B)**", "**Answer: B or C**"),
        ("choice", "b", "A looks right, but no.\n\nB", "B looks right, but no.\n\nA"),
        ("choice", "B", r"Option A is wrong: \boxed{\text{B}}", r"\boxed{Because of option A}"),
        ("choice", "B", "Option A is wrong. Option B is right.", "It is a bee."),
        ("choice", "B", "B) blue", "the answer is blue"),
        ("choice", '{"answer": "B", "options": ["red", "blue"]}', "It is Blue.", "It is red or blue."),
        ("choice", '{"answer": "C", "options": {"A": "1", "B": "2", "C": "3"}}', "C", "D"),
        ("choice(letters='ABCDE')", "E", "answer is E", "answer is D"),
        ("math", r"$\frac{1}{2}$", r"\boxed{0.5}", r"\boxed{2}"),
        ("math", r"\frac{\sqrt{2}}{2}", r"$\frac{1}{\sqrt{2}}$", r"$\sqrt{2}$"),
        ("math", "x^2+2x+1", r"\boxed{(x+1)^2}", r"\boxed{(x-1)^2}"),
        ("math", r"\boxed{\{1,2\}}", r"$\{2,1\}$", r"$\{1,3\}$"),
        ("math", "#### 72", "so 72", "so 27"),
        ("math", "3", "x = 3", "no idea"),
    ],
)
def test_answers_right_and_wrong(name: str, reference: str | None, passes: str, fails: str) -> None:
    assert says(name, passes, reference) is True
    assert says(name, fails, reference) is False


@pytest.mark.parametrize("name", ["exact", "numeric", "boxed", "choice", "math"])
def test_without_a_reference_nobody_can_tell(name: str) -> None:
    assert says(name, "5", None) is None
    assert says("numeric", "5", "five") is says("math", "5", "") is None


def test_what_cannot_be_a_reference_is_an_error() -> None:
    with pytest.raises(ValueError, match="names none of the letters ABCD"):
        says("choice", "A", "E")
    with pytest.raises(ValueError, match="a list or an object of at most 10 texts"):
        says("choice", "A", '{"answer": "A", "options": "red"}')


def test_the_parts_of_an_answer() -> None:
    assert (answer_of("48/2=24\n#### 72 "), answer_of('{"answer": 3}'), answer_of('{"a": 3}')) == ("72", "3", '{"a": 3}')
    assert (last_boxed(r"\boxed{a{b}c} \boxed{d"), last_boxed("x"), last_boxed(r"\boxed{\frac{1}{2}}")) == (None, None, r"\frac{1}{2}")
    assert [last_number(text) for text in ("1/0", "9" * 400, "1,2", ".5", "-$5", "1,234,5")] == [None, None, 2, 0.5, -5, 5]


@given(st.lists(st.sampled_from([*"0123456789.,-/$%{}()ABab \n#eE", "\\boxed{", "\\frac{", "answer is ", '{"answer":', "\u2212"])))
@settings(deadline=None)
def test_no_response_raises(pieces: list[str]) -> None:
    response = "".join(pieces)
    for name in ("exact", "numeric", "boxed", "choice"):
        assert CHECKS[name](prompt="", response=response, reference="B" if name == "choice" else "5") in (True, False)


@pytest.mark.parametrize(
    "piece",
    [
        "1,234",
        "-",
        "1 / ",
        "$",
        "\\frac{",
        "\\boxed{",
        "answer",
        "answer: ",
        "1e",
        "(",
        "\\text{",
        ".",
        "#",
        " \n",
        "1\\,",
        '{"answer":',
        "\u0301\u0327",
    ],
)
def test_what_runs_in_the_event_loop_takes_no_time_on_any_text(piece: str) -> None:
    text = (piece * QUICK_CHARS)[:QUICK_CHARS]
    for name in ("exact", "numeric", "boxed", "choice"):
        for response in (text, f"\\boxed{{{text}}}", f"answer{' ' * (QUICK_CHARS // 2)}{text[: QUICK_CHARS // 2]}"):
            took = []
            for _ in range(3):  # the least of three: a collection of garbage may fall into one
                began = time.thread_time()
                CHECKS[name](prompt="", response=response, reference="B" if name == "choice" else "5")
                took.append(time.thread_time() - began)
            assert min(took) < 0.5
