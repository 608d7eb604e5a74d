"""One pair → its rationale: the writer is asked, the reply reworded and checked, and every attempt is a row.

The writer is told which answer was preferred: it explains a label and does not judge. A reply that was cut off is asked once more with
twice the tokens, one that cannot be used is asked again with a note on what was wrong; notes quote nothing that a model wrote. A pair with
an answer without content is `gated` and costs no call. A rationale whose own verdict (where the rubric asks for one) or whose reader picks
the other answer `contradicts` the label and is never used.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from curators.engines.base import Engine, Reply, Request, Sampling, as_json, canonical, digest
from curators.errors import ConfigError
from curators.judging.prompts import nonce
from curators.judging.protocol import JudgeConfig
from curators.judging.replies import no_answer, tokens
from curators.rationales import checks, wording
from curators.rationales.agreement import RUBRIC, agreement
from curators.rationales.checks import CheckBounds, check_text
from curators.rationales.prompts import RationaleRubric, Sides, render_rationale, sides_of
from curators.rationales.wording import answered, reworded
from curators.sampling import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class RationaleConfig:
    """How a writer is asked. `repairs` counts re-asks of a reply that cannot be used; `secret` keys the marks of fences.

    `check_agreement` off: nobody is asked whether the rationale leads to the label. `agreement_max_tokens` is the room of that reply.
    """

    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    repairs: int = 1
    check_agreement: bool = True
    agreement_max_tokens: int = 1024
    bounds: CheckBounds = field(default_factory=CheckBounds)
    secret: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.repairs < 0:
            raise ConfigError(f"rationale: max_tokens is {self.max_tokens}, must be ≥ 1; repairs is {self.repairs}, must be ≥ 0")


CHECKS = hashlib.sha256("".join(inspect.getsource(each) for each in (wording, checks)).encode()).hexdigest()[:12]
"""Digest of the code that decides what becomes of a reply."""

NOTES = {
    "parse_error": "there was no text to read",
    "leaks_position": "call the answers only by the names given here, and never by where they stand",
    "copies": "say it in general terms, without repeating the answers' own words",
    "quotes_nothing": "quote the words that decide, in double quotation marks",
    "misquotes": "put in quotation marks only what stands in an answer, word for word",
    "too_short": "write more",
    "too_long": "write less",
}
"""What a re-ask says about the state of the reply before; other states are not asked again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    pair: Mapping[str, Any]
    sides: Sides
    engine: Engine
    checker: Engine | None
    rubric: RationaleRubric
    config: RationaleConfig

    def mark(self, attempt: int) -> str:
        return nonce(self.config.secret, "rationale", self.pair["pair_id"], self.rubric.kind, self.sides.order, attempt)

    @property
    def sampling(self) -> str:
        """How the writer was asked and its text checked: together with writer and rubric it names a run's own rationales.

        The code that rewords and checks is part of it, since the same reply may be in another state by another version of it.
        """
        c = self.config
        asked = {name: getattr(c, name) for name in ("temperature", "top_p", "max_tokens", "seed", "repairs")}
        checked = {"judge": self.checker.fingerprint, "rubric": RUBRIC.digest} if self.checker else None
        return canonical(asked | {"bounds": asdict(c.bounds), "agreement": checked, "checks": CHECKS}).decode()

    def row(self, attempt: int, **columns: Any) -> Row:
        found = columns.pop("checks", None)
        measured = as_json(found) if found else None
        row: Row = {
            "rationale_id": None,
            "prompt_id": self.pair["prompt_id"],
            "pair_id": self.pair["pair_id"],
            "kind": self.rubric.kind,
            "writer": self.engine.fingerprint,
            "engine": self.engine.spec,
            "rubric": self.rubric.name,
            "rubric_digest": self.rubric.digest,
            "chosen_id": self.pair.get("chosen_id"),
            "rejected_id": self.pair.get("rejected_id"),
            "order": self.sides.order,
            "attempt": attempt,
            "sampling": self.sampling,
            **columns,
            "checks": measured,
        }
        named = [row[name] for name in ("writer", "rubric_digest", "sampling", "pair_id", "kind", "order", "attempt", "state")]
        row["rationale_id"] = digest(*named, row.get("raw"), measured)
        return row


