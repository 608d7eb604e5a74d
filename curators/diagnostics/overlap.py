"""How much the two sides of a pair share. Pairs that differ in little pull the likelihood of both down together.

The more they share, the more alike are the gradients of their log-probabilities, which DPO subtracts (Yuan et al. 2024, arXiv:2410.08828,
"gradient entanglement"; Pal et al. 2024, Smaug, arXiv:2402.13228). A token is a word, or a sign that is no white space.

| column | |
|---|---|
| `edit_distance`, `edit_share` | Levenshtein's, in tokens; divided by the longer side |
| `shared_token_share` | Jaccard of multisets: the sum over tokens of the smaller count by that of the greater |
| `prefix_tokens`, `prefix_share` | equal tokens from the beginning; divided by the longer side |
| `duplicate` | equal token by token, case aside |
| `entangled` | `shared_token_share` is at least `entangled_from` (.8, the house's) |

Deliberately not here: the inner product of the gradients, which needs the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import polars as pl
from rapidfuzz.distance import Levenshtein

from curators.diagnostics.sides import SIDES

_TOKEN = re.compile(r"\w+|[^\w\s]")
OVERLAP = {
    "pair_id": pl.String(),
    "edit_distance": pl.Int64(),
    "edit_share": pl.Float64(),
    "shared_token_share": pl.Float64(),
    "prefix_tokens": pl.Int64(),
    "prefix_share": pl.Float64(),
    "duplicate": pl.Boolean(),
    "entangled": pl.Boolean(),
}


def pair_overlap(texts: pl.DataFrame, *, entangled_from: float = 0.8) -> pl.DataFrame:
    """One row of `OVERLAP` for each pair of `pair_texts`."""
    rows = [
        {"pair_id": pair_id, **overlap(chosen, rejected, entangled_from=entangled_from)}
        for pair_id, chosen, rejected in texts.select("pair_id", *(f"{side}_text" for side in SIDES)).iter_rows()
    ]
    return pl.DataFrame(rows, schema=OVERLAP)


def overlap(chosen: str, rejected: str, *, entangled_from: float = 0.8) -> dict[str, float | bool]:
    """The columns of one pair.

    >>> found = overlap("The answer is 4.", "The answer is 5!")
    >>> found["edit_distance"], found["prefix_tokens"], round(found["shared_token_share"], 3)
    (2, 3, 0.429)
    """
    one, other = _TOKEN.findall(chosen), _TOKEN.findall(rejected)
    counts = Counter(one), Counter(other)
    both, either = (counts[0] & counts[1]).total(), (counts[0] | counts[1]).total()
    longer = max(len(one), len(other))
    distance, prefix = Levenshtein.distance(one, other), _prefix(one, other)
    shared = both / either if either else 1.0
    return {
        "edit_distance": distance,
        "edit_share": distance / longer if longer else 0.0,
        "shared_token_share": shared,
        "prefix_tokens": prefix,
        "prefix_share": prefix / longer if longer else 1.0,
        "duplicate": [token.casefold() for token in one] == [token.casefold() for token in other],
        "entangled": shared >= entangled_from,
    }


def _prefix(one: Sequence[str], other: Sequence[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
