"""What differs between two texts: the measurements that every synthetic pair carries.

With tokens parted by white space and d the Levenshtein distance over tokens (insert, delete, replace cost 1):

    edit_sim            = 1 - d(a, b) / max(|a|, |b|)
    jaccard             = |set a ∩ set b| / |set a ∪ set b|
    shared_prefix_share = tokens that both begin with / max(|a|, |b|)
    len_ratio           = |a| / |b|, a the chosen text; null when b has no token

Two texts without any token are the same: 1, 1, 1 and null.
"""

from __future__ import annotations

import math
from itertools import takewhile
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


class Differences(NamedTuple):
    """See the module. All but `len_ratio` are shares, 1 for the same tokens."""

    edit_sim: float
    jaccard: float
    shared_prefix_share: float
    len_ratio: float | None


def differences(chosen: str, rejected: str) -> Differences:
    """
    >>> differences("a b c d", "a b x d")
    Differences(edit_sim=0.75, jaccard=0.6, shared_prefix_share=0.5, len_ratio=1.0)
    """
    a, b = chosen.split(), rejected.split()
    longest = max(len(a), len(b))
    if not longest:
        return Differences(1.0, 1.0, 1.0, None)
    first, second = set(a), set(b)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    return Differences(
        edit_sim=edit_sim(a, b),
        jaccard=len(first & second) / len(first | second),
        shared_prefix_share=shared / longest,
        len_ratio=len(a) / len(b) if b else None,
    )


def edit_sim(a: list[str], b: list[str], *, at_least: float = 0.0) -> float:
    """Similarity of two token lists; 0 where it is below `at_least`, which is known much sooner.

    >>> edit_sim(["a", "b"], ["a"]), edit_sim(["a", "b"], ["a"], at_least=0.9)
    (0.5, 0.0)
    """
    longest = max(len(a), len(b))
    if not longest:
        return 1.0
    most = math.floor((1 - at_least) * longest + 1e-9)  # in whole edits: the library's own bound on the share loses to rounding
    distance = Levenshtein.distance(a, b, score_cutoff=most)
    return 1 - distance / longest if distance <= most else 0.0
