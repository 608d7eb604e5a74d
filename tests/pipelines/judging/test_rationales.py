"""Rationales in flow `curate`: bought once, counted, gated, and held by the version that they were written for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl
import pytest

import storage
from curators.engines.base import Request
from curators.engines.cached import CachedEngine
from curators.engines.fake import FakeEngine, Respond, words
from curators.errors import ConfigError, EngineBusy
from curators.gates import Candidate, GateBounds, check_gates
from curators.rationales.health import rationale_health
from curators.rationales.prompts import load_rationale_rubric
from curators.rationales.writing import RationaleConfig as WriterConfig
from curators.rationales.writing import write_rationale
from curators.schema import PAIRS, RATIONALES, empty, frame
from pipelines.config_files import load_config
from pipelines.judging.config import CurateConfig, RationaleConfig
from pipelines.judging.rationales import explainer, rubrics_of, weigh_again, write_shard, writers
from pipelines.runs import Run
from storage.calls import open_ledger
from tests.pipelines.conftest import outcome, write_prompts

Pairmill = Callable[..., CompletedProcess[str]]

PROMPTS = [f"What is {i} + {i}?" for i in range(12)]
VERIFIED = ["--set", "dataset=sums", "--set", "policy=fake:", "--set", "annotate=rationale", "--set", "verifier=mine:even"]
WRITER = ["--set", "rationale=fake:", "--set", "rationale.min_words=4"]


@pytest.fixture
def prompts(tmp_path: Path) -> list[str]:
    (tmp_path / "mine.py").write_text("def even(*, prompt, response, reference):\n    return len(response) % 2 == 0\n")
    return ["--set", f"prompts={write_prompts(tmp_path / 'p.jsonl', PROMPTS)}", "--set", "pairs.test_share=0"]


def stage(told: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [funnel for funnel in told["funnel"] if funnel["stage"] == name]
    assert found["n_in"] == found["n_kept"] + sum(found["dropped"].values())
    return found


@pytest.mark.slow
def test_a_verifier_labels_and_a_model_explains(pairmill: Pairmill, prompts: list[str], lake_root: Path) -> None:
    """No judge is asked; a rerun buys nothing; another night's rationales of the same pairs stay out of the version."""
    done = pairmill("run", "curate", *prompts, *VERIFIED, *WRITER)
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    n_pairs = told["counts"]["pairs"]
    explained = stage(told, "rationales")
    assert explained["n_in"] == n_pairs
    assert {"contradicts", "unconfirmed"} & set(explained["dropped"]), "a reader that draws lots agrees in one of four"
    assert told["rationales"]["explained"]["hits"] == explained["n_kept"] > 0
    with storage.open_lake(lake_root) as lake:
        first = storage.resolve(lake, "sums@1")
        rows = pl.read_parquet(first.frozen / "rationales.parquet")
        assert set(rows["pair_id"]) == set(storage.scan(first).collect()["pair_id"])
        assert lake.facts("judgments")["protocol"].unique().to_list() == ["verifier"]
    usable = set(rows.filter(pl.col("state") == "ok")["pair_id"])
    for view in ("rationale", "rationale-twin"):
        assert {row["pair_id"] for row in storage.load("sums@1", view=view, split="train", lake=lake_root)} == usable

    again = outcome(pairmill("run", "curate", *prompts, *VERIFIED, *WRITER))
    assert (again["outcome"], again["calls"]["requests"], again["rationales"]) == ("reused", 0, told["rationales"])
    switched = outcome(pairmill("run", "curate", *prompts, *VERIFIED, *WRITER, "--set", "rationale.check_agreement=false"))
    assert switched["calls"]["requests"] == 0, "the texts are paid for; nobody reads them back now"
    assert stage(switched, "rationales")["n_kept"] == n_pairs
    with storage.open_lake(lake_root) as lake:
        second = pl.read_parquet(storage.resolve(lake, "sums@2").frozen / "rationales.parquet")
        assert lake.facts("rationales").height == 2 * n_pairs
    assert second["sampling"].unique().len() == 1
    assert not set(second["rationale_id"]) & set(rows["rationale_id"]), "an earlier run's rationales of the same pairs are not its own"


