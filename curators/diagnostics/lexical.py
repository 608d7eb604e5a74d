"""How well a bag of words predicts the label, with the prompt and without: what a reward model can learn without reading.

    P(chosen) = sigmoid(w . (x(chosen) - x(rejected)))

x is the tf-idf of words (1 + log tf, length 1); with the prompt, a second block of the words that also stand in the prompt: equal on both
sides, a prompt matters to a linear model only through what it shares with an answer. `scikit-learn`'s logistic regression, C = 1, no
intercept. Everything is fitted on the prompts of four folds and tested on the fifth. Ablations after Rc-BT (arXiv:2502.00814): a reward
model that reads the prompt is worse when the prompt is emptied or swapped; one that is not has learned what answers look like.

Deliberately not here: a neural model. If words alone predict the label, a neural one will find that too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from curators.diagnostics.shortcuts import signs
from curators.engines.base import digest
from curators.statistics.intervals import Floats
from curators.statistics.logistic import folds

MIN_PROMPTS = 20
MODELS = ("words", "words_and_prompt", "prompt_emptied", "prompt_swapped")
"""`words`: without the prompt. The other three are one model, fitted with prompts and tested with them, without, and with another's."""

_WORD = re.compile(r"\w+")


def model_hits(texts: pl.DataFrame, *, n_folds: int = 5, seed: int = 0) -> tuple[dict[str, Floats], str | None]:
    """By model, of every pair, out of fold: 1 it prefers the chosen side, 0 the rejected, NaN neither. Or why there is none."""
    n_prompts = texts["prompt_id"].n_unique()
    if n_prompts < max(MIN_PROMPTS, n_folds):
        return {}, f"{n_prompts} prompts; a model needs at least {max(MIN_PROMPTS, n_folds)}"
    fold = folds(texts["prompt_id"], n_folds, seed)
    out = {name: np.full(texts.height, np.nan) for name in MODELS}
    for one in range(n_folds):
        learn, test = texts.filter(pl.Series(fold != one)), texts.filter(pl.Series(fold == one))
        try:
            found = _fold(learn, test)
        except ValueError as error:  # no word is left: "empty vocabulary"
            return {}, f"the words cannot be counted: {error}"
        for name in MODELS:
            out[name][fold == one] = found[name]
    return out, None


def _fold(learn: pl.DataFrame, test: pl.DataFrame) -> Mapping[str, Floats]:
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=50_000, token_pattern=r"\w+")
    vectorizer.fit([*learn["chosen_text"], *learn["rejected_text"]])
    words, words_tested = _difference(vectorizer, learn), _difference(vectorizer, test)
    prompts = test["prompt_text"].to_list()
    shown = {"words_and_prompt": prompts, "prompt_emptied": [""] * len(prompts), "prompt_swapped": swapped(test)}
    alone = _fit(words, learn["pair_id"])
    both = _fit(_beside(words, _difference(vectorizer, learn, learn["prompt_text"].to_list())), learn["pair_id"])
    found = {"words": signs(_margin(alone, words_tested))}
    for name, prompts_shown in shown.items():
        found[name] = signs(_margin(both, _beside(words_tested, _difference(vectorizer, test, prompts_shown))))
    return found


def swapped(texts: pl.DataFrame) -> list[str]:
    """For each pair the prompt of another: prompts in the order of a hash, each shown the next one's."""
    prompts = texts.select("prompt_id", "prompt_text").unique("prompt_id")
    ordered = sorted(prompts.iter_rows(), key=lambda row: digest("swap", row[0]))
    following = {prompt_id: ordered[(i + 1) % len(ordered)][1] for i, (prompt_id, _) in enumerate(ordered)}
    return [following[prompt_id] for prompt_id in texts["prompt_id"]]


def _difference(vectorizer: Any, texts: pl.DataFrame, prompts: Sequence[str] | None = None) -> sparse.csr_array:
    """Chosen minus rejected; with prompts, of the words that stand in the prompt."""
    sides = [texts[side].to_list() for side in ("chosen_text", "rejected_text")]
    if prompts is not None:
        sides = [[_common(text, prompt) for text, prompt in zip(side, prompts, strict=True)] for side in sides]
    return sparse.csr_array(vectorizer.transform(sides[0])) - sparse.csr_array(vectorizer.transform(sides[1]))


def _common(text: str, prompt: str) -> str:
    known = set(_WORD.findall(prompt.lower()))
    return " ".join(word for word in _WORD.findall(text.lower()) if word in known)


def _beside(one: sparse.csr_array, other: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array(sparse.hstack([one, other], format="csr"))


def _fit(design: sparse.csr_array, pair_ids: pl.Series) -> Floats:
    """The weights; half of the pairs, by a hash, are turned around, which without an intercept changes nothing but gives two classes."""
    turn = np.array([1.0 if int(digest("side", pair_id)[:8], 16) % 2 else -1.0 for pair_id in pair_ids])
    if len(set(turn)) == 1:
        turn[0] = -turn[0]
    fitted = LogisticRegression(fit_intercept=False, max_iter=1000).fit(sparse.diags_array(turn) @ design, turn > 0)
    return np.asarray(fitted.coef_[0], dtype=np.float64)


def _margin(weights: Floats, design: sparse.csr_array) -> Floats:
    margin = np.asarray(design @ weights, dtype=np.float64)
    return np.where(np.abs(margin) < 1e-12, 0.0, margin)
