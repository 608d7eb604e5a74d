"""One search tree over reasoning steps: PUCT selection, expansion, backup, commitment to a step.

    child = argmax Q(c) + c_puct · p(c) · √(N(s) + O(s)) / (1 + N(c) + O(c))        O: other simulations in flight (WU-UCT)
    V(s)  = Σ w(c) Q(c) / Σ w(c),  w = N or max(1, N)        Q(s, c) = r(c) + γ V(c)        r(c) = R(c) - R(s)

After MCTS-DPO (Xie et al. 2024): children are sampled together and once, a simulation goes on selecting and expanding until a terminal
step or the depth limit, and the tree below the step committed to is kept. Equal scores: the higher prior (`tie_rule` prior), then the
smaller index.

A node is a number; 0 is the prompt, and children have larger numbers than their parents and lie side by side. The tree samples nothing
and waits for nothing. A driver, with as many simulations in flight as it likes, does this for each of them:

    path = tree.start()
    while (leaf := tree.descend(path)) is not None:
        if tree.claim(leaf):
            tree.expand(leaf, steps)     # sampled and valued; or tree.close(leaf, reason), or tree.release(leaf) after a failure
        ...                              # else another simulation is expanding it: wait for that one
    tree.backup(path)                    # or tree.abandon(path), whenever it is given up

and `commit` once `due` is 0 and nothing is in flight. Simulations in flight must take turns: one that needs no steps ends at once, and a
driver that then starts the next and the next uses up all that are due on what the tree knows already, while the others wait for steps
(T2, 1024 simulations, 2 in flight: V off by up to .10 instead of .0003). `search` is the driver of one simulation after the other.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

from curators.errors import CurationError
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.step import SELECTABLE, Step, priors

Expander = Callable[["Tree", int], Sequence[Step]]
"""Gives the steps below a node, however many, and whatever their states."""


class Tree:
    """A tree as lists indexed by node number. Read them freely; only the methods change them.

    `R` state value, `r` reward, `Q`, `V`, `N` visits, `O` simulations in flight through or at the node, `ended` those that ended there.
    `n_children` counts the steps that simulations may take; `discarded` holds the others as (parent, sibling, step). `at_commit` keeps
    (N, Q) of siblings as they were when one of them was committed to, since afterwards only the subtree of that one is searched.
    """

    def __init__(self, config: SearchConfig, root_value: float = 0.0) -> None:
        self.config = config
        self.root = 0
        self.committed = [0]
        self.done = 0  # simulations finished at this root
        self.steps = [Step(text="", value=root_value)]
        self.parent, self.depth, self.sibling = [-1], [0], [0]
        self.first_child, self.n_children = [0], [0]
        self.N, self.O, self.ended = [0], [0], [0]
        self.R, self.r, self.Q, self.V, self.prior = [root_value], [0.0], [0.0], [0.0], [1.0]
        self.opened = [0]  # 0 not yet, 1 being expanded, 2 expanded or closed
        self.closed: list[bool] = [False]  # terminal, or without a child to go to
        self.dead_ends: dict[int, str] = {}
        self.discarded: list[tuple[int, int, Step]] = []
        self.at_commit: dict[int, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def idle(self) -> bool:
        """No simulation is in flight."""
        return not self.O[self.root]

    @property
    def due(self) -> int:
        """How many simulations may still be started before the next commit; none where the root leads nowhere."""
        if self.closed[self.root]:
            return 0
        return max(0, self.config.simulations_at(self.depth[self.root]) - self.done - self.O[self.root])

    @property
    def finished(self) -> bool:
        """There is nothing below the root to commit to, or the answer may not grow longer."""
        deepest = self.config.max_depth
        return self.closed[self.root] or (deepest is not None and self.depth[self.root] >= deepest)

    def children(self, node: int) -> range:
        """The steps below a node that simulations may take."""
        return range(self.first_child[node], self.first_child[node] + self.n_children[node])

    def line(self, node: int) -> list[int]:
        """The nodes from the prompt, left out, to a node, included."""
        nodes = []
        while node:
            nodes.append(node)
            node = self.parent[node]
        return nodes[::-1]

    def place(self, node: int) -> tuple[int, ...]:
        """Where a node is: the sample index of every step from the prompt to it. With the prompt it names the node for good."""
        return tuple(self.sibling[step] for step in self.line(node))

    def text(self, node: int) -> str:
        """The answer so far."""
        return "".join(self.steps[step].text for step in self.line(node))

    def start(self) -> list[int]:
        """Begin a simulation at the root; the path is the caller's, to be given back to `backup` or `abandon`."""
        self.O[self.root] += 1
        self.N[self.root] += self.config.root_visits - 1
        return [self.root]

    def descend(self, path: list[int]) -> int | None:
        """Prolong the path by selection. Returns the node where it stops for want of children, or null where the simulation ends."""
        limit = self.config.depth_limit
        deepest = sys.maxsize if limit is None else self.depth[self.root] + limit
        node, last = path[-1], self.config.max_depth
        deepest = deepest if last is None else min(deepest, last)
        while not self.closed[node] and self.depth[node] < deepest:
            if not self.n_children[node]:
                return node
            node = self.select(node)
            self.O[node] += 1
            path.append(node)
        return None

    def select(self, node: int) -> int:
        """The child that a simulation standing on the node goes to; that simulation itself is not counted among those in flight."""
        N, pending, Q, p = self.N, self.O, self.Q, self.prior
        loss = self.config.virtual_loss
        scale = self.config.c_puct * math.sqrt(N[node] + pending[node] - 1)
        first = self.first_child[node]
        chosen, best = first, -math.inf
        by_prior = self.config.tie_rule == "prior"
        for child in range(first, first + self.n_children[node]):
            flying = pending[child]
            visits = N[child] + flying
            score = Q[child] + scale * p[child] / (1 + visits)
            if flying and loss:
                score += (N[child] * Q[child] - loss * flying) / visits - Q[child]
            if score > best or (by_prior and score == best and p[child] > p[chosen]):
                chosen, best = child, score
        return chosen

    def claim(self, node: int) -> bool:
        """Whether the caller is the one to expand the node; it must then `expand`, `close` or `release` it."""
        if self.opened[node]:
            return False
        self.opened[node] = 1
        return True

    def release(self, node: int) -> None:
        """Give a claim back: the steps did not come, somebody may try again."""
        if self.opened[node] == 1:
            self.opened[node] = 0

    def close(self, node: int, reason: str) -> None:
        """The node will have no children; simulations end there, and its value is that of its own state."""
        self._open(node)
        self.closed[node] = True
        self.dead_ends[node] = reason

    def expand(self, node: int, steps: Sequence[Step]) -> range:
        """Add all steps below a node, once; returns the children. Without a usable step the node is closed.

        Raises:
            CurationError: the node is terminal or was expanded before, or a value is not a number.
        """
        usable = [(i, step) for i, step in enumerate(steps) if step.state in SELECTABLE]
        if wrong := [step for _, step in usable if not math.isfinite(step.value)]:
            raise CurationError(
                f"tree: a step has the value {wrong[0].value}: {wrong[0].text!r:.80}; a step without a value must not be ok"
            )
        if not usable:
            states = sorted({step.state for step in steps})
            self.close(node, f"no usable step among {len(steps)} sampled" + (f": {', '.join(states)}" if states else ""))
        else:
            self._open(node)
            self._append(node, usable)
        self.discarded += [(node, i, step) for i, step in enumerate(steps) if step.state not in SELECTABLE]
        return self.children(node)

    def _open(self, node: int) -> None:
        if self.opened[node] == 2 or self.closed[node]:
            raise CurationError(f"tree: node {node} is {'terminal' if self.steps[node].terminal else 'expanded already'}")
        self.opened[node] = 2

    def _append(self, node: int, usable: Sequence[tuple[int, Step]]) -> None:
        n = len(usable)
        steps = [step for _, step in usable]
        rewards = [step.value - self.R[node] for step in steps]
        self.first_child[node], self.n_children[node] = len(self), n
        self.steps += steps
        self.parent += [node] * n
        self.depth += [self.depth[node] + 1] * n
        self.sibling += [i for i, _ in usable]
        for column in (self.first_child, self.n_children, self.N, self.O, self.ended, self.opened):
            column += [0] * n
        self.R += [step.value for step in steps]
        self.r += rewards
        self.Q += rewards  # V of a new node is 0
        self.V += [0.0] * n
        self.prior += priors(steps, self.config)
        self.closed += [step.terminal or step.state == "truncated" for step in steps]

    def backup(self, path: Sequence[int]) -> None:
        """End a simulation: count it and recompute V and Q from its last node up to its root."""
        N, pending, Q, V, r, gamma = self.N, self.O, self.Q, self.V, self.r, self.config.gamma
        least = 1 if self.config.backup_weights == "at_least_one" else 0
        last = path[-1]
        self.ended[last] += 1
        for node in reversed(path):
            pending[node] -= 1
            N[node] += 1
            if node != last:
                total, weights = 0.0, 0
                first = self.first_child[node]
                for child in range(first, first + self.n_children[node]):
                    weight = N[child] or least
                    weights += weight
                    total += weight * Q[child]
                V[node] = total / weights
            Q[node] = r[node] + gamma * V[node]
        self.done += 1

    def abandon(self, path: Sequence[int]) -> None:
        """End a simulation without counting it: what was asked for did not come, or the budget is spent."""
        for node in path:
            self.O[node] -= 1
        self.N[path[0]] -= self.config.root_visits - 1

    def commit(self) -> int | None:
        """Take the best step from the root and make it the root, its subtree kept; null where there is none to take.

        Rule visits_range: N · (1 + the range of its children's N), then Q, then V, as in the reference; visits: N, then Q; q: Q, then N.
        Equal: the smaller index.

        Raises:
            CurationError: simulations are in flight.
        """
        if not self.idle:
            raise CurationError(f"tree: {self.O[self.root]} simulations are in flight; back them up or abandon them before the commit")
        children = self.children(self.root)
        if self.finished or not children:
            return None
        self.at_commit |= {child: (self.N[child], self.Q[child]) for child in children}
        self.root = max(children, key=self._rank)
        self.committed.append(self.root)
        self.done = 0
        return self.root

    def _rank(self, node: int) -> tuple[float, ...]:
        if self.config.commit_rule == "q":
            return self.Q[node], self.N[node]
        if self.config.commit_rule == "visits":
            return self.N[node], self.Q[node]
        below = [self.N[child] for child in self.children(node)] or [0]
        return self.N[node] * (max(below) - min(below) + 1), self.Q[node], self.V[node]


def simulate(tree: Tree, expander: Expander) -> list[int]:
    """One simulation from the root to its end; returns its path."""
    path = tree.start()
    while (leaf := tree.descend(path)) is not None:
        tree.expand(leaf, expander(tree, leaf))
    tree.backup(path)
    return path


def search(tree: Tree, expander: Expander) -> Tree:
    """Simulate and commit until there is nothing more to commit to, one simulation after the other."""
    while not tree.finished:
        while tree.due:
            simulate(tree, expander)
        if tree.commit() is None:
            break
    return tree
