"""The report's pictures, as inline SVG that follows the page's colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("svg")  # no display, and text stays text

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from curators.diagnostics.clusters import ClusterMap

KEPT, DROPPED, CHOSEN, REJECTED = "#3b7a57", "#c8553d", "#3b7a57", "#c8553d"
PLAIN: Any = {"svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "pairmill"}


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    with plt.rc_context(PLAIN):
        return plt.subplots(figsize=(width, height), layout="constrained")


def plain_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes without lines and ticks, to draw on in inches."""
    figure, axes = _axes(width, height)
    axes.axis("off")
    return figure, axes


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element; black becomes `currentColor`, so that dark pages stay readable."""
    with plt.rc_context(PLAIN):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"(fill|stroke): ?#000000", r"\1: currentColor", text)
    return text.replace('<text style="', '<text style="fill: currentColor; ')


def funnel_chart(funnel: Sequence[dict[str, Any]]) -> str:
    """One bar a stage: kept, then dropped, with the counts."""
    figure, axes = _axes(8.0, 0.45 * len(funnel) + 0.4)
    names = [f"{stage['stage']} ({stage['unit']})" for stage in funnel]
    shares = [stage["n_kept"] / max(stage["n_in"], 1) for stage in funnel]
    axes.barh(names, shares, color=KEPT)
    axes.barh(names, [1 - share for share in shares], left=shares, color=DROPPED, alpha=0.6)
    for i, stage in enumerate(funnel):
        axes.text(1.01, i, f"{stage['n_kept']:,} of {stage['n_in']:,}", va="center")
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.invert_yaxis()
    return svg(figure)


def histogram(values: Mapping[str, Sequence[float]], label: str) -> str:
    """Distributions on common bins; one series is drawn filled, two as outlines over each other."""
    figure, axes = _axes(4.6, 2.6)
    everything = [value for series in values.values() for value in series]
    low, high = min(everything), max(everything)
    bins = [low + (high - low or 1) * i / 24 for i in range(25)]
    for colour, (name, series) in zip((CHOSEN, REJECTED), values.items(), strict=False):
        axes.hist(series, bins=bins, color=colour, alpha=0.55, label=name)
    axes.set_xlabel(label)
    axes.set_ylabel("pairs")
    if len(values) > 1:
        axes.legend(frameon=False)
    return svg(figure)


def binned_histogram(edges: Sequence[float], counts: Mapping[str, Sequence[int]], label: str) -> str:
    """Counted distributions on common bins, one over the other; the counts on a scale of logarithms, as a tenth stands beside the rest."""
    figure, axes = _axes(6.4, 2.6)
    for colour, (name, series) in zip((KEPT, DROPPED), counts.items(), strict=False):
        axes.stairs(series, edges, fill=True, color=colour, alpha=0.55, label=f"{name} ({sum(series):,})")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_xlabel(label)
    axes.set_ylabel("pairs")
    axes.legend(frameon=False)
    return svg(figure)


def health_chart(rows: Sequence[dict[str, Any]]) -> str:
    """The judge's shares with their 95 % intervals."""
    figure, axes = _axes(6.4, 0.38 * len(rows) + 0.5)
    for i, row in enumerate(rows):
        axes.plot([row["low"], row["high"]], [i, i], color=KEPT, linewidth=2)
        axes.plot([row["share"]], [i], "o", color=KEPT)
        axes.text(1.04, i, f"{row['share']:.1%} of {row['n']:,}", va="center")
    axes.axvline(0.5, color="#888888", linewidth=0.7, linestyle=":")
    axes.set_yticks(range(len(rows)), [row["figure"] for row in rows])
    axes.set_xlim(-0.02, 1.02)
    axes.invert_yaxis()
    return svg(figure)


def counts_chart(counts: Mapping[str, int]) -> str:
    """One bar a name with its count."""
    figure, axes = _axes(6.4, 0.38 * len(counts) + 0.5)
    axes.barh(list(counts), list(counts.values()), color=KEPT, alpha=0.8)
    for i, n in enumerate(counts.values()):
        axes.text(n, i, f" {n:,}", va="center")
    axes.set_xticks([])
    axes.invert_yaxis()
    return svg(figure)


def reliability_chart(bins: Sequence[Mapping[str, Any]], says: str, happened: str) -> str:
    """How often it happened, with its 95 % interval, against the probability that was said; on the line a judge is as sure as it may be."""
    figure, axes = _axes(4.2, 3.4)
    axes.plot([0.5, 1], [0.5, 1], color="#888888", linewidth=0.7, linestyle=":")
    for row in bins:
        axes.plot([row["mean_p"]] * 2, [row["share_low"], row["share_high"]], color=KEPT, linewidth=2, alpha=0.6)
        axes.plot(row["mean_p"], row["share"], "o", color=KEPT)
        axes.annotate(f"{row['n']:,}", (row["mean_p"], row["share"]), textcoords="offset points", xytext=(6, -3))
    axes.set(xlabel=says, ylabel=happened, xlim=(0.48, 1.02), ylim=(-0.02, 1.04))
    return svg(figure)


