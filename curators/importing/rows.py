"""One row of a source → its prompt, its answers and what was recorded about them.

The functions here know the four kinds of preference data (`ColumnMap.kind`) and nothing of frames or files. A row that cannot
become facts raises `BadRow`; `facts` counts it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curators.importing.columns import LABEL_WORDS, ColumnMap, extract
from curators.importing.conversations import (
    Answer,
    BadRow,
    Turn,
    answer,
    answer_of_turn,
    conversation,
    from_json,
    split_shared,
    unicode_text,
)
from curators.judging.parsing import P_FIRST
from curators.sampling import Row, make_prompt

_TRUTH = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
_KNOBS = {"temp": "temperature", "t": "temperature", "p": "top_p", "k": "top_k"}


@dataclass(frozen=True, slots=True)
class Written:
    """One answer as the source has it: `policy` is null where it does not say who wrote it."""

    answer: Answer
    policy: str | None = None
    sample_index: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded judgment about answers by their position in the row: the columns of `judgments` that it decides, and its own text."""

    shown: tuple[int, ...]
    columns: Mapping[str, Any]
    said: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What one row says. `rest` are the columns that the map does not use."""

    prompt: Row
    written: Sequence[Written]
    recorded: Sequence[Recorded]
    rest: Mapping[str, Any]


def row_facts(row: Mapping[str, Any], found: ColumnMap, *, source: str, max_chars: int) -> RowFacts:
    """Read one row. `max_chars` bounds the prompt's text and each answer's.

    Raises:
        BadRow: with the state that is counted and a reason that names the column and what came.
    """
    given = {target: extract(row, path) for target, path in found.columns.items()}
    turns, written, recorded = _READERS[found.kind](given, found)
    for name, fact in enumerate(written, 1):
        if len(fact.answer.text) > max_chars:
            raise BadRow("too_long", f"answer {name} has {len(fact.answer.text):,} characters; at most {max_chars:,}")
    used = found.used
    rest = {key: value for key, value in row.items() if key not in used and value is not None}
    prompt = _prompt(turns, given, rest, source)
    if prompt["state"] != "ok":
        raise BadRow(prompt["state"], prompt["reason"])
    if len(prompt["messages"]) > max_chars:
        raise BadRow("too_long", f"the prompt has {len(prompt['messages']):,} characters; at most {max_chars:,}")
    return RowFacts(prompt, written, recorded, rest)


def _prompt(turns: list[Turn], given: Mapping[str, Any], rest: Mapping[str, Any], source: str) -> Row:
    if (extra := given.get("input")) is not None and str(extra).strip():
        last = turns[-1] if turns else {}
        if not isinstance(extra, str) or not isinstance(last.get("content"), str):
            raise BadRow("wrong_type", f"input is {type(extra).__name__}; it and the prompt must be texts")
        turns = [*turns[:-1], {**last, "content": f"{last['content']}\n\n{extra}"}]
    if (system := given.get("system")) is not None and system != "":
        turns = [{"role": "system", "content": system}, *turns]
    meta = dict(rest)
    if given.get("id") is not None:
        meta["id"] = given["id"]
    if given.get("sampling") is not None:
        meta["sampling"] = parse_sampling(given["sampling"])
    return make_prompt(
        turns,
        tools=from_json(given.get("tools"), "tools") or None,
        chat_template_kwargs=from_json(given.get("chat_template_kwargs"), "chat_template_kwargs") or None,
        reference=given.get("reference"),
        meta=meta,
        source=source,
    )


def parse_sampling(value: Any) -> Any:
    """How a source says it sampled, with the usual names; what is not understood stays as it is.

    >>> parse_sampling("top_p=0.9;temp=1.0")
    {'top_p': 0.9, 'temperature': 1.0}
    """
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.replace(",", ";").split(";") if part.strip()]
    try:
        return {_KNOBS.get(name.strip(), name.strip()): float(number) for name, _, number in pairs}
    except ValueError:
        return value


def _turns(given: Mapping[str, Any]) -> list[Turn]:
    if "messages" in given:
        return conversation(from_json(given["messages"], "messages"), "messages")
    return conversation(given.get("prompt"), "prompt")


def _pair(given: Mapping[str, Any], found: ColumnMap) -> tuple[list[Turn], list[Written], list[Recorded]]:
    """One chosen and one rejected answer, or a list of texts (RM-Bench): each chosen was recorded as better than each rejected."""
    values = {side: from_json_list(given[side]) for side in ("chosen", "rejected")}
    if "messages" in given or "prompt" in given:
        turns = _turns(given)
        if given.get("prompt_rejected") is not None and conversation(given["prompt_rejected"], "prompt_rejected") != turns:
            raise BadRow("not_comparable", "chosen and rejected answer different prompts")
        sides = {side: _answers(value, side, turns) for side, value in values.items()}
    else:
        for side, value in values.items():
            if value is None:
                raise BadRow("missing", f"{side} is null or absent")
        turns, chosen, rejected = split_shared(values["chosen"], values["rejected"])
        sides = {"chosen": [chosen], "rejected": [rejected]}
    _refuse_empty_or_identical(sides)
    written = [
        Written(text, policy)
        for side, texts in sides.items()
        for text, policy in zip(texts, _policies(given, found, f"{side}_policy", len(texts)), strict=True)
    ]
    scores = [score for side, texts in sides.items() for score in _scores(given, found, f"{side}_score", len(texts))]
    n_chosen = len(sides["chosen"])
    shown = [(i, j) for i in range(n_chosen) for j in range(n_chosen, len(written))]
    return turns, written, [_recorded_pair(pair, [scores[i] for i in pair] if scores else None) for pair in shown]


def _answers(value: Any, side: str, turns: Sequence[Turn]) -> list[Answer]:
    texts = value if isinstance(value, list) and value and all(isinstance(text, str) for text in value) else [value]
    return [answer(text, side, prompt=turns) for text in texts]


def _policy(value: Any, target: str = "policy") -> str | None:
    """Who wrote an answer, where the source says so."""
    if value is not None and not isinstance(value, str):
        raise BadRow("wrong_type", f"{target} is {type(value).__name__}, must be text")
    return unicode_text(value, target) if value else None


def _policies(given: Mapping[str, Any], found: ColumnMap, target: str, count: int) -> list[str | None]:
    """Who wrote each of `count` answers: `target` names one writer of all or one for each, `policy` those that it leaves open."""
    value = given.get(target)
    each = _aligned(value if isinstance(value, list) else [value] * count, found, target, count)
    return [_policy(writer, target) or _policy(given.get("policy")) for writer in each]


def from_json_list(value: Any) -> Any:
    """A list of turns that came as JSON text; a plain answer that merely begins with a bracket stays text."""
    if isinstance(value, str) and value.startswith("[{") and value.rstrip().endswith("}]"):
        try:
            turns = from_json(value, "")
        except BadRow:
            return value
        return turns if all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns) else value
    return value


def _refuse_empty_or_identical(sides: Mapping[str, Sequence[Answer]]) -> None:
    for name, answers in sides.items():
        if any(text.empty for text in answers):
            raise BadRow("empty", f"{name} has no text" if len(answers) == 1 else f"{name} has an answer without text")
    first, second = sides
    if set(sides[first]) & set(sides[second]):
        raise BadRow("identical", f"{first} and {second} are or share the same answer")


def _scores(given: Mapping[str, Any], found: ColumnMap, target: str, count: int) -> list[float]:
    """The numbers of `count` answers, one for each; none where the map has no scores."""
    if target not in found.columns:
        return []
    scores = [number(value, target) for value in _aligned(given[target], found, target, count)]
    if None in scores:
        raise BadRow("missing", f"{target} is null or absent")
    return [score for score in scores if score is not None]


def number(value: Any, column: str) -> float | None:
    """A finite number, also as text (CSV); null stays null."""
    if value is None:
        return None
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise BadRow("wrong_type", f"{column} is {str(value)[:60]!r} ({type(value).__name__}), must be a number")
    return score


def _recorded_pair(shown: tuple[int, int], scores: list[float] | None) -> Recorded:
    """Chosen first. With scores it is a list of two: equal scores are a tie, and scores against the label are ambiguous."""
    if scores is None:
        return Recorded(shown, {"protocol": "pairwise", "label": "first", "p_first": P_FIRST["first"]}, {})
    said = dict(zip(("chosen_score", "rejected_score"), scores, strict=True))
    if scores[0] < scores[1]:
        why = f"recorded as chosen with score {scores[0]:g}, as rejected with {scores[1]:g}"
        return Recorded(shown, {"protocol": "listwise", "state": "ambiguous", "reason": why}, said)
    return Recorded(shown, {"protocol": "listwise", "scores": scores}, said)


def _labelled(given: Mapping[str, Any], found: ColumnMap) -> tuple[list[Turn], list[Written], list[Recorded]]:
    turns = _turns(given)
    answers = {side: [answer(from_json_list(given[side]), side, prompt=turns)] for side in ("output_a", "output_b")}
    _refuse_empty_or_identical(answers)
    value = given["label"]
    if value is None:
        raise BadRow("missing", "label is null or absent")
    meanings = found.labels or LABEL_WORDS
    if not isinstance(value, str | int | float) or str(value) not in meanings:
        raise BadRow("wrong_type", f"label is {str(value)[:60]!r}; known are {sorted(meanings)} (map others with label.VALUE=a|b|tie)")
    label = {"a": "first", "b": "second", "tie": "tie"}[meanings[str(value)]]
    written = [Written(text, _policy(given.get("policy"))) for (text,) in answers.values()]
    return turns, written, [Recorded((0, 1), {"protocol": "pairwise", "label": label, "p_first": P_FIRST[label]}, {"label": value})]


def _unpaired(given: Mapping[str, Any], found: ColumnMap) -> tuple[list[Turn], list[Written], list[Recorded]]:
    turns = _turns(given)
    if "completion" in found.columns:
        text = answer(from_json_list(given["completion"]), "completion", prompt=turns)
    else:
        if len(turns) < 2 or turns[-1].get("role") != "assistant":
            raise BadRow("missing", "messages do not end with an answer of the assistant")
        text = answer_of_turn(turns[-1], "the last turn")
        turns = turns[:-1]
    if text.empty:
        raise BadRow("empty", "the answer has no text")
    value = given["label"]
    if value is None:
        raise BadRow("missing", "label is null or absent")
    truth = _TRUTH.get(str(value).lower())
    if truth is None:
        raise BadRow("wrong_type", f"label is {str(value)[:60]!r}, must be true or false")
    return turns, [Written(text, _policy(given.get("policy")))], [_pointwise(0, truth, {"label": value})]


def _pointwise(index: int, score: float, said: Mapping[str, Any]) -> Recorded:
    return Recorded((index,), {"protocol": "pointwise", "scores": [score]}, said)


def _responses(given: Mapping[str, Any], found: ColumnMap) -> tuple[list[Turn], list[Written], list[Recorded]]:
    """A list of answers, each with a number or without; what has no number keeps its text and gets no judgment."""
    turns = _turns(given)
    texts = given["response_text"]
    if texts is None:
        raise BadRow("missing", f"{found.columns['response_text']} is null or absent")
    texts = texts if isinstance(texts, list) else [texts]
    scores, indices = (_aligned(given.get(name), found, name, len(texts)) for name in ("response_score", "response_index"))
    policies = _policies(given, found, "response_policy", len(texts))
    written, recorded = [], []
    for position, (value, index) in enumerate(zip(texts, indices, strict=True)):
        if index is not None and (isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**31):
            raise BadRow("wrong_type", f"response_index is {str(index)[:60]!r}, must be a whole number from 0")
        text = Answer("") if value is None else answer(from_json_list(value), f"answer {position + 1}", prompt=turns)
        written.append(Written(text, policies[position], position if index is None else index))
        score = number(scores[position], "response_score")
        if score is not None and not text.empty:
            recorded.append(_pointwise(position, score, {"index": written[-1].sample_index, "score": score}))
    if all(fact.answer.empty for fact in written):
        raise BadRow("empty", "none of the answers has text")
    return turns, written, recorded


def _aligned(value: Any, found: ColumnMap, target: str, count: int) -> list[Any]:
    """What a column says of each of `count` answers; null says nothing of any."""
    if value is None:
        return [None] * count
    each: list[Any] = value if isinstance(value, list) else [value]
    if len(each) != count:
        raise BadRow("wrong_type", f"{target} ({found.columns[target]}) has {len(each)} entries for {count} answers")
    return each


_READERS = {"pairs": _pair, "labelled": _labelled, "responses": _responses, "unpaired": _unpaired}
