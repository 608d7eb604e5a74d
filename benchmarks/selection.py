"""Selecting rows: time, memory and agreement against plain ways, and the planted simulation of what ISA's two readings keep.

Prints one JSON line a measurement. Everything is measured in a process of its own, whose peak memory is given (imports and the
memory-mapped embeddings included), on embeddings of 40 overlapping topics and 1 % of rows elsewhere.

    isa                a tenth of the rows, signed, against scikit-learn's GaussianMixture on all rows and dimensions, with as many
                       components and as many EM iterations as our best start ran; `agreement` is the share of rows that both keep
    k_center           against numpy.linalg.norm of all differences at every step; `same` says whether the orders are equal
    facility_location  lazy against all gains at every step, over the same graph of neighbours, whose time is given apart
    planted            900 rows N(0, I) in four dimensions, 100 bad ones at scale 5 or 0.3, budget 100: the share of bad rows among the
                       kept, mean and standard deviation over seeds, beside the published share

    python benchmarks/selection.py [--rows 50000] [--cover-rows 100000] [--centres 200] [--facility-rows 20000] [--seeds 10] [--no-peer]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse
from sklearn.mixture import GaussianMixture

from curators.selection.config import SelectConfig
from curators.selection.coverage import lazy_greedy, similarities
from curators.selection.isa import FIRST_ITERATIONS
from curators.selection.selectors import select

DIMENSIONS = 384
TOPICS = 40
PUBLISHED = {(5.0, "isa signed"): 0.96, (5.0, "isa abs"): 0.0, (0.3, "isa signed"): 0.0, (0.3, "isa abs"): 0.72}
PLANTED = {
    "random": {},
    "isa signed": {"order": "signed"},
    "isa abs": {"order": "abs"},
    "isa normalized": {"order": "normalized"},
    "density": {},
    "k_center": {},
    "facility_location": {},
    "log_det": {},
}


def say(**line: Any) -> None:
    print(json.dumps({"bench": "selection"} | line), flush=True)


def make_world(path: Path, n: int, seed: int = 0) -> None:
    """Unit vectors of topics with their own spreads, written in blocks."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((TOPICS, DIMENSIONS)).astype(np.float32)
    spread = rng.uniform(0.5, 2.0, TOPICS).astype(np.float32)
    shape = (1.0 / np.sqrt(1 + np.arange(DIMENSIONS) / 20)).astype(np.float32)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, DIMENSIONS))
    for begin in range(0, n, 50_000):
        m = min(50_000, n - begin)
        topic = rng.integers(TOPICS, size=m)
        rows = centres[topic] + spread[topic, None] * shape * rng.standard_normal((m, DIMENSIONS), dtype=np.float32)
        alone = rng.random(m) < 0.01
        rows[alone] = 1.5 * rng.standard_normal((int(alone.sum()), DIMENSIONS), dtype=np.float32)
        out[begin : begin + m] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    out.flush()


def measured(work: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What the work returns, with `s` and `peak_gb` of a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, work, args))
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{work.__name__} ended with {process.exitcode}") from None
    process.join()
    return found


def _work(pipe: Connection, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    begin = time.perf_counter()
    found = work(*args)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    pipe.send(found | {"s": round(found.get("s", seconds), 2), "peak_gb": round(peak, 2)})


def our_selection(path: Path, name: str, budget: int | float, options: dict[str, Any]) -> dict[str, Any]:
    vectors = np.load(path, mmap_mode="r")
    rows = pl.DataFrame({"pair_id": [f"{i:09d}" for i in range(len(vectors))]})
    begin = time.perf_counter()
    found = select(rows, vectors, budget=budget, config=SelectConfig(selector=name, **options))
    seconds = time.perf_counter() - begin
    return {"places": [int(each) for each in found.ids], "s": seconds, "diagnostics": dict(found.diagnostics)}


def whole_mixture(path: Path, k: int, n_components: int, iterations: int) -> dict[str, Any]:
    """Full covariances over all rows and dimensions, the k least likely rows."""
    vectors = np.load(path, mmap_mode="r")
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture = GaussianMixture(n_components, max_iter=iterations, tol=0.0, random_state=0).fit(vectors)
    found = np.argsort(mixture.score_samples(vectors), kind="stable")[:k]
    return {"places": found.tolist(), "s": time.perf_counter() - begin}


def plain_k_center(path: Path, k: int) -> dict[str, Any]:
    vectors = np.load(path)
    begin = time.perf_counter()
    order = [0]
    nearest = np.linalg.norm(vectors - vectors[0], axis=1)
    for _ in range(1, k):
        order.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(vectors - vectors[order[-1]], axis=1))
    return {"places": order, "s": time.perf_counter() - begin}


