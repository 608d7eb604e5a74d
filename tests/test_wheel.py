"""The wheel: what it holds, and that its flows run outside a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_three_packages_and_the_flows(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"curators", "storage", "pipelines"}
    assert {"pipelines/flows.yaml", "pipelines/report/style.css", "curators/judging/rubrics/pairwise.md"} <= set(names)


@pytest.mark.slow
def test_a_flow_of_the_wheel_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Unpacked where no checkout is in sight, with the dependencies of this environment and engines given by --set."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "p.jsonl").write_text('{"prompt": "What is 1 + 1?"}\n{"prompt": "What is 2 + 3?"}\n')
    env = {**os.environ, "PYTHONPATH": str(site), "PAIRMILL_LAKE": str(tmp_path / "lake")}
    env.pop("PREFECT_API_URL", None)
    where = "import pipelines, sys; sys.stdout.write(pipelines.__file__)"
    assert subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=env, capture_output=True, text=True).stdout.startswith(str(site))
    values = [
        "dataset=w",
        "prompts=p.jsonl",
        "policy=fake:",
        "judge=fake:judge",
        "gates.max_judge_inconsistent_share=null",
        "pairs.policy=all_pairs",
    ]
    command = [sys.executable, "-m", "pipelines.cli", "run", "curate", *(part for value in values for part in ("--set", value))]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["version"] == 1
    for entrypoint in ("pipelines.flows.curate.curate", "pipelines.flows.train.train", "pipelines.flows.importing.import_dataset"):
        load = f"from prefect.flows import load_flow_from_entrypoint as load; print(load({entrypoint!r}, use_placeholder_flow=False).name)"
        found = subprocess.run([sys.executable, "-c", load], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
