"""Judges in flow `curate` and on their own: a panel, gold pairs before anything is bought, and `pairmill judge-check`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml
from safetensors.torch import load_file, save_file

from curators.errors import ConfigError
from pipelines.config_files import assigned
from pipelines.judging.config import CurateConfig, GoldConfig
from pipelines.judging.trials import read_gold
from pipelines.report.judge import sentence
from tests.pipelines.conftest import outcome, write_prompts

Pairmill = Callable[..., CompletedProcess[str]]

PROMPTS = [f"What is {i} + {i}?" for i in range(12)]
LOOSE = {"max_judge_inconsistent_share": None, "max_unscored_share": None}


def write_gold(path: Path, n: int = 40) -> Path:
    rows = [{"prompt": f"Question {i}", "chosen": f"Yes, {i}.", "rejected": f"No, {i} is not it."} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(tmp_path: Path, **given: object) -> str:
    prompts = str(write_prompts(tmp_path / "p.jsonl", PROMPTS))
    (tmp_path / "even.py").write_text("def even(*, prompt, response, reference):\n    return len(response) % 2 == 0\n")
    file = tmp_path / "curate.yaml"
    file.write_text(yaml.safe_dump({"dataset": "sums", "prompts": prompts, "policy": "fake:", "gates": LOOSE, **given}))
    return str(file)


def test_a_panel_labels_and_says_whether_it_is_worth_its_price(pairmill: Pairmill, tmp_path: Path) -> None:
    panel = {"judges": ["fake:judge", {"engine": "fake:", "rubric": "pairwise"}], "exclude_own": False, "quorum": 2, "min_agree": 2}
    done = pairmill("run", "curate", "--config", config(tmp_path, panel=panel, verifier="even:even"))
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    health = told["health"]
    assert health["judge"] == "panel:majority(fake:,fake:judge)"
    assert set(health["members"]) == {"fake:", "fake:judge"}
    assert health["panel"]["best"] in health["members"]
    filtered = health["consistency"]
    assert filtered["n"] == filtered["n_kept"] + sum(filtered["reasons"].values()) == 12 * 6
    assert len(filtered["audit"]) == 20
    assert {row["judge"] for row in health["panel"]["accuracy"]} == {"fake:", "fake:judge", "panel"}
    judged = json.loads(pairmill("sql", "SELECT judge, count(*) AS n FROM judgments GROUP BY 1 ORDER BY 1", "--json").stdout)
    by_judge = {row["judge"]: row["n"] for row in judged}
    assert by_judge["fake:"] == by_judge["fake:judge"] == 12 * 6 * 2
    labels = json.loads(pairmill("sql", "SELECT DISTINCT label_source FROM sums", "--json").stdout)
    assert labels == [{"label_source": "panel:majority(fake:,fake:judge)"}]


@pytest.mark.slow
def test_a_panel_of_real_models_loads_side_by_side_and_labels(pairmill: Pairmill, tmp_path: Path) -> None:
    """The embedded judge beside a copy of it whose last layer is louder, which makes it another judge. Both load at once."""
    arithmetic = Path(__file__).parents[3] / "examples/arithmetic"
    louder = Path(shutil.copytree(arithmetic / "judge", tmp_path / "louder"))
    weights = load_file(louder / "model.safetensors")
    save_file({name: tensor * (1.2 if "norm" in name else 1.0) for name, tensor in weights.items()}, louder / "model.safetensors")
    rubric = {"threads": 1, "rubric": str(arithmetic / "rubric.md"), "max_tokens": 320}
    judges = [{"engine": f"hf:{folder}", **rubric} for folder in (arithmetic / "judge", louder)]
    given = {"dataset": "sums", "prompts": str(arithmetic / "prompts.jsonl"), "limit": 16, "sampling": {"n": 3, "max_tokens": 160}}
    loose = {**LOOSE, "min_pairs": 1}
    file = tmp_path / "panel.yaml"
    policy = {"engine": f"hf:{arithmetic / 'policy'}", "threads": 1}
    file.write_text(yaml.safe_dump({**given, "policy": policy, "panel": {"judges": judges}, "gates": loose}))
    done = pairmill("run", "curate", "--config", str(file))
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    members = told["health"]["members"]
    assert len(members) == 2
    assert all(member["inconsistent"]["n"] > 10 for member in members.values())
    assert told["counts"]["pairs"] >= 1


def test_a_judge_that_gold_refuses_costs_nothing_more(pairmill: Pairmill, tmp_path: Path) -> None:
    gold = {"source": str(write_gold(tmp_path / "gold.jsonl")), "limit": 20}
    gates = {**LOOSE, "min_gold_agreement": 0.99}
    done = pairmill("run", "curate", "--config", config(tmp_path, judge="fake:judge", gold=gold, gates=gates))
    assert done.returncode == 3, done.stderr
    told = outcome(done)
    assert "min_gold_agreement" in told["refusal"]
    assert "gold pairs are judged as their label says" in told["refusal"]
    assert told["calls"]["samples"] == 20 * 2 + 1  # both orders, and whether it holds to a schema
    assert told["counts"] is None


@pytest.mark.slow
def test_gold_is_part_of_the_manifest_of_a_judge_that_passes(pairmill: Pairmill, tmp_path: Path) -> None:
    gold = {"source": str(write_gold(tmp_path / "gold.jsonl")), "limit": 20}
    gates = {**LOOSE, "min_gold_agreement": 0.01}
    done = pairmill("run", "curate", "--config", config(tmp_path, judge="fake:judge", gold=gold, gates=gates))
    assert done.returncode == 0, done.stderr
    shown = json.loads(pairmill("show", "sums", "--json").stdout)["manifest"]
    assert shown["trial"]["agreement"]["n"] == 20
    assert {gate["name"]: gate["passed"] for gate in shown["gates"]}["min_gold_agreement"] is True


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"judge": "fake:judge", "panel": {"judges": ["fake:", "fake:judge"]}}, "give `judge` or `panel`, not both"),
        ({"panel": {"judges": ["fake:judge"]}}, "panel.judges: tuple should have at least 2 items"),
        ({"verifier": "numeric", "gold": "gold.jsonl"}, "`gold` tries judges, and there are none"),
        ({"judge": {"engine": "fake:", "min_channel": "vote"}}, "judge.min_channel: input should be 'options', 'json' or 'text'"),
    ],
)
def test_judges_that_do_not_fit_together_are_refused(given: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        assigned(CurateConfig, {"dataset": "d", "prompts": "p.jsonl", "policy": "fake:", **given}, ())


@pytest.mark.slow
def test_judge_check_measures_a_judge_and_a_rerun_is_free(pairmill: Pairmill, tmp_path: Path) -> None:
    gold = str(write_gold(tmp_path / "gold.jsonl"))
    arguments = ("judge-check", "--judge", "fake:judge", "--gold", gold, "--limit", "30", "--to", "judge.html")
    first = pairmill(*arguments, "--json")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert (told["health"]["agreement"]["n"], told["calls_needed"], told["health"]["channels"]) == (30, 60, {"json": 60})
    again = json.loads(pairmill(*arguments, "--json").stdout)
    assert again["calls"]["requests"] == 0
    assert again["health"] == told["health"]
    page = (tmp_path / "judge.html").read_text()
    assert "pairs decided by the gold and judged as it does" in page
    assert "<script" not in page
    table = pairmill(*arguments)
    assert "Cohen's kappa with the gold" in table.stdout


def test_judge_check_refuses_by_a_bound_and_says_what_is_wrong(pairmill: Pairmill, tmp_path: Path) -> None:
    gold = str(write_gold(tmp_path / "gold.jsonl"))
    done = pairmill("judge-check", "--judge", "fake:judge", "--gold", gold, "--set", "bounds.min_judge_agreement=0.95")
    assert done.returncode == 3
    assert "NO" in done.stdout
    missing = pairmill("judge-check", "--judge", "fake:judge", "--gold", "nowhere.jsonl")
    assert missing.returncode == 1
    assert "gold: no file 'nowhere.jsonl'" in missing.stderr
    weak = pairmill("judge-check", "--judge", "fake:judge", "--gold", gold, "--set", "judge.min_channel=options")
    assert weak.returncode == 1
    assert "cannot be asked by min_channel options" in weak.stderr


def test_gold_without_a_label_says_what_became_of_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    file.write_text("".join(json.dumps({"q": "Q", "x": "a", "y": "b", "who": n}) + "\n" for n in (1, 2)))
    columns = {"prompt": "q", "output_a": "x", "output_b": "y", "label": "who"}
    with pytest.raises(ConfigError, match=r"no row holds a label .*2.*; the first: .*label"):
        read_gold(GoldConfig(source=str(file), columns=columns))
    with pytest.raises(ConfigError, match="'sums' is neither a file nor a version of the lake"):
        read_gold(GoldConfig(source="sums"))


def test_the_page_says_how_right_a_judge_is_where_it_decides() -> None:
    share = {"n": 60, "hits": 19, "share": 0.317, "low": 0.213, "high": 0.442}
    sided = {"n": 19, "hits": 19, "share": 1.0, "low": 0.832, "high": 1.0}
    told = sentence({"agreement": share, "agreement_decided": sided})
    assert told == "Of 60 pairs with a label it names a side in 19, and is right in 100.0% of those (83.2% to 100.0%): better than a coin."
    assert "nothing shows" in sentence({"agreement": share, "agreement_decided": {"n": 0}})
