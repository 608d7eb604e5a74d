"""The frame of every page and its tables: no script, no font, no picture from elsewhere, and every text escaped."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

_FIGURE = re.compile(r"[-+]?\d[\d.,]*%?( of [\d,]+)?( \([^()]*\))?|[-+]?\d[\d.,]* to [-+]?\d[\d.,]*")
"""A number with what it is of and its interval, or an interval alone: it stays on one line."""


def write_page(text: str, to: Path) -> Path:
    """Write a page whole or not at all; returns the file."""
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = to.with_name(f".{to.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(to)
    return to


def page_html(title: str, body: str, *, styles: Iterable[str] = (), wide: bool = False) -> str:
    """A whole page around a body that is HTML already: no script, no font, no picture from elsewhere. `styles`: files beside style.css."""
    style = "".join((resources.files("pipelines.report") / name).read_text(encoding="utf-8") for name in ("style.css", *styles))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{style}</style>'
    opening = '<body class="wide">' if wide else "<body>"
    return f'<!doctype html><html lang="en">{head}{opening}{body}</body></html>'


def page_section(title: str, body: str) -> str:
    """A heading and what stands under it; `body` is HTML already."""
    return f"<h2>{title}</h2>{body}"


def page_table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of values, each escaped and written as its type is."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def funnel_table(funnel: Iterable[Mapping[str, Any]]) -> str:
    """Rows in, kept and dropped by reason, stage by stage."""
    return page_table(
        ("stage", "unit", "in", "kept", "dropped by reason"),
        (
            (s["stage"], s["unit"], s["n_in"], s["n_kept"], ", ".join(f"{n:,} {why}" for why, n in s["dropped"].items()) or None)
            for s in funnel
        ),
    )


def gates_table(gates: Iterable[Mapping[str, Any]]) -> str:
    """What a version had to pass, with the figure and the bound."""
    return page_table(
        ("gate", "", "figure", "bound", "detail"), ((g["name"], g["passed"], g["figure"], g["bound"], g["detail"]) for g in gates)
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return f'<td class="{"yes" if value else "no"}">{"passed" if value else "failed"}</td>'
    if isinstance(value, int | float):
        return f'<td class="n">{value:,.4g}</td>' if isinstance(value, float) else f'<td class="n">{value:,}</td>'
    figure = isinstance(value, str) and _FIGURE.fullmatch(value)
    return f"<td{' class=f' if figure else ''}>{escape('-' if value is None else str(value))}</td>"
