"""One reply of a judge → the columns of its judgment: state, label or scores, and the raw text, which is always kept.

The rules of reading are in `parsing`; here they are applied to what an engine returned, and stated in words for a re-ask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from curators.engines.base import Completion, Reply, as_json, canonical
from curators.errors import VerdictError
from curators.judging.attributes import Attribute, parse_lines, scored
from curators.judging.json_objects import objects_in
from curators.judging.parsing import (
    Parsed,
    expected_score,
    option_probabilities,
    parse_label,
    parse_listwise,
    parse_pairwise,
    parse_pointwise,
    preferred,
    verdict_place,
    without_reasoning,
)
from curators.judging.rubric import Rubric
from curators.sampling import Row

NO_JSON = "no JSON object in the reply"
"""The reason of a reply to a JSON request that holds none at all; the strict text form may then be tried."""


def read_options(rubric: Rubric, reply: Reply, *, min_label_mass: float) -> Row:
    """The verdict in the log-probabilities of the rubric's labels; labels that hold less than the minimum together are ambiguous."""
    labels = rubric.labels
    if not reply.completions:
        return no_answer(reply)
    logprobs = reply.completions[0].option_logprobs or {}
    raw = canonical(dict(logprobs)).decode()
    if missing := [label for label in labels if label not in logprobs]:
        return {"state": "parse_error", "reason": f"no log-probability for {missing}", "raw": raw}
    chosen = {label: logprobs[label] for label in labels}
    p, mass = option_probabilities(chosen)
    if not math.isfinite(mass):
        return {"state": "parse_error", "reason": f"the log-probabilities of {list(labels)} are no numbers", "raw": raw}
    if mass < min_label_mass:
        reason = f"the labels hold {mass:.3g} of the probability, fewer than {min_label_mass:g}"
        return {"state": "ambiguous", "reason": reason, "raw": raw, "label_mass": mass}
    row: Row = {"state": "ok", "raw": raw, "label_mass": mass}
    if rubric.protocol == "pairwise":
        first = p[labels[0]]
        return row | {"p_first": first, "label": "first" if first > 0.5 else "second" if first < 0.5 else "tie"}
    return row | {"scores": [expected_score(chosen, labels, rubric.scale)[0]]}


def read_text(rubric: Rubric, n: int, completion: Completion) -> Row:
    """The verdict in a text about `n` generations shown."""
    if completion.finish_reason == "length":
        return {"state": "truncated", "reason": "cut off by max_tokens", "raw": completion.text}
    return _row(parse(completion.text, rubric, n), completion)


def _row(parsed: Parsed, completion: Completion) -> Row:
    return {
        "state": parsed.state,
        "reason": parsed.reason,
        "raw": completion.text,
        "label": parsed.label,
        "p_first": parsed.p_first,
        "scores": None if parsed.scores is None else list(parsed.scores),
        "attributes": None if parsed.attributes is None else as_json({name: x if x is None else int(x) for name, x in parsed.attributes}),
    }


def reply_schema(rubric: Rubric, n: int) -> dict[str, Any]:
    """The JSON schema of a reply about `n` generations: the reasons come before the verdict, as a judge writes in this order.

    >>> from curators.judging.rubric import load_rubric
    >>> schema = reply_schema(load_rubric("pairwise"), 2)
    >>> schema["required"], schema["properties"]["verdict"]["enum"]
    (['reason', 'verdict'], ['A', 'B', 'tie'])
    """
    low, high = rubric.scale
    score = {"type": "integer", "minimum": low, "maximum": high}
    whole = f"a whole number from {low} to {high}"
    if rubric.protocol == "listwise":
        lists = {"minItems": n, "maxItems": n}
        properties: dict[str, Any] = {
            "rationales": {"type": "array", "items": {"type": "string"}, **lists, "description": f"a list of {n} texts: why, text by text"},
            "ratings": {"type": "array", "items": score, **lists, "description": f"a list of {n} ratings in the same order, each {whole}"},
        }
    else:
        properties = {"reason": {"type": "string", "description": "why, in a few sentences that quote what decides"}}
        properties |= {attribute.name: _attribute_schema(attribute) for attribute in rubric.attributes}
        if words := _offered(rubric):
            properties["verdict"] = {"type": "string", "enum": words, "description": f"one of {', '.join(map(_quoted, words))}"}
        elif not rubric.attributes:
            properties["score"] = score | {"description": whole}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _offered(rubric: Rubric) -> list[str]:
    """The words that a verdict may be; none where it is a number."""
    return list(rubric.labels or rubric.grammar.menu)


