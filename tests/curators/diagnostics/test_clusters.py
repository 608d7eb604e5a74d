"""The map of what texts are about."""

from __future__ import annotations

import random

import numpy as np

from curators.diagnostics.clusters import cluster_map

TOPICS = {
    "garden": "roses tulips soil garden watering",
    "ships": "harbour sails mast rudder",
    "bread": "flour yeast oven dough bread",
}


def texts(n: int = 30) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.sample(words.split(), 4)) + f" {topic} {i}" for topic, words in TOPICS.items() for i in range(n)]


def test_topics_fall_apart_and_are_named_by_their_words() -> None:
    found = cluster_map(texts(), clusters=3)
    assert found is not None
    assert (found.n_drawn, found.n_texts, found.places.shape) == (90, 90, (90, 2))
    assert sorted(np.bincount(found.cluster)) == [30, 30, 30]
    owners = {next(topic for topic, words in TOPICS.items() if set(named.split(", ")) <= {*words.split(), topic}) for named in found.words}
    assert owners == set(TOPICS)


def test_order_and_repetitions_change_nothing() -> None:
    one, other = cluster_map(texts()), cluster_map([*reversed(texts()), *texts()[:7]])
    assert one is not None
    assert other is not None
    assert np.array_equal(one.cluster, other.cluster)
    assert one.words == other.words


def test_many_texts_are_drawn_from_and_few_or_wordless_ones_have_no_map() -> None:
    found = cluster_map(texts(), most=40)
    assert found is not None
    assert (found.n_drawn, found.n_texts) == (40, 90)
    assert cluster_map(texts()[:11]) is None
    assert cluster_map([f"{'?' * i}" for i in range(40)]) is None
    assert cluster_map([f"word {'?' * i}" for i in range(40)]) is None
