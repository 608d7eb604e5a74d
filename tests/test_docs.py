"""What the documents say of the tree is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from pipelines.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_every_place_on_the_readmes_map_is_there() -> None:
    table = (ROOT / "README.md").read_text().split("## The house")[1]
    places = re.findall(r"`([\w/.]+/[\w./]*)`", table)
    assert len(places) > 20
    assert [place for place in places if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_document_that_the_code_cites_is_there() -> None:
    cited = {
        (name, path.relative_to(ROOT).as_posix())
        for package in ("curators", "storage", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"\bdocs/[\w-]+(?:\.md)?", path.read_text())
    }
    assert cited
    assert [where for where in sorted(cited) if not (ROOT / where[0]).exists()] == []


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"pairmill ([\w-]+)", (ROOT / "README.md").read_text()))
    listed = set(re.findall(r"^pairmill (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)[0].replace("|", " ").split())
    known = set(main.list_commands(click.Context(main)))
    assert {name for name in named | listed if name.islower() and name.replace("-", "").isalpha()} <= known


def test_every_make_target_of_the_readme_exists() -> None:
    named = set(re.findall(r"^make ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named
    for target in named:
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0, target


def test_make_bench_runs_every_benchmark_that_needs_no_argument() -> None:
    (listed,) = re.findall(r"for name in ([\w ]+); do .*benchmarks/\$\$name\.py", (ROOT / "Makefile").read_text())
    whole = [path.stem for path in (ROOT / "benchmarks").glob("*.py") if "required=True" not in path.read_text()]
    assert sorted(listed.split()) == sorted(whole)


def test_nothing_tracked_names_this_machine_or_an_index() -> None:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not a git checkout")
    leak = re.compile(r"/(?:work|farm)/\w|/root/\w|(?:pypi|pythonhosted|npmjs)\.(?:org|com)/(?:simple|packages)")
    rows = []
    for name in filter(None, found.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".safetensors", ".png"} or not path.is_file() or path == Path(__file__):
            continue
        rows += [f"{name}:{i}" for i, line in enumerate(path.read_text(errors="ignore").splitlines(), 1) if leak.search(line)]
    assert rows == []
