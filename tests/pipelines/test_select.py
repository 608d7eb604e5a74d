"""Flow `select` as a user runs it: the command and a real Prefect server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

import storage
from tests.pipelines.conftest import outcome
from tests.pipelines.selecting.conftest import rows

Pairmill = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
DATA = ROOT / "../shared/data"
REAL = ("ultrafeedback_binarized_sample", "hh_rlhf_harmless_base_test")


def test_the_command_publishes_a_selection_and_then_knows_it(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(12)))
    assert pairmill("import", "rows.jsonl", "--as", "big").returncode == 0
    asked = (
        "run",
        "select",
        "--set",
        "dataset=small",
        "--set",
        "source=big",
        "--set",
        f"encoder=last-token:{ROOT}/examples/arithmetic/policy",
    )
    first = pairmill(*asked, "--set", "selector=k_center", "--set", "budget=0.25", "--set", "tag=prod")
    assert first.returncode == 0, first.stderr
    told = outcome(first)
    assert (told["outcome"], told["counts"]["pairs"], told["parents"][0]["ref"]) == ("published", 3, "big@1")
    assert "texts: 12/12" in first.stderr
    with storage.open_lake(lake_root) as lake:
        assert storage.resolve(lake, "small@prod").version == 1
    refused = pairmill(*asked, "--set", "selector=random", "--set", "budget=5", "--set", "filters.length.min_words=900")
    assert refused.returncode == 3
    assert "no pair of big@1 is left by the filters" in outcome(refused)["refusal"]


@pytest.mark.slow
def test_a_mistake_is_one_line(pairmill: Pairmill, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(4)))
    assert pairmill("import", "rows.jsonl", "--as", "big").returncode == 0
    asked = ("run", "select", "--set", "dataset=small", "--set", "budget=2")
    for more, said in (
        (("source=bigg",), "there is no dataset 'bigg' in the lake: there are big; did you mean big?"),
        (("source=big", "selector=deita"), "scores: selector 'deita' goes by a numeric column of pairs, and 'score' is not there in big@1"),
    ):
        failed = pairmill(*asked, *(word for one in more for word in ("--set", one)))
        assert failed.returncode == 1
        assert failed.stderr.strip().splitlines()[-1].startswith(f"pairmill: {said}")
        assert "Traceback" not in failed.stderr


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the open data sets are not here")
@pytest.mark.parametrize("name", REAL)
def test_real_pairs_add_up(pairmill: Pairmill, tmp_path: Path, lake_root: Path, name: str) -> None:
    """At 10 % by three selectors after three filters; vectors are computed once."""
    assert pairmill("import", str(DATA / f"{name}.jsonl.gz"), "--as", "big").returncode == 0
    encoded: list[int] = []
    kept: dict[str, set[str]] = {}
    for selector in ("isa", "random", "k_center"):
        done = pairmill(
            *("run", "select", "--set", f"dataset={selector.replace('_', '-')}", "--set", "source=big", "--set", "budget=0.1"),
            *("--set", f"selector={selector}", "--set", "filters=[language, near_duplicate, refusal]"),
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = outcome(done)
        filtered, chosen = told["funnel"]
        for stage in (filtered, chosen):
            assert stage["n_in"] == stage["n_kept"] + sum(stage["dropped"].values())
        assert filtered["n_in"] == told["counts"]["source_pairs"]
        assert filtered["n_kept"] == chosen["n_in"] > 0.5 * filtered["n_in"]
        assert set(filtered["dropped"]) <= {"other_language", "near_duplicate", "refusal"}
        assert chosen["n_kept"] == told["counts"]["pairs"] == int(0.1 * chosen["n_in"] + 0.5)
        encoded.append(told.get("embedded", Counter())["encoded"] if "embedded" in told else 0)
        with storage.open_lake(lake_root) as lake:
            kept[selector] = set(storage.scan(storage.resolve(lake, told["dataset"])).collect()["pair_id"])
    assert encoded[0] > 0
    assert encoded[1:] == [0, 0]
    assert kept["isa"] != kept["random"] != kept["k_center"] != kept["isa"]
