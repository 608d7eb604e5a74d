"""Flow `contrast` without a server: which attempts are made of a version, what of them is published, and what is refused before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import storage
from curators.engines.base import Request
from curators.engines.fake import FakeEngine
from curators.errors import ConfigError
from curators.schema import CONTRASTS
from examples.arithmetic.world import check_answer, problems
from pipelines import candidates
from pipelines.config import ImportConfig
from pipelines.config_files import load_config
from pipelines.contrasting import pairs as contrast_pairs
from pipelines.contrasting import tasks
from pipelines.contrasting.config import ContrastConfig
from pipelines.contrasting.synthesis import contrast_run, synthesiser
from pipelines.imports import import_candidate, importation

N = 12
SHARD = 5
WORLD = problems(N, seed=3, split="demo")
CHECK = "examples.arithmetic.world:check_answer"
Answers = Callable[[Any], list[tuple[str, float]]]


def right_and_wrong(problem: Any) -> list[tuple[str, float]]:
    return [(problem.solution, 1.0), ("1. 1 + 1 = 2\nAnswer: 2", 0.0), ("Answer: 0", 0.25)]


async def imported(lake: Path, folder: Path, answers: Answers = right_and_wrong, *, name: str = "sums") -> None:
    """A version of the world's problems with scored answers, three for each."""
    rows = [
        {"prompt": p.text, "reference": p.reference, "texts": [text for text, _ in answers(p)], "scores": [s for _, s in answers(p)]}
        for p in WORLD
    ]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "prompt", "reference": "reference", "response_text": "texts[]", "response_score": "scores[]"}
    async with importation(ImportConfig(dataset=name, lake=str(lake), files=(str(file),), columns=columns)) as run:
        import_candidate(run)
        assert candidates.publish(run)["outcome"] == "published"


def config_of(lake: Path, **values: Any) -> ContrastConfig:
    given = {"dataset": "edits", "source": "sums", "shard_prompts": SHARD, "lake": str(lake), **values}
    found = load_config("contrast", None, [f"{name}={json.dumps(value)}" for name, value in given.items()])
    assert isinstance(found, ContrastConfig)
    return found


async def staged(config: ContrastConfig) -> dict[str, Any]:
    """The flow's steps, without Prefect; what it says at the end."""
    async with contrast_run(config) as run:
        if run.release is not None:
            return run.outcome("reused")
        run.synthesise = made = await synthesiser(run)
        run.drop_shards()
        for number, start in enumerate(range(0, len(made.prompt_ids), config.shard_prompts)):
            await tasks.contrast_shard.fn(run.key, number, start, start + config.shard_prompts)
        if made.has_whole:
            await tasks.contrast_shard.fn(run.key, tasks.WHOLE, 0, len(made.prompt_ids))
        contrast_pairs.build(run)
        return candidates.publish(run)


def adds_up(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The funnel by stage and unit; every line of it adds up."""
    for stage in told["funnel"]:
        assert stage["n_in"] == stage["n_kept"] + sum(stage["dropped"].values())
    return {f"{stage['stage']}/{stage['unit']}": stage for stage in told["funnel"]}


def said(turns: str) -> str:
    return str(json.loads(turns)[-1]["content"])


async def test_methods_in_one_run_make_pairs_that_the_program_confirms(tmp_path: Path, lake_root: Path) -> None:
    await imported(lake_root, tmp_path)
    methods = {"ladder": {"operator": "corrupt", "degrees": [1]}, "step_error": {}, "mapl_intra": {}}
    config = config_of(lake_root, methods=methods, verifier=CHECK)
    told = await staged(config)
    assert (told["outcome"], told["version"], told["parents"][0]["ref"]) == ("published", 1, "sums@1")
    funnel = adds_up(told)
    assert funnel["source/answers"]["n_kept"] == 3 * N
    assert {unit.split("/")[1] for unit in funnel} == {"answers", "ladder attempts", "step_error attempts", "mapl_intra attempts"}
    n_pairs = sum(stage["n_kept"] for unit, stage in funnel.items() if unit.startswith("contrast/"))
    assert n_pairs == told["counts"]["pairs"] > 2 * N
    with storage.open_lake(lake_root) as lake:
        release, facts = storage.resolve(lake, "edits@1"), lake.facts("contrasts")
        assert (
            facts.height
            == told["counts"]["attempts"]
            == sum(sum(each["attempts"].values()) for each in told["contrast"]["methods"].values())
        )
        assert facts["synthesis_id"].n_unique() == 3
        counts = storage.verify(lake, "edits@1")["files"]
        pairs = storage.scan(release).collect()
        assert pairs.height == counts["pairs.parquet"] == n_pairs
        prompts = {row["prompt_id"]: row for row in lake.facts("prompts").iter_rows(named=True)}
        joint = pairs.filter(pl.col("rejected_prompt").is_not_null())
        assert set(joint["kind"]) == {"mapl_intra"} == set(pairs["kind"]) - {"ladder", "step_error"}
        for pair in pairs.filter(pl.col("rejected_prompt").is_null()).iter_rows(named=True):
            asked = {"prompt": said(pair["prompt"]), "reference": prompts[pair["prompt_id"]]["reference"]}
            assert check_answer(**asked, response=said(pair["chosen"]))
            assert not check_answer(**asked, response=said(pair["rejected"]))
        parent = storage.scan(storage.resolve(lake, "sums@1")).collect()
        splits = dict(parent.select("prompt_id", "split").iter_rows())
        assert all(splits[prompt_id] == split for prompt_id, split in pairs.select("prompt_id", "split").iter_rows())
        traced = storage.lineage(lake, "edits@1", joint["pair_id"][0])
        assert {row["pair_id"] for row in traced["contrasts"]} == {joint["pair_id"][0]}
        assert len(traced["generations"]) == 3
        frozen = pl.read_parquet(release.frozen / "contrasts.parquet")
        assert set(frozen["state"]) > {"ok"}, "attempts that failed belong to the version"
    assert storage.load("edits@1", view="joint", lake=lake_root)["train"].num_rows <= joint.height
    dpo = storage.load("edits@1", view="dpo", lake=lake_root)
    assert sum(part.num_rows for part in dpo.values()) == pairs.height - joint.height
    assert (await staged(config))["outcome"] == "reused"
    assert (await staged(config_of(lake_root, methods=methods, verifier=CHECK, source="sums@1")))["outcome"] == "reused"
