"""Flow `contrast` as a user runs it: the command and a real Prefect server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import storage
from tests.pipelines.conftest import outcome
from tests.pipelines.test_contrast import CHECK, N, adds_up, imported

Pairmill = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
ASKED = ("run", "contrast", "--set", "dataset=edits")


async def test_the_command_publishes_contrasts(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    done = pairmill(*ASKED, "--set", "source=sums", "--set", "methods=mapl_intra", "--set", "tag=prod", "--set", "shard_prompts=5")
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    assert (told["outcome"], told["counts"]["joint_pairs"], told["parents"][0]["ref"]) == ("published", 3 * N, "sums@1")
    assert f"prompts: {N}/{N}" in done.stderr
    with storage.open_lake(lake_root) as lake:
        assert storage.resolve(lake, "edits@prod").version == 1


@pytest.mark.slow
async def test_a_run_without_a_pair_is_refused_and_wrong_words_name_what_there_is(
    pairmill: Pairmill, tmp_path: Path, lake_root: Path
) -> None:
    await imported(lake_root, tmp_path)
    refused = pairmill(*ASKED, "--set", "source=sums", "--set", "methods={mapl_intra: {n_constraints: 15}}")
    assert refused.returncode == 3
    assert adds_up(outcome(refused))["contrast/mapl_intra attempts"]["dropped"] == {"unsatisfiable": 3 * N}
    counted = pairmill("sql", "--json", "SELECT state, count(*) AS n FROM contrasts GROUP BY ALL")
    assert f'"n":{3 * N}' in counted.stdout.replace(" ", "")
    failed = pairmill(*ASKED, "--set", "source=sum", "--set", "methods=mapl_intra")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("pairmill: there is no dataset 'sum' in the lake: there are sums; did you mean sums?")
    assert "Traceback" not in failed.stderr
    for more, said in {
        ("methods=mapl",): "pairmill: methods: 'mapl' is not one; there are rlcd, clair, ladder",
        ("methods={ladder: {step: 1}}",): "pairmill: methods.ladder: no setting 'step'; there are operator, degrees",
        ("methods=[ladder]",): "pairmill: methods.ladder needs `verifier` (a shipped check or module:function)",
        ("methods=clair", "writer=fake:", "judge=fake:reward"): "pairmill: judge: ",
    }.items():
        failed = pairmill(*ASKED, "--set", "source=sums", *(word for one in more for word in ("--set", one)))
        assert (failed.returncode, len(failed.stderr.splitlines())) == (1, 1)
        assert failed.stderr.startswith(said)


@pytest.mark.slow
def test_the_embedded_policys_answers_are_contrasted(pairmill: Pairmill, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    curate = ("run", "curate", "--config", "examples/arithmetic/curate.yaml", "--set", "limit=60", "--set", "gates.min_pairs=1")
    assert pairmill(*curate, "--set", "judge=null", "--set", f"verifier={CHECK}").returncode == 0
    config = ("run", "contrast", "--config", "examples/arithmetic/contrast.yaml")
    done = pairmill(*config)
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    funnel = adds_up(told)
    assert set(funnel) == {"source/answers", *(f"contrast/{name} attempts" for name in ("ladder", "step_error", "mapl_intra"))}
    assert min(stage["n_kept"] for stage in funnel.values()) > 20
    assert outcome(pairmill(*config))["outcome"] == "reused"
    assert pairmill("verify", "arithmetic-contrasts").returncode == 0
    for view in ("dpo", "reward", "kto", "joint"):
        assert pairmill("export", "arithmetic-contrasts", "--view", view, "--to", view).returncode == 0, view
    report = pairmill("report", "arithmetic-contrasts", "--to", "r.html")
    assert report.returncode == 0
    assert (tmp_path / "r.html").read_text().count("<h2>Method ") == 3
    short = ("--set", "params.max_steps=2", "--set", "params.batch_size=4")
    trained = pairmill("run", "train", "--set", "dataset=arithmetic-contrasts", *short)
    assert trained.returncode == 0, trained.stderr
