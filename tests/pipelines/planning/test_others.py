"""Plans of the other flows against their runs, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from pipelines.config_files import load_config
from pipelines.contrasting.config import ContrastConfig
from pipelines.planning.derived import plan_contrast, plan_select
from pipelines.planning.flows import plan_of
from pipelines.planning.plan import Plan
from pipelines.planning.steps import plan_steps
from pipelines.selecting.config import SelectionConfig
from tests.pipelines import test_contrast, test_steps
from tests.pipelines.conftest import write_prompts
from tests.pipelines.planning.conftest import files_of
from tests.pipelines.selecting.conftest import import_rows, rows, selected

ROOT = Path(__file__).parents[3]
POLICY = f"last-token:{ROOT}/examples/arithmetic/policy"
PROFILES = ["You write for children.", "You write for experts.", "You write for pirates."]


async def test_earlier_trees_tell_what_a_search_takes(tmp_path: Path, lake_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "by_length.py").write_text(test_steps.VERIFIER)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_prompts(tmp_path / "p.jsonl", [f"What is {i} + {i}?" for i in range(12)])
    config = test_steps.config_in(tmp_path, lake_root)
    bounds = await plan_steps(config)
    first = await test_steps.staged(config)
    assert bounds.calls.low <= first["calls"]["requests"] <= (bounds.calls.high or 0)
    assert (bounds.calls.expected, bounds.more["trees"]) == (None, {"known": 0, "to_search": 12})
    other = config.model_copy(update={"seed": 3})
    before = files_of(lake_root)
    plan = await plan_steps(other)
    assert files_of(lake_root) == before
    done = await test_steps.staged(other)
    assert plan.calls.low <= done["calls"]["requests"] <= (plan.calls.high or 0) < (bounds.calls.high or 0)
    assert plan.calls.expected is not None
    known = await plan_steps(config.model_copy(update={"dataset": "other"}))
    assert (known.calls.high, known.more["trees"], known.version) == (0, {"known": 12, "to_search": 0}, "other@1")
    assert known.rows is not None
    assert known.rows.expected == first["counts"]["pairs"]


async def test_first_requests_of_contrasts_are_counted_and_checks_are_bounded(tmp_path: Path, lake_root: Path) -> None:
    await test_contrast.imported(lake_root, tmp_path)
    fixed = _contrast(lake_root, methods={"janus": {"profiles": PROFILES}}, writer="fake:")
    plan = await plan_contrast(fixed)
    assert plan.calls.low == plan.calls.high == (await test_contrast.staged(fixed))["calls"]["requests"] > 0
    checked = _contrast(lake_root, methods={"rlcd": {}}, writer="fake:", judge="fake:judge", dataset="checked")
    plan = await plan_contrast(checked)
    done = await test_contrast.staged(checked)
    assert plan.calls.low <= done["calls"]["requests"] <= (plan.calls.high or 0)
    again = await plan_contrast(_contrast(lake_root, methods={"rlcd": {}}, writer="fake:", judge="fake:judge", dataset="again"))
    assert again.calls.high == 0
    assert again.rows is not None
    assert (again.version, again.rows.expected) == ("again@1", done["counts"]["pairs"])


def _contrast(lake: Path, **values: Any) -> ContrastConfig:
    return test_contrast.config_of(lake, **{"gates": {"min_pairs": 1}, **values})


@pytest.mark.slow  # it loads the encoder
async def test_a_selection_asks_for_vectors_and_no_calls(tmp_path: Path, lake_root: Path) -> None:
    await import_rows(lake_root, "big", rows(8), tmp_path)

    def plan(**values: Any) -> Plan:
        shared = {"dataset": "small", "source": "big", "lake": str(lake_root), "encoder": POLICY, "selector": "k_center"}
        return plan_select(SelectionConfig.model_validate({**shared, **values}))

    before = files_of(lake_root)
    new = plan(budget=4)
    assert files_of(lake_root) == before
    assert (new.calls.high, new.more["texts"], new.version) == (0, {"known": 0, "to_embed": 8}, "small@1")
    told, _ = await selected(lake_root, encoder=POLICY, selector="k_center", budget=4)
    assert plan(budget=4).published == "small@1"
    fewer = plan(budget=3)
    assert fewer.more["texts"] == {"known": 8, "to_embed": 0}
    after, _ = await selected(lake_root, encoder=POLICY, selector="k_center", budget=3)
    assert fewer.diff is not None
    assert (fewer.diff.digest, fewer.diff.n_removed, told["counts"]["pairs"]) == (after["digest"], 1, 4)


def test_the_command_prints_a_table_or_json_and_makes_no_lake(tmp_path: Path, lake_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = write_prompts(tmp_path / "p.jsonl", ["What is 1 + 1?", "What is 2 + 2?"])
    asked = ["--lake", str(lake_root), "--set", "dataset=sums", "--set", f"prompts={prompts}", "--set", "policy=fake:"]
    shown = CliRunner().invoke(main, ["plan", "curate", *asked, "--set", "judge=fake:judge", "--set", "caps.calls=3"])
    assert shown.exit_code == 0, shown.output
    assert "the run may end early, at 3 calls of 27 (3 to 77) that it needs" in shown.output
    assert "sums@1" in shown.output
    told = json.loads(CliRunner().invoke(main, ["plan", "curate", *asked, "--set", "judge=fake:judge", "--json"]).output)
    assert (told["calls"]["expected"], told["lines"][1]["calls"]) == (27, {"expected": 2, "low": 2, "high": 2})
    night = tmp_path / "night.yaml"
    night.write_text(
        f"name: night\nseed: 1\ncurate: {{dataset: n, prompts: {prompts}, policy: 'fake:', judge: 'fake:judge'}}\n"
        "select: {dataset: s, source: n, budget: 1}\n"
    )
    whole = json.loads(CliRunner().invoke(main, ["plan", "nightly", "--config", str(night), "--lake", str(lake_root), "--json"]).output)
    assert (whole["calls"], [stage["flow"] for stage in whole["stages"]]) == (told["calls"], ["curate"])
    assert "select starts from n, which is published in the same night" in whole["notes"][0]
    assert not lake_root.exists()
    for more, said in (
        (["--set", "caps.usd=1", "--set", "judge=openai:j@http://127.0.0.1:9/v1"], "budget: a cap of 1.0 USD, but openai:j"),
        (["--set", "judge=fake:judge", "--set", "prompts=none.jsonl"], "prompts: no file 'none.jsonl'"),
    ):
        failed = CliRunner().invoke(main, ["plan", "curate", *asked, *more])
        assert failed.exit_code == 1
        assert failed.output.startswith(f"pairmill: {said}")
        assert failed.output.count("\n") == 1


def test_an_import_is_computed(tmp_path: Path, lake_root: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(5)))
    config = load_config("import", None, [f"files=[{tmp_path}/rows.jsonl]", "dataset=old", f"lake={lake_root}"])
    told = plan_of("import", config).told()
    assert (told["calls"]["high"], told["rows"]["expected"], told["version"]) == (0, 5, "old@1")
    assert not lake_root.exists()