@pytest.mark.slow
def test_a_judge_labels_and_another_model_explains_in_both_kinds(pairmill: Pairmill, prompts: list[str], lake_root: Path) -> None:
    judged = ["--set", "dataset=sums", "--set", "policy=fake:", "--set", "judge=fake:judge", "--set", "annotate=judge+rationale"]
    loose = ["--set", "gates.max_judge_inconsistent_share=null", "--set", "rationale.kind=both", "--set", "rationale.judge=fake:judge"]
    done = pairmill("run", "curate", *prompts, *judged, *WRITER, *loose)
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    assert stage(told, "rationales")["n_in"] == 2 * told["counts"]["pairs"]
    assert stage(told, "rationales")["dropped"]["quotes_nothing"] == told["counts"]["pairs"]
    assert told["rationales"]["explained"]["hits"] == 0, "a pair is explained when every kind is"
    health = json.loads(pairmill("show", "sums@1", "--json").stdout)
    assert health["manifest"]["rationales"]["states"] == told["rationales"]["states"]


@pytest.mark.slow
def test_a_refused_candidate_buys_no_rationales_and_a_poor_share_refuses(pairmill: Pairmill, prompts: list[str], lake_root: Path) -> None:
    done = pairmill("run", "curate", *prompts, *VERIFIED, *WRITER, "--set", "gates.min_pairs=500")
    assert done.returncode == 3
    labelled = outcome(done)
    assert [funnel["stage"] for funnel in labelled["funnel"]][-1] == "pairs"
    done = pairmill("run", "curate", *prompts, *VERIFIED, *WRITER, "--set", "gates.min_rationale_share=0.9")
    assert done.returncode == 3
    told = outcome(done)
    assert told["refusal"].startswith("refused by 1 of")
    assert "min_rationale_share" in told["refusal"]
    facts = pairmill("sql", "SELECT count(*) AS n FROM rationales", "--json")
    assert json.loads(facts.stdout) == [{"n": told["counts"]["rationales"]}], "they were paid for"


@pytest.mark.slow
def test_a_cap_ends_the_rationales_with_what_there_is(pairmill: Pairmill, prompts: list[str]) -> None:
    whole = outcome(pairmill("run", "curate", *prompts, *VERIFIED, *WRITER))
    cap = ["--set", "seed=1", "--set", f"caps.calls={12 + whole['counts']['pairs'] // 2}"]
    done = pairmill("run", "curate", *prompts, *VERIFIED, *WRITER, *cap)
    assert done.returncode == 0, done.stderr
    told = outcome(done)
    assert told["capped"] == "calls"
    assert stage(told, "rationales")["dropped"]["budget_skipped"] > 0
    resumed = outcome(pairmill("run", "curate", *prompts, *VERIFIED, *WRITER, "--set", "seed=1"))
    assert "budget_skipped" not in stage(resumed, "rationales")["dropped"]
    assert resumed["calls"]["requests"] + told["calls"]["requests"] == 12 + 3 * resumed["counts"]["pairs"], "each call is paid for once"