def _attribute_schema(attribute: Attribute) -> dict[str, Any]:
    top = {} if attribute.high is None else {"maximum": attribute.high}
    number = {"type": "integer", "minimum": attribute.low, **top}
    return {"anyOf": [number, {"type": "null"}], "description": f"{attribute.range}, or null if it cannot be said"}


def _quoted(word: str) -> str:
    return f'"{word}"'


def reply_form(rubric: Rubric, n: int) -> str:
    """The keys of a JSON reply in words, as the judge's prompt and a re-ask state them.

    >>> from curators.judging.rubric import load_rubric
    >>> print(reply_form(load_rubric("pointwise"), 1))
    Reply with one JSON object and nothing else. Its keys, in this order:
    "reason": why, in a few sentences that quote what decides
    "score": a whole number from 1 to 5
    """
    keys = [f'"{key}": {about["description"]}' for key, about in reply_schema(rubric, n)["properties"].items()]
    return "\n".join(["Reply with one JSON object and nothing else. Its keys, in this order:", *keys])


def read_json(rubric: Rubric, n: int, completion: Completion) -> Row:
    """The verdict in the JSON object of a reply about `n` generations, whatever stands around the object.

    An object counts if it has the keys that hold the verdict. Objects that differ, one that has a key twice, and one off the menu beside
    one on it are ambiguous; a reply without any object has the reason `NO_JSON`.
    """
    if completion.finish_reason == "length":
        return {"state": "truncated", "reason": "cut off by max_tokens", "raw": completion.text}
    text = without_reasoning(completion.text)
    if text is None:
        return _row(Parsed("parse_error", "the reasoning block is not closed"), completion)
    try:
        objects = objects_in(text)
    except VerdictError as error:
        return _row(Parsed("parse_error", str(error)), completion)
    if not objects:
        return _row(Parsed("parse_error", NO_JSON if text.strip() else "the reply is empty"), completion)
    keys = [key for key in reply_schema(rubric, n)["required"] if key not in _PROSE]
    carrying = [found for found in objects if all(key in found for key in keys)]
    if not carrying:
        return _row(Parsed("parse_error", f"no JSON object has the keys {keys}"), completion)
    read = [_object(rubric, n, found, keys) for found in carrying]
    if len(set(read)) > 1:
        return _row(Parsed("ambiguous", f"{len(read)} JSON objects that contradict each other"), completion)
    return _row(read[0], completion)


_PROSE = ("reason", "rationales")
"""Keys whose text holds no verdict: a reply without them can be read."""


def _object(rubric: Rubric, n: int, found: Mapping[str, list[Any]], keys: Sequence[str]) -> Parsed:
    """What one object says; `found` has every value that a key came with."""
    if twice := [key for key in keys if len(found[key]) > 1 and any(value != found[key][0] for value in found[key])]:
        return Parsed("ambiguous", f"the key {twice[0]!r} has several values")
    if rubric.attributes:
        given = {attribute.name: attribute.read(_plain(found[attribute.name][0])) for attribute in rubric.attributes}
        if off := next((attribute for attribute in rubric.attributes if given[attribute.name] is None), None):
            return Parsed("parse_error", f"{off.name}: not {off.range}")
        return _scored(rubric, {name: value[0] for name, value in given.items() if value is not None})
    (value,) = (found[key][0] for key in keys)
    if rubric.protocol == "listwise":
        if not isinstance(value, list) or len(value) != n:
            return Parsed("parse_error", f"{len(value) if isinstance(value, list) else 'no'} ratings for {n} texts")
        return parse_listwise("\n".join(f"Rating: {_plain(each)}" for each in value), n, rubric.scale)
    return parse(_plain(value), rubric, n)


