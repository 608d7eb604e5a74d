"""Selections by embeddings, of the tiny embedded policy: what is cached, what cannot be embedded, and what is all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import storage
from curators.errors import EngineError
from curators.schema import JOINT_PAIRS, JUDGMENTS, STEP_PAIRS, frame
from pipelines.config import TrainConfig
from pipelines.training.run import view_of
from storage.checkpoints import register
from tests.pipelines.selecting.conftest import N, import_rows, rows, selected

POLICY = Path(__file__).parents[3] / "examples/arithmetic/policy"
TINY = {"encoder": f"last-token:{POLICY}", "selector": "isa"}


async def test_no_text_is_embedded_twice_by_one_model(big: Path) -> None:
    first, run = await selected(big, **TINY, budget=0.2)
    again, _ = await selected(big, **TINY, dataset="other", budget=0.5)
    assert first["embedded"] == {"texts": N, "empty": 0, "impossible": 0, "cached": 0, "encoded": N}
    assert (again["embedded"]["cached"], again["embedded"]["encoded"]) == (N, 0)
    assert run.release is not None
    told = run.release.manifest["selection"]
    assert told["encoder"].startswith("last-hf-")
    assert (told["order"], told["diagnostics"]["ranks_by"]) == ("signed", "lowest mixture likelihood first")
    assert not list(run.directory.glob("*.npy"))
    _, side = await selected(big, **TINY, dataset="side", budget=0.2, text="chosen")
    assert side.figures.embedded["encoded"] == N
    assert side.key != run.key


async def test_the_encoder_counts_only_where_it_is_used(big: Path) -> None:
    _, with_it = await selected(big, selector="random", budget=3, encoder="bundled")
    told, without = await selected(big, selector="random", budget=3, encoder=None)
    assert told["outcome"] == "reused"
    assert with_it.key == without.key
    assert "encoder" not in with_it.fingerprints


async def test_a_policy_of_the_registry_embeds(big: Path) -> None:
    checkpoint = register(big, "sums", POLICY, fingerprint="hf-0")
    told, _ = await selected(big, selector="k_center", encoder=f"last-token:checkpoint:{checkpoint.ref}", budget=5)
    assert told["counts"]["pairs"] == 5
    told, floating = await selected(big, selector="k_center", encoder="last-token:checkpoint:sums", budget=6)
    assert told["outcome"] == "published"
    assert floating.config.model_dump()["encoder"] == f"last-token:checkpoint:{checkpoint.ref}"
    with pytest.raises(EngineError, match=r"no modules\.json"):
        await selected(big, selector="k_center", encoder=str(POLICY), budget=6)


async def test_texts_that_are_all_the_same_are_degenerate_and_published(big: Path, tmp_path: Path) -> None:
    same = [row | {"chosen": "The same answer."} for row in rows(12)]
    await import_rows(big, "same", same, tmp_path)
    told, run = await selected(big, source="same", **TINY, text="chosen", budget=4)
    assert (told["outcome"], told["selection"]["state"], told["embedded"]["encoded"]) == ("published", "degenerate", 1)
    assert told["selection"]["reason"] == "all embeddings are the same"
    assert run.release is not None
    pairs = storage.scan(run.release).collect()
    with storage.open_lake(big) as lake:
        ids = storage.scan(storage.resolve(lake, "same")).collect()["pair_id"].sort()
    assert pairs.sort("selection_rank")["pair_id"].to_list() == ids[:4].to_list()


async def test_texts_beyond_the_models_context_have_no_vector(big: Path, tmp_path: Path) -> None:
    """One of 20 texts is beyond the context: more than max_unusable allows by default."""
    given = rows(20)
    given[3] |= {"chosen": "a word " * 5000}
    await import_rows(big, "long", given, tmp_path)
    refused, _ = await selected(big, source="long", **TINY, budget=5)
    assert (refused["outcome"], refused["embedded"]["impossible"]) == ("refused", 1)
    assert "1 of 20 rows have no usable embedding or score; at most 1.0% may" in refused["refusal"]
    told, _ = await selected(big, source="long", **TINY | {"selector": {"selector": "isa", "max_unusable": 0.05}}, budget=5)
    assert told["funnel"][-1]["dropped"] == {"not_finite_embedding": 1, "over_budget": 14}
    assert told["embedded"]["encoded"] == 1  # what has no vector is tried again


async def test_filters_by_embedding(big: Path, tmp_path: Path) -> None:
    tests = tmp_path / "tests.jsonl"
    tests.write_text('{"text": "Tell me something about soap, number 6."}\n')
    twice = [*rows(10), rows(10)[2] | {"rejected": "Another answer."}]
    await import_rows(big, "twice", twice, tmp_path)
    filters: dict[str, Any] = {
        "embedding_duplicate": {"threshold": 1.0},
        "embedding_overlap": {"threshold": 0.99999, "against": str(tests), "text": "prompt"},
    }
    told, run = await selected(big, source="twice", selector="random", encoder=TINY["encoder"], filters=filters, budget=1.0)
    assert told["funnel"][0]["dropped"] == {"embedding_duplicate": 1, "contaminated": 1}
    assert told["selection"]["encoder"].startswith("last-hf-")
    assert not list(run.directory.glob("*.npy"))


OWN = """
import numpy as np
from curators.selection.pool import Ranking
def longest(pool, k, config):
    assert (pool.vectors is None) == {without}
    return Ranking(order=np.arange(k), scores=np.ones(len(pool)), diagnostics={{"mine": np.int64(3)}})
