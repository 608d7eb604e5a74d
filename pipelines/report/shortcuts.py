"""The shortcut audit as a section of a version's page, as a page of its own, and as rows for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from curators.gates import GateResult
from pipelines.report.charts import health_chart
from pipelines.report.layout import page_html, page_section, page_table, write_page

ABLATIONS = {"words": "the prompt's worth: with it minus words alone", "prompt_emptied": "minus emptied", "prompt_swapped": "minus swapped"}
SHARES = {
    "prefix_share": "tokens of the common beginning",
    "shared_token_share": "tokens that both sides have",
    "edit_share": "tokens to change from one side to the other",
    "entangled": "pairs that share .8 of their tokens or more",
    "duplicate": "pairs whose sides are alike but for case and white space",
}


def write_audit(ref: str, summary: Mapping[str, Any], gate: GateResult, to: Path) -> Path:
    """Write the audit's own page; returns the file."""
    verdict = f"<p class={'yes' if gate.passed else 'no'}>{escape(gate.detail)}</p>"
    title = f"Shortcuts in {ref}"
    return write_page(page_html(title, f"<h1>{escape(title)}</h1>{verdict}{shortcut_section(summary)}"), to)


def shortcut_section(summary: Mapping[str, Any]) -> str:
    """What trivial rules and words predict of the labels, in a picture, and what the sides share."""
    known = [row for row in summary["shortcuts"].values() if row["expected"] is not None]
    shares = [
        {"figure": row["name"], "share": row["expected"], "low": row["expected_low"], "high": row["expected_high"], "n": row["n"]}
        for row in known
    ]
    told = f"<p>{summary['n_pairs']:,} pairs of {summary['n_prompts']:,} prompts. Labels predicted, undecided pairs counted half:</p>"
    tables = page_table(
        ("measure", "figure", "95 % interval"), ((row["measure"], row["figure"], row["interval"]) for row in figures(summary))
    )
    return page_section("Shortcuts", told + (health_chart(shares) if shares else "<p>Nothing decides a pair.</p>") + tables)


def rules(summary: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """One row a rule and model, the strongest first."""
    return [
        {
            "rule": row["name"],
            "predicts": _percent(row["expected"]),
            "interval": _interval(row["expected_low"], row["expected_high"], _percent),
            "decided": row["n_decided"],
            "of those right": _percent(row["accuracy"]),
            "note": row["reason"],
        }
        for row in summary["shortcuts"].values()
    ]


def figures(summary: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """What the prompt is worth, what the sides share, and who wrote them."""
    found: list[tuple[str, Any, Callable[[float], str | None]]] = [
        (ABLATIONS[name], row, _points) for name, row in summary["ablation"].items()
    ]
    found += [(what, summary["overlap"][name], _percent) for name, what in SHARES.items()]
    found += [("of the difference: layout, case, courtesy", summary["style_share"], _percent)]
    found += [("pairs whose sides the policy wrote", summary["on_policy"], _percent)] if summary["on_policy"] else []
    return [
        {"measure": what, "figure": form(row["value"]), "interval": _interval(row["low"], row["high"], form)}
        for what, row, form in found
        if row["value"] is not None
    ]


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _interval(low: float | None, high: float | None, form: Callable[[float], str | None]) -> str | None:
    return None if low is None or high is None else f"{form(low)} to {form(high)}"
