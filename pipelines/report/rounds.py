"""The page of a chain of rounds: accuracy round by round with its interval, and what was made of what."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pipelines.report.charts import rounds_chart
from pipelines.report.layout import page_html, page_section, page_table
from pipelines.report.lineage import lineage_chart


def build_rounds(outcome: Mapping[str, Any]) -> str:
    """The whole page as text, of what a chain came to."""
    rounds = outcome["rounds"]
    stopped = f"<p class=no>Stopped: {escape(outcome['stopped'])}</p>" if outcome["stopped"] else ""
    best = f"<p>Best checkpoint: {escape(str(outcome['best'] or 'none is better than the policy of the first round'))}</p>"
    head = f"<h1>{escape(outcome['name'])}: {len(rounds)} rounds</h1>{stopped}"
    if not rounds:
        return page_html(outcome["name"], head)
    rows = round_rows(outcome)
    table = page_table(rows[0].keys(), (row.values() for row in rows))
    chart = page_section("Accuracy on unseen prompts", rounds_chart([each["evaluation"] for each in rounds]))
    return page_html(outcome["name"], head + best + chart + table + page_section("What was made of what", _lineage(rounds)))


def round_rows(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a round: what it trained on, and what that did."""
    return [
        {
            "round": each["round"],
            "dataset": each["dataset"],
            "pairs": each["pairs"],
            "on-policy": _share(each["on_policy_share"]),
            "nats a token": each["entropy"],
            "checkpoint": each["checkpoint"],
            "accuracy": f"{each['evaluation']['accuracy_before']:.1%} → {each['evaluation']['accuracy_after']:.1%}",
            "gain (95% interval)": "{gain:+.1%} ({low:+.1%}, {high:+.1%})".format(**each["evaluation"]),
        }
        for each in outcome["rounds"]
    ]


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _lineage(rounds: list[dict[str, Any]]) -> str:
    policy = f"policy {rounds[0]['policy'][:11]}"
    nodes, edges, before = {policy: policy}, [], policy
    for each in rounds:
        checkpoint = f"checkpoint:{each['checkpoint']}"
        made = list(dict.fromkeys([each["collected"], each["dataset"]]))
        nodes |= {name: name for name in (*made, checkpoint)}
        edges += [(before, made[0]), *zip(made, [*made[1:], checkpoint], strict=True)]
        before = checkpoint
    return lineage_chart(nodes, edges)