def short(rows):
    from curators.filters.marks import mark
    return mark(rows, {{row_id: ("my_reason", None) for row_id in rows["row_id"][:{n}]}})
"""


async def test_selectors_and_filters_of_ones_own_and_their_code_decide(big: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_a.py").write_text(OWN.format(without=True, n=3))
    (tmp_path / "mine_b.py").write_text(OWN.format(without=False, n=3))
    told, run = await selected(big, selector="mine_a:longest", encoder=None, filters=["mine_a:short"], budget=5)
    assert told["funnel"][0]["dropped"] == {"my_reason": 3}
    assert told["selection"]["diagnostics"]["mine"] == 3
    assert (await selected(big, selector="mine_b:longest", encoder=TINY["encoder"], budget=5))[0]["counts"]["pairs"] == 5
    (tmp_path / "mine_a.py").write_text(OWN.format(without=True, n=3) + "# another\n")
    other, again = await selected(big, selector="mine_a:longest", encoder=None, filters=["mine_a:short"], budget=5)
    assert again.key != run.key
    assert other["digest"] == told["digest"]


async def test_pairs_of_steps_and_of_two_prompts_pass_through(big: Path) -> None:
    def turn(text: str) -> str:
        return f'[{{"role": "assistant", "content": "{text}"}}]'

    def pair(i: int, **more: Any) -> dict[str, Any]:
        ids = {"pair_id": f"p{i}", "prompt_id": f"q{i}", "split": "train", "margin": float(i)}
        return {**ids, "prompt": turn(f"question {i}"), "chosen": turn(f"yes {i}"), "rejected": turn(f"no {i}"), **more}

    steps = frame([pair(i, kind="step", tree_id=f"t{i}", prefix_token_ids=[i, 2]) for i in range(9)], STEP_PAIRS)
    joint = frame([pair(i, kind="joint", rejected_prompt=turn(f"other {i}") if i else None) for i in range(9)], JOINT_PAIRS)
    with storage.open_lake(big) as lake:
        for name, pairs in (("steps", steps), ("joint", joint)):
            storage.publish(
                lake,
                name,
                pairs,
                manifest={"kind": name, "policy": "hf-x"},
                author="me",
                commit_id=name,
                facts={"nodes": "tree_id"} if name == "steps" else {},
            )
    for name, pairs in (("steps", steps), ("joint", joint)):
        told, run = await selected(big, dataset=f"few-{name}", source=name, **TINY, text="all", budget=4)
        assert told["counts"]["pairs"] == 4
        assert run.release is not None
        assert run.release.manifest["policy"] == "hf-x"
        assert view_of(TrainConfig(dataset="x"), run.release) == {"steps": "step", "joint": "dpo"}[name]
        found = storage.scan(run.release).collect()
        assert found.select(pairs.columns).equals(pairs.filter(pl.col("pair_id").is_in(found["pair_id"].implode())))


async def test_a_band_of_the_policys_pass_rate(big: Path) -> None:
    """Of four graded samples a prompt, i pass on prompt i: 0, 1/4, 2/4, 3/4 and 4/4, of which the band keeps the middle three."""
    pairs = pl.DataFrame(
        {"pair_id": [f"p{i}" for i in range(6)], "prompt_id": [f"q{i}" for i in range(6)]}
        | {name: ['[{"role": "user", "content": "x"}]'] * 6 for name in ("prompt", "chosen", "rejected")}
        | {"on_policy": [None] * 6},
        schema_overrides={"on_policy": pl.Boolean},
    )
    graded: list[dict[str, object]] = [
        {
            "judgment_id": f"{i}{j}",
            "prompt_id": f"q{i}",
            "protocol": "verifier",
            "state": "ok",
            "generation_ids": [f"{i}{j}"],
            "scores": [float(j < i)],
        }
        for i in range(5)
        for j in range(4)
    ]
    with storage.open_lake(big) as lake:
        lake.append("judgments", frame(graded, JUDGMENTS), commit_id="graded")
        storage.publish(lake, "graded", pairs, manifest={}, author="me", commit_id="graded-pairs")
    told, run = await selected(
        big, source="graded", selector="random", filters="pass_rate_band", budget=1.0, gates={"max_duplicate_share": None}
    )
    assert told["funnel"][0]["dropped"] == {"too_hard": 1, "too_easy": 1, "ungraded": 1}
    assert run.release is not None
    assert storage.scan(run.release).collect()["prompt_id"].to_list() == ["q1", "q2", "q3"]
