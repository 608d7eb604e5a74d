"""Who says that the chosen text is better: a verifier, which compares two scores, or a judge, in both presentation orders.

A checker is asked for every candidate whose form is right. It never turns its own failure into an answer: a verifier that cannot tell, or a
judge that cannot be read, makes the candidate `unverified`, and a candidate that it disagrees with is `checker_failed`. Neither is a pair.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curators.engines.base import Engine, digest
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import Rubric
from curators.judging.verdicts import verdicts
from curators.sampling import Row
from curators.schema import JUDGMENTS, frame
from curators.verifiers import Verifier, verify_group, verify_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The outcome for one candidate. `p_chosen` is a judge's probability, null for a verifier and where there is no verdict."""

    state: str
    reason: str | None = None
    label_source: str | None = None
    p_chosen: float | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None
    checks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> Row:
        """What of it are columns of `contrasts`, all but the state, reason and checks."""
        names = ("label_source", "p_chosen", "chosen_score", "rejected_score")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


Checker = Callable[[Mapping[str, Any], str, str], Awaitable[Checked]]
"""Asked with a row of prompts (or answers), the chosen and the rejected text."""


def by_verifier(verifier: Verifier) -> Checker:
    """The chosen text must score higher than the rejected one; for a check that says yes or no: it passes and the other does not."""

    async def check(source: Mapping[str, Any], chosen: str, rejected: str) -> Checked:
        judged = await verify_group(source, as_generations((chosen, rejected)), verifier)
        return compared(verifier, judged)

    return check


def scores_of(verifier: Verifier, source: Mapping[str, Any], texts: Sequence[str]) -> list[Row]:
    """One judgment for each text, in order."""
    return verify_rows(source, as_generations(texts), verifier)


def compared(verifier: Verifier, judged: Sequence[Row]) -> Checked:
    """What the judgments of a chosen and a rejected text amount to."""
    scores = [row["scores"][0] if row["state"] == "ok" else None for row in judged]
    checks = {"verifier": verifier.judge, "chosen": scores[0], "rejected": scores[1]}
    for name, row in zip(("chosen", "rejected"), judged, strict=True):
        if row["state"] != "ok":
            return Checked(state="unverified", reason=f"{name}: {row['reason']}", label_source=verifier.judge, checks=checks)
    above = scores[0] is not None and scores[1] is not None and scores[0] > scores[1]
    return Checked(
        state="ok" if above else "checker_failed",
        reason=None if above else f"the verifier gives the chosen text {scores[0]:g} and the rejected one {scores[1]:g}",
        label_source=verifier.judge,
        chosen_score=scores[0],
        rejected_score=scores[1],
        checks=checks,
    )


def as_generations(texts: Sequence[str]) -> list[Row]:
    """Texts in the form that verifiers and judges take, one row each, also where two are the same."""
    return [
        {"generation_id": digest("contrast", place, text), "text": text, "state": "ok" if text.strip() else "empty"}
        for place, text in enumerate(texts)
    ]


def by_judge(engine: Engine, *, rubric: Rubric, config: JudgeConfig | None = None) -> Checker:
    """The judge must prefer the chosen text, asked in both orders: a tie, or orders that disagree, is no preference."""
    config = config or JudgeConfig()

    async def check(source: Mapping[str, Any], chosen: str, rejected: str) -> Checked:
        sides = [
            {"generation_id": digest("contrast", text), "text": text, "state": "ok", "tool_calls": None} for text in (chosen, rejected)
        ]
        judged = await judge_group(source, sides, engine, rubric=rubric, config=config)
        found = verdicts(frame(judged, JUDGMENTS), config.verdicts)
        if found.is_empty():
            return Checked(state="unverified", reason="the judge gave no verdict", label_source=engine.fingerprint)
        verdict = found.row(0, named=True)
        return _preferred(verdict, verdict["a_id"] == sides[0]["generation_id"], engine.fingerprint)

    return check


def _preferred(verdict: Row, chosen_is_a: bool, judge: str) -> Checked:
    names = {"a": "chosen", "b": "rejected"} if chosen_is_a else {"a": "rejected", "b": "chosen"}
    said = names.get(verdict["verdict"], verdict["verdict"])
    checks = {"judge": judge, "verdict": said}
    if said == "unscored":
        return Checked(state="unverified", reason=f"the judge: {verdict['reason']}", label_source=judge, checks=checks)
    p = verdict["p_a"] if chosen_is_a or verdict["p_a"] is None else 1 - verdict["p_a"]
    agrees = said == "chosen"
    reason = None if agrees else f"the judge's verdict: {said}"
    return Checked(state="ok" if agrees else "checker_failed", reason=reason, label_source=judge, p_chosen=p, checks=checks)
