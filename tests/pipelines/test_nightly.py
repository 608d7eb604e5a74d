"""Flow `nightly`: which stages follow from which, what a stage that came to nothing leaves out, and the whole card as a user runs it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from curators.errors import ConfigError
from pipelines.config_files import load_config
from pipelines.nightly.config import NightlyConfig
from pipelines.nightly.stages import Night
from pipelines.report.lineage import lineage_chart
from pipelines.report.night import build_night
from tests.pipelines.conftest import outcome, write_prompts

Pairmill = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
POLICY = str(ROOT / "examples/arithmetic/policy")
CURATE = {"dataset": "sums", "prompts": "p.jsonl", "policy": "fake:", "verifier": "by_length:odd"}
STEPS = {
    **CURATE,
    "dataset": "trees",
    "search": {"simulations": 8, "max_depth": 6},
    "steps": {"delimiter": " ", "answer": "what|holds|so|it"},
}
SELECT = {"dataset": "few", "source": "sums", "budget": 0.5, "selector": "random"}
CONTRAST = {"dataset": "edits", "source": "sums", "methods": ["reversed", "mapl_intra"], "gates": {"max_duplicate_share": None}}
TRAIN = {"dataset": "few", "policy": f"hf:{POLICY}", "command": f"{sys.executable} trainer.py {{policy}} {{out}}"}
CARD: dict[str, Any] = {"seed": 7, "curate": CURATE, "steps": STEPS, "select": SELECT, "contrast": CONTRAST, "train": TRAIN}
TRAINER = """
import json, pathlib, shutil, sys
policy, out = map(pathlib.Path, sys.argv[1:])
shutil.copytree(policy, out / "checkpoint", dirs_exist_ok=True)
(out / "result.json").write_text(json.dumps({"checkpoint": "checkpoint", "metrics": {"loss": 0.5}}))
"""


def card(folder: Path, **changes: Any) -> str:
    """A night on fakes, as a file; null switches a stage off."""
    (folder / "by_length.py").write_text("def odd(*, prompt, response, reference):\n    return len(response) % 2 == 1\n")
    (folder / "trainer.py").write_text(TRAINER)
    write_prompts(folder / "p.jsonl", [f"What is {i} + {i}?" for i in range(50)])
    file = folder / "nightly.yaml"
    file.write_text(yaml.safe_dump({**CARD, **changes}))
    return str(file)


def night_of(**changes: Any) -> Night:
    config = load_config("nightly", None, [f"{name}={json.dumps(value)}" for name, value in {**CARD, **changes}.items()])
    assert isinstance(config, NightlyConfig)
    return Night(config=config, seed=7)


def published(version: int) -> Callable[[Any], Any]:
    async def flow(config: Any) -> dict[str, Any]:
        asked.append(config)
        return {"outcome": "published", "dataset": config.dataset, "version": version, "calls": None}

    return flow


asked: list[Any] = []


async def refused(config: Any) -> dict[str, Any]:
    return {"outcome": "refused", "dataset": config.dataset, "version": None, "refusal": "min_pairs", "calls": None}


async def broken(config: Any) -> dict[str, Any]:
    raise RuntimeError("the disk is full")


async def test_a_stage_starts_from_this_nights_version_with_the_nights_seed_and_lake() -> None:
    asked.clear()
    night = night_of(lake="here", select={**SELECT, "seed": 3})
    for stage, version in (("curate", 4), ("select", 2), ("contrast", 9), ("train", 1)):
        await night.run(stage, published(version))  # type: ignore[arg-type]
    curate, select, contrast, train = asked
    assert (curate.seed, curate.lake, select.seed) == (7, "here", 3)
    assert (select.source, contrast.source, train.dataset) == ("sums@4", "sums@4", "few@2")


async def test_what_comes_to_nothing_leaves_out_what_starts_from_it_and_nothing_else() -> None:
    night = night_of()
    await night.run("curate", refused)
    await night.run("steps", broken)
    for stage in ("select", "contrast", "train"):
        await night.run(stage, published(1))  # type: ignore[arg-type]
    told = {each["stage"]: (each["outcome"], each.get("reason")) for each in night.done}
    assert told == {
        "curate": ("refused", None),
        "steps": ("failed", "RuntimeError: the disk is full"),
        "select": ("skipped", "curate published no version of sums to start from"),
        "contrast": ("skipped", "curate published no version of sums to start from"),
        "train": ("skipped", "select published no version of few to start from"),
    }
    assert night.outcome()["outcome"] == "failed"
    assert night.problems() == ["steps: RuntimeError: the disk is full"]
    page = build_night(night.outcome())
    assert all(text in page for text in ("the disk is full", "min_pairs", "select published no version"))


async def test_a_stage_on_a_version_for_good_runs_whatever_became_of_the_night() -> None:
    asked.clear()
    night = night_of(contrast={**CONTRAST, "source": "others@prod"})
    await night.run("curate", refused)
    await night.run("contrast", published(1))
    assert [each.source for each in asked] == ["others@prod"]
    assert night.outcome()["outcome"] == "refused"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (dict.fromkeys(("curate", "steps", "select", "contrast", "train")), "every stage is switched off"),
        ({"steps": {**STEPS, "dataset": "sums"}}, "steps.dataset: 'sums' is what curate publishes"),
        ({"select": {**SELECT, "source": "edits"}}, "select starts from 'edits', which contrast publishes after it"),
        ({"curate": {**CURATE, "lake": "elsewhere"}}, "curate.lake: all stages share the night's lake"),
        ({"curate": {**CURATE, "polcy": "x"}}, r"curate.polcy: no such key .* did you mean 'policy'"),
    ],
)
def test_cards_that_cannot_be_played_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        night_of(**changes)


def test_lineage_is_drawn_from_left_to_right() -> None:
    drawn = lineage_chart({"c": "last", "a@1": "first", "b@1": "<script>"}, [("a@1", "b@1"), ("b@1", "c"), ("a@1", "c")])
    at = {label: float(x) for x, label in re.findall(r' x="([\d.]+)" y="[\d.]+"[^>]*>([^<]+)</text>', drawn)}
    assert at["first"] < at["&lt;script&gt;"] < at["last"]
    assert lineage_chart({}, []) == ""


@pytest.mark.slow
def test_the_command_plays_the_card_and_again_buys_nothing(pairmill: Pairmill, tmp_path: Path) -> None:
    file = card(tmp_path)
    first = pairmill("run", "nightly", "--config", file)
    assert first.returncode == 0, first.stderr
    told = outcome(first)
    stages = {each["stage"]: each for each in told["stages"]}
    assert list(stages) == ["curate", "steps", "select", "contrast", "train"]
    assert {each["outcome"] for each in told["stages"]} == {"published", "trained"}
    assert stages["select"]["parents"][0]["ref"] == stages["contrast"]["parents"][0]["ref"] == "sums@1"
    assert stages["train"]["dataset"] == "few@1"
    assert told["calls"]["requests"] == sum(stages[stage]["calls"]["requests"] for stage in ("curate", "steps", "contrast")) > 50
    page = Path(tmp_path / told["report"]).read_text()
    assert all(each in page for each in ("sums@1", "trees@1", "few@1", "edits@1", "checkpoint:few@1"))
    again = outcome(pairmill("run", "nightly", "--config", file))
    assert again["outcome"] == "reused"
    assert {each["outcome"] for each in again["stages"]} == {"reused"}
    assert (again["calls"]["requests"], [each["version"] for each in again["stages"][:4]]) == (0, [1, 1, 1, 1])


@pytest.mark.slow
def test_a_stage_that_fails_ends_the_command_with_one_line_and_a_page(pairmill: Pairmill, tmp_path: Path) -> None:
    done = pairmill("run", "nightly", "--config", card(tmp_path, train={**TRAIN, "command": f"{sys.executable} nowhere.py"}, steps=None))
    assert done.returncode == 1
    assert "1 of 4 stages failed: train: " in done.stderr
    assert "Traceback" not in done.stderr
    (page,) = (tmp_path / "lake" / "nights" / "nightly").glob("*.html")
    assert "few@1" in page.read_text()
