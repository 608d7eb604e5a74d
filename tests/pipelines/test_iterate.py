"""Flow `iterate`: rounds on the policy that the round before trained, rules that end a chain, replay, and chains that cannot go on."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl
import pytest
import yaml

import storage
from curators.errors import ConfigError
from pipelines.config_files import load_config
from pipelines.iterating.chain import Chain
from pipelines.iterating.config import IterateConfig
from pipelines.report.rounds import build_rounds
from storage.rounds import Round, add_round
from tests.pipelines.conftest import outcome

Pairmill = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/arithmetic"
EXAM = {
    "prompts": str(EXAMPLES / "eval.jsonl"),
    "verifier": "examples.arithmetic.world:check_answer",
    "n_prompts": 12,
    "n": 2,
    "max_tokens": 120,
}
CURATE = {
    "dataset": "sums",
    "prompts": str(EXAMPLES / "prompts.jsonl"),
    "limit": 40,
    "policy": {"engine": f"hf:{EXAMPLES / 'policy'}", "threads": 1},
    "sampling": {"n": 4, "max_tokens": 120},
    "verifier": "examples.arithmetic.world:check_answer",
    "gates": {"min_pairs": 1, "min_on_policy_share": 1.0},
}
# A trainer that scales the weights of the norms a little: another policy, at once, that still answers.
TRAINER = """
import json, pathlib, shutil, sys
from safetensors.torch import load_file, save_file
policy, out = map(pathlib.Path, sys.argv[1:])
shutil.copytree(policy, out / "checkpoint", dirs_exist_ok=True)
weights = load_file(policy / "model.safetensors")
louder = {name: tensor * (1.01 if "norm" in name else 1.0) for name, tensor in weights.items()}
save_file(louder, out / "checkpoint" / "model.safetensors", {"format": "pt"})
(out / "result.json").write_text(json.dumps({"checkpoint": "checkpoint", "metrics": {}}))
"""
GIVEN: dict[str, Any] = {"name": "sums", "curate": CURATE, "train": {"dataset": "sums", "evaluation": EXAM}}


def config_of(**changes: Any) -> IterateConfig:
    found = load_config("iterate", None, [f"{name}={json.dumps(value)}" for name, value in {**GIVEN, **changes}.items()])
    assert isinstance(found, IterateConfig)
    return found


def evaluation(gain: float, *, high: float | None = None) -> dict[str, float]:
    sides = {"before_low": 0.48, "before_high": 0.52, "after_low": 0.48 + gain, "after_high": 0.52 + gain}
    high = gain + 0.01 if high is None else high
    return {"accuracy_before": 0.5, "accuracy_after": 0.5 + gain, "gain": gain, "low": gain - 0.01, "high": high, **sides}


def chain_of(lake: Path, gains: list[float], entropies: list[float] | None = None, **changes: Any) -> Chain:
    """A chain with rounds of these gains written down, recalled."""
    config = config_of(lake=str(lake), **changes)
    chain = Chain(config=config)
    parent = None
    for number, gain in enumerate(gains, 1):
        figures = {"evaluation": evaluation(gain), "entropy": (entropies or [1.0] * len(gains))[number - 1], "collected": f"sums@{number}"}
        figures |= {"pairs": 10, "on_policy_share": 1.0}
        ref = f"sums@{number}"
        done = Round(
            name="sums", number=number, chain=chain.key, parent=parent, policy="hf-0", dataset=ref, dataset_digest="d", checkpoint=ref,
            trained="hf-1", figures=figures,
        )  # fmt: skip
        parent = add_round(lake, done).digest
    chain.recall()
    return chain


@pytest.mark.parametrize(
    ("gains", "changes", "reason"),
    [
        ([0.05, 0.0], {}, r"no gain: \+0.0% in the last 1 rounds; above \+0.0% is asked for"),
        ([0.05, 0.0, 0.02], {"stop": {"patience": 2}}, None),
        ([0.05, 0.0, -0.005], {"stop": {"patience": 2}}, r"no gain: \+0.0%, -0.5% in the last 2 rounds"),
        ([0.05, -0.03], {"stop": {"min_gain": None}}, r"over-optimised: round 2 changed accuracy by -3.0%"),
        ([0.05, -0.03], {"stop": {"min_gain": None, "stop_when_worse": False}}, None),
    ],
)
def test_rules_end_a_chain(gains: list[float], changes: dict[str, Any], reason: str | None, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, gains, rounds=5, **changes)
    assert chain.unfinished is (reason is None)
    assert re.match(reason or "None", str(chain.stopped))


def test_a_policy_that_says_always_the_same_ends_a_chain(tmp_path: Path) -> None:
    assert chain_of(tmp_path, [0.05, 0.05], [1.0, 0.31]).stopped is None
    told = chain_of(tmp_path / "other", [0.05, 0.05], [1.0, 0.29]).outcome()
    assert told["stopped"] == "entropy collapse: 0.290 nats a token in round 2, 1.000 in the first"
    page = build_rounds(told)
    assert told["stopped"] in page
    assert page.count("<svg") == 2


def test_the_best_checkpoint_is_not_always_the_last(tmp_path: Path) -> None:
    assert chain_of(tmp_path / "a", [0.02, 0.05, -0.001], stop={"min_gain": None}).outcome()["best"] == "sums@2"
    assert chain_of(tmp_path / "b", [-0.001], stop={"min_gain": None}).outcome()["best"] is None


def test_rounds_of_another_configuration_are_another_chain(tmp_path: Path) -> None:
    chain_of(tmp_path, [0.05])
    assert len(chain_of(tmp_path, [], rounds=9).done) == 1, "more rounds are the same chain"
    with pytest.raises(ConfigError, match="round 1 of sums came of another configuration or seed; give this chain another `name`"):
        Chain(config=config_of(lake=str(tmp_path), seed=1)).recall()
    other = {**CURATE, "policy": {"engine": "hf:elsewhere", "threads": 1}}
    with pytest.raises(ConfigError, match="came of another configuration"):
        Chain(config=config_of(lake=str(tmp_path), curate=other)).recall()
    faster = {**CURATE, "shard_prompts": 7, "tag": "prod", "policy": {**CURATE["policy"], "threads": 2}}
    Chain(config=config_of(lake=str(tmp_path), curate=faster)).recall()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"curate": None}, "give `curate` or `steps`, one of them"),
        ({"train": {"dataset": "sums"}}, "train.evaluation: without it no round knows"),
        ({"train": {"dataset": "others", "evaluation": EXAM}}, "train.dataset: the rounds of 'sums' are its versions"),
        ({"train": {"dataset": "sums", "evaluation": EXAM, "checkpoint": "x"}}, "policy and checkpoint are those of the chain"),
    ],
)
def test_rounds_that_cannot_be_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config_of(**changes)


@pytest.mark.slow
def test_rounds_follow_each_other_and_a_rerun_recalls_them(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER)
    file = tmp_path / "iterate.yaml"
    train = {**GIVEN["train"], "command": f"{sys.executable} trainer.py {{policy}} {{out}}"}
    loose = {"stop": {"min_gain": None, "stop_when_worse": False}, "replay": {"share": 0.5}}
    file.write_text(yaml.safe_dump({**GIVEN, "train": train, **loose, "rounds": 2}))
    first = pairmill("run", "iterate", "--config", str(file))
    assert first.returncode == 0, first.stderr
    one, two = outcome(first)["rounds"]
    assert (one["dataset"], two["collected"], two["dataset"]) == ("sums@1", "sums@2", "sums-replay@1")
    assert two["parent"] == one["digest"]
    with storage.open_lake(lake_root, create=False) as lake:
        versions = {ref: storage.resolve(lake, ref) for ref in ("sums@1", "sums@2", "sums-replay@1")}
        assert versions["sums@2"].manifest["policy"] == two["policy"] != one["policy"]
        assert [each["ref"] for each in versions["sums-replay@1"].manifest["parents"]] == ["sums@2", "sums@1"]
        pairs = {ref: storage.scan(version).collect() for ref, version in versions.items()}
        mixed = pairs["sums-replay@1"]
        old = mixed.filter(~pl.col("pair_id").is_in(pairs["sums@2"]["pair_id"].implode()))
        assert 0 < old.height <= round(0.5 * pairs["sums@2"].height)
        assert not old["on_policy"].any()
        assert mixed.filter(pl.col("on_policy")).height == pairs["sums@2"].height
        written = set(pl.read_parquet(versions["sums-replay@1"].frozen / "generations.parquet")["generation_id"])
        assert set(mixed["chosen_id"]) <= written
    again = outcome(pairmill("run", "iterate", "--config", str(file)))
    assert (again["outcome"], [each["digest"] for each in again["rounds"]]) == ("reused", [one["digest"], two["digest"]])
    (lake_root / "checkpoints" / "sums" / "2").rename(lake_root / "gone")
    done = pairmill("run", "iterate", "--config", str(file), "--set", "rounds=3")
    assert done.returncode == 1
    assert "checkpoint sums@2 was registered, but its directory" in done.stderr


@pytest.mark.slow
def test_training_on_what_another_policy_sampled_is_flagged_or_refused(pairmill: Pairmill, tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "by_length.py").write_text("def odd(*, prompt, response, reference):\n    return len(response) % 2 == 1\n")
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "What is {i}?"}}\n' for i in range(20)))
    assert (
        pairmill(
            "run", "curate", "--set", "dataset=sums", "--set", "prompts=p.jsonl", "--set", "policy=fake:", "--set", "verifier=by_length:odd"
        ).returncode
        == 0
    )
    words = (
        "run",
        "train",
        "--set",
        "dataset=sums",
        "--set",
        f"policy=hf:{EXAMPLES / 'policy'}",
        "--set",
        f"command={sys.executable} trainer.py {{policy}} {{out}}",
    )
    refused = pairmill(*words, "--set", "on_stale=refuse")
    assert refused.returncode == 1
    assert "sums@1 was sampled by fake" in refused.stderr
    assert "off-policy; sample that policy anew" in refused.stderr
    told = outcome(pairmill(*words))
    assert told["outcome"] == "trained"
    assert told["stale"].startswith("sums@1 was sampled by fake")
