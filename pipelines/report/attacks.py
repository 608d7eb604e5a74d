"""The page of a judge under attack: one picture of how far each attack got, the table behind it, and what the suite does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from curators.judging.attacks import attack_line
from curators.judging.attacks.factorial import STATUSES, effect_lines, reversal_lines
from pipelines.report.charts import attack_chart, effects_chart
from pipelines.report.layout import page_html, page_section, page_table, write_page


def write_attack_report(found: Mapping[str, Any], to: Path) -> Path:
    """Write the page; `found` is what `pipelines.judging.attacks.judge_attack` gives."""
    return write_page(attack_page(found), to)


def attack_page(found: Mapping[str, Any]) -> str:
    """The whole page as text, escaped throughout."""
    calls, gold = found["calls"], found["gold"]
    about = [
        ("judge", f"{found['engine']}  {found['judge']}"),
        ("rubric", f"{found['rubric']['name']}  {found['rubric']['digest'][:16]}"),
        ("items", f"{gold['items']:,} of {gold['prompts']:,} prompts, {gold['source']}"),
        ("read by", ", ".join(f"{channel} {n:,}" for channel, n in found["channels"].items())),
        ("calls", f"{calls['requests']:,} requests, {calls['prompt_tokens']:,} + {calls['completion_tokens']:,} tokens"),
        ("cost", None if calls["usd"] is None else f"{calls['usd']:,.2f} $"),
    ]
    factorial = found["factorial"]
    counted = ", ".join(f"{n} {status}" for status, n in found["statuses"].items()) or "no attack was made"
    counted = f"main effects: {counted}" if factorial else counted
    body = [
        f"<h1>{escape(found['engine'])} under attack</h1><p class=meta>{escape(counted)}</p>{page_table(('', ''), about)}",
        _effects(factorial) if factorial else _suite(found["attacks"]),
        page_section("What this does not show", f"<p>{escape(found['limits'])}</p>"),
    ]
    return page_html(f"{found['engine']} under attack", "".join(body), wide=True)


def _suite(attacks: Sequence[Mapping[str, Any]]) -> str:
    lines = [attack_line(row) | {"why": row["why"], "source": row["source"]} for row in attacks]
    return page_section("How often the attacked worse answer wins, with 95 % intervals and bars", attack_chart(attacks)) + page_section(
        "Attack by attack", page_table(lines[0], (line.values() for line in lines))
    )


def _effects(factorial: Mapping[str, Any]) -> str:
    lines = effect_lines(factorial)
    shown = effects_chart(factorial["effects"], factorial["bar"]) + page_table(lines[0], (line.values() for line in lines))
    reversals = "<br>".join(escape(line) for line in reversal_lines(factorial))
    return page_section(f"Effects of the factorial design, {factorial['unit']}", f"{shown}<p>{escape(STATUSES)}</p><p>{reversals}</p>")
