"""A search tree as a page that a person reads from left to right: the steps, what the search thinks of them, and which became pairs.

Everything comes from the frozen copy of a version. The page has no script and nothing from elsewhere, and every text is escaped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from curators.errors import ConfigError
from pipelines.report.layout import page_html, write_page
from pipelines.report.turns import turns_text
from storage import Release

Row = Mapping[str, Any]

SHOWN = 5  # prompt ids in an error
LEGEND = (
    ("Q", "what the search thinks a step is worth: the mean value of what was found through it"),
    ("N", "simulations that went through it; the search went on from the steps with a bold frame, and made as many again from each"),
    ("p", "its share among the siblings by the policy's own probability"),
    ("right below", "answers at or below it that the verifier calls right, of all that it graded"),
)


def write_tree(release: Release, prompt_id: str, to: Path) -> Path:
    """Write the page of a prompt's trees; returns the file. `prompt_id` may be a beginning that fits one prompt only.

    Raises:
        ConfigError: the version has no trees, or none of that prompt.
    """
    return write_page(build_tree_page(release, prompt_id), to)


def build_tree_page(release: Release, prompt_id: str) -> str:
    """The whole page as text."""
    path = release.frozen / "nodes.parquet"
    if not path.exists():
        raise ConfigError(f"{release.ref} was not made by a tree search and has no trees; `pairmill run steps` makes such versions")
    found = _the_prompt(pl.scan_parquet(path), prompt_id, release.ref)
    nodes = pl.scan_parquet(path).filter(pl.col("prompt_id") == found).collect()
    pairs = pl.scan_parquet(release.frozen / "pairs.parquet").filter(pl.col("prompt_id") == found).collect()
    prompt = pl.scan_parquet(release.frozen / "prompts.parquet").filter(pl.col("prompt_id") == found).collect().row(0, named=True)
    trees = [tree_html(rows.to_dicts(), pairs.to_dicts()) for rows in nodes.partition_by("tree_id", maintain_order=True)]
    reference = f"<p class=meta>reference</p><pre>{escape(prompt['reference'])}</pre>" if prompt["reference"] else ""
    about = f"<h1>{escape(release.ref)}</h1><p class=meta>prompt {escape(found)}</p><pre>{turns_text(prompt['messages'])}</pre>{reference}"
    body = f"{about}{_legend()}{''.join(trees)}"
    return page_html(f"{release.ref} {found}", body, styles=("tree.css",), wide=True)


def drawn_trees(release: Release, place: Path, *, most: int) -> list[dict[str, str]]:
    """Pages in that directory for the prompts with the most pairs: `prompt_id`, `page`, `outline` and the version's `ref` of each."""
    pairs = pl.read_parquet(release.frozen / "pairs.parquet")
    ids = pairs.group_by("prompt_id").len().sort("len", "prompt_id", descending=[True, False])["prompt_id"].head(most).to_list()
    nodes = pl.scan_parquet(release.frozen / "nodes.parquet").filter(pl.col("prompt_id").is_in(ids)).collect()
    found = []
    for prompt_id in ids:
        its = pairs.filter(pl.col("prompt_id") == prompt_id)
        tree = nodes.filter(pl.col("tree_id") == its["tree_id"][0])
        page = write_tree(release, prompt_id, place / f"{prompt_id}.html").absolute()
        text = outline(tree.to_dicts(), its.filter(pl.col("tree_id") == its["tree_id"][0]).to_dicts())
        found.append({"prompt_id": prompt_id, "page": str(page), "outline": text, "ref": release.ref})
    return found


def _the_prompt(nodes: pl.LazyFrame, prompt_id: str, ref: str) -> str:
    ids = nodes.select(pl.col("prompt_id").unique().sort()).collect()["prompt_id"]
    fitting = ids.filter(ids.str.starts_with(prompt_id))
    if prompt_id in ids:
        return prompt_id
    if len(fitting) == 1:
        return str(fitting[0])
    what = (
        f"{len(fitting)} prompts begin with {prompt_id!r}"
        if len(fitting)
        else f"{ref} has no pair of a prompt {prompt_id!r}, and so no tree"
    )
    listed = ", ".join((fitting if len(fitting) else ids).head(SHOWN).to_list())
    raise ConfigError(f"{what}; there are {len(ids)} with trees, such as {listed}. All trees are in the table `nodes` of `pairmill sql`")


def tree_html(nodes: Sequence[Row], pairs: Sequence[Row]) -> str:
    """One tree as HTML: a heading, its numbers, and the nested steps."""
    root = next(node for node in nodes if node["parent_id"] is None)
    below: dict[str, list[Row]] = {}
    for node in sorted(nodes, key=lambda node: list(node["place"])):
        if node["parent_id"] is not None:
            below.setdefault(node["parent_id"], []).append(node)
    roles = _roles([pair for pair in pairs if pair["tree_id"] == root["tree_id"]])
    return f"{_heading(root, nodes)}<div class=canvas><ul class=tree>{_node(root, below, roles)}</ul></div>"


def _roles(pairs: Sequence[Row]) -> dict[str, list[str]]:
    """What the nodes of a tree are in its pairs, such as `chosen in pair 1`."""
    roles: dict[str, list[str]] = {}
    for number, pair in enumerate(sorted(pairs, key=lambda pair: str(pair["pair_id"])), 1):
        for side in ("chosen", "rejected"):
            roles.setdefault(pair[f"{side}_id"], []).append(f"{side} in pair {number}")
    return roles


