"""Conversations as people store them, turned into OpenAI messages; answers with text, reasoning and tool calls.

Read are: a plain text (one user turn), OpenAI messages, ShareGPT turns (`from`, `value`), Anthropic's transcripts
("\\n\\nHuman: …\\n\\nAssistant: …"), and the JSON text of any list. Where chosen and rejected are whole conversations, the turns
that they share are the prompt. What cannot be one assistant turn after one prompt is a `BadRow`, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from curators.engines.base import as_json

Turn = dict[str, Any]

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_TRANSCRIPT = re.compile(r"\s*Human:")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "observation": "tool", "bot": "assistant"}


class BadRow(Exception):
    """A row that cannot become facts: `state` is the word that is counted, `reason` what exactly came."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(f"{state}: {reason}")
        self.state = state
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """One assistant turn: `text` may be empty only beside tool calls (`tool_calls` is JSON)."""

    text: str
    reasoning: str | None = None
    tool_calls: str | None = None

    @property
    def empty(self) -> bool:
        return not self.tool_calls and not self.text.strip()


def from_json(value: Any, column: str) -> Any:
    """A list or object that came as JSON text, as in CSV and many Parquet files; anything else as it is."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise BadRow("wrong_type", f"{column} is text that is not JSON ({error.msg} at character {error.pos})") from error


def transcript(text: str) -> list[Turn]:
    """The turns of a transcript; spaces around a turn are not part of it, and an empty last turn is a cue to answer.

    >>> [(turn["role"], turn["content"]) for turn in transcript("\\n\\nHuman: hi\\n\\nAssistant: Hello.\\n\\nHuman: bye\\n\\nAssistant:")]
    [('user', 'hi'), ('assistant', 'Hello.'), ('user', 'bye')]
    """
    parts = _SPEAKER.split(text)
    turns = [
        {"role": "user" if speaker == "Human" else "assistant", "content": said.strip()}
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if turns and turns[-1] == {"role": "assistant", "content": ""} and not parts[-1].strip():
        turns.pop()
    return turns


def conversation(value: Any, column: str) -> list[Turn]:
    """Turns of a prompt or a whole conversation, in any of the forms above."""
    if value is None:
        raise BadRow("missing", f"{column} is null or absent")
    if isinstance(value, str):
        if not value.strip():
            raise BadRow("empty", f"{column} is an empty text")
        return transcript(value) if _TRANSCRIPT.match(value) else [{"role": "user", "content": value}]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise BadRow("wrong_type", f"{column} is {type(value).__name__}, must be text or a list of turns")
    return [_turn(turn, f"{column}[{index}]") for index, turn in enumerate(value)]


def _turn(turn: Any, column: str) -> Turn:
    """One turn in OpenAI's form. Null fields are dropped (Parquet fills every turn with the fields of all), but for `content`."""
    if not isinstance(turn, Mapping):
        raise BadRow("wrong_type", f"{column} is {type(turn).__name__}, must be a turn (an object with role and content)")
    if "from" in turn and "role" not in turn:
        return _sharegpt_turn(turn, column)
    if not isinstance(turn.get("role"), str):
        raise BadRow("wrong_type", f"{column} has the keys {sorted(map(str, turn))}, must have role and content (or from and value)")
    return {key: value for key, value in turn.items() if value is not None or key == "content"}


def _sharegpt_turn(turn: Mapping[str, Any], column: str) -> Turn:
    speaker, said = turn["from"], turn.get("value")
    if not isinstance(said, str) or not isinstance(speaker, str):
        raise BadRow("wrong_type", f"{column}: from and value must be texts, value is {type(said).__name__}")
    if speaker != "function_call":
        return {"role": _ROLES.get(speaker, speaker), "content": said}
    calls = from_json(said, f"{column} (function_call)")
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and "name" in call for call in calls):
        raise BadRow("wrong_type", f"{column}: a function_call must be JSON with name and arguments")
    return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call} for call in calls]}


def answer(value: Any, column: str, *, prompt: Sequence[Turn] = ()) -> Answer:
    """The one assistant turn that a value holds; a conversation may repeat the prompt before it."""
    if value is None:
        raise BadRow("missing", f"{column} is null or absent")
    if isinstance(value, str):
        return answer_of_turn({"role": "assistant", "content": value}, column)
    turns = conversation(value, column)
    if prompt and turns[: len(prompt)] == list(prompt):
        turns = turns[len(prompt) :]
    return _only_answer(turns, column)


def _only_answer(turns: Sequence[Turn], column: str) -> Answer:
    if len(turns) != 1:
        roles = [turn.get("role") for turn in turns]
        raise BadRow(
            "not_comparable", f"{column} goes on after the prompt with {len(turns)} turns {roles}; an answer is one assistant turn"
        )
    return answer_of_turn(turns[0], column)


def answer_of_turn(turn: Turn, column: str) -> Answer:
    """Text, reasoning and tool calls of one assistant turn; other media than text are refused."""
    if turn.get("role") != "assistant":
        raise BadRow("wrong_type", f"{column} is a turn of {turn.get('role')!r}, must be the assistant's")
    content = turn.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise BadRow("wrong_type", f"{column} holds parts that are not text")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str | None):
        raise BadRow("wrong_type", f"{column} is {type(content).__name__}, must be text")
    reasoning = turn.get("reasoning_content") or turn.get("reasoning") or turn.get("thinking")
    calls = turn.get("tool_calls") or None
    if not isinstance(reasoning, str | None) or not isinstance(calls, list | None):
        raise BadRow("wrong_type", f"{column}: reasoning_content must be text and tool_calls a list")
    try:
        tool_calls = None if calls is None else as_json(calls)
    except TypeError as error:
        raise BadRow("wrong_type", f"{column}: tool_calls cannot be written as JSON ({error})") from error
    return Answer(unicode_text(content or "", column), unicode_text(reasoning, column) if reasoning else None, tool_calls)


def unicode_text(text: str, column: str) -> str:
    """The text, if it can be stored: a lone surrogate (half of a character) cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow("wrong_type", f"{column} holds half a character at position {error.start}, which is not Unicode text") from error
    return text


def split_shared(chosen: Any, rejected: Any) -> tuple[list[Turn], Answer, Answer]:
    """Two conversations as the prompt that they share and their two answers."""
    sides = [conversation(chosen, "chosen"), conversation(rejected, "rejected")]
    n_shared = 0
    while n_shared < min(map(len, sides)) and sides[0][n_shared] == sides[1][n_shared]:
        n_shared += 1
    if n_shared == len(sides[0]) == len(sides[1]):
        raise BadRow("identical", "chosen and rejected are the same conversation")
    if n_shared == 0:
        raise BadRow("not_comparable", "chosen and rejected share no turn, and there is no prompt column")
    if {len(side) - n_shared for side in sides} == {0, 1} and sides[0][n_shared - 1]["role"] == "user":
        raise BadRow("empty", f"{'chosen' if len(sides[0]) == n_shared else 'rejected'} has no answer after the shared prompt")
    return sides[0][:n_shared], _only_answer(sides[0][n_shared:], "chosen"), _only_answer(sides[1][n_shared:], "rejected")
