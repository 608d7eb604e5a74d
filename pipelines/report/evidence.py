"""The page of an evidence run: every training as a point, and the differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from statistics import mean
from typing import Any

from pipelines.report.charts import evidence_chart
from pipelines.report.layout import page_html, page_section, page_table


def build_evidence(outcome: Mapping[str, Any]) -> str:
    """The whole page as text, of what the trainings said."""
    rows = difference_rows(outcome)
    table = page_table(rows[0].keys(), (row.values() for row in rows))
    before = f"<p>Before any training: {outcome['accuracy_before']:.1%}. Every point is a training with a seed of its own.</p>"
    params = ", ".join(f"{name} {value}" for name, value in outcome["params"].items())
    chart = evidence_chart(outcome["versions"], outcome["accuracy_before"])
    head = f"<h1>{escape(outcome['name'])}</h1><p class=meta>{escape(params)}</p>"
    return page_html(outcome["name"], head + table + page_section("Accuracy after training", before + chart))


def difference_rows(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a version: its accuracy, and its difference to the first one's."""
    rows = []
    for each, gap in zip(outcome["versions"], [None, *outcome["differences"]], strict=True):
        told = "{difference:+.1%} ({low:+.1%}, {high:+.1%})".format(**gap) if gap else "-"
        verdict = f"{gap['verdict']} ({gap['than']})" if gap else "-"
        accuracy = f"{mean(each['accuracies']):.1%}"
        rows.append({"version": each["version"], "pairs": each["pairs"], "accuracy": accuracy, "difference": told, "verdict": verdict})
    return rows
