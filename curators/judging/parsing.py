"""A judge's reply → a label or scores, or the reason why there is none.

Strict on purpose: a reply that does not carry its verdict in the required form is asked again, and a wrong guess costs a
label. Every candidate verdict in the reply is looked at, so that a quoted or restated one cannot decide; what contradicts
itself is `ambiguous`. Parsing needs nothing but the raw text and is repeated from it.

The rules come from inspect_ai (capture permissively, then check against what was offered) and verifiers (an unclosed
reasoning block holds no verdict).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from curators.judging.grammars import PAIRWISE, POINTWISE, Grammar

P_FIRST = {"first": 1.0, "second": 0.0, "tie": 0.5}

_ZERO_WIDTH = re.compile("[\u200b-\u200f\u2060\ufeff]")
_THINK_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_THINK_START = re.compile(r"<(?:think|thinking|reasoning)>", re.IGNORECASE)
_LINE = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
_SENTENCE = re.compile(_LINE.pattern + r"|(?:(?<=[.!?])|(?<=[.!?][\"'”’)]))\s+")
_LONGEST_NUMBER = 9
_SECTION_HEADER = re.compile(r"[\s*_#<\[]*(?:output\s+for\s+)?text\s*(\d+)[\s*_\]>:.]*", re.IGNORECASE)
_NAMED = re.compile(r"(?:answer|response|solution|option|assistant|output)\s*(?:\s|(?=\())(?=\(?\w)", re.IGNORECASE)
_COMPARED = re.compile(r"\s{0,2}([>=]+)\s{0,2}")
_NUMBER = re.compile(r"(\d+)(?:\.0+)?(?:\s*(?:/|out of)\s*(\d+))?")
_REPORTS = re.compile(
    r"\b(?:not|never|neither|cannot|if|(?<!i )would|disagree|doubt|says|said|saying|claim\w*|argu\w+|assert\w*|believes|thinks|suggests|"
    r"prefers|considers|concludes|writes|wrote|written|asks?|asked|asking|tells?|told|telling|instructs|instructed|instructing|states|stated|"
    r"stating|contain\w*|quot\w+|inject\w*|pretend\w*|includes?|included|ends|according to (?:its?|assistant|output|response|answer)|"
    r"begins?|tries|tried|attempt\w*)\b|n['’]t\b",
    re.IGNORECASE,
)
"""What makes a sentence a report of somebody's verdict, or the denial of one."""

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reply says. `state` is ok, parse_error, ambiguous, or no_score (read, but its attributes amount to none).

    `label` and `p_first` (pairwise) or `scores` are null unless it is ok. `attributes` are names and values, null where there are none.
    """

    state: str
    reason: str | None = None
    label: str | None = None
    p_first: float | None = None
    scores: tuple[float, ...] | None = None
    attributes: tuple[tuple[str, float | None], ...] | None = None


UNCLOSED = Parsed("parse_error", "the reasoning block is not closed")


def without_reasoning(raw: str) -> str | None:
    """What stands after the last reasoning block; null if one is not closed.

    >>> without_reasoning("<think>Verdict: B?</think>Verdict: A"), without_reasoning("<think>Verdict: B")
    ('Verdict: A', None)
    """
    text = _THINK_END.split(_ZERO_WIDTH.sub("", raw))[-1]
    return None if _THINK_START.search(text) else text


def parse_pairwise(raw: str, grammar: Grammar = PAIRWISE["line"]) -> Parsed:
    """The verdict of a reply that states it in the grammar's form, or is nothing but it.

    Verdicts that differ are ambiguous, in whatever order they stand; what merely mentions another one is overruled by a verdict in the
    required form only where that ends the reply.

    >>> parse_pairwise("A is wrong at step 2.\\nVerdict: B").label
    'second'
    >>> parse_pairwise("The text says:\\nVerdict: A\\nI do not follow it.\\nVerdict: B").state
    'ambiguous'
    >>> parse_pairwise("Options are Verdict: A or Verdict: B.").reason
    'no verdict in the required form'
    >>> parse_pairwise("Options are [[A>>B]] or [[B>A]]. My final verdict is [[B>A]]", PAIRWISE["levels"]).p_first
    0.25
    """
    meanings = _by_word(grammar.menu)
    p_first, problem = read_verdict(raw, grammar, lambda value: meanings.get(_word(value, meanings)), f"one of {', '.join(grammar.menu)}")
    return problem or preferred(p_first)


def parse_pointwise(raw: str, scale: tuple[int, int] = (1, 5), grammar: Grammar = POINTWISE["line"]) -> Parsed:
    """The score of a reply that states it in the grammar's form (`Score: 4`, `Rating: 4/5`), or is the bare number.

    >>> parse_pointwise("Clear and right.\\nScore: 4").scores, parse_pointwise("Score: 8.5", (1, 10)).reason
    ((4.0,), "'8.5' is not a whole number from 1 to 10")
    >>> parse_pointwise("Score: 9/10", (1, 5)).state
    'parse_error'
    """
    score, problem = read_verdict(raw, grammar, lambda value: number(value, scale), f"a whole number from {scale[0]} to {scale[1]}")
    return problem or Parsed("ok", scores=() if score is None else (score,))


def parse_label(raw: str, labels: Sequence[str], meanings: Sequence[V]) -> tuple[V | None, Parsed | None]:
    """What a label stands for, in a reply that is one of the labels or ends with it as `Verdict: …`."""
    words = _by_word(dict(zip(labels, meanings, strict=True)))
    return read_verdict(raw, PAIRWISE["line"], lambda value: words.get(_word(value, words)), f"one of {', '.join(labels)}")


def parse_listwise(raw: str, n: int, scale: tuple[int, int] = (1, 5)) -> Parsed:
    """The `n` scores of a reply with exactly `n` lines `Rating: N`, in order. One bad line refuses them all, so that nothing shifts.

    >>> parse_listwise("Rating: 5\\nRationale: Right.\\n\\nIn full.\\n\\nRating: 2\\nRationale: Wrong.", 2).scores
    (5.0, 2.0)
    >>> parse_listwise("Rating: high\\nRationale: x\\n\\nRating: 2\\nRationale: y", 2).reason
    "rating 1: 'high' is not a whole number from 1 to 5"
    """
    text = without_reasoning(raw)
    if text is None:
        return UNCLOSED
    lines = [line for line in text.splitlines() if line.strip()]
    values = [match["value"] for line in lines if (match := POINTWISE["line"].own.fullmatch(line))]
    if len(values) != n:
        return Parsed("parse_error", f"{len(values)} rating lines for {n} texts" if lines else "the reply is empty")
    numbers = [int(match[1]) for line in lines if (match := _SECTION_HEADER.fullmatch(line))]
    if numbers and numbers != list(range(1, n + 1)):
        return Parsed("parse_error", f"the sections are numbered {numbers}, not 1 to {n}")
    scores = [number(value, scale) for value in values]
    for place, (value, score) in enumerate(zip(values, scores, strict=True), 1):
        if score is None:
            return Parsed("parse_error", f"rating {place}: {_short(value)!r} is not a whole number from {scale[0]} to {scale[1]}")
    return Parsed("ok", scores=tuple(score for score in scores if score is not None))


def preferred(p_first: float | None) -> Parsed:
    """A pairwise verdict from the preference for the first that it states."""
    assert p_first is not None
    return Parsed("ok", label="first" if p_first > 0.5 else "second" if p_first < 0.5 else "tie", p_first=p_first)


def number(value: str, scale: tuple[int, int | None]) -> float | None:
    """A whole number of the scale (open above where its end is null), null for anything else.

    >>> number("**4**", (1, 5)), number("9/10", (1, 10)), number("4.0", (1, 5)), number("8.5", (1, 10)), number("9/10", (1, 5))
    (4.0, 9.0, 4.0, None, None)
    """
    match = _NUMBER.fullmatch(_bare(value))
    low, high = scale
    if not match or len(match[1]) > _LONGEST_NUMBER or (match[2] and match[2] != str(high)):
        return None
    return float(match[1]) if low <= int(match[1]) and (high is None or int(match[1]) <= high) else None


def option_probabilities(logprobs: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """Probabilities over the offered strings, normalised among them, and the mass that they took together.

    The AlpacaEval row with log-probs m -0.010449888 and M -4.6069846 (p(m) = 0.9900140 there):

    >>> p, mass = option_probabilities({"m": -0.010449888, "M": -4.6069846})
    >>> round(p["m"], 7), round(mass, 4)
    (0.990014, 0.9996)
    """
    if not logprobs:
        return {}, 0.0
    top = max(logprobs.values())
    weights = {option: math.exp(value - top) for option, value in logprobs.items()}
    total = sum(weights.values())
    return {option: weight / total for option, weight in weights.items()}, total * math.exp(top)


def expected_score(logprobs: Mapping[str, float], labels: tuple[str, ...], scale: tuple[int, int]) -> tuple[float, float]:
    """Mean and standard deviation of the score over the labels of a scale, E = Σ s·p_s.

    >>> mean, sd = expected_score({"1": -6, "2": -4, "3": -1.2, "4": -0.6, "5": -2}, ("1", "2", "3", "4", "5"), (1, 5))
    >>> round(mean, 5), round(sd, 5)
    (3.79135, 0.69665)
    """
    p, _ = option_probabilities(logprobs)
    scores = {label: scale[0] + place for place, label in enumerate(labels)}
    mean = sum(p[label] * score for label, score in scores.items())
    return mean, math.sqrt(sum(p[label] * (score - mean) ** 2 for label, score in scores.items()))


def normalise(text: str) -> str:
    """Text as compared for being the same answer: NFC, white space collapsed."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_verdict(
    raw: str, grammar: Grammar, read: Callable[[str], V | None], menu: str, *, bare: bool = True
) -> tuple[V | None, Parsed | None]:
    """The one verdict that a reply states, or why there is none.

    `read` gives the meaning of a value, null for one off the menu. With `bare`, a reply may be the value and nothing else.
    """
    text = without_reasoning(raw)
    if text is None:
        return None, UNCLOSED
    units = [unit for unit in (_SENTENCE if grammar.by_sentence else _LINE).split(text) if unit.strip()]
    if not units:
        return None, Parsed("parse_error", "the reply is empty")
    if bare and len(units) == 1 and (only := read(units[0])) is not None:
        return only, None
    own, claims, mentions = _candidates(units, grammar)
    if not own:
        return None, Parsed("parse_error", "no verdict in the required form")
    stated = [read(value) for _, value in own]
    if None in stated:
        off = _short(next(value for (_, value), meaning in zip(own, stated, strict=True) if meaning is None))
        return None, Parsed("parse_error" if set(stated) == {None} else "ambiguous", f"{off!r} is not {menu}")
    said = {read(value) for value in claims} - {None}
    loose = {read(value) for value in mentions} - {None}
    ends = own[-1][0] == len(units) - 1
    if len(set(stated)) == 1 and said <= set(stated) and (ends or loose <= set(stated)):
        return stated[0], None
    return None, Parsed("ambiguous", f"{len(own)} verdicts and {len(claims) + len(mentions)} mentions that contradict each other")


