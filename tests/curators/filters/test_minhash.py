"""Groups against the definition: all pairs compared one by one."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from curators.errors import ConfigError
from curators.filters.minhash import candidates, components, jaccard, near_groups, rows_a_band, shingles

WORDS = "the a cat dog house tree river runs sits under over near red blue old very quick and then".split()  # noqa: SIM905


def plainly(a: str, b: str) -> float:
    grams = [{text.ljust(5, "\0")[i : i + 5] for i in range(max(len(text) - 4, 1))} for text in (a, b)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def texts(n: int, seed: int) -> list[str]:
    """Random sentences, half of them with a copy that differs in a word."""
    draw = random.Random(seed)
    out: set[str] = set()
    while len(out) < n:
        words = draw.choices(WORDS, k=draw.randint(1, 25))
        out.add(" ".join(words))
        if draw.random() < 0.5:
            words[draw.randrange(len(words))] = draw.choice(WORDS)
            out.add(" ".join(words))
    return sorted(out)


def test_similarity_is_that_of_the_sets_also_of_short_empty_and_odd_texts() -> None:
    given = ["", "a", "abcd", "abcde", "abcdef", "äöü€😀ß", "äöü€😀x", "aaaaaaaaaa", "\ud800abcdef"]
    pairs = np.array(list(itertools.combinations(range(len(given)), 2)))
    assert jaccard(given, pairs).tolist() == [plainly(given[i], given[j]) for i, j in pairs]


def test_no_shingle_spans_two_texts() -> None:
    hashes, offsets = shingles(["abcdefg", "hijkl"])
    assert offsets.tolist() == [0, 3, 4]
    alone, _ = shingles(["hijkl"])
    assert hashes[3] == alone[0]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8])
def test_groups_are_those_of_comparing_all_with_all(threshold: float) -> None:
    missed = pairs_there = 0
    for seed in range(4):
        given = texts(100, seed)
        all_pairs = np.array(list(itertools.combinations(range(len(given)), 2)))
        near = all_pairs[jaccard(given, all_pairs) >= threshold]
        found = near_groups(given, threshold=threshold, seed=seed)
        truth = components(len(given), near)
        assert len({(a, b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)}) == found.max() + 1  # none joins two true ones
        missed += sum(found[i] != found[j] for i, j in near)
        pairs_there += len(near)
    assert pairs_there > 40
    assert missed <= 0.01 * pairs_there


def test_a_large_bucket_is_one_group_and_takes_no_square() -> None:
    given = sorted(
        f"please write a long and detailed essay about the history of the ancient city of rome number {i:05d}" for i in range(1000)
    )
    assert near_groups(given, threshold=0.8).max() == 0
    keys = np.zeros(10_000, dtype=np.uint64)
    assert len(candidates(keys)) < 17 * 10_000


def test_bands_keep_the_recall_that_is_asked_for() -> None:
    for threshold, recall in itertools.product((0.5, 0.7, 0.8, 0.9), (0.9, 0.99, 0.999)):
        rows = rows_a_band(threshold, recall)
        assert 1 - (1 - threshold**rows) ** (128 // rows) >= recall
        assert 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < recall


def test_components_are_numbered_by_their_first_node() -> None:
    assert components(5, np.array([[3, 1], [4, 2]])).tolist() == [0, 1, 2, 1, 2]
    assert components(0, np.empty((0, 2), dtype=np.int64)).tolist() == []


def test_nothing_to_compare() -> None:
    assert near_groups([]).tolist() == []
    assert near_groups(["one"]).tolist() == [0]


@pytest.mark.parametrize(("threshold", "recall"), [(0.0, 0.9), (1.1, 0.9), (0.8, 1.0)])
def test_bounds_out_of_range_are_refused(threshold: float, recall: float) -> None:
    with pytest.raises(ConfigError, match="must be in"):
        near_groups(["a"], threshold=threshold, recall=recall)
