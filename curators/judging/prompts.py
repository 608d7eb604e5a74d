"""What a judge is shown: a rubric, filled with a prompt, its candidates and marks that no candidate can know."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import orjson

from curators.errors import ConfigError
from curators.judging.defences import without_marks
from curators.judging.replies import reply_form
from curators.judging.rubric import Rubric

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_ENUMERATOR = re.compile(r"^\s*(?:step\s+)?\d+\s*[.):]\s+", re.IGNORECASE)


def label_lines(text: str, letter: str) -> str:
    """Label the non-empty lines of an answer, in place of their own enumerators.

    >>> print(label_lines("1. 12 - 11 = 1\\n2. 1 + 22 = 23\\nAnswer: 23", "A"))
    A1: 12 - 11 = 1
    A2: 1 + 22 = 23
    A3: Answer: 23
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"{letter}{i}: {_ENUMERATOR.sub('', line).strip()}" for i, line in enumerate(lines, 1))


def conversation_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """A prompt as a judge reads it: the bare text of a single user turn, else every turn under its role."""
    if len(messages) == 1 and isinstance(messages[0].get("content"), str):
        return str(messages[0]["content"])
    return "\n\n".join(f"[{m['role']}]\n{_content_text(m)}" for m in messages)


def _content_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = [content] if isinstance(content, str) else [p.get("text", "") for p in content or []]
    calls = [f"{c['function']['name']}({c['function'].get('arguments', '')})" for c in message.get("tool_calls") or []]
    return "\n".join([*filter(None, parts), *(f"calls {call}" for call in calls)])


def answer_text(generation: Mapping[str, Any]) -> str:
    """A row of `generations` as a judge reads it: its text, then its tool calls; never its reasoning.

    >>> answer_text({"text": "Let me look.", "tool_calls": '[{"function":{"name":"find","arguments":"{}"}}]'})
    'Let me look.\\ncalls find({})'
    """
    calls = orjson.loads(generation["tool_calls"]) if generation.get("tool_calls") else None
    return _content_text({"content": generation.get("text") or "", "tool_calls": calls})


def nonce(secret: bytes, *parts: object) -> str:
    """The mark of a fence: the same for the same lake, item, order and attempt, and unknown to any candidate."""
    return hmac.new(secret, "\x1f".join(map(str, parts)).encode(), hashlib.sha256).hexdigest()[:8]


def fenced(name: str, text: str, *, mark: str | None) -> str:
    """Data as a model is shown it: `without_marks`, and between marks of that name where there is a nonce."""
    text = without_marks(text)
    return text if mark is None else f"<<{name}:{mark}>>\n{text}\n<</{name}:{mark}>>"


def filled(template: str, values: Mapping[str, str], *, name: str) -> str:
    """A template with its placeholders filled in one pass.

    Raises:
        ConfigError: a placeholder has no value.
    """

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigError(f"rubric {name!r}: {{{{{match[1]}}}}} has no value; there are {sorted(values)}")
        return values[match[1]]

    return _PLACEHOLDER.sub(fill, template)


def render(
    rubric: Rubric,
    *,
    prompt: str,
    answers: Sequence[str],
    reference: str | None = None,
    fence_nonce: str | None = None,
    form: Literal["text", "json"] = "text",
) -> list[dict[str, str]]:
    """The messages that one presentation sends to the judge; `answers` are in the order shown, data `without_marks`.

    The user's turn ends with the rubric's section `# reply`, or with the keys of the JSON object where the judge is to write one.

    Raises:
        ConfigError: the rubric names a placeholder that this protocol does not fill.
    """
    field = partial(fenced, mark=fence_nonce if rubric.fence else None)
    shown = [label_lines(a, LETTERS[i]) if rubric.line_labels else a for i, a in enumerate(answers)]
    values = {"prompt": field("prompt", prompt), "n": str(len(answers))}
    if reference is not None:
        values["reference"] = field("reference", reference)
    if rubric.protocol == "pairwise":
        values |= {"first": field("A", shown[0]), "second": field("B", shown[1])}
    elif rubric.protocol == "pointwise":
        values["answer"] = field("answer", shown[0])
    else:
        values["answers"] = "\n".join(f"<text {i}> {field(f'text{i}', text)}" for i, text in enumerate(shown, 1))

    messages = [{"role": "system", "content": rubric.system}] if rubric.system else []
    user = filled(rubric.template(reference=reference is not None, text_reply=form == "text"), values, name=rubric.name)
    return [*messages, {"role": "user", "content": user if form == "text" else f"{user}\n\n{reply_form(rubric, len(answers))}"}]