def facility(path: Path, n: int, k: int, peer: bool) -> dict[str, Any]:
    """Lazy and plain greedy over one graph; `s` is the graph and the lazy greedy."""
    vectors = np.load(path, mmap_mode="r")[:n]
    times = [time.perf_counter()]
    graph = similarities(np.asarray(vectors), 64)
    times.append(time.perf_counter())
    order, _ = lazy_greedy(graph, k)
    times.append(time.perf_counter())
    told = {"graph_s": times[1] - times[0], "lazy_s": times[2] - times[1], "s": times[2] - times[0]}
    if peer:
        assert sparse.issparse(graph)
        plain = _plain_facility(graph, k)
        told |= {"plain_s": time.perf_counter() - times[2], "same": plain == order.tolist()}
    return {name: value if isinstance(value, bool) else round(value, 2) for name, value in told.items()}


def _plain_facility(graph: sparse.csr_array, k: int) -> list[int]:
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    covered, order = np.zeros(graph.shape[0]), []
    for _ in range(k):
        gains = np.bincount(rows, np.maximum(graph.data - covered[graph.indices], 0.0), graph.shape[0]).round(9)
        gains[order] = -1.0
        order.append(int(np.argmax(gains)))
        own = slice(graph.indptr[order[-1]], graph.indptr[order[-1] + 1])
        covered[graph.indices[own]] = np.maximum(covered[graph.indices[own]], graph.data[own])
    return order


def planted(seeds: int) -> None:
    for scale in (5.0, 0.3) if seeds else ():
        for name, options in PLANTED.items():
            shares = []
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                vectors = np.vstack([rng.standard_normal((900, 4)), scale * rng.standard_normal((100, 4))]).astype(np.float32)
                rows = pl.DataFrame({"pair_id": [f"{each:08d}" for each in rng.permutation(10**6)[:1000]]})
                kept = select(rows, vectors, budget=100, config=SelectConfig(selector=name.split()[0], **options)).ids
                shares.append(rows["pair_id"].is_in(kept).to_numpy()[900:].mean())
            mean, deviation = round(float(np.mean(shares)), 3), round(float(np.std(shares)), 3)
            say(measure="planted", scale=scale, selector=name, bad_share=mean, sd=deviation, published=PUBLISHED.get((scale, name)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="of isa, up to a million; 0 leaves it out")
    parser.add_argument("--cover-rows", type=int, default=100_000, help="of k_center; 0 leaves it out")
    parser.add_argument("--centres", type=int, default=200)
    parser.add_argument("--facility-rows", type=int, default=20_000, help="0 leaves it out")
    parser.add_argument("--seeds", type=int, default=10, help="of the planted simulation; 0 leaves it out")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    chosen = parser.parse_args()
    planted(chosen.seeds)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vectors.npy"
        if n := chosen.rows:
            make_world(path, n)
            compare_isa(path, n, peer=not chosen.no_peer)
        if n := chosen.cover_rows:
            make_world(path, n)
            compare_k_center(path, n, chosen.centres, peer=not chosen.no_peer)
        if n := chosen.facility_rows:
            make_world(path, n)
            found = measured(facility, path, n, n // 20, not chosen.no_peer)
            say(measure="facility_location", rows=n, budget=n // 20, **found)


def compare_isa(path: Path, n: int, *, peer: bool) -> None:
    ours = measured(our_selection, path, "isa", 0.1, {})
    told = ours["diagnostics"]
    shown = {name: told[name] for name in ("n_fit", "dimensions", "explained_variance", "n_iterations", "converged")}
    say(measure="isa", rows=n, dimensions_given=DIMENSIONS, s=ours["s"], peak_gb=ours["peak_gb"], **shown)
    if peer:
        theirs = measured(whole_mixture, path, len(ours["places"]), told["n_components"], FIRST_ITERATIONS + told["n_iterations"])
        agreement = len(set(ours["places"]) & set(theirs["places"])) / len(ours["places"])
        say(
            measure="isa",
            peer="GaussianMixture on all rows",
            rows=n,
            s=theirs["s"],
            peak_gb=theirs["peak_gb"],
            agreement=round(agreement, 3),
            by_chance=0.1,
            ratio=round(ours["s"] / theirs["s"], 3),
        )


def compare_k_center(path: Path, n: int, k: int, *, peer: bool) -> None:
    ours = measured(our_selection, path, "k_center", k, {})
    say(measure="k_center", rows=n, budget=k, s=ours["s"], peak_gb=ours["peak_gb"])
    if peer:
        theirs = measured(plain_k_center, path, k)
        same = ours["places"] == theirs["places"]
        ratio = round(ours["s"] / theirs["s"], 3)
        say(measure="k_center", peer="plain numpy", rows=n, budget=k, s=theirs["s"], peak_gb=theirs["peak_gb"], same=same, ratio=ratio)


if __name__ == "__main__":
    main()