def outline(nodes: Sequence[Row], pairs: Sequence[Row]) -> str:
    """The pairs of one tree as indented text, for where no page can be shown: the path that the search took, and every pair beside it."""
    roles = _roles(pairs)
    paired = [tuple(node["place"]) for node in nodes if node["node_id"] in roles]
    lines = []
    for node in sorted(nodes, key=lambda node: tuple(node["place"])):
        place = tuple(node["place"])
        if not place or not any(other[: len(place)] == place for other in paired):
            continue
        marks = "".join(f"  <- {role}" for role in roles.get(node["node_id"], ()))
        lines.append(f"Q {_number(node['q'])}  N {node['n_visits']:>4}  {'  ' * (len(place) - 1)}{' '.join(node['text'].split())}{marks}")
    return "\n".join(lines)


def _heading(root: Row, nodes: Sequence[Row]) -> str:
    steps = [node for node in nodes if node["n_visits"] is not None and node["depth"]]
    tokens = sum(node["n_tokens"] or 0 for node in nodes)
    ended = (
        "" if root["tree_state"] == "finished" else f" <span class=no>ended early: {escape(root['reason'] or root['tree_state'])}</span>"
    )
    right, wrong = root["n_correct"], root["n_wrong"]
    line = (
        f"{len(steps):,} steps, {sum(node['n_ended'] or 0 for node in steps):,} simulations, {tokens:,} tokens sampled; "
        f"answers: {right:,} right, {wrong:,} wrong{ended}"
    )
    settings = ", ".join(f"{name} {value}" for name, value in json.loads(root["search"] or "{}").items() if not isinstance(value, dict))
    return (
        f"<h2>Tree {escape(root['tree_id'][:12])}</h2><p>{line}</p>"
        f"<details><summary>how it was searched</summary><p class=meta>{escape(settings)}, seed {root['seed']}</p></details>"
    )


def _node(node: Row, below: Mapping[str, Sequence[Row]], roles: Mapping[str, Sequence[str]]) -> str:
    """A step and what lies below it: last where the search went on, so that a small tree stands between a step and its siblings."""
    children = [child for child in below.get(node["node_id"], ()) if child["n_visits"] is not None]
    lost = [child for child in below.get(node["node_id"], ()) if child["n_visits"] is None]
    children.sort(key=lambda child: (child["chosen"], -(child["q"] or 0)))
    nested = "".join(_node(child, below, roles) for child in children)
    return f"<li>{_card(node, roles.get(node['node_id'], ()), lost)}{f'<ul>{nested}</ul>' if nested else ''}</li>"


def _card(node: Row, roles: Sequence[str], lost: Sequence[Row]) -> str:
    if not node["depth"]:
        return f'<div class="node root">prompt{_lost(lost)}</div>'
    marks = [*(f"<b class={role.split()[0]}>{role}</b>" for role in roles), *_ending(node)]
    kinds = " ".join(["node", *(["committed"] if node["chosen"] else []), *([] if node["n_visits"] else ["unvisited"])])
    graded = (node["n_correct"] or 0) + (node["n_wrong"] or 0)
    below = "" if node["terminal"] or not graded else f" · right below {node['n_correct']} of {graded}"
    numbers = f"Q {_number(node['q'])} · N {node['n_visits']} · p {_number(node['prior'], sign='')}{below}"
    return (
        f'<div class="{kinds}" style="--q: {_hue(node["q"])}"><p class=numbers>{numbers}</p>'
        f"<pre>{escape(node['text'].rstrip())}</pre>{'<p>' + ' '.join(marks) + '</p>' if marks else ''}{_lost(lost)}</div>"
    )


def _ending(node: Row) -> Iterable[str]:
    if node["state"] == "truncated":
        yield "<b class=wrong>cut off</b>"
    elif node["state"] == "dead_end":
        yield f"<b class=wrong>dead end</b> {escape(node['reason'] or '')}"
    elif node["outcome"] is not None and node["terminal"]:
        yield "<b class=right>right</b>" if node["outcome"] > 0 else "<b class=wrong>wrong</b>"
    elif node["terminal"]:
        yield "<b>answer, not graded</b>"


def _lost(nodes: Sequence[Row]) -> str:
    """Samples below a step that became no steps, counted by state."""
    if not nodes:
        return ""
    counts = ", ".join(f"{n} {escape(state)}" for state, n in Counter(node["state"] for node in nodes).items())
    listed = "".join(f"<pre>{escape(node['text'].rstrip())}</pre><p class=meta>{escape(node['reason'] or '')}</p>" for node in nodes)
    return f"<details class=lost><summary>below: {counts}</summary>{listed}</details>"


def _number(value: float | None, sign: str = "+") -> str:
    return "-" if value is None else f"{value:{sign}.2f}"


def _hue(q: float | None) -> int:
    """From red at -1 over yellow to green at 1."""
    return round(60 * (1 + max(-1.0, min(1.0, q or 0.0))))


def _legend() -> str:
    words = "".join(f"<dt>{name}</dt><dd>{meaning}</dd>" for name, meaning in LEGEND)
    return (
        f"<dl class=legend>{words}<dt>colour</dt><dd>Q, from red (-1) to green (1)</dd>"
        "<dt>bold frame</dt><dd>the search went on from here</dd></dl>"
    )
