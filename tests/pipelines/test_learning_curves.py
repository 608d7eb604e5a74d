"""`pairmill learning-curve`: checkpoints of a dataset's versions as one curve; what is no point of it is named; no size without a fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from curators.selection.learning_curve import plateau_law
from pipelines.cli import main
from storage.checkpoints import register

SIZES = (10, 25, 50, 100, 200)


def trained(lake: Path, version: int, pairs: int | None, gain: float | None, *, dataset: str = "small", parent: str = "p") -> None:
    model = lake / "model"
    model.mkdir(parents=True, exist_ok=True)
    (model / "weights").write_text(f"{dataset}{version}{parent}")
    evaluation = None if gain is None else {"gain": gain, "low": gain - 0.01, "high": gain + 0.01, "se": 0.005}
    metrics = {"evaluation": evaluation, "training": {} if pairs is None else {"n_pairs": pairs}}
    register(
        lake, dataset, model, fingerprint=f"f{dataset}{version}{parent}", parent=parent, dataset=f"{dataset}@{version}", metrics=metrics
    )


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    for version, size in enumerate(SIZES, 1):
        trained(tmp_path, version, size, float(plateau_law(np.array([size]), 0.2, 0.2, 0.05)[0]))
    return tmp_path


def curve(lake: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["learning-curve", *arguments, "--lake", str(lake)])


def test_the_plateau_of_the_law_and_its_size_are_found_again(lake: Path, tmp_path: Path) -> None:
    done = curve(lake, "small", "--json", "--to", str(tmp_path / "page.html"))
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert [point["pairs"] for point in told["points"]] == list(SIZES)
    assert told["fit"]["state"] == "ok"
    assert told["fit"]["plateau"]["value"] == pytest.approx(0.2, rel=0.01)
    assert told["fit"]["recommended"] == pytest.approx(np.log(20) / 0.05, rel=0.05)
    page = (tmp_path / "page.html").read_text()
    assert "<svg" in page
    assert "95% of the gain" in page


def test_what_is_no_point_is_named_with_its_reason(lake: Path) -> None:
    trained(lake, 8, 300, 0.5, parent="other")
    trained(lake, 9, 300, None)
    trained(lake, 10, None, 0.2)
    trained(lake, 11, 300, 0.2, dataset="elsewhere")
    done = curve(lake, "small")
    assert "another policy (other)" in done.stdout
    assert "not evaluated" in done.stdout
    assert "n_pairs" in done.stdout
    assert "elsewhere" not in done.stdout
    assert "elsewhere@11" in curve(lake, "small", "elsewhere").stdout


def test_too_few_sizes_recommend_nothing(tmp_path: Path) -> None:
    for version, size in enumerate((10, 100), 1):
        trained(tmp_path, version, size, size / 1000)
    done = curve(tmp_path, "small")
    assert done.exit_code == 0
    assert "no size can be recommended: 3 different sizes" in done.stdout


def test_a_dataset_that_nothing_was_trained_on_is_one_line(tmp_path: Path) -> None:
    done = curve(tmp_path, "small")
    assert done.exit_code == 1
    assert done.stderr == "pairmill: learning-curve: no checkpoint was trained on small; `pairmill run train` registers them\n"
