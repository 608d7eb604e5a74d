"""Flow `curate` as a user runs it: the command, a real Prefect server, a lake on disk, deterministic engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import polars as pl
import pytest

import storage
from tests.pipelines.conftest import outcome, write_prompts

Pairmill = Callable[..., CompletedProcess[str]]

PROMPTS = [f"What is {i} + {i}?" for i in range(12)]
FAKE = ["--set", "dataset=sums", "--set", "policy=fake:", "--set", "judge=fake:judge", "--set", "gates.max_judge_inconsistent_share=null"]


def test_a_run_publishes_and_the_same_run_again_buys_nothing(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", [*PROMPTS, PROMPTS[0]])
    first = pairmill("run", "curate", "--set", f"prompts={prompts}", *FAKE)
    assert first.returncode == 0, first.stderr
    told = outcome(first)
    assert (told["outcome"], told["version"]) == ("published", 1)
    for stage in told["funnel"]:
        assert stage["n_in"] == stage["n_kept"] + sum(stage["dropped"].values())
    assert told["funnel"][0]["dropped"] == {"duplicate": 1}
    assert told["counts"]["generations"] == 4 * 12

    again = outcome(pairmill("run", "curate", "--set", f"prompts={prompts}", *FAKE))
    assert (again["outcome"], again["version"], again["digest"]) == ("reused", 1, told["digest"])
    assert again["calls"]["requests"] == 0

    other = outcome(pairmill("run", "curate", "--set", f"prompts={prompts}", "--set", "pairs.policy=all_pairs", *FAKE))
    assert other["version"] == 2
    assert other["calls"]["requests"] == 0, "another way to build pairs re-asks nobody"
    with storage.open_lake(lake_root) as lake:
        one, two = storage.resolve(lake, "sums@1"), storage.resolve(lake, "sums@2")
        assert one.digest == told["digest"]
        assert storage.read_at(lake, one).equals(pl.read_parquet(one.frozen / "pairs.parquet"))
        assert two.manifest["counts"]["pairs"] > one.manifest["counts"]["pairs"]
        assert storage.verify(lake, "sums@1")


def test_a_cap_ends_the_run_with_what_there_is(pairmill: Pairmill, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", PROMPTS)
    loose = ["--set", "gates.max_unscored_share=null", "--set", "gates.min_pairs=null"]
    done = pairmill("run", "curate", "--set", f"prompts={prompts}", "--set", "caps.calls=40", *FAKE, *loose)
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    assert told["capped"] == "calls"
    assert told["calls"]["requests"] <= 40
    skipped = [stage["dropped"].get("budget_skipped", 0) for stage in told["funnel"]]
    assert sum(skipped) > 0


def test_a_refused_candidate_says_why_and_keeps_its_facts(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", PROMPTS)
    done = pairmill("run", "curate", "--set", f"prompts={prompts}", *FAKE, "--set", "gates.min_pairs=500")
    assert done.returncode == 3
    told = outcome(done)
    assert (told["outcome"], told["version"]) == ("refused", None)
    assert "min_pairs" in told["refusal"]
    facts = pairmill("sql", "SELECT count(*) AS n FROM generations", "--json")
    assert json.loads(facts.stdout) == [{"n": 48}]


def test_a_verifier_of_the_user_labels(pairmill: Pairmill, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def even_length(*, prompt, response, reference):\n    return len(response) % 2 == 0\n")
    prompts = write_prompts(tmp_path / "p.jsonl", PROMPTS)
    done = pairmill(
        "run",
        "curate",
        "--set",
        "dataset=mine",
        "--set",
        f"prompts={prompts}",
        "--set",
        "policy=fake:",
        "--set",
        "verifier=mine:even_length",
    )
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    assert told["health"]["judge"].startswith("verifier:mine:even_length@")
    lines = pairmill("sql", "SELECT prompt_id, chosen, rejected FROM mine", "--json")
    for pair in json.loads(lines.stdout):
        chosen, rejected = (json.loads(pair[side])[0]["content"] for side in ("chosen", "rejected"))
        assert len(chosen) % 2 == 0
        assert len(rejected) % 2 == 1


def test_a_conversation_with_tools_goes_the_whole_line(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    turns = [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "content": None, "reasoning_content": "I should look.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"celsius": 4}'},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": turns, "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}}) + "\n")
    done = pairmill("run", "curate", "--set", f"prompts={path}", *FAKE, "--set", "pairs.policy=all_pairs", "--set", "pairs.test_share=0")
    assert done.returncode == 0, done.stderr
    with storage.open_lake(lake_root) as lake:
        pair = storage.scan(storage.resolve(lake, "sums@1")).first().collect().row(0, named=True)
    assert json.loads(pair["prompt"]) == turns
    assert json.loads(pair["tools"]) == [TOOL]
    assert json.loads(pair["chat_template_kwargs"]) == {"enable_thinking": False}
    rows = storage.load("sums@1", view="dpo", split="train", lake=lake_root)
    assert rows[0]["prompt"][1]["tool_calls"][0]["function"]["name"] == "weather"


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "now", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.slow  # three runs
def test_a_night_holds_its_own_samples_and_a_better_answer_replaces_a_failure(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", PROMPTS[:6])
    loose = ["--set", "gates.max_unscored_share=null", "--set", "gates.min_pairs=null", "--set", f"prompts={prompts}"]
    capped = outcome(pairmill("run", "curate", *FAKE, *loose, "--set", "caps.calls=30"))
    assert capped["capped"] == "calls"
    whole = outcome(pairmill("run", "curate", *FAKE, *loose))
    other_night = outcome(pairmill("run", "curate", *FAKE, *loose, "--set", "seed=8", "--set", "tag=prod"))
    with storage.open_lake(lake_root) as lake:
        second, third = (storage.resolve(lake, f"sums@{v}") for v in (whole["version"], other_night["version"]))
        assert pl.read_parquet(third.frozen / "generations.parquet")["seed"].unique().to_list() == [8]
        answered = pl.read_parquet(second.frozen / "judgments.parquet").filter(pl.col("state") == "ok")
        of_pairs = storage.scan(second).collect()["prompt_id"].unique()
        assert answered.filter(pl.col("prompt_id").is_in(of_pairs.to_list())).height == 12 * len(of_pairs)
        assert storage.resolve(lake, "sums@prod").version == third.version
    again = outcome(pairmill("run", "curate", *FAKE, *loose, "--set", "tag=best"))
    assert (again["outcome"], again["version"]) == ("reused", whole["version"])
    with storage.open_lake(lake_root) as lake:
        assert storage.resolve(lake, "sums@best").version == whole["version"]


def test_a_fault_of_the_engine_is_one_line(pairmill: Pairmill, tmp_path: Path) -> None:
    """It comes up in a shard, beside other shards: still one line and no traceback."""
    prompts = write_prompts(tmp_path / "p.jsonl", PROMPTS)
    (tmp_path / "told.jsonl").write_text('{"key": "sample/other", "completions": [{"text": "4"}]}\n')
    given = ["--set", "dataset=sums", "--set", f"prompts={prompts}", "--set", "policy=replay:told.jsonl", "--set", "verifier=numeric"]
    done = pairmill("run", "curate", *given, "--set", "shard_prompts=4")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("pairmill: replay:told.jsonl")


def test_a_reward_model_labels_and_the_verifier_is_its_gold(pairmill: Pairmill, tmp_path: Path, lake_root: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", PROMPTS)
    (tmp_path / "odd.py").write_text("def length(*, prompt, response, reference):\n    return len(response) % 2\n")
    scored = ["--set", f"prompts={prompts}", "--set", "dataset=sums", "--set", "policy=fake:", "--set", "reward=fake:reward"]
    gold = ["--set", "verifier=odd:length", "--set", "gates.min_judge_agreement=0.0"]
    done = pairmill("run", "curate", *scored, *gold, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    health = told["health"]
    assert (health["judge"], health["protocol"], health["by_model"]) == ("fake:reward", "reward", True)
    assert 0 < health["agreement"]["hits"] < health["agreement"]["n"]
    agreement = next(gate for gate in told["gates"] if gate["name"] == "min_judge_agreement")
    assert agreement["figure"] == health["agreement"]["share"]
    with storage.open_lake(lake_root) as lake:
        release = storage.resolve(lake, "sums")
        pairs = storage.read_at(lake, release)
        facts = pl.read_parquet(sorted((release.frozen).glob("judgments*.parquet")))
    assert release.manifest["reward"] == "fake:reward"
    assert pairs["label_source"].unique().to_list() == ["fake:reward"]
    scores = facts.filter(pl.col("protocol") == "reward").explode("generation_ids", "scores")
    by_id = dict(scores.select("generation_ids", "scores").iter_rows())
    for pair in pairs.iter_rows(named=True):
        of_prompt = [s for i, s in by_id.items() if i in scores.filter(pl.col("prompt_id") == pair["prompt_id"])["generation_ids"]]
        assert (by_id[pair["chosen_id"]], by_id[pair["rejected_id"]]) == (max(of_prompt), min(of_prompt))
