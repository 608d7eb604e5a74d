"""Rubrics: one judge prompt is one Markdown file.

A rubric has a header of `key: value` lines between two `---`, then the sections `# system` (optional), `# user`, whose
`{{placeholders}}` are filled in **one** pass, so that braces or placeholders inside a candidate are data and never
instructions to the template, and `# reply` (optional): how to write the reply as text, the end of the user's turn. A judge that is
asked for JSON gets the form of that in its place (`replies.reply_form`). The digest of the file goes into every judgment.

Header keys: `name`; `protocol` (pairwise, pointwise, listwise); `scale` (`1-5`; pointwise and listwise);
`line_labels` (`true`: the lines of each answer are labelled A1, A2 … so that a critique can cite them);
`fence` (`true`: each data field stands between nonce marks, and a candidate that contains the nonce is refused);
`labels` (`A, B` or `1, 2, 3, 4, 5`: the reply is one of these strings and nothing else, so that it can be read from the
log-probabilities of the labels; pairwise: first, then second; pointwise: the scores of the scale in order);
`verdict` (`line` by default, `brackets`, `levels`, `output-letter`, `number`, `result`: in which form the judge states it, see `grammars`);
`attributes`, `overall`, `missing`, `counts` (pointwise: several values of one answer and the score that they amount to, see `attributes`).

Placeholders: `{{prompt}}`, `{{reference}}`; pairwise `{{first}}` and `{{second}}`; pointwise `{{answer}}`; listwise
`{{answers}}` (each as `<text i> …`) and `{{n}}`. What stands between `{{#reference}}` and `{{/reference}}` is left out where a prompt has
no reference.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from curators.errors import ConfigError
from curators.judging.attributes import Attribute, parse_attributes, parse_counts
from curators.judging.grammars import Grammar, grammar_of

PROTOCOLS = ("pairwise", "pointwise", "listwise")

_WITH_REFERENCE = re.compile(r"\{\{#reference\}\}\n?(.*?)\{\{/reference\}\}\n?", re.DOTALL)
_KEYS = {"name", "protocol", "scale", "line_labels", "fence", "labels", "verdict", "attributes", "overall", "missing", "counts"}


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """One judge prompt. `digest` is the sha256 of the file's text; `scale` is inclusive."""

    name: str
    protocol: str
    system: str | None
    user: str
    reply: str | None = None
    digest: str
    scale: tuple[int, int] = (1, 5)
    line_labels: bool = False
    fence: bool = False
    labels: tuple[str, ...] = ()
    verdict: str = "line"
    attributes: tuple[Attribute, ...] = ()
    skip_missing: bool = False

    @property
    def grammar(self) -> Grammar:
        """How its judge states a verdict."""
        return grammar_of(self.protocol, self.verdict, self.name)

    def template(self, *, reference: bool, text_reply: bool = True) -> str:
        """The user's turn, for a prompt with or without a reference, with or without how to reply in text."""
        user = f"{self.user}\n\n{self.reply}" if self.reply and text_reply else self.user
        return _WITH_REFERENCE.sub(r"\1" if reference else "", user)

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
    if not text.is_file() and path.is_file():
        raise ConfigError(f"rubric: {name_or_path!r} is a file, but not a .md file")
    if not text.is_file():
        names = sorted(entry.name[:-3] for entry in shipped.iterdir() if entry.name.endswith(".md"))
        raise ConfigError(f"rubric: {name_or_path!r} is not shipped; there are {names}, or give the path of a .md file")
    return parse_rubric(text.read_text(encoding="utf-8"), origin=name_or_path)


def parse_rubric(text: str, *, origin: str = "rubric") -> Rubric:
    """Read the header and the sections of a rubric's text."""
    header, sections = read_sections(text, keys=_KEYS, names=("system", "user", "reply"), origin=origin)
    if header.get("protocol") not in PROTOCOLS:
        raise ConfigError(f"{origin}: protocol is {header.get('protocol')!r}; allowed are {list(PROTOCOLS)}")
    grammar_of(header["protocol"], header.get("verdict", "line"), origin)
    if not sections.get("user"):
        raise ConfigError(f"{origin}: the section '# user' is missing")
    low, high = _scale(header.get("scale", "0-1" if "counts" in header else "1-5"), origin)
    return Rubric(
        name=header.get("name", origin),
        protocol=header["protocol"],
        system=sections.get("system") or None,
        user=sections["user"],
        reply=sections.get("reply") or None,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        scale=(low, high),
        line_labels=header.get("line_labels") == "true",
        fence=header.get("fence") == "true",
        labels=_labels(header, (low, high), origin),
        verdict=header.get("verdict", "line"),
        attributes=_attributes(header, origin),
        skip_missing=header.get("missing") == "skip",
    )


def read_sections(text: str, *, keys: Collection[str], names: Sequence[str], origin: str) -> tuple[dict[str, str], dict[str, str]]:
    """The header and the sections of a prompt kept as Markdown: `key: value` lines between two `---`, then `# name` and its text.

    Raises:
        ConfigError: there is no header, a line of it is no `key: value`, or it has a key that is not among `keys`.
    """
    match = re.match(r"\A---\n(.*?)\n---\n(.*)\Z", text, re.DOTALL)
    if not match:
        raise ConfigError(f"{origin}: a rubric begins with a header between two lines of ---")
    lines = [line for line in match[1].splitlines() if line.strip()]
    if wrong := [line for line in lines if not re.match(r"\w+:", line)]:
        raise ConfigError(f"{origin}: the header line {wrong[0]!r} is not `key: value`")
    header = dict(re.findall(r"^(\w+):\s*(.*?)\s*$", match[1], re.MULTILINE))
    if unknown := sorted(set(header) - set(keys)):
        raise ConfigError(f"{origin}: unknown header keys {unknown}; allowed are {sorted(keys)}")
    parts = re.split(rf"^# ({'|'.join(names)})\n", match[2], flags=re.MULTILINE)
    return header, {parts[i]: parts[i + 1].strip("\n") for i in range(1, len(parts), 2)}


def _scale(text: str, origin: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\s*-\s*(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ConfigError(f"{origin}: scale is {text!r}; it is two whole numbers such as 1-5, the lower first")
    return int(match[1]), int(match[2])


def _attributes(header: Mapping[str, str], origin: str) -> tuple[Attribute, ...]:
    own = [key for key in ("attributes", "counts") if key in header]
    extra = [key for key in ("overall", "missing") if key in header]
    if not own and not extra:
        return ()
    clash = [key for key in ("labels", "verdict", *(("scale", "overall") if own == ["counts"] else ())) if key in header]
    if len(own) != 1 or header["protocol"] != "pointwise" or clash or header.get("missing", "null") not in ("null", "skip"):
        raise ConfigError(
            f"{origin}: {[*own, *extra]} with {clash or header['protocol']}; a pointwise rubric has attributes (with overall, scale, "
            "and missing: skip or null), or counts (with missing), and no labels or verdict"
        )
    if own == ["counts"]:
        return parse_counts(header["counts"], origin)
    return parse_attributes(header["attributes"], header.get("overall"), origin)


def _labels(header: Mapping[str, str], scale: tuple[int, int], origin: str) -> tuple[str, ...]:
    labels = tuple(filter(None, (label.strip() for label in header.get("labels", "").split(","))))
    expected = 2 if header["protocol"] == "pairwise" else scale[1] - scale[0] + 1
    if labels and (header["protocol"] == "listwise" or len(set(labels)) != expected):
        raise ConfigError(f"{origin}: labels are {list(labels)}; pairwise takes two, pointwise one a score of the scale, listwise none")
    return labels
