"""The whole audit of a set of pairs, as a frame for people and a JSON summary for a report page and the gate `max_shortcut_accuracy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from curators.diagnostics.lexical import MODELS, model_hits
from curators.diagnostics.overlap import pair_overlap
from curators.diagnostics.shortcuts import SHORTCUTS, accuracies, rule_hits
from curators.diagnostics.sides import pair_texts
from curators.diagnostics.style import style_share
from curators.statistics.intervals import Estimate, Floats, cluster_ratio

_SHARES = ("edit_share", "shared_token_share", "prefix_share")


@dataclass(frozen=True, kw_only=True)
class ShortcutAudit:
    """`shortcuts`: one row of `SHORTCUTS` a rule and model. `pairs`: `OVERLAP` and `style_share` of every pair. `summary`: JSON."""

    shortcuts: pl.DataFrame
    pairs: pl.DataFrame
    summary: Mapping[str, Any]


def audit_shortcuts(pairs: pl.DataFrame, *, seed: int = 0) -> ShortcutAudit:
    """Rules, bag of words with and without the prompt, overlap, style and on-policy share of any `pairs`, in any order of rows.

    The summary has `n_pairs`, `n_prompts`, `shortcuts` (rows of the frame by name), `ablation` (how much more often the model is right with
    the prompt than without, emptied, swapped), `overlap`, `style_share`, `on_policy`; every number is an `Estimate` as a dict.

    Raises:
        SchemaError: as `pair_texts`.
    """
    texts = pair_texts(pairs)
    prompts = texts["prompt_id"]
    rules = accuracies(rule_hits(texts, seed=seed), prompts, kind="rule", seed=seed)
    hits, reason = model_hits(texts, seed=seed)
    models = _models(hits, prompts, reason, seed)
    each = pair_overlap(texts).with_columns(style_share=_style(texts))
    found = pl.concat([rules, *models])
    summary = {
        "n_pairs": texts.height,
        "n_prompts": prompts.n_unique(),
        "shortcuts": {row["name"]: row for row in found.iter_rows(named=True)},
        "ablation": {name: _gain(hits, name, prompts, seed) for name in MODELS if name != "words_and_prompt"} if hits else {},
        "overlap": {name: _mean(each[name].cast(pl.Float64), prompts, seed) for name in (*_SHARES, "duplicate", "entangled")},
        "style_share": _mean(each["style_share"], prompts, seed),
        "on_policy": _mean(texts["on_policy"].cast(pl.Float64), prompts, seed) if "on_policy" in texts.columns else None,
    }
    return ShortcutAudit(shortcuts=found, pairs=each, summary=summary)


def _models(hits: Mapping[str, Floats], prompts: pl.Series, reason: str | None, seed: int) -> list[pl.DataFrame]:
    kinds = {name: "model" if name == "words" else "ablation" for name in MODELS}
    if hits:
        return [accuracies({name: hits[name]}, prompts, kind=kind, seed=seed) for name, kind in kinds.items()]
    rows = [{"name": name, "kind": kind, "n": len(prompts), "n_decided": 0, "reason": reason} for name, kind in kinds.items()]
    return [pl.DataFrame(rows, schema=SHORTCUTS)]


def _style(texts: pl.DataFrame) -> pl.Series:
    sides = texts.select("chosen_text", "rejected_text").iter_rows()
    return pl.Series([style_share(chosen, rejected) for chosen, rejected in sides], dtype=pl.Float64)


def _gain(hits: Mapping[str, Floats], other: str, prompts: pl.Series, seed: int) -> dict[str, Any]:
    """With the prompt minus `other`, paired by pair; undecided is one half."""
    halves = {name: pl.Series(hits[name]).fill_nan(0.5) for name in ("words_and_prompt", other)}
    return _mean(halves["words_and_prompt"] - halves[other], prompts, seed)


def _mean(values: pl.Series, prompts: pl.Series, seed: int) -> dict[str, Any]:
    found: Estimate = cluster_ratio(pl.DataFrame({"prompt_id": prompts, "value": values}), "value", seed=seed)
    return asdict(found)