async def write_rationale(
    pair: Mapping[str, Any],
    engine: Engine,
    *,
    rubric: RationaleRubric,
    config: RationaleConfig | None = None,
    checker: Engine | None = None,
) -> list[Row]:
    """Rows of `rationales` for one row of `pairs`, one an attempt; the last one counts. `checker` null: the writer itself.

    Raises:
        EngineBusy: the endpoint is down.
    """
    config = config or RationaleConfig()
    asked = (checker or engine) if config.check_agreement else None
    case = _Case(pair=pair, sides=sides_of(pair, seed=config.seed), engine=engine, checker=asked, rubric=rubric, config=config)
    if reason := _gate(case):
        return [case.row(0, state="gated", reason=reason)]
    rows: list[Row] = []
    max_tokens, unusable, note = config.max_tokens, 0, None
    while True:
        reply = await _ask(case, attempt=len(rows), max_tokens=max_tokens, note=note)
        row = case.row(len(rows), **await _read(case, reply))
        rows.append(row)
        if row["state"] == "truncated" and max_tokens == config.max_tokens:
            max_tokens *= 2
        elif row["state"] in NOTES and unusable < config.repairs:
            unusable, note = unusable + 1, NOTES[row["state"]]
        else:
            return rows


def _gate(case: _Case) -> str | None:
    """Why a pair is not worth a call, or must not be shown."""
    texts = (case.sides.chosen, case.sides.rejected)
    if not all(any(character.isalnum() for character in text) for text in texts):
        return "an answer without a letter or digit"
    if case.rubric.fence and any(case.mark(0) in text for text in (case.sides.prompt, *texts)):
        return "the pair contains the fence's mark"
    return None


async def _ask(case: _Case, *, attempt: int, max_tokens: int, note: str | None) -> Reply:
    config = case.config
    messages = render_rationale(case.rubric, case.sides, mark=case.mark(attempt))
    if note:
        messages[-1]["content"] += f"\n\n(An earlier reply to this request could not be used: {note}.)"
    sampling = Sampling(temperature=config.temperature, top_p=config.top_p, max_tokens=max_tokens, seed=config.seed)
    key = f"rationale/{case.pair['pair_id']}/{case.rubric.kind}"
    return await case.engine.complete(Request(key=key, messages=messages, sampling=sampling, attempt=attempt))


async def _read(case: _Case, reply: Reply) -> Row:
    """The columns of one reply: what it says, whether it may be used, and what it cost."""
    completion = reply.completions[0] if reply.completions else None
    cost = tokens(reply, completion)
    if completion is None:
        return no_answer(reply) | cost
    columns: Row = {"raw": completion.text, "n_tokens": completion.n_tokens, **cost}
    if completion.finish_reason == "length":
        return columns | {"state": "truncated", "reason": "cut off by max_tokens"}
    if (said := answered(completion.text)) is None:
        return columns | {"state": "parse_error", "reason": "the reply is empty, or its reasoning is not closed"}
    kind, line_labels = case.rubric.kind, case.rubric.line_labels
    text = reworded(said[0], case.sides, line_labels=line_labels)
    state, reason, found = check_text(text, case.sides, kind=kind, bounds=case.config.bounds, line_labels=line_labels)
    if own := _own_verdict(case, said[1]):
        state, reason, found["verdict"] = own
    elif state == "ok" and case.checker is not None:
        state, reason, found["agreement"] = await agreement(text, case.sides, case.checker, _reading(case.config))
    return columns | {"text": text, "state": state, "reason": reason, "checks": found}


def _own_verdict(case: _Case, label: str | None) -> tuple[str, str, str] | None:
    """What a verdict at the end of the reply takes from the rationale; null where there is none, or it is the label."""
    if label is None or label == ("second" if case.sides.order else "first"):
        return None
    if label == "tie":
        return "unconfirmed", "its own verdict is a tie", "tie"
    return "contradicts", "its own verdict is for the rejected answer", "rejected"


def _reading(config: RationaleConfig) -> JudgeConfig:
    return JudgeConfig(max_tokens=config.agreement_max_tokens, seed=config.seed, secret=config.secret)
