"""The arithmetic of the search tree alone: no engine, one thread.

Prints one JSON line: selections a second (one selection: the argmax over five children) by themselves and as part of whole simulations,
backup included, medians over the rounds; and what a node takes in memory, without its text and tokens.

    python benchmarks/tree.py [--simulations 20000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import tracemalloc

from curators.stepsearch.config import SearchConfig
from curators.stepsearch.step import Step
from curators.stepsearch.tree import Tree

BREADTH, DEPTH = 5, 5
BAR = 200_000
CONFIG = SearchConfig(simulations=10**9, depth_limit=None, max_depth=None)


def whole_tree() -> Tree:
    """Five children a node, five levels, every node expanded; values and priors that differ."""
    tree = Tree(CONFIG)
    node = 0
    while node < len(tree):
        if not tree.closed[node]:
            last = tree.depth[node] == DEPTH - 1
            tree.expand(
                node, [Step(text="", value=(node * 7 + i * 3) % 11 / 11, terminal=last, prior=(i + 1) / 15) for i in range(BREADTH)]
            )
        node += 1
    return tree


def simulate(tree: Tree, n: int) -> float:
    """Selections a second over whole simulations."""
    began = time.perf_counter()
    for _ in range(n):
        path = tree.start()
        tree.descend(path)
        tree.backup(path)
    return n * DEPTH / (time.perf_counter() - began)


def select(tree: Tree, n: int) -> float:
    """Selections a second at the inner nodes of a tree that was searched, a simulation standing on each."""
    nodes = [node for node in range(len(tree)) if tree.n_children[node]]
    for node in nodes:
        tree.O[node] += 1
    rounds = max(1, n * DEPTH // len(nodes))
    began = time.perf_counter()
    for _ in range(rounds):
        for node in nodes:
            tree.select(node)
    took = time.perf_counter() - began
    for node in nodes:
        tree.O[node] -= 1
    return rounds * len(nodes) / took


def bytes_a_node() -> float:
    """Python memory of a searched tree over its nodes; the steps' own texts and tokens are empty."""
    gc.collect()
    tracemalloc.start()
    tree = whole_tree()
    simulate(tree, 5 * len(tree))
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(tree)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    whole, alone = [], []
    for _ in range(chosen.rounds):
        tree = whole_tree()
        whole.append(simulate(tree, chosen.simulations))
        alone.append(select(tree, chosen.simulations))
    line = {"bench": "tree", "children": BREADTH, "nodes": len(tree), "selections_per_s": round(statistics.median(alone))}
    line |= {"in_simulations_per_s": round(statistics.median(whole)), "rounds": [round(speed) for speed in whole]}
    line |= {"bytes_a_node": round(bytes_a_node()), "bar": BAR, "ok": statistics.median(whole) >= BAR}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
