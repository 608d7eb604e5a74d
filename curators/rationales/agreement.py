"""Does a rationale say what the label says? A judge sees the rationale and the two answers without their label, in both orders.

A rationale that leads to the rejected answer once contradicts the label; one that leads to the chosen answer in both orders is confirmed;
everything else (a tie, a reply that cannot be read, a failed call) confirms nothing. The judge's replies stay in the rationale's `checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curators.engines.base import Engine, digest
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import parse_rubric
from curators.rationales.prompts import Sides, shipped

RUBRIC = parse_rubric(shipped("agreement"), origin="agreement")
NONE = '[{"role":"user","content":""}]'  # the judge sees no prompt: the explanation takes its place


async def agreement(text: str, sides: Sides, engine: Engine, config: JudgeConfig) -> tuple[str, str | None, dict[str, Any]]:
    """State (ok, contradicts, unconfirmed), reason, and the measurement: who was asked, and the last reply in either order.

    Raises:
        EngineBusy: the endpoint is down.
    """
    item = digest("agreement", text, sides.prompt, sides.chosen, sides.rejected, size=8)
    answers = {f"{item}/chosen": sides.chosen, f"{item}/rejected": sides.rejected}
    generations = [{"generation_id": name, "text": answer, "tool_calls": None, "state": "ok"} for name, answer in answers.items()]
    rows = await judge_group({"prompt_id": item, "messages": NONE, "reference": text}, generations, engine, rubric=RUBRIC, config=config)
    asked = [row for row in rows if row["state"] != "gated"]
    last = {row["order"]: row for row in asked}
    picks = [_pick(last.get(order)) for order in (0, 1)]
    found = {
        "judge": engine.fingerprint,
        "rubric_digest": RUBRIC.digest,
        "picks": picks,
        "replies": [{name: row.get(name) for name in ("order", "attempt", "state", "label", "p_first", "raw")} for row in asked],
        "prompt_tokens": sum(row.get("prompt_tokens") or 0 for row in asked),
        "completion_tokens": sum(row.get("completion_tokens") or 0 for row in asked),
    }
    return *_state(picks, rows[-1] if rows else {}), found


def _pick(row: Mapping[str, Any] | None) -> str | None:
    """What the judge took for the preferred answer: chosen (first in order 0), rejected or tie; null where there is no reply to read."""
    if row is None or row["state"] != "ok":
        return None
    if row["label"] == "tie":
        return "tie"
    return "chosen" if (row["label"] == "first") == (row["order"] == 0) else "rejected"


def _state(picks: list[str | None], last: Mapping[str, Any]) -> tuple[str, str | None]:
    if "rejected" in picks:
        wrong = picks.count("rejected")
        return "contradicts", f"a judge that read it took the rejected answer for the preferred one in {wrong} of 2 orders"
    if picks == ["chosen", "chosen"]:
        return "ok", None
    if None in picks:
        return "unconfirmed", f"the judge that was to confirm it gave no verdict in {picks.count(None)} of 2 orders: {last.get('reason')}"
    return "unconfirmed", "a judge that read it could not tell the chosen answer from the rejected one in both orders"
