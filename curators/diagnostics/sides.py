"""Pairs as a diagnosis reads them: plain texts of prompt, chosen and rejected, and numbers of each side."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import polars as pl

from curators.errors import SchemaError
from curators.filters.marks import message_text
from curators.filters.wording import declines

SIDES = ("chosen", "rejected")
_BULLET = re.compile(r"^[ \t]*(?:[-*•+]|\d{1,3}[.)])\s", re.MULTILINE)

FEATURES: Mapping[str, Callable[[str], int]] = {
    "longer": len,
    "more_lines": lambda text: len([line for line in text.splitlines() if line.strip()]),
    "more_bullets": lambda text: len(_BULLET.findall(text)),
    "more_digits": lambda text: sum(character.isdigit() for character in text),
    "refuses": lambda text: int(declines(text) is not None),
}
"""By the name of the rule that prefers the side with more of it: characters, lines with text, list items, digits, declines (0 or 1)."""


def pair_texts(pairs: pl.DataFrame) -> pl.DataFrame:
    """`pair_id`, `prompt_id`, `prompt_text`, `chosen_text`, `rejected_text` beside the pairs' columns, sorted by `pair_id`.

    A side without text (tool calls alone) is the empty text.

    Raises:
        SchemaError: a column of pairs is missing, or a pair id stands twice.
    """
    wanted = ["pair_id", "prompt_id", "prompt", *SIDES]
    if missing := [column for column in wanted if column not in pairs.columns]:
        raise SchemaError(f"pairs: columns {missing} are missing; there are {pairs.columns}")
    if pairs["pair_id"].is_duplicated().any():
        raise SchemaError("pairs: a pair_id stands twice")
    texts = [pl.Series(f"{name}_text", [message_text(each) or "" for each in pairs[name]], dtype=pl.String) for name in ("prompt", *SIDES)]
    return pairs.with_columns(texts).sort("pair_id")


def side_features(texts: pl.DataFrame) -> pl.DataFrame:
    """`<rule>_chosen` and `<rule>_rejected` for every rule of `FEATURES`, one row a pair of `pair_texts`."""
    return pl.DataFrame(
        [
            pl.Series(f"{rule}_{side}", [count(text) for text in texts[f"{side}_text"]], dtype=pl.Int64)
            for rule, count in FEATURES.items()
            for side in SIDES
        ]
    )
