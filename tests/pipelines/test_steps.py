"""Flow `steps`, stage by stage in this process: a lake on disk, deterministic engines, and what may come between a run and its end."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import storage
from curators.engines import Reply, Request
from curators.engines.fake import FakeEngine, words
from curators.errors import ConfigError, EngineBusy
from curators.judging.protocol import JudgeConfig
from curators.stepsearch.config import SearchConfig, ValueWeights
from curators.stepsearch.driver import TreeLimits
from curators.stepsearch.evaluation import BY_VOTES
from curators.stepsearch.extraction import StepPairConfig
from curators.stepsearch.proposals import StepConfig
from pipelines import candidates
from pipelines.commands.showing import node_rows
from pipelines.config_files import load_config
from pipelines.report.page import build_report
from pipelines.runs import Run
from pipelines.steps import pairs as tree_pairs
from pipelines.steps import tasks as step_tasks
from pipelines.steps import trees
from pipelines.steps.config import (
    RatingConfig,
    SearchPresetConfig,
    StepSamplingConfig,
    StepsConfig,
    TreeLimitsConfig,
    TreePairsConfig,
    WeightsConfig,
)
from pipelines.steps.searching import prepare, search_run
from pipelines.steps.settings import extraction, search_config
from storage.handoff import open_handoff, write_handoff
from tests.pipelines.conftest import write_prompts

N = 12
VERIFIER = "def odd(*, prompt, response, reference):\n    return None if reference is None else len(response) % 2 == 1\n"

Given = Callable[..., StepsConfig]
Respond = Callable[[Request, int], Any]


class Asked(FakeEngine):
    """A fake that knows what it was asked for; every answer takes a turn of the loop, as answers do."""

    def __init__(self, respond: Respond = words, latency_s: float = 0.0) -> None:
        super().__init__(respond)
        self.keys: list[str] = []
        self.latency_s = latency_s

    async def complete(self, request: Request) -> Reply:
        self.keys.append(request.key)
        await asyncio.sleep(self.latency_s)
        return await super().complete(request)

    @property
    def prompts(self) -> set[str]:
        return {key.split("/")[1] for key in self.keys}


def config_in(folder: Path, lake_root: Path, **changes: Any) -> StepsConfig:
    """A search on the words of a fake: every word is a step, some end the answer, and odd lengths are right."""
    shared = {"dataset": "sums", "lake": str(lake_root), "prompts": str(folder / "p.jsonl"), "policy": "fake:"}
    search, steps = {"simulations": 8, "max_depth": 6}, {"delimiter": " ", "answer": "what|holds|so|it"}
    return StepsConfig.model_validate({**shared, "verifier": "by_length:odd", "search": search, "steps": steps, **changes})


async def search_shards(run: Run) -> None:
    config, n = run.config, prepare(run)
    assert isinstance(config, StepsConfig)
    for number, start in enumerate(range(0, n, config.shard_prompts)):
        await step_tasks.search_shard.fn(run.key, number, start, min(start + config.shard_prompts, n))


async def staged(config: StepsConfig) -> dict[str, Any]:
    """The flow's stages one after the other, without Prefect."""
    async with search_run(config) as run:
        if run.release is not None:
            return run.outcome("reused")
        candidates.read_prompts(run)
        await search_shards(run)
        tree_pairs.build(run)
        candidates.publish(run)
        return run.outcome()


async def built(config: StepsConfig) -> tuple[dict[str, Any], pl.DataFrame]:
    """The same up to the candidate: what it says of itself, and its pairs."""
    async with search_run(config) as run:
        candidates.read_prompts(run)
        await search_shards(run)
        tree_pairs.build(run)
        return run.outcome("built"), run.read("pairs")


@dataclass(frozen=True)
class Base:
    """A published run that nothing disturbed: its folder, lake, outcome, pairs and trees.

    In shards of five, and all trees of a shard at once: tests that compare with it have other shards, and fewer trees at a time.
    """

    folder: Path
    lake: Path
    told: dict[str, Any]
    pairs: pl.DataFrame
    nodes: pl.DataFrame


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    folder = tmp_path_factory.mktemp("base")
    (folder / "by_length.py").write_text(VERIFIER)
    write_prompts(folder / "p.jsonl", [f"What is {i} + {i}?" for i in range(N)])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        told = asyncio.run(staged(config_in(folder, folder / "lake", shard_prompts=5)))
        with storage.open_lake(folder / "lake") as lake:
            pairs = storage.scan(storage.resolve(lake, "sums@1")).sort("prompt_id", "pair_id").collect()
            nodes = lake.facts("nodes")
        yield Base(folder=folder, lake=folder / "lake", told=told, pairs=pairs, nodes=nodes)


