"""The page of a judge that was tried on gold pairs: shares with their intervals, verdicts, gates and what was not understood."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from curators.judging.health import MEASURES, health_rows
from pipelines.report.charts import counts_chart, health_chart, reliability_chart
from pipelines.report.layout import page_html, page_section, page_table, write_page


def write_judge_report(found: Mapping[str, Any], to: Path) -> Path:
    """Write the page; `found` is what `pipelines.judging.trials.judge_check` gives."""
    return write_page(judge_page(found), to)


def judge_page(found: Mapping[str, Any]) -> str:
    """The whole page as text; everything that a model wrote is escaped."""
    health, calls = found["health"], found["calls"]
    shares = [{"figure": what, **health[name]} for name, what in MEASURES.items() if name in health and health[name]["n"]]
    about = [
        ("judge", found["judge"]),
        ("rubric", f"{found['rubric']['name']}  {found['rubric']['digest'][:16]}"),
        ("gold", f"{found['gold']['pairs']:,} pairs of {found['gold']['prompts']:,} prompts, {found['gold']['source']}"),
        ("read by", ", ".join(f"{channel} {n:,}" for channel, n in health["channels"].items())),
        ("calls", f"{calls['requests']:,} requests, {calls['prompt_tokens']:,} + {calls['completion_tokens']:,} tokens"),
        ("cost", None if calls["usd"] is None else f"{calls['usd']:,.2f} $"),
    ]
    body = [
        f"<h1>{escape(found['engine'])}</h1><p class=meta>{escape(sentence(health))}</p>{page_table(('', ''), about)}",
        page_section("Gates", _gates(found["gates"])) if found["gates"] else "",
        page_section("Shares, with 95 % intervals", health_chart(shares) if shares else "<p>Nothing could be judged.</p>"),
        page_section(
            "Measured", page_table(("measure", "count", "figure", "95 % interval"), (row.values() for row in health_rows(health)))
        ),
        page_section("Verdicts", counts_chart({name: n for name, n in health["n_verdicts"].items() if n})),
        page_section("Calibration", _calibration(health["calibration"])) if health.get("calibration") else "",
        page_section("Not understood", _unread(found["unread"])) if found["unread"] else "",
    ]
    return page_html(f"{found['engine']} as a judge", "".join(body))


def sentence(health: Mapping[str, Any]) -> str:
    """Whether the judge can be believed, by how right it is where it names a side."""
    agreement = health.get("agreement")
    if not agreement or not agreement["n"]:
        return "Nothing shows that this judge agrees with the gold."
    decided = health["agreement_decided"]
    told = f"Of {agreement['n']:,} pairs with a label it names a side in {decided['n']:,}"
    if not decided["n"]:
        return f"{told}: nothing shows that it tells better from worse."
    right = f"and is right in {decided['share']:.1%} of those ({decided['low']:.1%} to {decided['high']:.1%})"
    return f"{told}, {right}: " + ("better than a coin." if decided["low"] > 0.5 else "nothing shows that it is better than a coin.")


def _calibration(found: Mapping[str, Any]) -> str:
    told = f"Expected calibration error {found['ece']:.3f}, Brier score {found['brier']:.3f} over {found['n']:,} pairs."
    chart = reliability_chart(found["table"], "confidence in the preferred side", "share that the gold prefers too")
    return f"<p>{told} The numbers beside the points are pairs.</p>{chart}"


def _gates(gates: list[dict[str, Any]]) -> str:
    return page_table(
        ("gate", "", "figure", "bound", "detail"), ((g["name"], g["passed"], g["figure"], g["bound"], g["detail"]) for g in gates)
    )


def _unread(rows: list[dict[str, Any]]) -> str:
    shown = (
        f"<p class=meta>{escape(row['state'])}: {escape(str(row['reason']))}</p><pre>{escape((row['raw'] or '')[:2000])}</pre>"
        for row in rows
    )
    return f"<details><summary>{len(rows)} replies</summary>{''.join(shown)}</details>"
