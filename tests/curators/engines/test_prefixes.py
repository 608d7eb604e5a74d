"""The tree of kept prefixes against a plain list of everything that was put in."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curators.engines.prefixes import RUN_BYTES, PrefixCache, States

CELL_BYTES = 8
"""Two buffers of one head and one float32 dimension."""


def states_of(ids: tuple[int, ...]) -> States:
    """Keys that tell which token stood where: the sum of all tokens up to it."""
    sums = torch.tensor([float(sum(ids[: i + 1])) for i in range(len(ids))])
    return (torch.stack([sums, -sums])[:, None, :, None],)


def put(cache: PrefixCache, ids: tuple[int, ...]) -> list[int]:
    """Insert; returns from where on states were asked for."""
    asked: list[int] = []

    def states_from(n: int) -> States:
        asked.append(n)
        return tuple(state[:, :, n:].clone() for state in states_of(ids))

    cache.insert(ids, states_from)
    return asked


def found(cache: PrefixCache, ids: tuple[int, ...]) -> int:
    """How much of the sequence is kept; what is must be its own states."""
    n, pieces = cache.match(ids)
    assert sum(used for _, used in pieces) == n
    if pieces:
        (joined,) = (torch.cat(parts, 2) for parts in zip(*[[s[:, :, :used] for s in states] for states, used in pieces], strict=True))
        assert torch.equal(joined, states_of(ids[:n])[0])
    return n


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


sequences = st.lists(st.lists(st.integers(1, 3), max_size=9).map(tuple), max_size=25)


@given(kept=sequences, asked=sequences)
@settings(max_examples=60, deadline=None)
def test_what_is_found_is_the_longest_beginning_that_was_kept(kept, asked):
    cache = PrefixCache(cell_bytes=CELL_BYTES, max_bytes=1 << 30)
    for i, ids in enumerate(kept):
        longest = max((common(ids, other) for other in kept[:i]), default=0)
        assert put(cache, ids) == ([longest] if longest < len(ids) else [])  # no token is stored twice
    for ids in [*asked, *kept]:
        assert found(cache, ids) == max((common(ids, other) for other in kept), default=0)
    assert len(cache) == len({ids[:n] for ids in kept for n in range(1, len(ids) + 1)})


@given(kept=sequences, room=st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_memory_stays_within_its_bound_and_what_is_left_is_right(kept, room):
    cache = PrefixCache(cell_bytes=CELL_BYTES, max_bytes=room * (RUN_BYTES + 5 * CELL_BYTES))
    for ids in kept:
        put(cache, ids)
        assert cache.n_bytes <= cache.max_bytes
        found(cache, ids)
    cache.limit(0)
    assert (cache.n_bytes, len(cache)) == (0, 0)
    assert all(found(cache, ids) == 0 for ids in kept)


def test_what_was_used_longest_ago_goes_first_and_a_prompt_after_its_answers():
    cache = PrefixCache(cell_bytes=CELL_BYTES, max_bytes=4 * RUN_BYTES + 20 * CELL_BYTES)
    prompt = (1, 2, 3)
    answers = [(*prompt, i, i) for i in (4, 5, 6)]
    for ids in (prompt, *answers):
        put(cache, ids)
    found(cache, answers[0])
    put(cache, (9, 9))
    assert [found(cache, ids) for ids in answers] == [5, 3, 5]  # the second was the oldest; its prompt is still there
    put(cache, (8, 8))
    assert [found(cache, ids) for ids in ((9, 9), (8, 8), prompt)] == [0, 2, 3]


def test_a_sequence_that_never_fits_drives_nothing_out():
    cache = PrefixCache(cell_bytes=CELL_BYTES, max_bytes=2 * RUN_BYTES)
    put(cache, (1, 2, 3))
    assert put(cache, tuple(range(4, 1004))) == []
    assert found(cache, (1, 2, 3)) == 3


def test_states_that_cannot_be_had_are_not_kept():
    cache = PrefixCache(cell_bytes=CELL_BYTES, max_bytes=1 << 20)
    cache.insert((1, 2), lambda n: None)
    assert found(cache, (1, 2)) == 0
