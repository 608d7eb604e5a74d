"""What the writer of a rationale is shown: a rubric, filled with a pair and the letter of the preferred answer.

A rubric is a Markdown file like a judge's: a header between two `---`, the sections `# system` (optional) and `# user`, placeholders filled
in one pass. Header keys: `name`; `kind` (general, detailed); `line_labels` (`true`: the lines of the answers are labelled A1, A2 …, and
what is cited so is named in words afterwards); `fence` (`true`: data stands between nonce marks). Placeholders: `{{prompt}}`, `{{first}}`
(Answer A), `{{second}}` (Answer B), `{{preferred}}` and `{{other}}` (their letters). Which answer is A is drawn for every pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from curators.engines.base import digest
from curators.errors import ConfigError
from curators.judging.prompts import answer_text, conversation_text, fenced, filled, label_lines
from curators.judging.rubric import read_sections

KINDS = ("general", "detailed")
_KEYS = {"name", "kind", "line_labels", "fence"}


@dataclass(frozen=True, kw_only=True)
class RationaleRubric:
    """One prompt for writers of rationales. `digest` is the sha256 of the file's text."""

    name: str
    kind: str
    system: str | None
    user: str
    digest: str
    line_labels: bool = False
    fence: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """A pair as text. `order` 1: the rejected answer is shown first, as Answer A."""

    prompt: str
    chosen: str
    rejected: str
    order: int = 0

    @property
    def shown(self) -> tuple[str, str]:
        return (self.rejected, self.chosen) if self.order else (self.chosen, self.rejected)

    @property
    def names(self) -> Mapping[str, str]:
        """What each letter stands for."""
        return {"A": "rejected", "B": "chosen"} if self.order else {"A": "chosen", "B": "rejected"}


def load_rationale_rubric(name_or_path: str) -> RationaleRubric:
    """Read a shipped rubric by its kind (`general`, `detailed`) or any Markdown file by path.

    Raises:
        ConfigError: no such rubric, an unknown header key, a missing section.
    """
    if Path(name_or_path).suffix == ".md":
        if not Path(name_or_path).is_file():
            raise ConfigError(f"rationale rubric: no file {name_or_path!r}")
        return parse_rationale_rubric(Path(name_or_path).read_text(encoding="utf-8"), origin=name_or_path)
    if name_or_path not in KINDS:
        raise ConfigError(f"rationale rubric: {name_or_path!r} is not shipped; there are {list(KINDS)}, or give the path of a .md file")
    return parse_rationale_rubric(shipped(name_or_path), origin=name_or_path)


def shipped(name: str) -> str:
    """The text of a shipped rubric."""
    return (resources.files("curators.rationales") / "rubrics" / f"{name}.md").read_text(encoding="utf-8")


def parse_rationale_rubric(text: str, *, origin: str = "rubric") -> RationaleRubric:
    """Read the header and the sections of a rubric's text."""
    header, sections = read_sections(text, keys=_KEYS, names=("system", "user"), origin=origin)
    if header.get("kind") not in KINDS:
        raise ConfigError(f"{origin}: kind is {header.get('kind')!r}; allowed are {list(KINDS)}")
    if not sections.get("user"):
        raise ConfigError(f"{origin}: the section '# user' is missing")
    return RationaleRubric(
        name=header.get("name", origin),
        kind=header["kind"],
        system=sections.get("system") or None,
        user=sections["user"],
        digest=hashlib.sha256(text.encode()).hexdigest(),
        line_labels=header.get("line_labels") == "true",
        fence=header.get("fence") == "true",
    )


def sides_of(pair: Mapping[str, Any], *, seed: int) -> Sides:
    """The texts of a row of `pairs`, and which of them is Answer A: a hash of the pair's id and the seed decides."""
    return Sides(
        prompt=conversation_text(orjson.loads(pair["prompt"])),
        chosen=side_text(pair["chosen"]),
        rejected=side_text(pair["rejected"]),
        order=int(digest("rationale", pair["pair_id"], seed)[0], 16) % 2,
    )


def side_text(messages: str) -> str:
    """One side of a pair as a reader sees it: the text and the tool calls of its turns, never their reasoning.

    >>> side_text('[{"role":"assistant","content":"4","reasoning_content":"2 + 2"}]')
    '4'
    """
    turns = orjson.loads(messages)
    if len(turns) != 1:
        return conversation_text(turns)
    content, calls = turns[0].get("content"), turns[0].get("tool_calls")
    text = content if isinstance(content, str) else conversation_text(turns) if content else ""
    return answer_text({"text": text, "tool_calls": orjson.dumps(calls) if calls else None})


def render_rationale(rubric: RationaleRubric, sides: Sides, *, mark: str | None = None) -> list[dict[str, str]]:
    """The messages that ask for one rationale; `mark` is the fence's nonce.

    Raises:
        ConfigError: the rubric names a placeholder that there is not.
    """
    field = partial(fenced, mark=mark if rubric.fence else None)
    first, second = (label_lines(text, letter) if rubric.line_labels else text for text, letter in zip(sides.shown, "AB", strict=True))
    letters = {side: letter for letter, side in sides.names.items()}
    values = {
        "prompt": field("prompt", sides.prompt),
        "first": field("A", first),
        "second": field("B", second),
        "preferred": letters["chosen"],
        "other": letters["rejected"],
    }

    messages = [{"role": "system", "content": rubric.system}] if rubric.system else []
    return [*messages, {"role": "user", "content": filled(rubric.user, values, name=rubric.name)}]
