"""The report: everything in one file, and nothing of a candidate's text runs."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from curators.schema import GENERATIONS, JUDGMENTS, PAIRS, PROMPTS, frame
from pipelines.report.differences import marked
from pipelines.report.lineage import family
from pipelines.report.page import build_report, write_report
from storage import Lake, Release, open_lake, publish, resolve
from storage.checkpoints import register

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def _messages(text: str, role: str = "assistant") -> str:
    return json.dumps([{"role": role, "content": text}])


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """One version with markup in every text that a model wrote."""
    pair: dict[str, Any] = dict.fromkeys(PAIRS)
    pair |= {"prompt": _messages(EVIL, "user"), "chosen": _messages(EVIL + "a"), "rejected": _messages("b" + EVIL), "split": "train"}
    pairs = [pair | {"pair_id": f"p{i}", "prompt_id": "q", "margin": i / 7, "chosen_id": "c", "rejected_id": "r"} for i in range(7)]
    judged = {"judgment_id": "j", "prompt_id": "q", "generation_ids": ["c", "r"], "order": 0, "label": "first", "state": "ok", "raw": EVIL}
    manifest = {
        "funnel": [{"stage": EVIL, "unit": "rows", "n_in": 8, "n_kept": 7, "dropped": {EVIL: 1}}],
        "gates": [{"name": EVIL, "figure": None, "bound": 1.0, "passed": False, "detail": EVIL}],
        "health": {"judge": EVIL, "n_judgments": 1, "states": {EVIL: 1}, "ok": {"n": 1, "hits": 1, "share": 1.0, "low": 0.2, "high": 1.0}},
        "rationales": {"writer": EVIL, "states": {EVIL: 1}, "explained": {"n": 7, "hits": 1, "share": 1 / 7, "low": 0.0, "high": 0.5}},
        "counts": {"pairs": 7},
        "capped": EVIL,
    }
    with open_lake(tmp_path / "lake") as lake:
        _facts(lake, judged)
        publish(lake, "evil", frame(pairs, PAIRS), manifest=manifest, author=EVIL, commit_id="one")
        return resolve(lake, "evil@1")


def _facts(lake: Lake, judged: dict[str, Any]) -> None:
    lake.append("prompts", frame([{"prompt_id": "q", "messages": _messages(EVIL, "user"), "state": "ok"}], PROMPTS), commit_id="p")
    texts = [{"generation_id": g, "prompt_id": "q", "text": EVIL, "state": "ok"} for g in "cr"]
    lake.append("generations", frame(texts, GENERATIONS), commit_id="g")
    lake.append("judgments", frame([judged], JUDGMENTS), commit_id="j")


def test_no_text_becomes_markup(release: Release) -> None:
    page = build_report(release)
    tags = Tags()
    tags.feed(page)
    assert "script" not in {tag for tag, _ in tags.seen}
    assert "img" not in {tag for tag, _ in tags.seen}
    assert not [name for _, attributes in tags.seen for name in attributes if name.startswith("on")]
    assert "alert(1)" in page, "the text itself is shown"


def test_nothing_is_fetched(release: Release) -> None:
    page = build_report(release)
    outside = [url for url in re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']+)", page) if not url.startswith("#")]
    assert not outside
    assert "@import" not in page
    assert "url(http" not in page


def test_the_page_says_what_the_manifest_says(release: Release) -> None:
    page = build_report(release)
    for text in ("evil@1", release.digest, "failed", "Ended early by a cap"):
        assert text in page
    assert page.count('<div class="pair">') == 5
    assert page == build_report(release)


def test_a_version_without_a_judge_or_margins(release: Release, tmp_path: Path) -> None:
    rows = pl.read_parquet(release.frozen / "pairs.parquet").with_columns(margin=pl.lit(None, dtype=pl.Float64))
    manifest = dict(release.manifest) | {"health": None}
    with open_lake(tmp_path / "lake") as lake:
        publish(
            lake, "plain", rows, manifest={k: manifest[k] for k in ("funnel", "gates", "health", "counts")}, author="a", commit_id="two"
        )
        page = build_report(resolve(lake, "plain@1"))
    assert "the labels came with the data" in page
    assert "margin unknown" in page


def test_what_a_version_was_made_of_and_trained_into_is_drawn(release: Release, tmp_path: Path) -> None:
    rows = pl.read_parquet(release.frozen / "pairs.parquet").head(1)
    manifest = {name: release.manifest[name] for name in ("funnel", "gates", "health", "counts")}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with open_lake(tmp_path / "lake") as lake:
        for name, told in (("first", {"policy": "hf-0123456789abcdef"}), ("second", {"parents": [{"ref": "first@1"}, {"ref": "gone@3"}]})):
            publish(lake, name, rows, manifest={**manifest, **told, "kind": "select"}, author="a", commit_id=name)
        register(lake.root, "small", tmp_path / "model", fingerprint="hf-1", dataset="second@1")
        child = resolve(lake, "second")
        nodes, edges = family(lake, child)
        page = write_report(lake, child, tmp_path / "page.html").read_text()
    assert edges == [
        ("first@1", "second@1"),
        ("policy hf-0123456789ab", "first@1"),
        ("gone@3", "second@1"),
        ("second@1", "checkpoint:small@1"),
    ]
    assert {name for edge in edges for name in edge} == set(nodes)
    assert all(name in page for name in nodes)


def test_what_differs_between_the_sides_is_marked() -> None:
    assert marked("a <b> c", "a <b> d") == ("a &lt;b&gt; <mark>c</mark>", "a &lt;b&gt; <mark>d</mark>")
    assert marked("same", "same") == ("same", "same")
    assert marked("", "<i>") == ("", "<mark>&lt;i&gt;</mark>")
    long = "word " * 4000
    assert marked(long, long + "x") == (long, long + "x")