@pytest.fixture
def given(base: Base, tmp_path: Path, lake_root: Path) -> Given:
    """The configuration of `base` in a lake of the test's own, with prompts that the test may change."""
    shutil.copy(base.folder / "p.jsonl", tmp_path)
    return lambda **changes: config_in(tmp_path, lake_root, **changes)


@pytest.fixture
def after_base(base: Base, given: Given, lake_root: Path) -> Given:
    """The same in a copy of the lake of `base`."""
    shutil.copytree(base.lake, lake_root)
    return given


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeEngine], None]:
    """Make an engine the one that `fake:` opens."""
    return lambda engine: monkeypatch.setattr("pipelines.engines.open_engine", lambda spec, options: engine)


def roots(lake_root: Path, *, every_node: bool = False) -> pl.DataFrame:
    """The first node of every tree in the lake, or every node."""
    with storage.open_lake(lake_root) as lake:
        return lake.facts("nodes").filter(pl.col("parent_id").is_null() | pl.lit(every_node))


def adds_up(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The funnel by stage and unit; every line of it adds up."""
    for stage in told["funnel"]:
        assert stage["n_in"] == stage["n_kept"] + sum(stage["dropped"].values())
    return {f"{stage['stage']}/{stage['unit']}": stage for stage in told["funnel"]}


async def test_a_version_of_step_pairs_holds_its_trees_and_says_how_it_came_about(base: Base, tmp_path: Path) -> None:
    told = base.told
    assert (told["outcome"], told["version"], told["trees"]) == ("published", 1, {"known": 0, "searched": N})
    funnel = adds_up(told)
    assert list(funnel) == ["prompts/rows", "search/trees", "step_pairs/prompts", "step_pairs/parents", "pairs/pairs"]
    assert (funnel["search/trees"]["n_in"], funnel["step_pairs/prompts"]["n_in"]) == (N, N)
    assert funnel["step_pairs/parents"]["n_kept"] == funnel["pairs/pairs"]["n_kept"] == base.pairs.height > 5
    with storage.open_lake(base.lake) as lake:
        release = storage.resolve(lake, "sums@1")
        nodes = pl.read_parquet(release.frozen / "nodes.parquet")
        assert storage.verify(lake, "sums@1")["files"]["nodes.parquet"] == nodes.height
        traced = storage.lineage(lake, "sums@1", base.pairs["pair_id"][0])
    assert set(nodes["tree_id"]) == set(base.pairs["tree_id"]) < set(base.nodes["tree_id"])
    assert {base.pairs["chosen_id"][0], base.pairs["rejected_id"][0]} < {node["node_id"] for node in traced["nodes"]}
    shown = node_rows(traced["nodes"])
    assert (len(shown), shown[0]["place"], shown[1]["place"]) == (len(traced["nodes"]), [], [0])
    assert base.pairs["on_policy"].all()
    manifest = release.manifest
    assert (manifest["kind"], manifest["on_policy_share"], manifest["facts"]["nodes"]) == ("steps", 1.0, "tree_id")
    assert manifest["search"]["judge"].startswith("verifier:by_length:odd@")
    assert manifest["search"]["finished"]["hits"] == manifest["counts"]["trees"] == N
    page = build_report(release)
    assert "trees with right and wrong answers" in page
    assert "No judge ran" not in page
    handoff = write_handoff(release.frozen, tmp_path / "handoff", view="step")
    assert sum(open_handoff(handoff).splits.values()) == base.pairs.height
    assert (await staged(config_in(base.folder, base.lake)))["outcome"] == "reused"


async def test_another_rule_makes_other_pairs_of_the_same_trees_without_a_call(
    after_base: Given, base: Base, use: Any, lake_root: Path
) -> None:
    use(Asked(lambda request, i: pytest.fail("nothing may be asked for")))
    told, pairs = await built(after_base(pairs={"preset": "ref", "max_per_prompt": "unlimited"}, shard_prompts=5))
    whole = await staged(after_base(pairs={"kind": "response", "max_per_prompt": 2}, shard_prompts=7))
    assert not pairs.equals(base.pairs)
    for each in (told, whole):
        assert (each["trees"], each["calls"]["requests"], each["calls"]["hits"]) == ({"known": N}, 0, 0)
    assert list(adds_up(whole)) == ["prompts/rows", "search/trees", "answer_pairs/prompts", "pairs/pairs"]
    with storage.open_lake(lake_root) as lake:
        assert lake.facts("nodes").equals(base.nodes)
        release = storage.resolve(lake, "sums@2")
        assert set(storage.scan(release).collect()["kind"]) == {"response"}
        assert pl.read_parquet(release.frozen / "nodes.parquet")["tree_id"].n_unique() > 1


async def test_more_prompts_more_time_and_other_limits_search_only_what_is_new(after_base: Given, use: Any, tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.jsonl", [f"What is {i} + {i}?" for i in range(N + 2)])
    engine = Asked()
    use(engine)
    more, _ = await built(after_base(limits={"calls": 10_000}, caps={"seconds": 1000}, concurrent_trees=2))
    assert (more["trees"], len(engine.prompts)) == ({"known": N, "searched": 2}, 2)


async def test_a_corrected_reference_is_graded_anew(after_base: Given, base: Base, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    lines = [{"prompt": line["prompt"]} if i < 3 else line for i, line in enumerate(lines)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told, _ = await built(after_base())
    assert told["trees"] == {"known": N - 3, "searched": 3}
    assert told["search"]["ungraded"]["hits"] > base.told["search"]["ungraded"]["hits"] == 0


@pytest.mark.parametrize(
    ("caps", "capped"),
    [
        ({"calls": 40}, "calls"),
        pytest.param({"tokens": 900}, "tokens", marks=pytest.mark.slow),
        pytest.param({"seconds": 0.4}, "seconds", marks=pytest.mark.slow),
    ],
)
async def test_a_cap_of_the_run_ends_it_with_what_there_is_and_a_higher_one_goes_on(
    given: Given, base: Base, use: Any, lake_root: Path, caps: dict[str, Any], capped: str
) -> None:
    first = Asked(latency_s=0.05 if "seconds" in caps else 0)
    use(first)
    told = await staged(given(caps=caps, concurrent_trees=2, gates={"min_pairs": None}))
    assert (told["outcome"], told["capped"]) == ("published", capped)
    found = roots(lake_root)
    ended = found.filter(pl.col("tree_state") == "budget")
    assert told["counts"]["unfinished"] == ended.height > 0
    assert set(ended["reason"]) == {f"the run's cap on {capped} is reached"}
    assert adds_up(told)["search/trees"]["dropped"]["budget"] > 0, "trees that were never begun"
    finished = set(found.filter(pl.col("tree_state") == "finished")["prompt_id"])
    rest = Asked()
    use(rest)
    again, pairs = await built(given(gates={"min_pairs": None}))
    assert again["trees"] == {"known": len(finished), "searched": N - len(finished)}
    assert not finished & rest.prompts
    assert set(rest.keys).isdisjoint(first.keys)
    assert len(first.keys) + len(rest.keys) == base.told["calls"]["requests"]
    assert pairs.equals(base.pairs)
    assert (again["counts"], again["capped"]) == (base.told["counts"], None)


@pytest.mark.parametrize(
    "limits", [{"calls": 2}, pytest.param({"tokens": 15}, marks=pytest.mark.slow), pytest.param({"seconds": 0.3}, marks=pytest.mark.slow)]
)
async def test_a_limit_of_the_trees_ends_each_by_itself(given: Given, use: Any, lake_root: Path, limits: dict[str, Any]) -> None:
    use(Asked(latency_s=0.1 if "seconds" in limits else 0))
    told, _ = await built(given(limits=limits))
    ended = roots(lake_root).filter(pl.col("tree_state") == "budget")
    assert told["capped"] is None
    assert told["counts"]["unfinished"] == ended.height >= N // 3
    assert ended["reason"].str.contains("^the tree's").all()
    strict = given(limits=limits, gates={"min_pairs": None, "max_unfinished_share": 0.1}, pairs={"use_unfinished": False})
    refused, pairs = await built(strict)
    assert adds_up(refused)["search/trees"]["dropped"] == {"budget": refused["counts"]["unfinished"]}
    assert not set(pairs["prompt_id"]) & set(ended["prompt_id"])
    assert "trees were ended before they were done" in refused["refusal"]


async def test_an_endpoint_that_goes_down_fails_the_shard_and_keeps_what_was_finished(
    given: Given, base: Base, use: Any, lake_root: Path
) -> None:
    def until(request: Request, i: int) -> Any:
        if len(first.keys) > 60:
            raise EngineBusy("http://127.0.0.1:9 cannot be reached")
        return words(request, i)

    first = Asked(until)
    use(first)
    config = given(concurrent_trees=3)
    async with search_run(config) as run:
        candidates.read_prompts(run)
        n = prepare(run)
        for _ in range(2):  # as Prefect retries the task
            with pytest.raises(EngineBusy, match="cannot be reached"):
                await step_tasks.search_shard.fn(run.key, 0, 0, n)
        assert len(first.keys) <= 60 + 2 * 3, "after the first tree that it took down no other is begun"
    assert step_tasks.search_shard.retries == 3
    found = roots(lake_root)
    assert set(found["tree_state"]) == {"finished"}
    assert 0 < found.height < N
    second = Asked()
    use(second)
    again, pairs = await built(config)
    assert again["trees"] == {"known": found.height, "searched": N - found.height}
    assert not set(found["prompt_id"]) & second.prompts
    assert pairs.equals(base.pairs)


async def test_a_tree_that_lost_a_request_is_searched_again_and_pays_for_that_one_alone(
    given: Given, base: Base, use: Any, lake_root: Path
) -> None:
    lost = Reply(error="transport_error", reason="connection reset")
    first = Asked(lambda request, i: lost if re.fullmatch("step/[0-9a-f]+/0", request.key) else words(request, i))
    use(first)
    damaged, _ = await built(given(gates={"min_pairs": None}))
    broken = {key.split("/")[1] for key in first.keys if re.fullmatch("step/[0-9a-f]+/0", key)}
    assert damaged["search"]["failed"]["hits"] == 3 * len(broken) > 0
    assert set(roots(lake_root)["tree_state"]) == {"finished"}
    second = Asked()
    use(second)
    again, pairs = await built(given())
    assert again["trees"] == {"known": N - len(broken), "searched": len(broken)}
    assert pairs.equals(base.pairs)
    assert second.prompts == broken


async def test_what_an_interrupted_run_had_finished_is_on_the_disk_and_is_not_searched_again(
    given: Given, base: Base, use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "PART_S", 0.02)
    first = Asked(latency_s=0.01)
    use(first)
    config = given(concurrent_trees=2)
    async with search_run(config) as run:
        candidates.read_prompts(run)
        n = prepare(run)
        task = asyncio.create_task(step_tasks.search_shard.fn(run.key, 0, 0, n))
        while len(run.shards("nodes")) < 2:
            await asyncio.sleep(0.005)
        on_disk = set(pl.read_parquet(run.shards("nodes"))["prompt_id"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    second = Asked()
    use(second)
    again, pairs = await built(config)
    assert 0 < len(on_disk) <= again["trees"]["known"] < N
    assert not on_disk & second.prompts
    assert len(set(first.keys) & set(second.keys)) <= 2, "what was in flight"
    assert pairs.equals(base.pairs)


async def test_prompts_that_give_the_same_pair_in_different_shards_give_it_once(given: Given, use: Any, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    lines = [{"prompt": "What is 1 + 1?", "reference": "2"}, {"prompt": "What is 1 + 1?", "reference": "2", "tools": [tool]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    use(Asked(lambda request, i: ("what?" + "!" * i) if request.prefix else f"well{i} "))
    one, pairs = await built(given(shard_prompts=1))
    funnel = adds_up(one)
    assert funnel["step_pairs/parents"]["n_kept"] == funnel["pairs/pairs"]["n_in"] == 2 * pairs.height > 0
    assert funnel["pairs/pairs"]["dropped"] == {"duplicate_pair": pairs.height}


async def test_prompts_that_nobody_can_grade_are_refused_with_the_figures_and_their_trees_kept(
    given: Given, tmp_path: Path, lake_root: Path
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "What is love?"}\n{"prompt": ""}\n')
    told = await staged(given())
    assert told["outcome"] == "refused"
    assert "answers could not be graded (100.0%" in told["refusal"]
    assert adds_up(told)["prompts/rows"]["dropped"] == {"empty": 1}
    assert roots(lake_root).height == 1


async def test_steps_are_valued_by_the_policy_itself_and_by_a_reward(given: Given, use: Any, lake_root: Path) -> None:
    engine = Asked()
    use(engine)
    rule = {"require_outcomes": False, "signs_agree": False, "min_gap": 0.05}
    search = {"simulations": 4, "max_depth": 4, "weights": {"reward": 0.5}}
    told, pairs = await built(given(verifier=None, self_eval={}, reward_function="by_length:odd", search=search, pairs=rule))
    nodes = roots(lake_root, every_node=True)
    steps = nodes.filter(pl.col("n_visits").is_not_null() & pl.col("parent_id").is_not_null())
    assert steps["self_eval"].is_between(0, 1).all()
    assert set(steps["reward"]) == {0.0, 1.0}
    assert (steps["r_value"] - steps["self_eval"] - 0.5 * steps["reward"] - steps["outcome"].fill_null(0)).abs().max() < 1e-9
    assert set(json.loads(nodes["search"][0])["values"]) == {"self_eval", "reward"}
    assert pairs.height > 0
    assert (told["search"]["judge"], told["search"]["ungraded"]["n"]) == (None, 0)
    rated = {"reward": "fake:", "self_eval": {"votes": 3}, "search": {"simulations": 4, "max_depth": 2}}
    other, _ = await built(given(**rated))
    assert other["trees"]["searched"] == N


def test_every_parameter_of_a_search_and_of_its_pairs_can_be_configured() -> None:
    def names(of: type) -> set[str]:
        return {field.name for field in fields(of)}

    assert set(SearchPresetConfig.model_fields) == names(SearchConfig) | {"preset"}
    assert set(WeightsConfig.model_fields) == names(ValueWeights)
    assert set(RatingConfig.model_fields) - {"rubric"} < names(JudgeConfig)
    assert JudgeConfig(**RatingConfig().model_dump(exclude={"rubric"})) == BY_VOTES
    assert set(StepSamplingConfig.model_fields) == names(StepConfig) - {"seed"}
    assert set(TreePairsConfig.model_fields) == names(StepPairConfig) - {"policy", "seed"} | {"preset", "kind", "use_unfinished"}
    assert StepConfig(**StepSamplingConfig().model_dump()) == StepConfig()
    assert {f"max_{name}" for name in ("calls", "tokens", "s")} | {"verifier_timeout_s"} == names(TreeLimits)
    assert len(TreeLimitsConfig.model_fields) == 4


def test_a_preset_and_what_is_other_than_in_it() -> None:
    assert search_config(SearchPresetConfig()) == SearchConfig()
    ref = search_config(SearchPresetConfig(preset="ref", simulations=3, depth_limit="unlimited", truncated_outcome=-0.5))
    assert (ref.simulations, ref.depth_limit, ref.truncated_outcome, ref.root_visits) == (3, None, -0.5, 2)
    assert search_config(SearchPresetConfig(truncated_outcome="ungraded")).truncated_outcome is None
    rule = extraction(TreePairsConfig(preset="paper", max_per_prompt=2, test_share=0.5), policy="m@1", seed=3)
    assert (rule.parents, rule.max_per_prompt, rule.test_share, rule.policy, rule.seed) == ("path", 2, 0.5, "m@1", 3)
    assert extraction(TreePairsConfig(max_per_prompt="unlimited"), policy="m@1", seed=0).max_per_prompt is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verifier": None, "self_eval": {}}, "pairs: require_outcomes asks for right and wrong answers, and nobody grades them"),
        ({"verifier": None, "self_eval": {}, "pairs": {"kind": "response"}}, "pairs: kind response pairs right and wrong answers"),
        ({"self_eval": {"rubric": "none.md"}}, r"none\.md"),
        ({"prompts": "none.jsonl"}, r"prompts: no file 'none\.jsonl'; give a \.jsonl"),
    ],
)
async def test_a_search_that_cannot_be_made_is_refused_before_it_begins(
    given: Given, lake_root: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        async with search_run(given(**changes)):
            pass
    assert not lake_root.exists()


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("search.simulation=4", "search.simulation: no such key .*did you mean 'simulations'"),
        ("search.preset=best", "search.preset: .*'default', 'paper' or 'ref'"),
        ("search.simulations=0", "search.simulations: .*greater than 0"),
        ("steps.answer=(", "steps.answer: no regular expression"),
        ("pairs.rejected=worst", "pairs.rejected: .*'lowest_q'"),
        ("pairs.kind=answer", "pairs.kind: .*'step' or 'response'"),
        ("limits.seconds=0", "limits.seconds: .*greater than 0"),
        ("caps.call=1", "caps.call: no such key .*did you mean 'calls'"),
        ("verifier=null", "no step has a value: give `verifier`"),
        ("self_eval.rubrik=x", "self_eval.rubrik: no such key .*did you mean 'rubric'"),
    ],
)
def test_a_mistake_in_a_search_is_one_line(assignment: str, said: str) -> None:
    enough = ["dataset=x", "prompts=p.jsonl", "policy=fake:", "verifier=numeric"]
    with pytest.raises(ConfigError, match=said) as caught:
        load_config("steps", None, [*enough, assignment])
    assert "\n" not in str(caught.value)
