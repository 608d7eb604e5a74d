"""The control that says whether a rationale's content matters: the same rationales, each with another pair.

Permuted or bad rationales are what reviewers of the method missed. A trainer that gains as much from permuted ones learns nothing from
what they say.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from curators.engines.base import digest


def permute_rationales(rationales: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The same rows of `rationales`, where the texts of those that are ok have changed places within their kind.

    No pair keeps its own unless its kind has one text alone, and none gets one of the same prompt where another prompt has enough. The
    order of the rows does not matter; `rationale_id` and everything else stay with the pair, so the result is for training, not a fact.
    """
    usable = rationales.filter(pl.col("state") == "ok")
    keys = [
        (kind, digest("permute", seed, prompt_id), digest("permute", seed, rationale_id), rationale_id)
        for kind, prompt_id, rationale_id in usable.select("kind", "prompt_id", "rationale_id").iter_rows()
    ]
    text = dict(usable.select("rationale_id", "text").iter_rows())
    moved: dict[str, str] = {}
    for kind in sorted({key[0] for key in keys}):
        line = sorted(key for key in keys if key[0] == kind)
        largest = max(Counter(key[1] for key in line).values())
        shift = largest if largest < len(line) else 1
        for place, key in enumerate(line):
            moved[key[3]] = text[line[(place + shift) % len(line)][3]]
    return rationales.with_columns(text=pl.col("rationale_id").replace_strict(moved, default=pl.col("text"), return_dtype=pl.String))
