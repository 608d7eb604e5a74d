"""Verdict grammars: in which form a judge was told to state its verdict, so that other people's prompts can be used as they are.

A rubric names its grammar in its header (`verdict: brackets`). Each grammar is two patterns and a menu, and one reader (`parsing`) serves
them all: `own` matches a whole line or sentence in the required form, `mention` finds what only looks like a verdict, in a quotation or
in the options restated. The form of `[[A]]` and `[[rating]]` is FastChat's, `[[A>>B]]` arena-hard's, `Output (a)` and the bare number
LLMBar's, `[RESULT] 4` Prometheus's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from curators.errors import ConfigError

NONE: Mapping[str, float] = MappingProxyType({})
THREE = MappingProxyType({"A": 1.0, "B": 0.0, "tie": 0.5})
LEVELS = MappingProxyType({"A>>B": 1.0, "A>B": 0.75, "A=B": 0.5, "B>A": 0.25, "B>>A": 0.0})
"""The words of a pairwise verdict and the preference for the first shown that each states. Five levels stand at equal distances."""


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """`own` and `mention` have the group `value`.

    An `own` that has a group `lead` is no verdict where the lead reports or denies something ("B says", "not"); a `mention` with the
    group `claim` is in the judge's own voice ("my verdict is"). `menu` is empty where the verdict is a number. `form` says in words how to
    end a reply, with `{low}` and `{high}` of the scale.
    """

    own: re.Pattern[str]
    mention: re.Pattern[str]
    form: str
    menu: Mapping[str, float] = field(default_factory=dict)
    by_sentence: bool = False


def line_grammar(words: str, value: str, form: str, menu: Mapping[str, float] = NONE) -> Grammar:
    """A line of its own, `Verdict: A`, whatever Markdown decorates it; `words` and `value` are patterns."""
    return Grammar(
        own=re.compile(
            rf"[\s*_#`-]*(?:\d+[.)]\s*)?(?:(?:my\s+)?(?:final|overall)\s+)?(?:{words})[\s*_`]*[:\uff1a](?P<value>.*)", re.IGNORECASE
        ),
        mention=re.compile(
            rf"(?P<claim>\bmy\s+(?:final\s+|overall\s+)?)?\b(?:{words})\b[^\w\n]{{0,8}}(?:is\b[^\w\n]{{0,8}})?(?P<value>{value})",
            re.IGNORECASE,
        ),
        form=form,
        menu=menu,
    )


_CONCLUDES = (
    r"verdict|judge?ment|decision|conclu\w+|rat(?:e|ing)|scor\w+|grade|choice|better|best|superior|ties?d?|equal(?:ly)?|win(?:s|ner)|"
    r"therefore|thus|hence|overall|final(?:ly)?"
)
_DECIDES = r"verdict|judge?ment|judge|decision|choice|choose|pick|prefer|vote|conclude|rating|rate|score"
_REASONS = (
    r"(?:(?:therefore|thus|hence|so|overall|consequently|accordingly|finally|in conclusion|in summary|to conclude|to summari[sz]e|"
    r"as a result|based on|considering|given|taking|after|since|i)\b[^\n]{0,400}?)?"
)
_PREFERRED = (
    r"\s+(?:is|as)\s+(?:the\s+|a\s+)?(?:better|best)(?:\s+(?!in\b|at\b|than\b)\w+)?(?:\s+(?:for|to|of|than)\s+[^.,;]{0,80})?"
    r"(?:,?\s+(?:as|because|since)\b.*)?"
)


def _tags(form: str, menu: Mapping[str, float] = NONE) -> Grammar:
    """`[[…]]`, alone or at the end of a sentence that concludes."""
    tag = r"\[\[(?P<value>[^\[\]\n]{0,40})\]\]"
    return Grammar(
        own=re.compile(rf"(?:[^\w\[\]]*|(?=[^\[\]]*\b(?:{_CONCLUDES})\b)(?P<lead>[^\[\]]{{0,300}})){tag}[^\w\[\]]{{0,20}}", re.IGNORECASE),
        mention=re.compile(rf"(?P<claim>\b(?:my|i)\s+(?:final\s+)?(?:{_DECIDES})\b[^\[\]]{{0,80}})?{tag}", re.IGNORECASE),
        form=form,
        menu=menu,
        by_sentence=True,
    )


def _result(form: str, menu: Mapping[str, float] = NONE) -> Grammar:
    return Grammar(
        own=re.compile(r"(?:(?!\[RESULT\]).)*\[RESULT\][\s*_:(]*(?P<value>.*)", re.IGNORECASE),
        mention=re.compile(r"\[RESULT\][\s*_:(]{0,8}(?P<value>\w+)", re.IGNORECASE),
        form=form,
        menu=menu,
    )


_NUMBER = r"\d+(?![\d.]*\d)"
_END = "End with one line that is exactly {}, and write no other such line."

PAIRWISE: Mapping[str, Grammar] = {
    "line": line_grammar(
        "verdict",
        r"(?:a|b|tie)\b",
        'End with one line that is exactly "Verdict: A", "Verdict: B" or "Verdict: tie", and write that word on no other line.',
        THREE,
    ),
    "brackets": _tags(_END.format('"[[A]]", "[[B]]" or, for a tie, "[[C]]"'), MappingProxyType({"A": 1.0, "B": 0.0, "C": 0.5})),
    "levels": _tags(_END.format('"[[A>>B]]", "[[A>B]]", "[[A=B]]", "[[B>A]]" or "[[B>>A]]"'), LEVELS),
    "output-letter": Grammar(
        own=re.compile(
            rf"[\s*_#\"'`-]*(?P<lead>{_REASONS})\boutput\s*\((?P<value>[^()\n]{{1,12}})\)(?:{_PREFERRED})[\s.*_!\"'`]*", re.IGNORECASE
        ),
        mention=re.compile(r"output\s*\((?P<value>[^()\n]{1,12})\)\s+(?:is|as)\s+(?:the\s+|a\s+)?(?:better|best)\b", re.IGNORECASE),
        form='End with one line that is exactly "Output (a) is better." or "Output (b) is better.".',
        menu=MappingProxyType({"a": 1.0, "b": 0.0}),
        by_sentence=True,
    ),
    "result": _result('End with one line that is exactly "[RESULT] A" or "[RESULT] B".', MappingProxyType({"A": 1.0, "B": 0.0})),
}

POINTWISE: Mapping[str, Grammar] = {
    "line": line_grammar(
        "score|rating", _NUMBER, 'End with one line "Score: N", where N is one whole number from {low} to {high}, and write no other score.'
    ),
    "brackets": _tags('End with one line "Rating: [[N]]", where N is one whole number from {low} to {high}, and write no other such mark.'),
    "number": Grammar(
        own=re.compile(r"[\s*_#`]*(?P<value>\d+(?:\s*/\s*\d+)?)[\s*_.`]*"),
        mention=re.compile(rf"\b(?:score|rating)\b[^\w\n]{{0,8}}(?:is\b[^\w\n]{{0,8}})?(?P<value>{_NUMBER})", re.IGNORECASE),
        form="Reply with one whole number from {low} to {high} and nothing else.",
    ),
    "result": _result('End with one line "[RESULT] N", where N is one whole number from {low} to {high}.'),
}


def grammar_of(protocol: str, name: str, origin: str = "rubric") -> Grammar:
    """The grammar that a rubric of a protocol names; a list is always read line by line.

    Raises:
        ConfigError: there is no such grammar for the protocol.
    """
    known = PAIRWISE if protocol == "pairwise" else POINTWISE if protocol == "pointwise" else {"line": POINTWISE["line"]}
    if name not in known:
        raise ConfigError(f"{origin}: verdict is {name!r}; {protocol} has {list(known)}")
    return known[name]
