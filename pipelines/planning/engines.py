"""Engines of a plan: what the ledger has is answered from there, what it lacks is counted and never asked for.

A request that is not there gets the error `budget_skipped`, "it was never sent", which every curator takes as such: a tree ends, a judgment
has no verdict. With `made_up` a missing sample gets a text of its own instead, so that the flow's own code shows which requests it would
lead to; those are `dependent`: how many of them there will be hangs on what the samples say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from curators.engines.answers import decode
from curators.engines.base import Capability, Completion, Engine, Reply, Request, call_key, canonical
from curators.engines.budget import FREE, Budget, Price
from curators.engines.cached import stretches
from curators.engines.ledger import Ledger, Lookups
from storage.usage import LedgerReader

MARK = "a sample that has not been drawn: "
NOT_SENT = "not in the ledger"

Sort = Literal["sure", "dependent", "further"]
"""A request that a run makes whatever else it is told; one about an answer that is not there; one more, where the answers before it are not
there and may make it needless."""


@dataclass(slots=True)
class Ask:
    """Requests of one kind to one engine: what they come to at most, `tokens` as the budget reserves them."""

    calls: int = 0
    samples: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Whom a request goes to and what it is for, the first part of its key: sample, judge, reward, step …"""

    spec: str
    fingerprint: str
    kind: str


@dataclass(slots=True)
class Case:
    """What one prompt, pair or tree was the first to ask: requests by kind, first ones and further ones (re-asks and votes beyond the
    first); samples that the ledger lacks, and whether a text was made up for it."""

    first: Counter[Place] = field(default_factory=Counter)
    further: Counter[Place] = field(default_factory=Counter)
    missing: Counter[Place] = field(default_factory=Counter)
    made_up: bool = False

    @property
    def complete(self) -> bool:
        return not self.missing.total()


@dataclass(slots=True)
class Tally:
    """All that a plan's engines were asked. `known`: samples that the ledger has, each once; `lacking`: what it has not."""

    known: Counter[Place] = field(default_factory=Counter)
    lacking: dict[tuple[Place, Sort], Ask] = field(default_factory=dict)
    prices: dict[str, Price | None] = field(default_factory=dict)
    noted: set[str] = field(default_factory=set)
    open_items: set[str] = field(default_factory=set)

    @property
    def bought(self) -> int:
        """Requests that the ledger lacks, of every sort."""
        return sum(ask.calls for ask in self.lacking.values())

    def ask(self, place: Place, sort: Sort) -> Ask:
        return self.lacking.get((place, sort)) or Ask()


_CASE: ContextVar[Case | None] = ContextVar("case", default=None)


@contextmanager
def case() -> Iterator[Case]:
    """What is asked inside, in this task and those that it starts, belongs to one case."""
    token = _CASE.set(found := Case())
    try:
        yield found
    finally:
        _CASE.reset(token)


class PlanningEngine:
    """See the module. An engine that the ledger never keeps (`replay:`) costs nothing and answers by itself."""

    def __init__(self, engine: Engine, ledger: Ledger, tally: Tally, *, budget: Budget, made_up: bool = False) -> None:
        self._engine, self._tally, self._made_up = engine, tally, made_up
        self._price: Price | None = getattr(engine, "price", FREE)
        budget.admit(engine.spec, self._price)
        self._budget = budget
        self._lookups = Lookups(ledger)
        self._free = not getattr(engine, "cacheable", True)
        self.fingerprint = engine.fingerprint
        tally.prices[self.fingerprint] = self._price

    def without_ledger(self) -> PlanningEngine:
        """The same engine with nothing known: what is asked of it is all that may be asked."""
        return PlanningEngine(self._engine, LedgerReader(None), Tally(), budget=self._budget, made_up=True)

    @property
    def spec(self) -> str:
        return self._engine.spec

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._engine.capabilities

    async def aclose(self) -> None:
        await self._engine.aclose()

    async def complete(self, request: Request) -> Reply:
        """What the ledger has of it, and an error or made-up texts for the rest."""
        if self._free:
            return await self._engine.complete(request)
        samples = range(request.first_sample, request.first_sample + request.n)
        keys = {i: call_key(self.fingerprint, request, i) for i in samples}
        found = await self._lookups.get(list(keys.values()))
        missing = [i for i in samples if keys[i] not in found]
        self._note(request, keys, missing)
        known = [decode(found[key], i) for i, key in keys.items() if key in found]
        completions = [each.completion for each in known]
        make_up = self._made_up and request.key.startswith("sample/")
        if missing and make_up:
            made = [Completion(text=f"{MARK}{keys[i]}", sample_index=i, finish_reason="stop", n_tokens=1, ended=True) for i in missing]
            completions = sorted([*completions, *made], key=lambda each: each.sample_index)
        return Reply(
            completions=tuple(completions),
            error="budget_skipped" if missing and not make_up else None,
            reason=NOT_SENT if missing and not make_up else None,
            prompt_tokens=sum(each.prompt_tokens for each in known),
            completion_tokens=sum(each.completion_tokens for each in known),
            cached=not missing,
            model=next((each.model for each in known if each.model), None),
        )

    def _note(self, request: Request, keys: dict[int, str], missing: list[int]) -> None:
        """Count the request; a sample that several ask for is bought, or found, once."""
        tally, (kind, item) = self._tally, _named(request.key)
        new = [i for i in keys if keys[i] not in tally.noted]
        tally.noted.update(keys[i] for i in new)
        place = Place(self.spec, self.fingerprint, kind)
        tally.known[place] += len(set(new).difference(missing))
        further = request.attempt > 0 or (request.first_sample > 0 and kind != "sample")
        if (found := _CASE.get()) is not None:
            (found.further if further else found.first)[place] += self._requests(new) if new else 0
            found.missing[place] += len(missing)
            found.made_up |= bool(missing) and self._made_up and kind == "sample"
        if unpaid := sorted(set(new).intersection(missing)):
            sort: Sort = "dependent" if MARK.encode() in canonical(list(request.messages)) else "sure"
            if further and request.attempt == 0 and item in tally.open_items:
                sort = "further"  # a re-ask follows a reply that is there
            tally.open_items.add(item)
            ask = tally.lacking.setdefault((place, sort), Ask())
            n = self._requests(unpaid)
            most = self._budget.estimate(request, price=None).tokens
            each = 1 if request.options else request.sampling.max_tokens
            ask.calls += n
            ask.samples += len(unpaid)
            ask.prompt_tokens += n * (most - request.n * each)
            ask.completion_tokens += len(unpaid) * each

    def _requests(self, indices: list[int]) -> int:
        """How many requests samples with these indices are bought in."""
        return len(stretches(indices)) if "n" in self.capabilities else len(indices)


def _named(key: str) -> tuple[str, str]:
    """The kind of a request and what it is about: `judge/ITEM/ORDER/VOTE` is about its item, in either order and every vote.

    >>> _named("judge/a-b/1/0"), _named("sample/p1")
    (('judge', 'judge/a-b'), ('sample', 'sample/p1'))
    """
    kind = key.partition("/")[0]
    return kind, key.rsplit("/", 2)[0] if kind == "judge" and key.count("/") > 2 else key
