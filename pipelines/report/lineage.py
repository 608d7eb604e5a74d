"""What was made of what, as a picture: versions, and the checkpoints trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report.charts import CHOSEN, REJECTED, plain_axes, svg
from storage import Lake, Release, resolve
from storage.checkpoints import checkpoints
from storage.errors import DatasetNotFound

HEIGHT, GAP, LETTER = 0.75, 0.6, 0.068
"""Inches: of a row, between columns, and of a letter in a box."""


def lineage_chart(nodes: Mapping[str, str], edges: Sequence[tuple[str, str]], *, bad: frozenset[str] = frozenset()) -> str:
    """Boxes in columns, arrows from what something was made of to it; nothing for no boxes.

    Args:
        nodes: what stands in each box, by id; in order, from top to bottom of a column.
        edges: (what was made of, what was made), both ids of `nodes`, without cycles.
        bad: ids that are drawn as what did not come about.
    """
    if not nodes:
        return ""
    columns = _columns(nodes, edges)
    wide = {name: LETTER * max(map(len, label.splitlines())) + 0.15 for name, label in nodes.items()}
    places: dict[str, tuple[float, float]] = {}
    right = 0.0
    for column in range(max(columns.values(), default=-1) + 1):
        here = [name for name in nodes if columns[name] == column]
        places |= {name: (right, -row * HEIGHT) for row, name in enumerate(here)}
        right += max(wide[name] for name in here) + GAP
    low = min((y for _, y in places.values()), default=0.0) - HEIGHT / 2
    figure, axes = plain_axes(right, HEIGHT / 2 - low)
    for start, end in edges:
        (x0, y0), (x1, y1) = places[start], places[end]
        axes.annotate("", xy=(x1 - 0.08, y1), xytext=(x0 + wide[start], y0), arrowprops={"arrowstyle": "->", "color": "#888888"})
    for name, (x, y) in places.items():
        colour = REJECTED if name in bad else CHOSEN
        box = {"boxstyle": "round,pad=0.35", "facecolor": f"{colour}30", "edgecolor": colour}
        axes.text(x, y, nodes[name], va="center", ha="left", fontsize=8.5, bbox=box)
    axes.set_xlim(-0.2, right)
    axes.set_ylim(low, HEIGHT / 2)
    return svg(figure)


def family(lake: Lake, release: Release) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """A version with what it was made of, as far back as the lake knows, and the checkpoints that were trained on it: `lineage_chart`'s
    nodes and edges.
    """
    nodes: dict[str, str] = {}
    edges: list[tuple[str, str]] = []

    def add(ref: str, manifest: Mapping[str, Any]) -> None:
        if ref in nodes:
            return
        nodes[ref] = f"{ref}\n{manifest.get('kind') or 'published'}"
        parents = [each["ref"] for each in manifest.get("parents") or []]
        if not parents and manifest.get("policy"):
            policy = f"policy {str(manifest['policy'])[:15]}"
            nodes.setdefault(policy, policy)
            parents = [policy]
        for parent in parents:
            edges.append((parent, ref))
            if not parent.startswith("policy "):
                add(parent, _manifest(lake, parent))

    add(release.ref, release.manifest)
    for each in checkpoints(lake.root):
        if each.dataset == release.ref:
            name = f"checkpoint:{each.ref}"
            nodes[name] = name
            edges.append((release.ref, name))
    return nodes, edges


def _manifest(lake: Lake, ref: str) -> Mapping[str, Any]:
    try:
        return resolve(lake, ref).manifest
    except DatasetNotFound:  # a version of another lake
        return {}


def _columns(nodes: Mapping[str, str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """How many steps each is from what was made of nothing here, the longest way."""
    made_of: dict[str, list[str]] = {name: [start for start, end in edges if end == name] for name in nodes}
    found: dict[str, int] = {}

    def column(name: str) -> int:
        if name not in found:
            found[name] = max((column(each) + 1 for each in made_of[name]), default=0)
        return found[name]

    return {name: column(name) for name in nodes}