def _plain(value: Any) -> str:
    """A JSON value as the text grammar reads it: 4.0 is 4; what is no number or word is nothing that is on any menu."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(value.split()) if isinstance(value, str) else "?" if isinstance(value, (bool, list, dict)) else str(value)


def parse(raw: str, rubric: Rubric, n: int) -> Parsed:
    """A raw reply by the rubric's protocol and grammar; the same text always gives the same result."""
    if rubric.protocol == "listwise":
        return parse_listwise(raw, n, rubric.scale)
    if rubric.attributes:
        values, problem = parse_lines(raw, rubric.attributes)
        return problem or _scored(rubric, values or {})
    if rubric.labels:
        pairwise = rubric.protocol == "pairwise"
        meanings = [1.0, 0.0] if pairwise else [float(score) for score in range(rubric.scale[0], rubric.scale[1] + 1)]
        meant, problem = parse_label(raw, rubric.labels, meanings)
        return problem or (preferred(meant) if pairwise or meant is None else Parsed("ok", scores=(meant,)))
    return parse_pairwise(raw, rubric.grammar) if rubric.protocol == "pairwise" else parse_pointwise(raw, rubric.scale, rubric.grammar)


def _scored(rubric: Rubric, values: Mapping[str, float | None]) -> Parsed:
    return scored(values, rubric.attributes, scale=rubric.scale, skip_missing=rubric.skip_missing)


def critique(raw: str, rubric: Rubric) -> str | None:
    """What a judge wrote before its verdict: the `reason` of its JSON object, else the text above the first line in the required form.

    Null where there is nothing, or where the reply cannot be read.

    >>> from curators.judging.rubric import load_rubric
    >>> critique("It forgets Sunday.\\nScore: 3", load_rubric("pointwise"))
    'It forgets Sunday.'
    """
    text = without_reasoning(raw)
    if text is None:
        return None
    try:
        reasons = [found["reason"][0] for found in objects_in(text) if isinstance(found.get("reason", [None])[0], str)]
    except VerdictError:
        return None
    grammars = [attribute.grammar for attribute in rubric.attributes] or [rubric.grammar]
    ends = [end for grammar in grammars if (end := verdict_place(text, grammar)) is not None]
    before = reasons[0] if len(reasons) == 1 else text[: min(ends)] if ends and not reasons else ""
    return before.strip() or None


def required_form(rubric: Rubric, n: int) -> str:
    """The form of a reply in words, as a re-ask states it; it quotes nothing that a candidate or a judge wrote."""
    low, high = rubric.scale
    if rubric.labels:
        return f"Reply with one of these and nothing else: {', '.join(rubric.labels)}."
    if rubric.attributes:
        lines = "; ".join(f'"{attribute.name}: N", where N is {attribute.range} or n/a' for attribute in rubric.attributes)
        return f"End with {len(rubric.attributes)} lines that hold nothing else: {lines}."
    if rubric.protocol != "listwise":
        return rubric.grammar.form.format(low=low, high=high)
    section = f'a line "Rating: N" with one whole number from {low} to {high} and a line "Rationale: …"'
    return f"Write exactly {n} sections in the order of the texts, each {section}."


def no_answer(reply: Reply) -> Row:
    """The state of a request that brought no completion."""
    return {"state": reply.error or "transport_error", "reason": reply.reason or reply.error or "the engine gave no completion"}


def tokens(reply: Reply, completion: Completion | None = None, place: int = 0) -> Row:
    """A request's tokens on the row of one of its completions, null where that did not arrive: all on the only one, else the prompt's
    on the first and each one's own. Those of a request that brought none are on the first of its votes (`place` 0).
    """
    whole = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    if not reply.completions:
        return whole if place == 0 else {}
    first = completion is reply.completions[0]
    if len(reply.completions) == 1:
        return whole if first else {}
    return {"prompt_tokens": reply.prompt_tokens if first else 0, "completion_tokens": completion.n_tokens if completion else None}