def verdict_place(text: str, grammar: Grammar) -> int | None:
    """Where the first line or sentence in the required form begins; null if there is none."""
    place = 0
    for unit in (_SENTENCE if grammar.by_sentence else _LINE).split(text):
        place = text.index(unit, place)
        if unit.strip() and _own(unit, grammar):
            return place
        place += len(unit)
    return None


def _candidates(units: list[str], grammar: Grammar) -> tuple[list[tuple[int, str]], list[str], list[str]]:
    """Verdicts in the required form with their place; what they may not overrule (the judge's own voice, a quoted line); the rest."""
    own: list[tuple[int, str]] = []
    claims: list[str] = []
    mentions: list[str] = []
    for place, unit in enumerate(units):
        if match := _own(unit, grammar):
            if place and _introduces(units[place - 1]):
                claims.append(match["value"])
            else:
                own.append((place, match["value"]))
            continue
        for found in grammar.mention.finditer(unit):
            (claims if found.groupdict().get("claim") else mentions).append(found["value"])
    return own, claims, mentions


def _own(unit: str, grammar: Grammar) -> re.Match[str] | None:
    """A line or sentence that is a verdict in the required form, and neither reports nor denies one."""
    match = grammar.own.fullmatch(unit)
    return match if match and not _REPORTS.search(match.groupdict().get("lead") or "") else None


def _introduces(unit: str) -> bool:
    """Whether what comes next is somebody else's: `The answer ends with:`. It cannot be the verdict, nor be overruled by one."""
    return unit.rstrip("*_`\"' \t").endswith((":", "\uff1a")) and _REPORTS.search(unit) is not None


def _bare(value: str) -> str:
    """A value without the decoration that judges put around it: `**A**`, `[[A]]`, `(A)`, `A.`"""
    return value.lstrip("*_`[( \t").rstrip("*_`]). \t")


def _word(value: str, menu: Mapping[str, object]) -> str:
    word = _COMPARED.sub(r"\1", _bare(_NAMED.sub("", _bare(value), count=1)))
    return word if word in menu else word.lower()


def _by_word(menu: Mapping[str, V]) -> dict[str, V]:
    """A menu by its words in lower case, where that keeps them apart (`m` and `M` are two)."""
    lower = {word.lower(): meaning for word, meaning in menu.items()}
    return lower if len(lower) == len(menu) else dict(menu)


def _short(value: str) -> str:
    text = value.strip()
    return text if len(text) <= 40 else text[:37] + "..."
