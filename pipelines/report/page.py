"""The page: what the version is, how it came about, whether its judge can be believed, and some of its rows.

Everything comes from the frozen copy and its manifest, so that a report can be made of any version at any time. Every text
is escaped: candidates are written by models, and a page must show their markup and never run it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from curators.diagnostics.clusters import cluster_map
from curators.judging.health import MEASURES
from curators.rationales.health import MEASURES as RATIONALE_MEASURES
from curators.stepsearch.health import MEASURES as SEARCH_MEASURES
from pipelines.report.charts import cluster_chart, funnel_chart, health_chart, histogram
from pipelines.report.contrasts import contrast_sections
from pipelines.report.differences import marked
from pipelines.report.layout import funnel_table, gates_table, page_html, page_section, page_table, write_page
from pipelines.report.lineage import family, lineage_chart
from pipelines.report.selection import selection_chart, selection_rows
from pipelines.report.shortcuts import shortcut_section
from pipelines.report.turns import plain_text, turns_text
from storage import Lake, Release

EXAMPLES = 5


def write_report(lake: Lake, release: Release, to: Path) -> Path:
    """Write the page of a version, with what it was made of and trained into; returns the file."""
    return write_page(build_report(release, lineage_chart(*family(lake, release))), to)


def build_report(release: Release, lineage: str = "") -> str:
    """The whole page as text; `lineage` is a picture of what it was made of, which the frozen copy alone cannot tell."""
    manifest = release.manifest
    pairs = pl.read_parquet(release.frozen / "pairs.parquet")
    sections = [
        _head(release),
        *([page_section("What was made of what", lineage)] if lineage else []),
        *([page_section("Selection", _selection(manifest))] if manifest.get("selection") else []),
        page_section("Funnel", funnel_chart(manifest["funnel"]) + funnel_table(manifest["funnel"])),
        page_section("Gates", gates_table(manifest["gates"])),
        _labelled(manifest),
        *([page_section("Rationales", _rationales(manifest["rationales"]))] if manifest.get("rationales") else []),
        *([shortcut_section(manifest["audit"])] if manifest.get("audit") else []),
        page_section("Pairs", _distributions(pairs)),
        _prompts(pairs),
        contrast_sections(manifest["contrast"], pairs)
        if manifest.get("contrast")
        else page_section("Examples", "".join(_example(pair, release) for pair in _examples(pairs))),
    ]
    return page_html(release.ref, "".join(sections))


def _labelled(manifest: Mapping[str, Any]) -> str:
    """Who said which side is better; of contrasts their own sections tell."""
    if manifest.get("search"):
        return page_section("Searches", _searches(manifest["search"]))
    return "" if manifest.get("contrast") else page_section("Judge", _health(manifest))


def _head(release: Release) -> str:
    manifest = release.manifest
    capped = f"<p class=no>Ended early by a cap: {escape(str(manifest['capped']))}.</p>" if manifest.get("capped") else ""
    rows = [
        ("pairs", f"{manifest['counts']['pairs']:,}"),
        ("policy", f"{manifest.get('policy_spec') or '-'}  {manifest.get('policy') or ''}"),
        ("judge", manifest.get("judge") or (manifest.get("health") or {}).get("judge")),
        ("on-policy share", None if manifest.get("on_policy_share") is None else f"{manifest['on_policy_share']:.1%}"),
        ("seed", str(manifest.get("seed"))),
        ("digest", release.digest),
        ("code", str(manifest.get("code_digest"))[:16]),
    ]
    when = f"{escape(release.created_at)} by {escape(release.author)}"
    return f"<h1>{escape(release.ref)}</h1><p class=meta>{when}</p>{capped}{page_table(('', ''), rows)}"


def _health(manifest: Mapping[str, Any]) -> str:
    health = manifest.get("health")
    if not health:
        parents = ", ".join(each["ref"] for each in manifest.get("parents") or [])
        whose = f"are those of {parents}" if parents else "came with the data"
        return f"<p>No judge ran: the labels {whose}.</p>"
    states = ", ".join(f"{n:,} {state}" for state, n in health["states"].items())
    line = f"<p>{escape(str(health['judge']))}: {health['n_judgments']:,} judgments ({escape(states)})</p>"
    return line + _shares(health, MEASURES)


def _searches(search: Mapping[str, Any]) -> str:
    trees = search["finished"]["n"]
    return f"<p>{trees:,} trees; answers graded by {escape(search['judge'] or 'nobody')}</p>" + _shares(search, SEARCH_MEASURES)


def _rationales(health: Mapping[str, Any]) -> str:
    states = ", ".join(f"{n:,} {state}" for state, n in health["states"].items())
    return f"<p>{escape(str(health['writer']))}: {escape(states)}</p>" + _shares(health, RATIONALE_MEASURES)


def _selection(manifest: Mapping[str, Any]) -> str:
    selection = manifest["selection"]
    return page_table(("", ""), selection_rows(selection, manifest["parents"][0]["ref"])) + selection_chart(selection)


def _shares(health: Mapping[str, Any], measures: Mapping[str, str]) -> str:
    shares = [{"figure": what, **health[k]} for k, what in measures.items() if k in health and health[k]["n"]]
    return health_chart(shares) if shares else ""


def _distributions(pairs: pl.DataFrame) -> str:
    if pairs.is_empty():
        return "<p>There are none.</p>"
    lengths = {side: pairs[side].str.len_chars().to_list() for side in ("chosen", "rejected")}
    charts = [histogram(lengths, "characters of the turn")]
    if margins := pairs["margin"].drop_nulls().to_list():
        charts.append(histogram({"margin": margins}, "margin (score of chosen − score of rejected)"))
    splits = page_table(
        ("split", "pairs", "prompts"), pairs.group_by("split").agg(pl.len(), pl.col("prompt_id").n_unique().alias("n")).sort("split").rows()
    )
    return f'<div class="row">{"".join(charts)}</div>{splits}'


def _prompts(pairs: pl.DataFrame) -> str:
    """What the prompts are about; nothing for a handful of them."""
    found = cluster_map([_last_text(messages) for messages in pairs["prompt"].unique()])
    if found is None:
        return ""
    told = (
        f"{found.n_drawn:,} of {found.n_texts:,} different prompts, clusters with the words that set them apart; distances are no measure"
    )
    return page_section("Prompts", f"<p class=meta>{told}</p>{cluster_chart(found)}")


def _last_text(messages: str) -> str:
    content = json.loads(messages)[-1].get("content")
    return content if isinstance(content, str) else json.dumps(content)


def _examples(pairs: pl.DataFrame) -> list[dict[str, Any]]:
    """Pairs from over the whole range of margins, the same ones for the same version."""
    ordered = pairs.sort("margin", "pair_id", nulls_last=True)
    places = {round(i * (ordered.height - 1) / max(EXAMPLES - 1, 1)) for i in range(EXAMPLES)} if ordered.height else set()
    return [ordered.row(place, named=True) for place in sorted(places)]


def _example(pair: Mapping[str, Any], release: Release) -> str:
    behind = "".join(
        f"<p class=meta>order {row['order']}, first shown is {'chosen' if row['generation_ids'][0] == pair['chosen_id'] else 'rejected'}: "
        f"{escape(row['label'] or row['state'])}</p><pre>{escape(row['raw'] or '')}</pre>"
        for row in _critiques(pair, release)
    )
    judged = f"<details><summary>what the judge wrote</summary>{behind}</details>" if behind else ""
    margin = "unknown" if pair["margin"] is None else f"{pair['margin']:.3g}"
    about = f"<p class=meta>{escape(pair['pair_id'])} · margin {margin} · {escape(pair['split'])}</p>"
    shared, chosen, rejected = _sides(pair)
    return (
        f'<div class="pair">{about}<pre>{turns_text(pair["prompt"])}</pre>{shared}'
        f'<div class="sides"><div class="chosen"><p class=meta>chosen</p><pre>{chosen}</pre></div>'
        f'<div class="rejected"><p class=meta>rejected</p><pre>{rejected}</pre></div></div>{judged}</div>'
    )


def _critiques(pair: Mapping[str, Any], release: Release) -> list[dict[str, Any]]:
    """The judgments of both sides together; a version whose labels come from elsewhere has none."""
    path = release.frozen / "judgments.parquet"
    if not path.exists():
        return []
    both = [pl.col("generation_ids").list.contains(pair[f"{side}_id"]) for side in ("chosen", "rejected")]
    return pl.scan_parquet(path).filter(*both).sort("order", "vote", "attempt").collect().to_dicts()


def _sides(pair: Mapping[str, Any]) -> tuple[str, str, str]:
    """What both sides share of the answer, and either side; of steps, the steps alone."""
    if pair.get("rejected_prompt"):
        return (
            "",
            turns_text(pair["chosen"]),
            f"{turns_text(pair['rejected'])}</pre><p class=meta>to</p><pre>{turns_text(pair['rejected_prompt'])}",
        )
    if pair["kind"] != "step":
        plain = [plain_text(pair[side]) for side in ("chosen", "rejected")]
        if plain[0] is None or plain[1] is None:
            return "", turns_text(pair["chosen"]), turns_text(pair["rejected"])
        return "", *marked(plain[0], plain[1])
    chosen, rejected = (
        f"{escape(pair[f'{side}_step'])}</pre><p class=meta>Q {pair[f'{side}_q']:.2f}, {pair[f'{side}_visits']} visits</p><pre>"
        for side in ("chosen", "rejected")
    )
    return f"<p class=meta>step {pair['depth']}, after</p><pre>{escape(pair['prefix'])}</pre>", chosen, rejected
