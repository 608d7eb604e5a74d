"""Column maps: which column of a source plays which part.

A map is `target = source`. A target is one of `TARGETS`; a source is a column, or a path into one: `meta.id` is a field of an
object, `responses[]` every element of a list, `responses[].output` a field of every element. Without a map, a known layout is
recognised by its columns (`LAYOUTS`), and the result says which one was taken: nothing is guessed that the columns do not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from curators.errors import SchemaError

TARGETS: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "text of one user turn, a list of turns, or a `Human: … Assistant: …` transcript",
        "messages": "a conversation as a list of turns or its JSON; without an answer column its last assistant turn is the answer",
        "input": "text that is appended to `prompt` after a blank line (Alpaca's second column)",
        "system": "text of a system turn that goes first",
        "tools": "list of tools, or its JSON",
        "chat_template_kwargs": "object, or its JSON",
        "reference": "what a verifier compares with",
        "id": "the source's own id, kept as `id` in `meta`",
        "sampling": "how the answers were sampled, as an object or `top_p=0.9;temp=1.0`; kept in `meta`",
        "chosen": "the better answer: text, one assistant turn, a conversation that ends with it, or a list of answers",
        "rejected": "the worse answer, in the same forms",
        "chosen_score": "number, or one for each answer of a list; with `rejected_score`, equal numbers are a tie",
        "rejected_score": "the same of `rejected`",
        "prompt_rejected": "the prompt of `rejected`; a row where it differs from the prompt is dropped as not comparable",
        "output_a": "the first answer that the annotator saw",
        "output_b": "the second one",
        "label": "with `output_a` and `output_b`: which is better; with one answer: whether it is good (true or false)",
        "completion": "one answer with a `label` of its own (unpaired feedback)",
        "response_text": "answers of a list: `responses[].output`, or `responses[]` for a list of texts",
        "response_score": "their numbers, `responses[].score`; null: not scored",
        "response_policy": "who wrote each, `responses[].model`, or one writer of all",
        "response_index": "their sample indices, `responses[].k`; without it the position in the list",
        "policy": "who wrote the answers of the row",
        "chosen_policy": "who wrote `chosen`: one writer, or one for each answer of a list",
        "rejected_policy": "the same of `rejected`",
    }
)
"""What a column can be, and in which forms it may come. `label.VALUE=a|b|tie` says what a label's value means."""

LABEL_WORDS: Mapping[str, str] = MappingProxyType(
    {"a": "a", "b": "b", "tie": "tie", "A": "a", "B": "b", "A>B": "a", "B>A": "b", "A=B": "tie", "first": "a", "second": "b"}
)
"""Label values that mean the same everywhere. Numbers do not (0 is a tie in one set and the first answer in the next): map them."""

_KINDS = (
    ("pairs", ("chosen", "rejected")),
    ("labelled", ("output_a", "output_b", "label")),
    ("responses", ("response_text",)),
    ("unpaired", ("completion", "label")),
    ("unpaired", ("messages", "label")),
)
_PARTS = {"labelled": {"output_a", "output_b"}, "pairs": {"chosen", "rejected"}, "responses": {"response_text"}, "unpaired": {"completion"}}


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """Target → source path. `kind` (pairs, labelled, responses, unpaired) follows from the targets; `labels` from `label.VALUE`."""

    layout: str
    kind: str
    columns: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def used(self) -> frozenset[str]:
        """The top-level columns that the map takes something from."""
        return frozenset(_head(path) for path in self.columns.values())


def parse_columns(options: Iterable[str]) -> dict[str, str]:
    """`target=source` strings of a command line as a mapping.

    >>> parse_columns(["prompt=question", "label.1=a"])
    {'prompt': 'question', 'label.1': 'a'}
    """
    columns: dict[str, str] = {}
    for option in options:
        target, equals, source = option.partition("=")
        if not (equals and target and source):
            raise SchemaError(f"map {option!r}: must be target=source, such as prompt=question; targets are {sorted(TARGETS)}")
        if target in columns:
            raise SchemaError(f"map {option!r}: {target} is mapped twice, first to {columns[target]!r}")
        columns[target] = source
    return columns


def column_map(columns: Mapping[str, str], *, layout: str = "declared") -> ColumnMap:
    """Check a mapping of targets to sources and say which kind of data it describes.

    >>> column_map({"prompt": "q", "output_a": "x", "output_b": "y", "label": "l", "label.1": "a", "label.2": "b"}).kind
    'labelled'

    Raises:
        SchemaError: an unknown target, a label value that is not a, b or tie, or targets that make no complete layout.
    """
    labels = {target.removeprefix("label."): value for target, value in columns.items() if target.startswith("label.")}
    if wrong := {value: meaning for value, meaning in labels.items() if meaning not in ("a", "b", "tie")}:
        raise SchemaError(f"map: label values {wrong} are mapped to something else than a, b or tie")
    parts = {target: path for target, path in columns.items() if not target.startswith("label.")}
    if unknown := sorted(set(parts) - set(TARGETS)):
        raise SchemaError(f"map: unknown targets {unknown}; allowed are {sorted(TARGETS)} and label.VALUE")
    if {"prompt", "messages"} <= set(parts):
        raise SchemaError("map: both prompt and messages are given; a row has one prompt, give one of them")
    if len(scores := sorted({"chosen_score", "rejected_score"} & set(parts))) == 1:
        raise SchemaError(f"map: {scores[0]} is given without the other side's score; give chosen_score and rejected_score, or neither")
    kind = next((kind for kind, needed in _KINDS if set(needed) <= set(parts)), None)
    others = {name for name, own in _PARTS.items() if name != kind and own <= set(parts)}
    if kind is None or others:
        forms = " | ".join(" + ".join(needed) for _, needed in _KINDS)
        raise SchemaError(f"map: the targets {sorted(parts)} must hold exactly one of: {forms}")
    if kind != "pairs" and not {"prompt", "messages"} & set(parts):
        raise SchemaError(f"map: prompt (or messages) is missing; mapped are {sorted(parts)}")
    return ColumnMap(layout=layout, kind=kind, columns=MappingProxyType(parts), labels=MappingProxyType(labels))


