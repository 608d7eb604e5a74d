"""Selections from a small imported version: known pairs by hand, sums, facts, what is refused, and what is never computed twice."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import storage
from curators.errors import ConfigError
from pipelines.report.page import build_report
from pipelines.runs import Run
from storage.errors import DatasetNotFound, ManifestError
from tests.pipelines.selecting.conftest import N, import_rows, rows, selected


def kept(run: Run) -> pl.DataFrame:
    """The published pairs in the order of selection."""
    assert run.release is not None
    return storage.scan(run.release).sort("selection_rank").collect()


def source(lake_root: Path, ref: str = "big@1") -> pl.DataFrame:
    with storage.open_lake(lake_root, create=False) as lake:
        return storage.scan(storage.resolve(lake, ref)).collect()


def adds_up(told: dict[str, Any]) -> None:
    """Every stage's sum, and every stage begins with what the one before left."""
    stages = told["funnel"]
    for stage in stages:
        assert stage["n_in"] == stage["n_kept"] + sum(stage["dropped"].values())
    for before, after in pairwise(stages):
        assert before["n_kept"] == after["n_in"]
    assert stages[0]["n_in"] == told["counts"]["source_pairs"]


async def test_the_largest_margins_are_kept_with_all_their_columns(big: Path) -> None:
    """Margins are 0.5, 1.0, … 20.0: the five largest are those of the last five rows."""
    told, run = await selected(big, selector={"selector": "margin", "direction": "largest"}, budget=5)
    pairs, before = kept(run), source(big)
    assert pairs["margin"].to_list() == [20.0, 19.5, 19.0, 18.5, 18.0]
    assert pairs["selection_rank"].to_list() == [1, 2, 3, 4, 5]
    assert pairs["selection_score"].to_list() == pairs["margin"].to_list()
    assert pairs.select(before.columns).sort("pair_id").equals(before.filter(pl.col("pair_id").is_in(pairs["pair_id"].implode())))
    adds_up(told)
    assert told["funnel"][-1] == {"stage": "select", "unit": "pairs", "n_in": N, "n_kept": 5, "dropped": {"over_budget": N - 5}}
    assert told["counts"] == {"source_pairs": N, "filtered_pairs": N, "pairs": 5}


async def test_the_manifest_says_what_was_asked_and_names_the_parent(big: Path) -> None:
    await selected(big, selector={"selector": "margin", "direction": "smallest"}, budget=0.1, seed=3)
    with storage.open_lake(big) as lake:
        child, parent = storage.resolve(lake, "small@1"), storage.resolve(lake, "big@1")
    manifest = child.manifest
    assert manifest["parents"] == [{"ref": "big@1", "digest": parent.digest, "facts_digest": parent.facts_digest}]
    told = manifest["selection"]
    assert (told["selector"], told["seed"], told["scores"], told["state"], told["encoder"]) == ("margin", 3, "margin", "ok", None)
    assert told["budget"] == {"asked": 0.1, "rows": 4}
    assert sum(told["histogram"]["kept"]) == 4
    assert sum(told["histogram"]["kept"]) + sum(told["histogram"]["not_kept"]) == N
    page = build_report(child)
    assert "Selection" in page
    assert "are those of big@1" in page
    assert "not kept (36)" in page


async def test_facts_are_the_parents_of_the_kept_prompts(big: Path) -> None:
    _, run = await selected(big, selector="random", budget=7)
    assert run.release is not None
    prompts = kept(run)["prompt_id"].implode()
    with storage.open_lake(big) as lake:
        parent = storage.resolve(lake, "big@1")
    for table in ("prompts", "generations", "judgments"):
        ours = pl.read_parquet(run.release.frozen / f"{table}.parquet")
        assert ours.equals(pl.read_parquet(parent.frozen / f"{table}.parquet").filter(pl.col("prompt_id").is_in(prompts)))
        assert ours.height
    assert storage.load("small@1", "dpo", lake=big).num_rows.keys() >= {"train"}


async def test_draws_are_nested_and_the_same_again(big: Path) -> None:
    _, ten = await selected(big, selector="random", budget=0.25)
    again, same = await selected(big, source="big@1", selector="random", budget=0.25)
    _, twenty = await selected(big, dataset="more", selector="random", budget=0.5)
    assert again["outcome"] == "reused"
    assert (same.key, again["version"]) == (ten.key, 1)
    assert kept(twenty)["pair_id"].to_list()[:10] == kept(ten)["pair_id"].to_list()


async def test_a_selection_of_a_selection_numbers_anew(big: Path) -> None:
    await selected(big, selector="random", budget=20)
    smallest = {"selector": "margin", "direction": "smallest"}
    told, run = await selected(big, dataset="fewer", source="small", selector=smallest, scores="selection_rank", budget=6)
    first, rung = source(big, "small@1").sort("selection_rank"), kept(run)
    assert rung["pair_id"].to_list() == first["pair_id"].to_list()[:6]
    assert rung["selection_rank"].to_list() == [1, 2, 3, 4, 5, 6]
    assert rung.columns == first.columns
    assert told["parents"][0]["ref"] == "small@1"


