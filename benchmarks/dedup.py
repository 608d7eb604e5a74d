"""Near-duplicate groups over planted duplicates: time, memory and recall, against datasketch used plainly and semhash.

Texts of 10 to 30 random words; a tenth of them again with a word replaced, a sign added or other case. Planted pairs are those whose
5-grams have a Jaccard similarity of at least .8. Recall is the share of planted pairs of which one text is marked; a false mark is a marked
text that was not planted. Each method runs in a process of its own, one thread, for its memory (peak above the texts alone).

    pairmill    `curators.filters.duplicates.near_duplicate`
    datasketch  a MinHash of 128 permutations a text, updated shingle by shingle, MinHashLSH at .8, every text inserted and queried
    semhash     at the cosine .889 of equally long texts with that similarity. Its own embedding model is a download; it is given the
                same 5-grams hashed to 512 numbers

    python benchmarks/dedup.py [--rows 20000] [--methods pairmill,datasketch,semhash]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable

THRESHOLD = 0.8


def shingles(text: str) -> set[str]:
    return {text[i : i + 5] for i in range(len(text) - 4)}


def planted_texts(n: int, seed: int = 0) -> tuple[list[str], list[tuple[int, int]]]:
    """The texts, all lower case but for the planted ones, and the planted pairs."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnoprstuvwy", k=draw.randint(2, 9))) for _ in range(20_000)]
    texts = [" ".join(draw.choices(words, k=draw.randint(10, 30))) for _ in range(n - n // 10)]
    pairs = []
    for original in draw.sample(range(len(texts)), n // 10):
        copy = _edited(texts[original], draw, words)
        one, other = shingles(texts[original]), shingles(copy.lower())
        if len(one & other) / len(one | other) >= THRESHOLD:
            pairs.append((original, len(texts)))
        texts.append(copy)
    return texts, pairs


def _edited(text: str, draw: random.Random, words: list[str]) -> str:
    kind = draw.randrange(3)
    if kind == 0:
        return text.capitalize()
    if kind == 1:
        return text + draw.choice(["!", " ...", "?", " please"])
    parts = text.split()
    parts[draw.randrange(len(parts))] = draw.choice(words)
    return " ".join(parts)


def pairmill(texts: list[str]) -> set[int]:
    import polars as pl

    from curators.filters.duplicates import near_duplicate

    rows = pl.DataFrame({"row_id": [f"{i:09d}" for i in range(len(texts))], "text": texts})
    return {int(row_id) for row_id in near_duplicate(rows, threshold=THRESHOLD).filter(~pl.col("keep"))["row_id"]}


def datasketch(texts: list[str]) -> set[int]:
    from datasketch import MinHash, MinHashLSH

    index, marked = MinHashLSH(threshold=THRESHOLD, num_perm=128), set()
    for i, text in enumerate(texts):
        sketch = MinHash(num_perm=128)
        for shingle in shingles(text.lower()):
            sketch.update(shingle.encode())
        if index.query(sketch):
            marked.add(i)
        index.insert(i, sketch)
    return marked


def semhash(texts: list[str]) -> set[int]:
    import numpy as np
    from semhash import SemHash
    from sklearn.feature_extraction.text import HashingVectorizer

    class Shingles:
        """What semhash asks of a model."""

        counts = HashingVectorizer(analyzer="char", ngram_range=(5, 5), n_features=512, binary=True)

        def encode(self, inputs: list[str], **_: object) -> np.ndarray:
            return self.counts.transform(inputs).toarray().astype(np.float32)

    records = [{"text": text, "place": str(i)} for i, text in enumerate(texts)]
    found = SemHash.from_records(records, columns=["text"], model=Shingles()).self_deduplicate(threshold=2 * THRESHOLD / (1 + THRESHOLD))
    return {int(each.record["place"]) for each in found.filtered}


METHODS: dict[str, Callable[[list[str]], set[int]]] = {"pairmill": pairmill, "datasketch": datasketch, "semhash": semhash}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(method: str, n: int) -> None:
    """Prints one line; run in a process of its own."""
    texts, pairs = planted_texts(n)
    METHODS[method](texts[:50])  # what is imported and compiled once is not measured
    before, start = peak_mb(), time.perf_counter()
    marked = METHODS[method](texts)
    seconds = time.perf_counter() - start
    planted = set(range(n - n // 10, n)) | {original for original, _ in pairs}
    found = sum(not marked.isdisjoint(pair) for pair in pairs)
    row = {"bench": "dedup", "method": method, "rows": n, "seconds": round(seconds, 2), "peak_mb": round(peak_mb() - before)}
    false = len(marked - planted)
    print(json.dumps(row | {"planted": len(pairs), "recall": round(found / len(pairs), 4), "false_marks": false}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--here", action="store_true", help="measure in this process (one method)")
    chosen = parser.parse_args()
    for method in chosen.methods.split(","):
        if chosen.here:
            measure(method, chosen.rows)
            continue
        again = [sys.executable, __file__, "--here", "--methods", method, "--rows", str(chosen.rows)]
        threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        subprocess.run(again, check=True, env={**os.environ, **threads})


if __name__ == "__main__":
    main()