async def test_a_writer_that_dies_in_the_middle_is_paid_for_once(tmp_path: Path) -> None:
    """The same pairs after an endpoint went down: only what was never answered is asked."""
    asked: list[str] = []

    def dies(request: Request, index: int) -> str:
        if len(asked) == 7:
            raise EngineBusy("the endpoint is down")
        asked.append(request.key)
        return words(request, index)

    def lives(request: Request, index: int) -> str:
        asked.append(request.key)
        return words(request, index)

    rubric, config = load_rationale_rubric("general"), WriterConfig(check_agreement=False, repairs=0)

    pairs = [pair(i) for i in range(20)]
    with open_ledger(tmp_path / "calls.sqlite") as ledger:

        async def explain(respond: Respond, run_id: str) -> list[dict[str, Any]]:
            engine = CachedEngine(FakeEngine(respond), ledger, run_id=run_id)
            return [row for pair in pairs for row in await write_rationale(pair, engine, rubric=rubric, config=config)]

        with pytest.raises(EngineBusy):
            await explain(dies, "1")
        assert len(asked) == 7
        rows = await explain(lives, "2")
    assert len(asked) == len(set(asked)) == 20
    assert len(rows) == 20


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["annotate=rationale", "verifier=numeric"], "annotate: rationale needs `rationale`"),
        (
            ["annotate=rationale", "rationale=rm:x", "verifier=numeric"],
            "rationale: rm:x is a reward model, which scores and writes nothing",
        ),
        (["rationale=fake:", "verifier=numeric"], "annotate: judge asks for no rationales"),
        (["annotate=rationale", "rationale=fake:", "judge=fake:judge"], "leave `judge` out, or use judge.rationale"),
        (["annotate=judge+rationale", "rationale=fake:", "verifier=numeric"], "needs a `judge`, or use rationale"),
        (["annotate=rationale", "rationale=fake:", "verifier=numeric", "rationale.kind=both", "rationale.rubric=x.md"], "is of one kind"),
    ],
)
def test_what_would_ask_nobody_or_be_ignored_is_refused(assignments: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("curate", None, ["dataset=x", "prompts=p.jsonl", "policy=fake:", *assignments])


def test_the_gate_counts_pairs_explained_in_every_kind() -> None:
    rows = [
        {"rationale_id": f"{pair}{kind}", "pair_id": pair, "kind": kind, "state": state, "attempt": 0, "writer": "w"}
        for pair, kind, state in (("a", "general", "ok"), ("a", "detailed", "ok"), ("b", "general", "ok"), ("b", "detailed", "copies"))
    ]
    explained = pl.DataFrame({"pair_id": ["a", "b"], "prompt_id": ["p", "q"]})
    health = rationale_health(frame(rows, RATIONALES), explained, n_kinds=2)
    bounds = GateBounds(min_pairs=None, max_duplicate_share=None, max_unscored_share=None, max_judge_inconsistent_share=None)

    def gate(bound: float, rationales: Any) -> Any:
        (result,) = check_gates(
            Candidate(pairs=empty(PAIRS), rationales=rationales),
            GateBounds(**{name: getattr(bounds, name) for name in bounds.__dataclass_fields__} | {"min_rationale_share": bound}),
        )
        return result

    assert (gate(0.5, health).passed, gate(0.51, health).passed, gate(0.5, health).figure) == (True, False, 0.5)
    assert gate(0.9, None).detail == "not applicable: no rationales were written"


async def test_a_shard_of_pairs_is_explained_counted_and_weighed(tmp_path: Path) -> None:
    """Without the flow around it: rows in the run's directory, a funnel that adds up, health, the gate, and who was asked."""
    settings = ["annotate=rationale", "rationale=fake:", "rationale.judge=fake:judge", "rationale.min_words=4", "verifier=numeric"]
    config = load_config("curate", None, ["dataset=x", "prompts=p.jsonl", "policy=fake:", "gates.min_rationale_share=1", *settings])
    assert isinstance(config, CurateConfig)
    assert list(writers(config)) == ["rationale", "rationale.judge"]
    with storage.open_lake(tmp_path / "lake") as lake:
        engines = {"rationale": FakeEngine(fingerprint="writer"), "rationale.judge": FakeEngine(fingerprint="reader")}
        run = Run(key="k", kind="curate", config=config, lake=lake, directory=tmp_path, engines=engines)
        run.write("pairs", frame([pair(i) for i in range(12)], PAIRS))
        run.explain = explainer(run, config.rationale)
        assert await write_shard(run, 0, 0, 8) == await write_shard(run, 0, 0, 8)
        await write_shard(run, 1, 8, 16)
        weigh_again(run)
        rows = run.read_shards("rationales", RATIONALES)
    assert set(rows["pair_id"]) == {f"x{i}" for i in range(12)} == run.done
    assert rows["writer"].unique().to_list() == ["writer"]
    assert {json.loads(checks)["agreement"]["judge"] for checks in rows["checks"]} == {"reader"}
    (funnel,) = run.figures.funnels
    assert (funnel.stage, funnel.n_in) == ("rationales", 12)
    assert run.figures.rationales["explained"]["hits"] == funnel.n_kept < 12
    assert "min_rationale_share" in run.figures.refusal
    assert run.figures.counts == {"rationales": 12, "pairs": 12}
    assert run.figures.health_rows[0]["measure"] == "pairs with a rationale that passed every check"


def pair(number: int) -> dict[str, Any]:
    def turn(role: str, text: str) -> str:
        return json.dumps([{"role": role, "content": text}])

    sides = {"prompt": turn("user", f"{number}?"), "chosen": turn("assistant", f"good {number}"), "rejected": turn("assistant", "bad")}
    return {"pair_id": f"x{number}", "prompt_id": f"p{number}", "on_policy": True, **sides}


def test_a_rubric_of_another_kind_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    path = tmp_path / "mine.md"
    path.write_text("---\nname: mine\nkind: detailed\n---\n# user\n{{prompt}}\n")
    with pytest.raises(ConfigError, match=r"rationale\.kind is general, the rubric .*mine\.md is detailed"):
        rubrics_of(RationaleConfig(engine="fake:", rubric=str(path)))
    (rubric,) = rubrics_of(RationaleConfig(engine="fake:", rubric=str(path), kind="detailed"))
    assert rubric.name == "mine"
    assert [rubric.kind for rubric in rubrics_of(RationaleConfig(engine="fake:", kind="both"))] == ["general", "detailed"]