async def test_filters_come_first_and_their_reasons_are_in_the_funnel(big: Path, tmp_path: Path) -> None:
    odd = [
        {"prompt": "How do I bake bread at home?", "chosen": "I'm sorry, but I can't help with that.", "rejected": "no"},
        {
            "prompt": "Was ist der schnellste Weg von Hamburg nach München?",
            "chosen": "Mit dem Zug sind es sechs Stunden.",
            "rejected": "no",
        },
    ]
    test_set = tmp_path / "test.jsonl"
    test_set.write_text(
        '{"prompt": "Tell me something about rivers, number 0."}\n{"question": "Tell me something about bread, number 1."}\n'
    )
    await import_rows(big, "mixed", [*rows(6), *(row | {"score_chosen": 2, "score_rejected": 1} for row in odd)], tmp_path)
    filters = {"refusal": None, "language": {"min_letters": 30}, "ngram_overlap": {"against": str(test_set), "text": "prompt"}}
    told, run = await selected(big, source="mixed", selector="random", budget=1.0, filters=filters)
    adds_up(told)
    assert told["funnel"][0] == {
        "stage": "filter",
        "unit": "pairs",
        "n_in": 8,
        "n_kept": 4,
        "dropped": {"refusal": 1, "other_language": 1, "contaminated": 2},
    }
    assert kept(run).height == 4


async def test_a_filter_that_drops_all_publishes_nothing_and_says_so(big: Path) -> None:
    told, run = await selected(big, selector="random", budget=0.5, filters={"length": {"min_words": 500}}, gates={"min_pairs": None})
    assert (told["outcome"], run.release) == ("refused", None)
    assert "selection (no pair of big@1 is left by the filters: {'too_short': 40})" in told["refusal"]
    assert told["selection"]["state"] == "refused"


async def test_more_than_there_are_is_short_and_is_published(big: Path) -> None:
    told, _ = await selected(big, selector="random", budget=1000)
    assert (told["outcome"], told["counts"]["pairs"]) == ("published", N)
    assert told["selection"]["state"] == "short"
    assert "40 of the 1000 rows asked for" in told["selection"]["reason"]


async def test_a_whole_number_is_pairs_and_one_with_a_point_a_share(big: Path) -> None:
    assert (await selected(big, selector="random", budget=1))[0]["counts"]["pairs"] == 1
    assert (await selected(big, selector="random", budget=1.0))[0]["counts"]["pairs"] == N


async def test_scores_that_are_missing_refuse_the_selection(big: Path, tmp_path: Path) -> None:
    plain = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows(10)]
    await import_rows(big, "plain", plain, tmp_path)
    told, run = await selected(big, source="plain", selector={"selector": "margin", "direction": "largest"}, budget=3)
    assert (told["outcome"], run.release) == ("refused", None)
    assert "10 of 10 rows have no usable embedding or score; at most 1.0% may (max_unusable)" in told["refusal"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"selector": "isaa"}, "there is no selector 'isaa'; there are"),
        ({"selector": "margin"}, "needs a `direction`"),
        ({"selector": "stratified"}, "needs `stratum`"),
        ({"selector": "deita"}, r"'score' is not there in big@1; there are \['chosen_score'"),
        ({"selector": {"selector": "margin", "direction": "largest"}, "scores": "prompt"}, "'prompt' is String, no number in big@1"),
        ({"selector": {"selector": "stratified", "stratum": "topic"}}, "no column 'topic' of single values in big@1; there are"),
        ({"selector": {"stratum": "split", "quotas": {"train": 1, "dev": 1}, "selector": "stratified"}}, "quotas for .'dev'."),
        ({"filters": {"lenght": {}}}, "filter 'lenght' is not shipped"),
        ({"filters": {"length": {"min_word": 1}}}, "filter 'length' with settings .*min_word"),
        ({"filters": {"length": {"text": "answer"}}}, "filters.length.text: is 'answer'; allowed are"),
        ({"filters": {"ngram_overlap": {"against": "nowhere.jsonl"}}}, "filters.ngram_overlap.against: no file 'nowhere.jsonl'"),
        ({"encoder": "nowhere", "selector": "isa"}, "encoder: no directory 'nowhere'"),
        ({"encoder": None, "selector": "isa"}, "encoder: is null, and selector 'isa'"),
        ({"selector": "nowhere:mine"}, "cannot import 'nowhere'"),
    ],
)
async def test_what_cannot_be_is_refused_before_a_text_is_read(big: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await selected(big, **{"selector": "random", "budget": 0.5, **given})


async def test_an_unknown_source_is_named_with_what_there_is(big: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match="did you mean big"):
        await selected(big, source="bigg", selector="random", budget=1)
    with pytest.raises(ManifestError, match="there is no lake"):
        await selected(tmp_path / "elsewhere", selector="random", budget=1)
