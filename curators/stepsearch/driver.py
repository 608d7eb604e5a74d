"""Prompts → searched trees: many of them at once over one engine, which bounds its own concurrency.

A tree has up to `in_flight` simulations under way, each either waiting for the steps of a node or for its turn. Turns go round: the oldest
first, and it is waited for. So a simulation that needs no steps does not overtake those that do (`tree`), and a tree is the same
whatever the order in which replies arrive; with one in flight it is that of `tree.search`.

A request that failed leaves a dead end with a reason. What ends a tree early ends it alone and cleanly, with what there is: a cap of its
own or of the run (what is asked for already is still taken in) or its time, tree state `budget`; an endpoint that is down, tree state
`endpoint_down`, which a later search may well finish.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from curators.engines.base import Engine
from curators.errors import ConfigError, EngineBusy
from curators.sampling import gather_all
from curators.schema import NODES, frame
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.evaluation import Values
from curators.stepsearch.nodes import Row, asked, node_rows
from curators.stepsearch.proposals import Proposal, Proposer, StepConfig
from curators.stepsearch.tree import Tree
from curators.verifiers import TIMEOUT_S, Verifier

Propose = Callable[[Tree, int], Awaitable[Proposal]]
"""Gives the steps below a node, sampled and valued."""

TURNS_AT_A_TIME = 256  # of simulations that need no steps, before the event loop goes to somebody else


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeLimits:
    """When a tree is ended before it is done; null: never. `max_calls` and `max_tokens` (sampled ones) count answers from the ledger, too,
    so that a tree ends where it would have ended without an interruption. `verifier_timeout_s` is for one answer.

    Raises:
        ConfigError: a value that is not allowed.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    max_s: float | None = None
    verifier_timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value <= 0:
                raise ConfigError(f"tree limits: {name} is {value}, must be > 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Driven:
    """A searched tree. `ended` says why it was ended before it was done; null: it is finished. `state` is its `nodes.tree_state`."""

    tree: Tree
    state: str
    ended: str | None
    n_calls: int
    n_tokens: int


@dataclass(slots=True)
class _Flight:
    """A simulation under way; `asked` are the steps of `leaf`, null while it waits for its turn only."""

    path: list[int]
    leaf: int = 0
    asked: asyncio.Future[Proposal] | None = None


async def search_all(
    prompts: pl.DataFrame,
    engine: Engine,
    verifier: Verifier | None,
    *,
    config: SearchConfig | None = None,
    steps: StepConfig | None = None,
    values: Values | None = None,
    limits: TreeLimits | None = None,
    max_trees: int = 512,
) -> pl.DataFrame:
    """`nodes` of one tree for every prompt whose state is `ok`, in their order, `max_trees` of them at a time.

    Raises:
        EngineError: no request can succeed; an endpoint that is down ends trees instead.
    """
    slots = asyncio.Semaphore(max_trees)

    async def one(prompt: Row) -> list[Row]:
        async with slots:
            return await search_prompt(prompt, engine, verifier, config=config, steps=steps, values=values, limits=limits)

    trees = await gather_all(one(row) for row in prompts.filter(pl.col("state") == "ok").iter_rows(named=True))
    return frame([row for rows in trees for row in rows], NODES)


async def search_prompt(
    prompt: Mapping[str, Any],
    engine: Engine,
    verifier: Verifier | None,
    *,
    config: SearchConfig | None = None,
    steps: StepConfig | None = None,
    values: Values | None = None,
    limits: TreeLimits | None = None,
) -> list[Row]:
    """Rows of `nodes` for one row of `prompts`; where the tree was ended early, its first row, the prompt's, has the reason."""
    config, steps, limits = config or SearchConfig(), steps or StepConfig(), limits or TreeLimits()
    propose = Proposer(prompt, engine, verifier, steps, values=values, verifier_timeout_s=limits.verifier_timeout_s)
    driven = await drive(Tree(config), propose, in_flight=steps.in_flight, limits=limits)
    rows = node_rows(
        driven.tree,
        engine=engine.spec,
        tree_state=driven.state,
        **_about(prompt, engine, verifier, config, steps, values),
    )
    rows[0]["reason"] = driven.ended or rows[0]["reason"]
    return rows


def search_id(
    prompt: Mapping[str, Any],
    engine: Engine,
    verifier: Verifier | None,
    *,
    config: SearchConfig | None = None,
    steps: StepConfig | None = None,
    values: Values | None = None,
) -> str:
    """The `search_id` that the rows of `search_prompt` will have: a finished tree that has it need not be searched again."""
    config, steps = config or SearchConfig(), steps or StepConfig()
    return str(asked(config, **_about(prompt, engine, verifier, config, steps, values))["search_id"])


def _about(
    prompt: Mapping[str, Any],
    engine: Engine,
    verifier: Verifier | None,
    config: SearchConfig,
    steps: StepConfig,
    values: Values | None,
) -> Row:
    return {
        "prompt_id": prompt["prompt_id"],
        "reference": prompt.get("reference"),
        "policy": engine.fingerprint,
        "judge": verifier.judge if verifier else None,
        "seed": steps.seed,
        "steps": {name: value for name, value in asdict(steps).items() if name != "seed"},
        "values": (values or Values()).about(config) or None,
    }


async def drive(tree: Tree, propose: Propose, *, in_flight: int = 1, limits: TreeLimits | None = None) -> Driven:
    """Search a tree to its end with as many simulations in flight; whatever happens, none is when this returns or raises."""
    driver = _Driver(tree, propose, in_flight, limits or TreeLimits())
    try:
        async with asyncio.timeout(driver.limits.max_s) as clock:
            await driver.search()
    except TimeoutError:
        if not clock.expired():
            raise
        driver.end("budget", f"the tree's {driver.limits.max_s:g} s are over")
    return Driven(tree=tree, state=driver.state, ended=driver.ended, n_calls=driver.n_calls, n_tokens=driver.n_tokens)


class _Driver:
    """The search of one tree: its simulations under way, oldest first, and what it has spent."""

    def __init__(self, tree: Tree, propose: Propose, in_flight: int, limits: TreeLimits) -> None:
        self.tree, self.propose, self.in_flight, self.limits = tree, propose, in_flight, limits
        self.flights: deque[_Flight] = deque()
        self.state = "finished"
        self.ended: str | None = None
        self.n_calls = self.n_tokens = self.n_turns = 0

    def end(self, state: str, reason: str) -> None:
        """Ask for nothing more; what ended the tree first is what it says."""
        if self.ended is None:
            self.state, self.ended = state, reason

    async def search(self) -> None:
        while not self.tree.finished:
            try:
                await self._simulate()
            finally:
                await self._give_up()
            if self.ended or self.tree.commit() is None:
                return

    async def _simulate(self) -> None:
        """All simulations due before the next commit."""
        while True:
            while len(self.flights) < self.in_flight and self.tree.due and not self.ended:
                self._go_on(_Flight(self.tree.start()))
            if not self.flights:
                return
            await self._turn()

    async def _turn(self) -> None:
        self.n_turns += 1
        if not self.n_turns % TURNS_AT_A_TIME:
            await asyncio.sleep(0)
        flight = self.flights[0]  # it leaves the queue after the wait, so that whoever interrupts that finds it there
        proposal = None if flight.asked is None else await self._answer(flight.asked)
        self.flights.popleft()
        if proposal is not None:
            self._take(flight, proposal)
        if self.tree.descend(flight.path) is None:
            self.tree.backup(flight.path)
        else:
            self._go_on(flight)

    async def _answer(self, asked: asyncio.Future[Proposal]) -> Proposal:
        try:
            return await asked
        except EngineBusy as busy:
            return Proposal(ended=str(busy), tree_state="endpoint_down")

    def _take(self, flight: _Flight, proposal: Proposal) -> None:
        flight.asked = None
        self.n_tokens += proposal.n_tokens
        if proposal.ended is not None:
            self.end(proposal.tree_state, proposal.ended)
            self.tree.release(flight.leaf)
        else:
            self.tree.expand(flight.leaf, proposal.steps)

    def _go_on(self, flight: _Flight) -> None:
        """Descend, ask for the steps of the node where that stops, and wait for the next turn; give up where nothing may be asked for.

        A node that another simulation is expanding is open at the next turn: that one stands before this in the queue.
        """
        leaf = self.tree.descend(flight.path)
        if leaf is not None and self.tree.opened[leaf] == 0:
            if (cap := self._cap()) is not None:
                self.end("budget", cap)
            if self.ended:
                self.tree.abandon(flight.path)
                return
            self.tree.claim(leaf)
            self.n_calls += 1
            flight.leaf, flight.asked = leaf, asyncio.ensure_future(self.propose(self.tree, leaf))
        self.flights.append(flight)

    def _cap(self) -> str | None:
        limits = self.limits
        if limits.max_calls is not None and self.n_calls >= limits.max_calls:
            return f"the tree's cap of {limits.max_calls} calls is reached"
        if limits.max_tokens is not None and self.n_tokens >= limits.max_tokens:
            return f"the tree's cap of {limits.max_tokens} tokens is reached: {self.n_tokens} were sampled"
        return None

    async def _give_up(self) -> None:
        """Abandon the simulations that are still under way; there are none where nothing interrupted them."""
        flights, self.flights = list(self.flights), deque()
        asked = [flight.asked for flight in flights if flight.asked is not None]
        for flight in flights:
            if flight.asked is not None:
                flight.asked.cancel()
                self.tree.release(flight.leaf)
            self.tree.abandon(flight.path)
        await asyncio.gather(*asked, return_exceptions=True)
