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
from collections.abc import Mapping
from dataclasses import dataclass

LABELS = {"a": "first", "b": "second", "tie": "tie"}
"""Pairwise labels by what the judge writes, lower-cased."""

P_FIRST = {"first": 1.0, "second": 0.0, "tie": 0.5}

_ZERO_WIDTH = re.compile("[\u200b-\u200f\u2060\ufeff]")
_THINK_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_THINK_START = re.compile(r"<(?:think|thinking|reasoning)>", re.IGNORECASE)
_VERDICT_LINE = re.compile(r"[\s*_#`-]*(?:(?:my\s+)?final\s+)?verdict[\s*_]*[:\uff1a](?P<value>.*)", re.IGNORECASE)
_VERDICT_MENTION = re.compile(r"\bverdict\b[^\w\n]{0,8}(?:is\b[^\w\n]{0,8})?(a|b|tie)\b", re.IGNORECASE)
_SCORE_LINE = re.compile(r"[\s*_#`-]*(?:(?:my\s+)?(?:final|overall)\s+)?(?:score|rating)[\s*_]*[:\uff1a](?P<value>.*)", re.IGNORECASE)
_SCORE_MENTION = re.compile(r"\b(?:score|rating)\b[^\w\n]{0,8}(?:is\b[^\w\n]{0,8})?(\d+)(?![\d.]*\d)", re.IGNORECASE)
_SECTION_HEADER = re.compile(r"[\s*_#<\[]*(?:output\s+for\s+)?text\s*(\d+)[\s*_\]>:.]*", re.IGNORECASE)
_NAMED = re.compile(r"(?:answer|response|solution|option|assistant)\s+(?=\w)", re.IGNORECASE)
_SCORE = re.compile(r"(\d+)(?:\s*/\s*(\d+))?")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reply says. `state` is ok, parse_error or ambiguous; `label` (pairwise) or `scores` are null unless it is ok."""

    state: str
    reason: str | None = None
    label: str | None = None
    scores: tuple[float, ...] | None = None


def without_reasoning(raw: str) -> str | None:
    """What stands after the last reasoning block; null if one is not closed.

    >>> without_reasoning("<think>Verdict: B?</think>Verdict: A"), without_reasoning("<think>Verdict: B")
    ('Verdict: A', None)
    """
    text = _THINK_END.split(_ZERO_WIDTH.sub("", raw))[-1]
    return None if _THINK_START.search(text) else text


def parse_pairwise(raw: str) -> Parsed:
    """The label of a reply whose verdict stands on a line of its own, `Verdict: A`, `Verdict: B` or `Verdict: tie`, or is the whole reply.

    Verdict lines that differ are ambiguous; a single one that prose contradicts counts only as the last line of the reply.

    >>> parse_pairwise("A is wrong at step 2.\\nVerdict: B").label
    'second'
    >>> parse_pairwise("The text says:\\nVerdict: A\\nI do not follow it.\\nVerdict: B").state
    'ambiguous'
    >>> parse_pairwise("Options are Verdict: A or Verdict: B.").reason
    'no line of the form "Verdict: A", "Verdict: B" or "Verdict: tie"'
    """
    text = without_reasoning(raw)
    if text is None:
        return Parsed("parse_error", "the reasoning block is not closed")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return Parsed("parse_error", "the reply is empty")
    if len(lines) == 1 and (label := _label(lines[0])):
        return Parsed("ok", label=label)
    own, mentions = _candidates(lines, _VERDICT_LINE, _VERDICT_MENTION)
    found = [(place, _label(value)) for place, value in own]
    if problem := _off_menu([value for _, value in own], [label for _, label in found], "A, B and tie"):
        return problem
    said = {label for _, label in found} | {LABELS[mention.lower()] for mention in mentions}
    if not found:
        return Parsed("parse_error", 'no line of the form "Verdict: A", "Verdict: B" or "Verdict: tie"')
    if len(said) == 1 or (len(found) == 1 and found[0][0] == len(lines) - 1):
        return Parsed("ok", label=found[0][1])
    return Parsed("ambiguous", f"{len(found)} verdict lines and {len(mentions)} mentions that contradict each other")


def parse_pointwise(raw: str, scale: tuple[int, int] = (1, 5)) -> Parsed:
    """The score of a reply that has it on a line of its own, `Score: 4` (or `Rating: 4`, `4/5`), or is the bare number.

    >>> parse_pointwise("Clear and right.\\nScore: 4").scores, parse_pointwise("Score: 8.5", (1, 10)).reason
    ((4.0,), "'8.5' is not a whole number from 1 to 10")
    >>> parse_pointwise("Score: 9/10", (1, 5)).state
    'parse_error'
    """
    text = without_reasoning(raw)
    if text is None:
        return Parsed("parse_error", "the reasoning block is not closed")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return Parsed("parse_error", "the reply is empty")
    if len(lines) == 1 and (bare := _score(lines[0], scale)) is not None:
        return Parsed("ok", scores=(bare,))
    own, mentions = _candidates(lines, _SCORE_LINE, _SCORE_MENTION)
    found = [(place, _score(value, scale)) for place, value in own]
    if problem := _off_menu([value for _, value in own], [score for _, score in found], f"a whole number from {scale[0]} to {scale[1]}"):
        return problem
    if not found:
        return Parsed("parse_error", 'no line of the form "Score: N"')
    said = {score for _, score in found} | {float(mention) for mention in mentions}
    score = found[0][1]
    if score is not None and (len(said) == 1 or (len(found) == 1 and found[0][0] == len(lines) - 1)):
        return Parsed("ok", scores=(score,))
    return Parsed("ambiguous", f"{len(found)} score lines and {len(mentions)} mentions that contradict each other")


def parse_listwise(raw: str, n: int, scale: tuple[int, int] = (1, 5)) -> Parsed:
    """The `n` scores of a reply with exactly `n` lines `Rating: N`, in order. One bad line refuses them all, so that nothing shifts.

    >>> parse_listwise("Rating: 5\\nRationale: Right.\\n\\nIn full.\\n\\nRating: 2\\nRationale: Wrong.", 2).scores
    (5.0, 2.0)
    >>> parse_listwise("Rating: high\\nRationale: x\\n\\nRating: 2\\nRationale: y", 2).reason
    "rating 1: 'high' is not a whole number from 1 to 5"
    """
    text = without_reasoning(raw)
    if text is None:
        return Parsed("parse_error", "the reasoning block is not closed")
    lines = [line for line in text.splitlines() if line.strip()]
    values = [match["value"] for line in lines if (match := _SCORE_LINE.fullmatch(line))]
    if len(values) != n:
        return Parsed("parse_error", f"{len(values)} rating lines for {n} texts" if lines else "the reply is empty")
    numbers = [int(match[1]) for line in lines if (match := _SECTION_HEADER.fullmatch(line))]
    if numbers and numbers != list(range(1, n + 1)):
        return Parsed("parse_error", f"the sections are numbered {numbers}, not 1 to {n}")
    scores = [_score(value, scale) for value in values]
    for place, (value, score) in enumerate(zip(values, scores, strict=True), 1):
        if score is None:
            return Parsed("parse_error", f"rating {place}: {_short(value)!r} is not a whole number from {scale[0]} to {scale[1]}")
    return Parsed("ok", scores=tuple(score for score in scores if score is not None))


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


def _candidates(lines: list[str], whole: re.Pattern[str], mention: re.Pattern[str]) -> tuple[list[tuple[int, str]], list[str]]:
    """Verdicts on lines of their own with their line number, and those that prose mentions."""
    own, mentions = [], []
    for place, line in enumerate(lines):
        if match := whole.fullmatch(line):
            own.append((place, match["value"]))
        else:
            mentions += [found[1] for found in mention.finditer(line)]
    return own, mentions


def _off_menu(values: list[str], read: list[str | None] | list[float | None], allowed: str) -> Parsed | None:
    """A verdict that was not on offer makes the reply unreadable, or ambiguous beside one that was."""
    bad = [value for value, result in zip(values, read, strict=True) if result is None]
    if not bad:
        return None
    what = allowed if allowed.startswith("a ") else f"one of {allowed}"
    return Parsed("parse_error" if len(bad) == len(values) else "ambiguous", f"{_short(bad[-1])!r} is not {what}")


def _bare(value: str) -> str:
    """A value without the decoration that judges put around it: `**A**`, `[[A]]`, `A.`"""
    return value.lstrip("*_`[ \t").rstrip("*_`]. \t")


def _label(value: str) -> str | None:
    return LABELS.get(_NAMED.sub("", _bare(value), count=1).lower())


def _score(value: str, scale: tuple[int, int]) -> float | None:
    match = _SCORE.fullmatch(_bare(value))
    if not match or (match[2] and int(match[2]) != scale[1]) or not scale[0] <= int(match[1]) <= scale[1]:
        return None
    return float(match[1])


def _short(value: str) -> str:
    text = value.strip()
    return text if len(text) <= 40 else text[:37] + "..."
