"""Rubrics and what a judge is shown.

A rubric is a Markdown file: a header of `key: value` lines between two `---`, then the sections `# system` (optional)
and `# user`, whose `{{placeholders}}` are filled in **one** pass, so that braces or placeholders inside a candidate are
data and never instructions to the template. Its digest goes into every judgment.

Header keys: `name`; `protocol` (pairwise, pointwise, listwise); `scale` (`1-5`; pointwise and listwise);
`line_labels` (`true`: the lines of each answer are labelled A1, A2 … so that a critique can cite them);
`fence` (`true`: each data field stands between nonce marks, and a candidate that contains the nonce is refused);
`labels` (`A, B` or `1, 2, 3, 4, 5`: the reply is one of these strings and nothing else, so that it can be read from the
log-probabilities of the labels; pairwise: first, then second; pointwise: the scores of the scale in order).

Placeholders: `{{prompt}}`, `{{reference}}`; pairwise `{{first}}` and `{{second}}`; pointwise `{{answer}}`; listwise
`{{answers}}` (each as `<text i> …`) and `{{n}}`. What stands between `{{#reference}}` and `{{/reference}}` is left out where a prompt has
no reference.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from curators.errors import ConfigError

PROTOCOLS = ("pairwise", "pointwise", "listwise")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_WITH_REFERENCE = re.compile(r"\{\{#reference\}\}\n?(.*?)\{\{/reference\}\}\n?", re.DOTALL)
_ENUMERATOR = re.compile(r"^\s*(?:step\s+)?\d+\s*[.):]\s+", re.IGNORECASE)
_KEYS = {"name", "protocol", "scale", "line_labels", "fence", "labels"}


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """One judge prompt. `digest` is the sha256 of the file's text; `scale` is inclusive."""

    name: str
    protocol: str
    system: str | None
    user: str
    digest: str
    scale: tuple[int, int] = (1, 5)
    line_labels: bool = False
    fence: bool = False
    labels: tuple[str, ...] = ()

    def template(self, *, reference: bool) -> str:
        """The user's turn, for a prompt with or without a reference."""
        return _WITH_REFERENCE.sub(r"\1" if reference else "", self.user)

    @property
    def needs_reference(self) -> bool:
        """Whether a prompt without a reference cannot be judged by it."""
        return "{{reference}}" in self.template(reference=False)


def load_rubric(name_or_path: str) -> Rubric:
    """Read a shipped rubric by name (`pairwise`) or any Markdown file by path.

    Raises:
        ConfigError: no such rubric, an unknown header key, a missing section.
    """
    path = Path(name_or_path)
    shipped = resources.files("curators.judging") / "rubrics"
    if path.suffix == ".md":
        if not path.is_file():
            raise ConfigError(f"rubric: no file {name_or_path!r}")
        return parse_rubric(path.read_text(encoding="utf-8"), origin=name_or_path)
    text = shipped / f"{name_or_path}.md"
    if not text.is_file():
        names = sorted(entry.name[:-3] for entry in shipped.iterdir() if entry.name.endswith(".md"))
        raise ConfigError(f"rubric: {name_or_path!r} is not shipped; there are {names}, or give the path of a .md file")
    return parse_rubric(text.read_text(encoding="utf-8"), origin=name_or_path)


def parse_rubric(text: str, *, origin: str = "rubric") -> Rubric:
    """Read the header and the two sections of a rubric's text."""
    match = re.match(r"\A---\n(.*?)\n---\n(.*)\Z", text, re.DOTALL)
    if not match:
        raise ConfigError(f"{origin}: a rubric begins with a header between two lines of ---")
    header = dict(re.findall(r"^(\w+):\s*(.*?)\s*$", match[1], re.MULTILINE))
    if unknown := sorted(set(header) - _KEYS):
        raise ConfigError(f"{origin}: unknown header keys {unknown}; allowed are {sorted(_KEYS)}")
    if header.get("protocol") not in PROTOCOLS:
        raise ConfigError(f"{origin}: protocol is {header.get('protocol')!r}; allowed are {list(PROTOCOLS)}")
    parts = re.split(r"^# (system|user)\n", match[2], flags=re.MULTILINE)
    sections = {parts[i]: parts[i + 1].strip("\n") for i in range(1, len(parts), 2)}
    if not sections.get("user"):
        raise ConfigError(f"{origin}: the section '# user' is missing")
    low, high = _scale(header.get("scale", "1-5"), origin)
    return Rubric(
        name=header.get("name", origin),
        protocol=header["protocol"],
        system=sections.get("system") or None,
        user=sections["user"],
        digest=hashlib.sha256(text.encode()).hexdigest(),
        scale=(low, high),
        line_labels=header.get("line_labels") == "true",
        fence=header.get("fence") == "true",
        labels=_labels(header, (low, high), origin),
    )


def _scale(text: str, origin: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\s*-\s*(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ConfigError(f"{origin}: scale is {text!r}; it is two whole numbers such as 1-5, the lower first")
    return int(match[1]), int(match[2])


def _labels(header: Mapping[str, str], scale: tuple[int, int], origin: str) -> tuple[str, ...]:
    labels = tuple(filter(None, (label.strip() for label in header.get("labels", "").split(","))))
    expected = 2 if header["protocol"] == "pairwise" else scale[1] - scale[0] + 1
    if labels and (header["protocol"] == "listwise" or len(set(labels)) != expected):
        raise ConfigError(f"{origin}: labels are {list(labels)}; pairwise takes two, pointwise one a score of the scale, listwise none")
    return labels


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


def render(
    rubric: Rubric,
    *,
    prompt: str,
    answers: Sequence[str],
    reference: str | None = None,
    fence_nonce: str | None = None,
) -> list[dict[str, str]]:
    """The messages that one presentation sends to the judge; `answers` are in the order shown.

    Raises:
        ConfigError: the rubric names a placeholder that this protocol does not fill.
    """
    mark = fence_nonce if rubric.fence else None

    def field(name: str, text: str) -> str:
        return text if mark is None else f"<<{name}:{mark}>>\n{text}\n<</{name}:{mark}>>"

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

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigError(f"rubric {rubric.name!r}: {{{{{match[1]}}}}} has no value; there are {sorted(values)}")
        return values[match[1]]

    messages = [{"role": "system", "content": rubric.system}] if rubric.system else []
    return [*messages, {"role": "user", "content": _PLACEHOLDER.sub(fill, rubric.template(reference=reference is not None))}]
