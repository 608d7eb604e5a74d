"""A writer's reply → a text that speaks of the chosen and the rejected answer, whichever of them the writer saw first.

The writer calls the answers A and B; whoever learns from the text sees no letters. `Answer A` is rewritten, since the letter has one
meaning; so is a citation of a labelled line (`A2`), where the rubric labels lines. A quotation from the pair is never touched. What
speaks of a letter or a place in any other way stays, and `checks` refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from curators.judging.parsing import parse_pairwise, without_reasoning
from curators.judging.prompts import label_lines
from curators.rationales.prompts import Sides

QUOTATION = re.compile(r"\"([^\"\n]+)\"|“([^”\n]+)”|«([^»\n]+)»|`([^`\n]+)`|‘([^’\n]+)’")
_NOUN = r"(?i:answer|response|solution|option|candidate|completion)"
_REWRITTEN = re.compile(
    rf"(?P<quoted>{QUOTATION.pattern})"
    rf"|(?P<both>\b(?:(?i:the|both)\s+)?{_NOUN}s\s+[\"“]?[AB][\"”]?\s+and\s+[\"“]?[AB]\b[\"”]?)"
    rf"|(?<!\w)[*_]{{0,2}}(?:(?i:the)\s+)?[*_]{{0,2}}{_NOUN}\s+"
    r"(?:[\(\[\"“*]+(?P<wrapped>[AB])[\)\]\"”*]+|(?P<letter>[AB])(?!\w)(?:\*\*|__)?)"
    r"|\b(?P<cited>[AB])(?P<line>\d+)\b(?::[ ]?)?"
)
_SENTENCE_START = re.compile(r"(?:\A|[.!?:]\s+|\n\s*(?:[-*]\s+|\d+\.\s+)?)[*_#]*\Z")
_QUOTED_END = re.compile(r"[.!?][\"”’»`)]\s+\Z")
_VERDICT = re.compile(r"[\s*_#`-]*(?:(?:my\s+)?final\s+)?verdict\b.*", re.IGNORECASE)


def squeezed(text: str) -> str:
    """Text as compared for being quoted: case and white space aside, and marks at the ends.

    >>> squeezed(" 8*3 = 25, ") == squeezed("8 * 3 = 25")
    True
    """
    return re.sub(r"\s+", "", text).casefold().strip(".,;:!?…*_")


def quotations(text: str) -> list[str]:
    """What stands in quotation marks.

    >>> quotations('It says "8 * 3 = 25", “too much” and isn\\'t `right`.')
    ['8 * 3 = 25', 'too much', 'right']
    """
    return [next(filter(None, found)) for found in QUOTATION.findall(text)]


def occurs(quotation: str, *texts: str) -> bool:
    """Whether a quotation stands in one of the texts; around an ellipsis, every part of it in the same one.

    >>> occurs("8*3 = 25", "1. 8 * 3 = 25"), occurs("one … three", "one two three"), occurs("four", "one two three")
    (True, True, False)
    """
    parts = [part for part in map(squeezed, re.split(r"\.{3}|…", quotation)) if part]
    return bool(parts) and any(all(part in squeezed(text) for part in parts) for text in texts)


def answered(raw: str) -> tuple[str, str | None] | None:
    """The text of a reply without reasoning and without a last line that is a verdict, and that verdict's label (first, second, tie).

    Null: nothing is left, or the reasoning is not closed.

    >>> answered("<think>hm</think>A2 is wrong.\\nVerdict: B"), answered("<think>hm")
    (('A2 is wrong.', 'second'), None)
    """
    text = without_reasoning(raw)
    lines = (text or "").strip().splitlines()
    label = None
    if lines and _VERDICT.fullmatch(lines[-1]):
        label = parse_pairwise(lines[-1]).label
        lines = lines[:-1]
    rest = "\n".join(lines).strip()
    return (rest, label) if rest else None


def reworded(text: str, sides: Sides, *, line_labels: bool = False) -> str:
    """The text with letters replaced by what they stand for.

    >>> sides = Sides(prompt="?", chosen="It is 4.", rejected="It is 5.", order=1)
    >>> reworded('Answer A says "It is 5.", which is wrong; answer B is right.', sides)
    'The rejected answer says "It is 5.", which is wrong; the chosen answer is right.'
    >>> reworded("B1: It is 4., is right", sides, line_labels=True)
    'Line 1 of the chosen answer: "It is 4.", is right'
    """
    labelled = {letter: _labelled(shown, letter) for letter, shown in zip("AB", sides.shown, strict=True)} if line_labels else {}
    out, end = [], 0
    for match in _REWRITTEN.finditer(text):
        if match.start() < end:
            continue
        said = _said(match, sides, labelled)
        if said is None:
            continue
        out.append(text[end : match.start()])
        before = text[: match.start()]
        start = _SENTENCE_START.search(before) or (match[0][0].isupper() and _QUOTED_END.search(before))
        out.append(said[0].upper() + said[1:] if start else said)
        end = match.end()
        content = labelled.get(match["cited"] or "", {}).get(match["line"] or "")
        if content and match[0].endswith(": ") and text.startswith(content, end):
            out.append(f'"{content}"')
            end += len(content)
    return "".join([*out, text[end:]])


def _said(match: re.Match[str], sides: Sides, labelled: Mapping[str, Mapping[str, str]]) -> str | None:
    """What stands in the place of a match; null: it stays."""
    if match["quoted"]:
        inner = match["quoted"][1:-1]
        return None if occurs(inner, sides.chosen, sides.rejected) or inner not in sides.names else f"the {sides.names[inner]} answer"
    if match["both"]:
        return "the two answers"
    if letter := match["letter"] or match["wrapped"]:
        return f"the {sides.names[letter]} answer"
    if match["line"] not in labelled.get(match["cited"], {}):
        return None
    colon = ": " if match[0].endswith(": ") else ":" if match[0].endswith(":") else ""
    return f"line {match['line']} of the {sides.names[match['cited']]} answer{colon}"


def _labelled(text: str, letter: str) -> dict[str, str]:
    """The lines of an answer by their number, as a writer sees them."""
    lines = (line.partition(": ") for line in label_lines(text, letter).splitlines())
    return {label[1:]: content for label, _, content in lines}
