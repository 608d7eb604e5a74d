"""Which texts of many are nearly the same: MinHash signatures, banded into candidates, each candidate checked exactly.

A text is the set of its character 5-grams, lower case, runs of white space as one space (Broder 1997: resemblance is the Jaccard
similarity of such sets). The signature (`rensa`, R-MinHash, 128 slots) agrees in a slot with the probability J; `rows` slots make a
band, and two texts are candidates when a band agrees, with probability 1 - (1 - J^rows)^bands (Leskovec, Rajaraman & Ullman, ch. 3). As
many slots go into a band as leave at least `recall` of the pairs at the threshold. A candidate counts when its exact J, not the estimate,
reaches the threshold: no false pair, and few are missed.

Memory is a block of signatures and 8 bytes a band and text: for a million texts at .8, 170 MB beside the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import rensa
from scipy import sparse
from scipy.sparse import csgraph

from curators.errors import ConfigError

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

SHINGLE = 5
SLOTS = 128
_BLOCK_CHARS = 2_000_000
_NEIGHBOURS = (
    16  # of the texts that share a band, each is compared with the 16 before it: all of a small bucket, a chain through a large one
)
_PRIME = np.uint64(0x100000001B3)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def near_groups(texts: Sequence[str], *, threshold: float = 0.8, recall: float = 0.99, seed: int = 0) -> Ints:
    """The group of each text, equal numbers for texts joined by a chain of pairs whose J is at least `threshold`.

    The texts must be different and sorted, so that the result depends on nothing else.

    >>> near_groups(["a cat sat on the mat today", "a cat sat on the mat today!", "nothing of the kind"]).tolist()
    [0, 0, 1]

    Raises:
        ConfigError: threshold or recall are not in (0, 1].
    """
    if not 0 < threshold <= 1 or not 0 < recall < 1:
        raise ConfigError(f"near duplicates: threshold is {threshold}, must be in (0, 1]; recall is {recall}, must be in (0, 1)")
    n = len(texts)
    keys = band_keys(texts, rows=rows_a_band(threshold, recall), seed=seed)
    groups = np.arange(n, dtype=np.int64)
    edges = np.empty((0, 2), dtype=np.int64)
    for band in range(keys.shape[1]):
        pairs = candidates(keys[:, band])
        pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]  # whom another band has joined need not be compared
        near = pairs[jaccard(texts, pairs) >= threshold]
        if len(near):
            edges = np.concatenate([edges, near])
            groups = components(n, edges)
    return groups


def components(n: int, edges: Ints) -> Ints:
    """The connected component of each of `n` nodes, numbered by its first node."""
    graph = sparse.coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, labels = csgraph.connected_components(graph, directed=False)
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place].astype(np.int64)


def rows_a_band(threshold: float, recall: float) -> int:
    """The most slots of a band with which a pair at the threshold is still found with probability `recall`; at least one.

    At .8 with six slots in 21 bands: 1 - (1 - .8^6)^21 = .998; seven would give .985.

    >>> rows_a_band(0.8, 0.99), rows_a_band(0.5, 0.99)
    (6, 3)
    """
    found = (r for r in range(SLOTS, 1, -1) if 1 - (1 - threshold**r) ** (SLOTS // r) >= recall)
    return next(found, 1)


def shingles(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """Hashes of the 5-grams of every text, one after the other, and where each text begins (one entry more than texts).

    A shorter text is one shingle.
    """
    padded = [text.ljust(SHINGLE, "\0") for text in texts]
    counts = np.array([len(text) - SHINGLE + 1 for text in padded], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    chars = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    n = len(chars) - SHINGLE + 1
    hashed = np.zeros(max(n, 0), dtype=np.uint64)
    for i in range(SHINGLE):
        hashed = hashed * _PRIME * _PRIME + chars[i : i + n] + np.uint64(1)
    inside = np.repeat((SHINGLE - 1) * np.arange(len(texts)), counts) + np.arange(offsets[-1])  # none that spans two texts
    return mixed(hashed[inside]), offsets


def mixed(x: Hashes) -> Hashes:
    """Every bit of the input in every bit of the output (the finaliser of splitmix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))


def band_keys(texts: Sequence[str], *, rows: int, seed: int) -> Hashes:
    """One hash a text and band, block by block."""
    bands = SLOTS // rows
    out = np.empty((len(texts), bands), dtype=np.uint64)
    for begin, end in _blocks([len(text) + SHINGLE for text in texts]):
        hashes, offsets = shingles(texts[begin:end])
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), SLOTS, seed)
        slots = np.array(matrix.to_rows(), dtype=np.uint64)[:, : bands * rows].reshape(end - begin, bands, rows)
        key = np.zeros((end - begin, bands), dtype=np.uint64)
        for row in range(rows):
            key = mixed(key + slots[:, :, row])
        out[begin:end] = key
    return out


def candidates(keys: Hashes) -> Ints:
    """Pairs of places with the same key, smaller place first."""
    order = np.argsort(keys, kind="stable")
    found = []
    for step in range(1, _NEIGHBOURS + 1):
        same = np.flatnonzero(keys[order[:-step]] == keys[order[step:]])
        if not len(same):
            break
        found.append(np.column_stack([order[same], order[same + step]]))
    return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)


def jaccard(texts: Sequence[str], pairs: Ints) -> npt.NDArray[np.float64]:
    """The Jaccard similarity of the shingles of each pair.

    >>> jaccard(["abcdef", "abcdeg"], np.array([[0, 1]])).tolist()  # abcde of abcde, bcdef, bcdeg
    [0.3333333333333333]
    """
    out = np.empty(len(pairs))
    lengths = [len(texts[i]) + len(texts[j]) + 2 * SHINGLE for i, j in pairs]
    for begin, end in _blocks(lengths):
        part = pairs[begin:end]
        one, other = (_keyed([texts[i] for i in part[:, side]]) for side in (0, 1))
        both = np.intersect1d(one, other, assume_unique=True)
        sizes = [np.bincount((keys >> np.uint64(44)).astype(np.int64), minlength=len(part)) for keys in (one, other, both)]
        out[begin:end] = sizes[2] / (sizes[0] + sizes[1] - sizes[2])
    return out


def _keyed(texts: Sequence[str]) -> Hashes:
    """Different shingles with the place of their text in the upper 20 bits."""
    hashes, offsets = shingles(texts)
    place = np.repeat(np.arange(len(texts), dtype=np.uint64), np.diff(offsets))
    keys: Hashes = np.sort((place << np.uint64(44)) | (hashes >> np.uint64(20)))
    new = np.concatenate([[True], keys[1:] != keys[:-1]])  # np.unique hashes, and is some thirty times slower on such keys
    return np.asarray(keys[new])


def _blocks(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of runs of about two million characters."""
    begin, total = 0, 0
    for end, size in enumerate(sizes, 1):
        total += size
        if total >= _BLOCK_CHARS or end == len(sizes):
            yield begin, end
            begin, total = end, 0
