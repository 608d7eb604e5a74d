"""The page of a learning curve: gain by pairs with its intervals, the fitted plateau where there is one, and the size it recommends."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from pipelines.learning_curves import verdict
from pipelines.report.charts import curve_chart
from pipelines.report.layout import page_html, page_table, write_page


def write_curve(found: Mapping[str, Any], to: Path) -> Path:
    """Write the page of what `pipelines.learning_curves.learning_curve` gives; returns the file."""
    title = f"Learning curve of {', '.join(found['datasets'])}"
    columns = ("pairs", "gain", "low", "high", "dataset", "checkpoint")
    rows = page_table(columns, ([point[name] for name in columns] for point in found["points"]))
    body = f"<h1>{escape(title)}</h1><p>{escape(verdict(dict(found)))}</p>{curve_chart(found['points'], found['fit'])}{rows}"
    return write_page(page_html(title, body), to)