def attack_chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """The loser's share of wins under every attack with its interval, red where the attack is not caught; a tick marks the bar."""
    figure, axes = _axes(7.6, 0.24 * len(rows) + 0.6)
    for i, row in enumerate(rows):
        wins, colour = row["wins"], {"caught": KEPT, "not caught": DROPPED}.get(row["status"], "#888888")
        axes.plot([wins["low"], wins["high"]], [i, i], color=colour, linewidth=2)
        if wins["share"] is not None:
            axes.plot([wins["share"]], [i], "o", color=colour, markersize=4)
        if row["bar"] is not None:
            axes.plot([row["bar"], row["bar"]], [i - 0.35, i + 0.35], color="#888888", linewidth=1)
        axes.text(1.02, i, row["status"] or "", va="center")
    axes.set_yticks(range(len(rows)), [row["attack"] for row in rows])
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.invert_yaxis()
    return svg(figure)


def curve_chart(points: Sequence[Mapping[str, Any]], fit: Mapping[str, Any]) -> str:
    """Gain by pairs with 95 % intervals; the fitted law and the recommended size where they are known."""
    figure, axes = _axes(7.0, 3.6)
    for point in points:
        axes.plot([point["pairs"]] * 2, [point["low"], point["high"]], color=KEPT, linewidth=2, alpha=0.6)
        axes.plot([point["pairs"]], [point["gain"]], "o", color=KEPT)
    most = max(point["pairs"] for point in points)
    if fit["state"] == "ok":
        sizes = [most * i / 200 for i in range(201)]
        law = [fit["plateau"]["value"] - fit["gain"]["value"] * math.exp(-fit["rate"]["value"] * size) for size in sizes]
        axes.plot(sizes, law, color="#888888", linewidth=1)
        axes.axvline(fit["recommended"], color=DROPPED, linewidth=1, linestyle=":")
    axes.axhline(0.0, color="#888888", linewidth=0.7, linestyle=":")
    axes.set(xlabel="pairs trained on", ylabel="gain in accuracy", xlim=(0, most * 1.05))
    return svg(figure)


def rounds_chart(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy before the first round and after every one, with 95 % intervals."""
    first = evaluations[0]
    values = [first["accuracy_before"], *(each["accuracy_after"] for each in evaluations)]
    bounds = [(first["before_low"], first["before_high"]), *((each["after_low"], each["after_high"]) for each in evaluations)]
    figure, axes = _axes(1.1 * len(values) + 2.0, 2.8)
    errors = [
        [value - low for value, (low, _) in zip(values, bounds, strict=True)],
        [high - value for value, (_, high) in zip(values, bounds, strict=True)],
    ]
    axes.errorbar(range(len(values)), values, yerr=errors, color=KEPT, marker="o", capsize=4)
    axes.set_xticks(range(len(values)), ["before", *(f"round {number}" for number in range(1, len(values)))])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.set_ylabel("accuracy")
    return svg(figure)


def evidence_chart(versions: Sequence[Mapping[str, Any]], before: float) -> str:
    """Every training of every version as a point, their means as bars, and the accuracy before any."""
    figure, axes = _axes(8.0, 0.55 * len(versions) + 0.8)
    for row, version in enumerate(versions):
        axes.plot(version["accuracies"], [row] * len(version["accuracies"]), "o", color=KEPT, alpha=0.55)
        axes.plot([fmean(version["accuracies"])] * 2, [row - 0.25, row + 0.25], color=KEPT, linewidth=2)
    axes.axvline(before, color="#888888", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(versions)), [version["version"] for version in versions])
    axes.set_ylim(len(versions) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    return svg(figure)


def cluster_chart(found: ClusterMap) -> str:
    """Every text as a point in the colour of its cluster, whose words and size stand beside."""
    figure, axes = _axes(8.0, 3.6)
    for number, words in enumerate(found.words):
        here = found.places[found.cluster == number]
        axes.plot(here[:, 0], here[:, 1], "o", markersize=3, alpha=0.7, label=f"{words} ({len(here):,})")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return svg(figure)


def effects_chart(rows: Sequence[Mapping[str, Any]], bar: float) -> str:
    """Effects with their intervals around 0; dotted lines mark how far a main effect may reach."""
    figure, axes = _axes(7.6, 0.26 * len(rows) + 0.6)
    for i, row in enumerate(rows):
        if row["low"] is not None:
            colour = DROPPED if row["status"] == "beyond" else KEPT
            axes.plot([row["low"], row["high"]], [i, i], color=colour, linewidth=2)
            axes.plot([row["value"]], [i], "o", color=colour, markersize=4)
    for place in (-bar, 0.0, bar):
        axes.axvline(place, color="#888888", linewidth=0.7, linestyle=":" if place else "-")
    axes.set_yticks(range(len(rows)), [row["effect"] for row in rows])
    axes.invert_yaxis()
    return svg(figure)