LAYOUTS: Sequence[ColumnMap] = tuple(
    column_map(columns, layout=layout)
    for layout, columns in (
        ("llamafactory", {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}),
        ("ultrafeedback_binarized", {
            "prompt": "prompt", "chosen": "chosen", "rejected": "rejected",
            "chosen_score": "score_chosen", "rejected_score": "score_rejected",
        }),
        ("dove", {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "prompt_rejected": "prompt_rejected"}),
        ("trl_preference", {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
        ("llmbar", {
            "prompt": "input", "output_a": "output_1", "output_b": "output_2", "label": "label", "label.1": "a", "label.2": "b",
        }),
        ("judgebench", {
            "prompt": "question", "output_a": "response_A", "output_b": "response_B", "label": "label", "policy": "response_model",
        }),
        ("best_of_n", {
            "prompt": "instruction", "policy": "generator", "sampling": "sampling", "response_text": "responses[].output",
            "response_index": "responses[].k", "response_score": "responses[].gpt4turbo_preference_vs_ref",
        }),
        ("alpaca_eval_multi_model", {
            "prompt": "instruction", "response_text": "responses[].output", "response_policy": "responses[].generator",
            "response_score": "responses[].gpt4turbo_preference_vs_ref",
        }),
        ("ultrafeedback", {
            "prompt": "instruction", "response_text": "completions[].response", "response_policy": "completions[].model",
            "response_score": "completions[].overall_score",
        }),
        ("trl_unpaired", {"prompt": "prompt", "completion": "completion", "label": "label"}),
        ("kto_messages", {"messages": "messages", "label": "label"}),
        ("shared_prefix", {"chosen": "chosen", "rejected": "rejected"}),
    )
)  # fmt: skip
"""Layouts that are recognised, the most particular first; `shared_prefix` is Anthropic HH and TRL's implicit prompt."""

_OPTIONAL = ("tools", "chat_template_kwargs", "reference", "system")


def detect(rows: Sequence[Mapping[str, Any]], *, file: str) -> ColumnMap:
    """The first layout whose columns the rows have; `tools`, `chat_template_kwargs`, `reference` and `system` are taken where they are.

    Raises:
        SchemaError: no layout fits; the message names the columns and an example of a map.
    """
    for layout in LAYOUTS:
        if all(_present(rows, path) for path in layout.columns.values()):
            extra = {name: name for name in _OPTIONAL if _present(rows, name)}
            return column_map({**extra, **layout.columns, **{f"label.{k}": v for k, v in layout.labels.items()}}, layout=layout.layout)
    raise SchemaError(
        f"{file}: no known layout has the columns {_columns(rows)}; say what they are, such as "
        f"--map prompt=COLUMN --map chosen=COLUMN --map rejected=COLUMN (targets: {', '.join(TARGETS)})"
    )


def check_sources(found: ColumnMap, rows: Sequence[Mapping[str, Any]], *, file: str) -> None:
    """Refuse a map whose sources are in none of the rows: a typo would otherwise drop every row, one by one."""
    for target, path in found.columns.items():
        if not _present(rows, path):
            raise SchemaError(f"{file}: {target}={path}: there is no such column; the columns are {_columns(rows)}")


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({str(name) for row in rows for name in row})


def _present(rows: Sequence[Mapping[str, Any]], path: str) -> bool:
    """Whether any row has the path; of a path into a list, whether any element has it."""
    if any(path in row for row in rows):
        return True
    if path == _head(path):
        return False
    found = (extract(row, path) for row in rows)
    return any(any(v is not None for v in value) if isinstance(value, list) else value is not None for value in found)


def _head(path: str) -> str:
    return path.partition("[]")[0].partition(".")[0]


def extract(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path, null where it is absent. `[]` gives a list with one entry an element, nulls included.

    >>> extract({"r": [{"k": 1, "t": "x"}, {"k": 2}], "m": {"id": 7}}, "r[].t")
    ['x', None]
    >>> extract({"m": {"id": 7}}, "m.id"), extract({"m.id": 8}, "m.id"), extract({"m": 3}, "m.id")
    (7, 8, None)
    """
    if path in row:
        return row[path]
    before, each, after = path.partition("[]")
    if not each:
        value: Any = row
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value
    values = extract(row, before)
    if not isinstance(values, list):
        return values if values is None else [values]
    name = after.removeprefix(".")
    return [extract(v, name) if isinstance(v, Mapping) else None for v in values] if name else values
