"""Flow `evidence`: what the differences of trainings say, what every training gets, and the flow with a trainer of one's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from curators.errors import ConfigError, CurationError
from pipelines.config_files import load_config
from pipelines.evidence.config import EvidenceConfig
from pipelines.evidence.trainings import Evidence, difference, tabled
from pipelines.report.evidence import build_evidence, difference_rows
from tests.pipelines.conftest import outcome

Pairmill = Callable[..., CompletedProcess[str]]

EXAMPLES = Path(__file__).parents[2] / "examples/arithmetic"
EXAM = {
    "prompts": str(EXAMPLES / "eval.jsonl"),
    "verifier": "examples.arithmetic.world:check_answer",
    "n_prompts": 12,
    "n": 2,
    "max_tokens": 120,
}
# A trainer that makes the policy worse the longer its file of pairs is, and never twice the same.
TRAINER = """
import json, pathlib, shutil, sys
import torch
from safetensors.torch import load_file, save_file
handoff, policy, out, params = map(pathlib.Path, sys.argv[1:])
given = json.loads(params.read_text())
noise = 2.0 if len((handoff / "train.jsonl").read_text().splitlines()) > 25 else 0.0
shutil.copytree(policy, out / "checkpoint", dirs_exist_ok=True)
torch.manual_seed(given["seed"])
weights = load_file(policy / "model.safetensors")
noisy = {name: w + noise * w.std() * torch.randn_like(w) if w.ndim > 1 else w for name, w in weights.items()}
save_file(noisy, out / "checkpoint" / "model.safetensors", {"format": "pt"})
(out / "result.json").write_text(json.dumps({"checkpoint": "checkpoint", "metrics": {}}))
"""


def table(*rows: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(rows)


def test_the_same_trainings_differ_by_nothing_and_one_prompt_is_no_proof() -> None:
    """All seeds agree that one prompt of forty comes out better: what the exam drew is in the interval."""
    base = np.zeros((3, 40))
    assert difference(base, base)["verdict"] == "no difference shown"
    other = base.copy()
    other[:, 0] = 1.0
    found = difference(base, other)
    assert found["difference"] == pytest.approx(1 / 40)
    assert (found["low"] < 0, found["verdict"]) == (True, "no difference shown")


def test_intervals_hold_both_chances() -> None:
    """By hand: seeds .5 and .7 against .5 and .7 of 2 prompts that all move by .4."""
    base, other = table([0.4, 0.6], [0.6, 0.8]), table([0.8, 1.0], [1.0, 1.2])
    found = difference(base, other)
    half = 4.302652729911275 * (0.02 / 2 + 0.02 / 2) ** 0.5  # Welch's degrees of freedom are 2; the prompts do not differ
    assert (found["low"], found["high"]) == (pytest.approx(0.4 - half), pytest.approx(0.4 + half))
    rng = np.random.default_rng(0)
    exam = rng.random(400)
    worse, better = (np.clip(exam + shift + rng.normal(0, 0.01, (5, 1)), 0, 2) for shift in (0.0, 0.2))
    assert difference(worse, better)["verdict"] == "better"
    assert difference(better, worse)["verdict"] == "worse"


def test_about_nineteen_intervals_in_twenty_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        hard = rng.random(60)
        sides = [rng.binomial(4, np.clip(hard + rng.normal(0, 0.03, (5, 1)), 0, 1)) / 4 for _ in range(2)]
        found = difference(*sides)
        held += found["low"] <= 0 <= found["high"]
    assert 0.95 <= held / 400 <= 1.0


def test_only_prompts_that_every_training_was_graded_on_count() -> None:
    one, other = tabled([[{"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 1.0, "b": 1.0}], [{"a": 0.0, "b": 0.0}, {"b": 1.0, "a": 0.5, "d": 1.0}]])
    assert one.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert other.tolist() == [[0.0, 0.0], [0.5, 1.0]]
    with pytest.raises(CurationError, match="1 prompts of the exam have a score from every training"):
        tabled([[{"a": 1.0}], [{"a": 1.0}]])


def config_of(**changes: Any) -> EvidenceConfig:
    given = {"versions": ["a@1", "b@1"], "evaluation": EXAM, **changes}
    found = load_config("evidence", None, [f"{name}={json.dumps(value)}" for name, value in given.items()])
    assert isinstance(found, EvidenceConfig)
    return found


def test_trainings_have_seeds_and_the_page_shows_them_all() -> None:
    releases: Any = tuple(SimpleNamespace(ref=ref, digest=ref, n_pairs=n) for ref, n in (("a@1", 80), ("b@1", 40), ("a@1", 80)))
    evidence = Evidence(config=config_of(seeds=3), releases=releases, params={"max_steps": 15}, policy=None)
    seeds = [evidence.training(place, number).params for place in (0, 1, 2) for number in range(3)]
    assert [each["seed"] for each in seeds] == [0, 1, 2, 0, 1, 2, 3, 4, 5], "other seeds where a version stands again"
    assert {each["max_steps"] for each in seeds} == {15}
    evidence.scores = [[{"p": 0.0, "q": 1.0}] * 3, [{"p": 1.0, "q": 1.0}] * 3, [{"p": 0.0, "q": 1.0}] * 3]
    evidence.before = {"p": 0.0, "q": 0.5}
    told = evidence.outcome()
    assert (told["accuracy_before"], told["versions"][1]["accuracies"]) == (0.25, [1.0, 1.0, 1.0])
    assert [row["difference"][:6] for row in difference_rows(told)] == ["-", "+50.0%", "+0.0% "]
    assert "no difference shown (a@1)" in build_evidence(told)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"versions": ["a@1"]}, "versions: tuple should have at least 2 items"),
        ({"params": {"seed": 1}}, "params.seed: every training has one of its own"),
        ({"seeds": 1}, "seeds: input should be greater than or equal to 2"),
    ],
)
def test_what_shows_nothing_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config_of(**changes)


@pytest.mark.slow
def test_versions_are_compared_by_a_trainer_of_ones_own(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER)
    for name, n in (("few", 20), ("many", 40)):
        rows = [{"prompt": f"What is {i}?", "chosen": f"{i}, {name}", "rejected": "I do not know"} for i in range(n)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert pairmill("import", f"{name}.jsonl", "--as", name).returncode == 0
    command = f"{sys.executable} trainer.py {{handoff}} {{policy}} {{out}} {{params}}"
    given = {
        "versions": ["few@1", "few@1", "many@1"],
        "seeds": 2,
        "policy": {"engine": f"hf:{EXAMPLES / 'policy'}", "threads": 1},
        "command": command,
        "handoff_format": "jsonl",
        "evaluation": EXAM,
    }
    file = tmp_path / "evidence.yaml"
    file.write_text(yaml.safe_dump(given))
    done = pairmill("run", "evidence", "--config", str(file))
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    same, many = told["differences"]
    assert (same["difference"], same["verdict"]) == (0.0, "no difference shown"), "its trainer does nothing with so few"
    assert many["verdict"] == "worse"
    assert not (lake_root / "checkpoints").exists()
    again = outcome(pairmill("run", "evidence", "--config", str(file)))
    assert again["differences"] == told["differences"]
    assert again["seconds"] < told["seconds"]
