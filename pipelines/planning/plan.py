"""A plan: what a run would ask, buy and publish, as JSON and as what a person reads; and the sum of several stages' plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from curators.engines.budget import Price
from pipelines.config import CapsConfig
from pipelines.planning.engines import Ask, Place, Tally
from pipelines.planning.forecast import NOTHING, Clusters, Range, predicted, total
from storage import Preview
from storage.usage import LedgerReader

UNKNOWN = Range(None, 0, None)


@dataclass(frozen=True, kw_only=True)
class Line:
    """Requests of one kind to one engine. `by`: where the tokens come from. `usd` null: the engine has no price."""

    place: Place
    known: int
    calls: Range
    tokens: Range
    usd: Range | None
    by: str

    def told(self) -> dict[str, Any]:
        return {
            "engine": self.place.spec,
            "for": self.place.kind,
            "in_ledger": self.known,
            "calls": self.calls.told(),
            "tokens": self.tokens.told(),
            "usd": self.usd and self.usd.told(4),
            "by": self.by,
        }


@dataclass(kw_only=True)
class Plan:
    """What a run of a flow would do.

    `published`: the version that the run has published already. `rows`: pairs of the version. `version` is null where it is not known, or
    where nothing would be published; `refusal` says why then. `diff` is against the newest version of the dataset. `notes`: what else a
    person should know, one sentence each.
    """

    flow: str
    dataset: str
    run_key: str | None = None
    published: str | None = None
    lines: list[Line] = field(default_factory=list)
    seconds: Range | None = None
    rows: Range | None = None
    rows_by: str | None = None
    version: str | None = None
    reused: bool = False
    refusal: str | None = None
    diff: Preview | None = None
    caps: CapsConfig = field(default_factory=CapsConfig)
    more: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stages: list[Plan] = field(default_factory=list)

    @property
    def calls(self) -> Range:
        return total(line.calls for line in self.lines)

    @property
    def tokens(self) -> Range:
        return total(line.tokens for line in self.lines)

    @property
    def usd(self) -> Range | None:
        prices = [line.usd for line in self.lines]
        return None if None in prices else total(price for price in prices if price is not None)

    @property
    def stops(self) -> list[dict[str, Any]]:
        """The caps that the run may reach, with what it would need; `surely` where even the low end is beyond the cap."""
        needed = {"calls": self.calls, "tokens": self.tokens, "usd": self.usd, "seconds": self.seconds}
        found = []
        for name, need in needed.items():
            cap = getattr(self.caps, name)
            if cap is not None and need is not None and need.high != 0 and (need.high is None or need.high > cap):
                found.append({"cap": name, "limit": cap, "needed": need.told(4 if name == "usd" else 0), "surely": need.low > cap})
        return found

    def told(self) -> dict[str, Any]:
        """The plan as JSON."""
        diff = self.diff
        return {
            "flow": self.flow,
            "dataset": self.dataset,
            "run_key": self.run_key,
            "published": self.published,
            "in_ledger": sum(line.known for line in self.lines),
            "calls": self.calls.told(),
            "tokens": self.tokens.told(),
            "usd": self.usd and self.usd.told(4),
            "seconds": self.seconds and self.seconds.told(),
            "lines": [line.told() for line in self.lines],
            "stops": self.stops,
            "rows": self.rows and self.rows.told() | {"by": self.rows_by},
            "version": self.version,
            "reused": self.reused,
            "digest": diff.digest if diff else None,
            "refusal": self.refusal,
            "diff": None
            if diff is None or diff.before is None
            else {"before": diff.before, "added": diff.n_added, "removed": diff.n_removed, "changed": diff.n_changed},
            **self.more,
            "notes": self.notes,
            **({"stages": [stage.told() for stage in self.stages]} if self.stages else {}),
        }


def summed_up(flow: str, name: str, stages: Sequence[Plan], *, notes: Sequence[str] = ()) -> Plan:
    """The plan of a flow that runs others one after the other. Each stage is planned on the lake as it is now."""
    seconds = [stage.seconds for stage in stages]
    whole = None if None in seconds else total(each for each in seconds if each is not None)
    return Plan(
        flow=flow,
        dataset=name,
        lines=[line for stage in stages for line in stage.lines],
        seconds=whole,
        stages=list(stages),
        notes=[*notes],
    )


Forecast = Callable[[Place], Range]
"""Calls to buy, of one kind at one engine."""


def lines_of(tally: Tally, calls: Mapping[Place, Range], reader: LedgerReader) -> tuple[list[Line], Range | None]:
    """A line for every kind of request at every engine, and the seconds that they take by earlier runs; null where none tells."""
    history = reader.recent(sorted({place.fingerprint for place in calls}))
    lines = []
    for place in sorted({*calls, *tally.known}, key=lambda place: (place.kind, place.spec)):
        mine = [row for row in history if (row["fingerprint"], _kind(row)) == (place.fingerprint, place.kind)]
        bound = _bound(tally, place)
        lines.append(_line(place, tally.known[place], calls.get(place, NOTHING), bound, mine, tally.prices.get(place.fingerprint)))
    return lines, _seconds(lines, history)


def _bound(tally: Tally, place: Place) -> Ask:
    asks = [ask for (its, _), ask in tally.lacking.items() if its == place]
    names = ("calls", "samples", "prompt_tokens", "completion_tokens")
    return Ask(**{name: sum(getattr(ask, name) for ask in asks) for name in names})


def _line(place: Place, known: int, calls: Range, bound: Ask, mine: Sequence[Mapping[str, Any]], price: Price | None) -> Line:
    """Tokens by what calls of this kind took before, else up to what the requests allow."""
    prompts = [row for row in mine if row["sent"]]
    counted = bound.calls and calls.low == calls.high == bound.calls
    per_call = bound.samples / bound.calls if counted else len(mine) / len(prompts) if prompts else 1.0
    if len(prompts) >= 2 or calls.high == 0:
        read = predicted(calls, _clusters(prompts, "prompt_tokens"), most=None, unknown=None)
        written = predicted(calls.times(per_call), _clusters(mine, "completion_tokens"), most=None, unknown=None)
        by = f"{len(prompts):,} earlier calls" if calls.high != 0 else "nothing to buy"
    else:
        share = None if calls.high is None or not bound.calls else calls.high / bound.calls
        read, written = (
            Range(None, 0, None if share is None else tokens * share) for tokens in (bound.prompt_tokens, bound.completion_tokens)
        )
        by = "at most what the requests allow: the ledger has no such calls"
    usd = None if price is None else read.times(price.prompt_usd / 1e6) + written.times(price.completion_usd / 1e6)
    if price is not None and not (price.prompt_usd or price.completion_usd):
        usd = NOTHING
    return Line(place=place, known=known, calls=calls, tokens=read + written, usd=usd if calls.high != 0 else NOTHING, by=by)


def _kind(row: Mapping[str, Any]) -> str:
    return str(row["request_key"]).partition("/")[0]


def _clusters(rows: Sequence[Mapping[str, Any]], tokens: str) -> Clusters:
    """Tokens and rows by prompt, or by the first of the answers that were judged: requests about one text are alike."""
    found: dict[str, tuple[float, float]] = {}
    for row in rows:
        about = str(row["request_key"]).split("/")[1:2]
        name = about[0].partition("-")[0] if about else ""
        total, n = found.get(name, (0.0, 0.0))
        found[name] = (total + row[tokens], n + 1)
    return list(found.values())


def _seconds(lines: Sequence[Line], history: Sequence[Mapping[str, Any]]) -> Range | None:
    """By the tokens a second of earlier sessions that asked the same engines for the same; null where there was none.

    A session's time runs from its first request to its last answer, so waiting for anything else is in it.
    """
    todo = [line for line in lines if line.calls.high != 0]
    if not todo:
        return NOTHING
    wanted = {(line.place.fingerprint, line.place.kind) for line in todo}
    sessions: dict[str, list[Mapping[str, Any]]] = {}
    for row in history:
        sessions.setdefault(row["run_id"], []).append(row)
    alike = [rows for rows in sessions.values() if wanted <= {(row["fingerprint"], _kind(row)) for row in rows}]
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for rows in alike for row in rows)
    if not tokens:
        return None
    spans = (max(row["created_at"] for row in rows) - min(row["created_at"] - row["latency_s"] for row in rows) for rows in alike)
    pace = sum(spans) / tokens
    return replace(total(line.tokens for line in todo)).times(pace)
