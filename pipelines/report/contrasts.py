"""The report's sections on a version of flow `contrast`: what became of a method's attempts, and pairs with what differs marked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from html import escape, unescape
from typing import Any

import orjson
import polars as pl

from pipelines.report.charts import counts_chart
from pipelines.report.layout import page_section
from pipelines.report.turns import turns_text

EXAMPLES = 5


def contrast_sections(contrast: Mapping[str, Any], pairs: pl.DataFrame) -> str:
    """A section for every method."""
    hands = {name: contrast[name] for name in ("writer", "verifier", "judge", "scores") if name in contrast}
    told = "".join(f"<p class=meta>{name}: {escape(str(who))}</p>" for name, who in hands.items())
    return told + "".join(
        page_section(f"Method {escape(name)}", _method(about, pairs.filter(pl.col("kind") == name)))
        for name, about in contrast["methods"].items()
    )


def marked(one: str, other: str) -> tuple[str, str]:
    """Two texts as HTML, with the words that the other has not, or not there, marked.

    >>> marked("2 < 3 it is", "2 < 4 it is")
    ('2 &lt; <mark>3</mark> it is', '2 &lt; <mark>4</mark> it is')
    """
    a, b = (re.findall(r"\s+|[^\s]+", text) for text in (one, other))
    sides: tuple[list[str], list[str]] = ([], [])
    for what, *spans in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for side, words, (start, stop) in zip(sides, (a, b), (spans[:2], spans[2:]), strict=True):
            text = escape("".join(words[start:stop]))
            side.append(text if what == "equal" or not text else f"<mark>{text}</mark>")
    return "".join(sides[0]), "".join(sides[1])


def _method(about: Mapping[str, Any], pairs: pl.DataFrame) -> str:
    settings = f"<p class=meta>{escape(orjson.dumps(about['settings']).decode())}</p>"
    chart = counts_chart(about["attempts"]) if about["attempts"] else "<p>It was not tried: there was nothing to start from.</p>"
    ordered = pairs.sort("pair_id")
    places = sorted({round(i * (ordered.height - 1) / (EXAMPLES - 1)) for i in range(EXAMPLES)}) if ordered.height else []
    return settings + chart + "".join(_example(ordered.row(place, named=True)) for place in places)


def _example(pair: Mapping[str, Any]) -> str:
    chosen, rejected = marked(*(unescape(turns_text(pair[side])) for side in ("chosen", "rejected")))
    prompt, other = turns_text(pair["prompt"]), ""
    if pair.get("rejected_prompt"):
        prompts = marked(*(unescape(turns_text(pair[side])) for side in ("prompt", "rejected_prompt")))
        prompt, other = (f"<pre>{text}</pre><p class=meta>answered by</p>" for text in prompts)
    shared = "" if other else f"<pre>{prompt}</pre>"
    return (
        f'<div class="pair"><p class=meta>{escape(pair["pair_id"])} · {escape(pair["split"])}</p>{shared}<div class="sides">'
        f'<div class="chosen"><p class=meta>chosen</p>{prompt if other else ""}<pre>{chosen}</pre></div>'
        f'<div class="rejected"><p class=meta>rejected</p>{other}<pre>{rejected}</pre></div></div></div>'
    )
