"""What the documents say of the tree is true."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from pipelines.cli import main
from storage.views import VIEWS

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


def test_the_readme_names_every_view() -> None:
    said = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in VIEWS if f"`{name}`" not in said] == []


def test_the_embedded_example_names_its_files() -> None:
    said = (ROOT / "examples/arithmetic/README.md").read_text(encoding="utf-8")
    files = [path for pattern in ("*.py", "*.yaml", "*.md") for path in (ROOT / "examples/arithmetic").glob(pattern)]
    named = {path for path in files if f"`{path.name}`" in said or f"examples.arithmetic.{path.stem}`" in said}
    assert {path.name for path in files if path not in named} == {"__init__.py", "README.md"}


def test_the_help_of_run_names_places_that_are_there() -> None:
    run = main.commands["run"]
    named = [name.rstrip(".") for name in re.findall(r"[a-z]+/[\w/.*]*|README\.md", run.epilog or "")]
    assert len(named) == 8
    assert [name for name in named if not list(ROOT.glob(name))] == []


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
