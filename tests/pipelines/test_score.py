"""Flow `score`: pairs with a reference's log-probabilities, each text scored once, and what the trainers are handed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import storage
from curators.errors import ConfigError, EngineError
from curators.likelihood import Scorer
from curators.schema import PAIRS, frame
from examples.arithmetic.world import problems
from pipelines import candidates
from pipelines.config_files import load_config
from pipelines.references import scores
from pipelines.references.config import ScoreConfig
from pipelines.references.scores import score_pairs, scoring
from storage.errors import ViewError

POLICY = Path(__file__).parents[2] / "examples/arithmetic/policy"
N = 6


def turns(text: str, role: str = "assistant") -> str:
    return json.dumps([{"role": role, "content": text}])


def published(root: Path, name: str = "sums", long: int = 0) -> None:
    rows = [
        {
            "pair_id": f"{place:02d}",
            "prompt_id": f"p{place}",
            "kind": "response",
            "prompt": turns(each.text if place >= long else "why? " * 4000, "user"),
            "chosen": turns(each.solution),
            "rejected": turns("Answer: 0"),
            "split": "train",
        }
        for place, each in enumerate(problems(N, seed=5, split="demo"))
    ]
    manifest = {"policy": "hf-1", "counts": {}, "gates": [], "funnel": []}
    with storage.open_lake(root) as lake:
        storage.publish(lake, name, frame(rows, PAIRS), manifest=manifest, author="a", commit_id=name)


def config_of(root: Path, **changes: Any) -> ScoreConfig:
    given = {"dataset": "scored", "source": "sums", "reference": f"hf:{POLICY}", "lake": str(root), **changes}
    found = load_config("score", None, [f"{name}={json.dumps(value)}" for name, value in given.items()])
    assert isinstance(found, ScoreConfig)
    return found


async def scored(config: ScoreConfig) -> dict[str, Any]:
    async with scoring(config) as run:
        if run.release is not None:
            return run.outcome("reused")
        score_pairs(run, lambda done, n: None)
        return candidates.publish(run)


async def test_pairs_get_the_references_numbers_and_every_text_is_scored_once(
    lake_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(lake_root)
    told = await scored(config_of(lake_root))
    assert (told["outcome"], told["parents"][0]["ref"], told["embedded"]) == ("published", "sums@1", {"known": 0, "scored": 2 * N})
    with storage.open_lake(lake_root) as lake:
        release = storage.resolve(lake, "scored@1")
        pairs = storage.scan(release).collect()
        assert release.manifest["source"]["reference"] == Scorer(POLICY).fingerprint
    assert (pairs["ref_chosen_logps"] > pairs["ref_rejected_logps"]).sum() >= N - 1, "the policy writes solutions, and not bare answers"
    rows = storage.load("scored@1", view="dpo-ref", lake=lake_root)["train"]
    by_id = dict(zip(pairs["pair_id"], pairs["ref_chosen_logps"], strict=True))
    assert {row["pair_id"]: row["ref_chosen_logps"] for row in rows} == pytest.approx(by_id)
    with pytest.raises(ViewError, match="ref_chosen_logps, and sums@1 does not have it"):
        storage.load("sums@1", view="dpo-ref", lake=lake_root)
    moved = shutil.copytree(POLICY, tmp_path / "elsewhere")
    assert (await scored(config_of(lake_root, reference=f"hf:{moved}")))["outcome"] == "reused", "the same weights"
    monkeypatch.setattr(scores, "Scorer", None)  # no model is loaded for what is known
    again = await scored(config_of(lake_root, dataset="others"))
    assert (again["outcome"], again["embedded"]) == ("published", {"known": 2 * N, "scored": 0})
    with storage.open_lake(lake_root) as lake:
        assert storage.scan(storage.resolve(lake, "others@1")).collect()["ref_chosen_logps"].equals(pairs["ref_chosen_logps"])


async def test_a_pair_that_does_not_fit_is_dropped_with_the_reason(lake_root: Path) -> None:
    published(lake_root, long=2)
    told = await scored(config_of(lake_root))
    (funnel,) = told["funnel"]
    assert (funnel["n_in"], funnel["n_kept"], funnel["dropped"]) == (N, N - 2, {"not_scored": 2})
    assert "and the model holds" in told["source"]["reasons"][0]
    with storage.open_lake(lake_root) as lake:
        assert storage.scan(storage.resolve(lake, "scored")).select(pl.col("ref_rejected_logps").null_count()).collect().item() == 0


async def test_references_that_are_none_are_refused(lake_root: Path) -> None:
    with pytest.raises(ConfigError, match="reference: needs weights, which an endpoint does not give"):
        config_of(lake_root, reference="openai:gpt@http://127.0.0.1/v1")
    published(lake_root)
    with pytest.raises(EngineError, match="no such directory"):
        await scored(config_of(lake_root, reference="hf:nowhere"))
