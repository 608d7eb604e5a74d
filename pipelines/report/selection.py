"""The report's section on a version that was selected from another: what was asked, what came of it, and how the others scored."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from pipelines.report.charts import binned_histogram

SAID = ("n_rows", "n_kept", "budget")  # by the funnel and the budget


def selection_rows(selection: Mapping[str, Any], parent: str) -> list[tuple[str, Any]]:
    """What was asked and what came of it, one line each."""
    settings = {name: value for name, value in selection["settings"].items() if name in ("direction", "stratum", "quotas")}
    how = [selection["order"], *(f"{name} {value}" for name, value in settings.items() if value is not None)]
    return [
        ("from", parent),
        ("selector", ", ".join(map(str, filter(None, [selection["selector"], *how])))),
        ("budget", f"{selection['budget']['rows']:,} pairs (asked: {selection['budget']['asked']})"),
        ("state", selection["state"]),
        ("because", selection["reason"]),
        ("seed", str(selection["seed"])),
        ("scores", selection["scores"]),
        ("embedded", selection["encoder"] and f"{selection['text']} by {selection['encoder']}"),
        ("filters", ", ".join(selection["filters"]) or None),
        *(
            (name.replace("_", " "), str(value) if isinstance(value, bool) else value)
            for name, value in selection["diagnostics"].items()
            if name not in SAID and isinstance(value, str | int | float)
        ),
    ]


def selection_chart(selection: Mapping[str, Any]) -> str:
    """How the selector scored the pairs that it kept and the others."""
    found = selection["histogram"]
    if not found:
        return "<p>The selector gave no scores.</p>"
    label = f"score by {escape(selection['selector'])}"
    return binned_histogram(found["edges"], {"kept": found["kept"], "not kept": found["not_kept"]}, label)
