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
    chosen, rejected = (from_json_list(given[side]) for side in ("chosen", "rejected"))
    scores = _scores(given, found)
    if _many(chosen) or _many(rejected):
        return _answer_lists(given, chosen, rejected)
    if "messages" in given or "prompt" in given:
        turns = _turns(given)
        if given.get("prompt_rejected") is not None and conversation(given["prompt_rejected"], "prompt_rejected") != turns:
            raise BadRow("not_comparable", "chosen and rejected answer different prompts")
        answers = [answer(chosen, "chosen", prompt=turns), answer(rejected, "rejected", prompt=turns)]
    else:
        for side, value in (("chosen", chosen), ("rejected", rejected)):
            if value is None:
                raise BadRow("missing", f"{side} is null or absent")
        turns, *answers = split_shared(chosen, rejected)
    _refuse_empty_or_identical(answers, ("chosen", "rejected"))
    policies = [_policy(given, f"{side}_policy") or _policy(given) for side in ("chosen", "rejected")]
    written = [Written(text, policy) for text, policy in zip(answers, policies, strict=True)]
    return turns, written, [_recorded_pair(scores)]


def _policy(given: Mapping[str, Any], target: str = "policy") -> str | None:
    """Who wrote an answer, where the source says so."""
    value = given.get(target)
    if value is not None and not isinstance(value, str):
        raise BadRow("wrong_type", f"{target} is {type(value).__name__}, must be text")
    return unicode_text(value, target) if value else None


def from_json_list(value: Any) -> Any:
    """A list of turns that came as JSON text; a plain answer that merely begins with a bracket stays text."""
    if isinstance(value, str) and value.startswith("[{") and value.rstrip().endswith("}]"):
        try:
            turns = from_json(value, "")
        except BadRow:
            return value
        return turns if all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns) else value
    return value


def _many(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _answer_lists(given: Mapping[str, Any], chosen: Any, rejected: Any) -> tuple[list[Turn], list[Written], list[Recorded]]:
    """Several chosen and several rejected answers (RM-Bench): each chosen one was recorded as better than each rejected one."""
    if not (_many(chosen) and _many(rejected)):
        raise BadRow("wrong_type", "chosen and rejected must both be lists of texts, or neither")
    answers = [Answer(text) for text in (*chosen, *rejected)]
    _refuse_empty_or_identical(answers[:: len(chosen)], ("chosen[0]", "rejected[0]"))
    if any(text.empty for text in answers) or set(chosen) & set(rejected):
        raise BadRow("identical" if set(chosen) & set(rejected) else "empty", "an answer is empty, or is both chosen and rejected")
    pairs = [(i, len(chosen) + j) for i in range(len(chosen)) for j in range(len(rejected))]
    said = {"label": "first", "p_first": P_FIRST["first"]}
    return _turns(given), [Written(text) for text in answers], [Recorded(pair, {"protocol": "pairwise", **said}, {}) for pair in pairs]


def _refuse_empty_or_identical(answers: Sequence[Answer], names: Sequence[str]) -> None:
    for text, name in zip(answers, names, strict=True):
        if text.empty:
            raise BadRow("empty", f"{name} has no text")
    if len(set(answers)) == 1:
        raise BadRow("identical", f"{names[0]} and {names[1]} are the same answer")


def _scores(given: Mapping[str, Any], found: ColumnMap) -> list[float] | None:
    wanted = [f"{side}_score" for side in ("chosen", "rejected") if f"{side}_score" in found.columns]
    if not wanted:
        return None
    scores = [number(given[name], name) for name in wanted]
    for name, score in zip(wanted, scores, strict=True):
        if score is None:
            raise BadRow("missing", f"{name} is null or absent")
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


def _recorded_pair(scores: list[float] | None) -> Recorded:
    """Chosen first. With scores it is a list of two: equal scores are a tie, and scores against the label are ambiguous."""
    if scores is None:
        return Recorded((0, 1), {"protocol": "pairwise", "label": "first", "p_first": P_FIRST["first"]}, {})
    said = dict(zip(("chosen_score", "rejected_score"), scores, strict=True))
    if scores[0] < scores[1]:
        why = f"recorded as chosen with score {scores[0]:g}, as rejected with {scores[1]:g}"
        return Recorded((0, 1), {"protocol": "listwise", "state": "ambiguous", "reason": why}, said)
    return Recorded((0, 1), {"protocol": "listwise", "scores": scores}, said)


def _labelled(given: Mapping[str, Any], found: ColumnMap) -> tuple[list[Turn], list[Written], list[Recorded]]:
    turns = _turns(given)
    answers = [answer(from_json_list(given[side]), side, prompt=turns) for side in ("output_a", "output_b")]
    _refuse_empty_or_identical(answers, ("output_a", "output_b"))
    value = given["label"]
    if value is None:
        raise BadRow("missing", "label is null or absent")
    meanings = found.labels or LABEL_WORDS
    if not isinstance(value, str | int | float) or str(value) not in meanings:
        raise BadRow("wrong_type", f"label is {str(value)[:60]!r}; known are {sorted(meanings)} (map others with label.VALUE=a|b|tie)")
    label = {"a": "first", "b": "second", "tie": "tie"}[meanings[str(value)]]
    written = [Written(text, _policy(given)) for text in answers]
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
    return turns, [Written(text, _policy(given))], [_pointwise(0, truth, {"label": value})]


def _pointwise(index: int, score: float, said: Mapping[str, Any]) -> Recorded:
    return Recorded((index,), {"protocol": "pointwise", "scores": [score]}, said)


def _responses(given: Mapping[str, Any], found: ColumnMap) -> tuple[list[Turn], list[Written], list[Recorded]]:
    """A list of answers, each with a number or without; what has no number keeps its text and gets no judgment."""
    turns = _turns(given)
    texts = given["response_text"]
    if texts is None:
        raise BadRow("missing", f"{found.columns['response_text']} is null or absent")
    columns = {name: _aligned(given, found, name, texts) for name in ("response_score", "response_policy", "response_index")}
    written, recorded = [], []
    for position, value in enumerate(texts if isinstance(texts, list) else [texts]):
        index = columns["response_index"][position]
        if index is not None and (isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**31):
            raise BadRow("wrong_type", f"response_index is {str(index)[:60]!r}, must be a whole number from 0")
        text = Answer("") if value is None else answer(from_json_list(value), f"answer {position + 1}", prompt=turns)
        policy = _policy({"response_policy": columns["response_policy"][position]}, "response_policy") or _policy(given)
        written.append(Written(text, policy, position if index is None else index))
        score = number(columns["response_score"][position], "response_score")
        if score is not None and not text.empty:
            recorded.append(_pointwise(position, score, {"index": written[-1].sample_index, "score": score}))
    if all(fact.answer.empty for fact in written):
        raise BadRow("empty", "none of the answers has text")
    return turns, written, recorded


def _aligned(given: Mapping[str, Any], found: ColumnMap, name: str, texts: Any) -> list[Any]:
    count = len(texts) if isinstance(texts, list) else 1
    values = given.get(name)
    if values is None:
        return [None] * count
    values = values if isinstance(values, list) else [values]
    if len(values) != count:
        raise BadRow("wrong_type", f"{found.columns[name]} has {len(values)} entries for {count} answers")
    return values


_READERS = {"pairs": _pair, "labelled": _labelled, "responses": _responses, "unpaired": _unpaired}
