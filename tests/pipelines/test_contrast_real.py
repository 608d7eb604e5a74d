"""Flow `contrast` on real rows and on a small chat model: what becomes of the attempts is printed (`pytest -m slow -s`), and stands in
docs/contrast.md.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import storage
from curators.constraints import holds
from curators.engines import open_engine
from curators.engines.base import Sampling
from curators.sampling import make_prompt, sample
from curators.schema import PROMPTS, frame
from curators.verifiers import load_verifier
from pipelines import candidates
from pipelines.config import ImportConfig
from pipelines.imports import import_candidate, importation
from tests.pipelines.test_contrast import adds_up, config_of, said, staged

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"
DOUBLES = {"gates": {"max_duplicate_share": None}}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
with_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")


async def brought_in(lake: Path, name: str, file: Path, **config: Any) -> None:
    async with importation(ImportConfig(dataset=name, lake=str(lake), files=(str(file),), **config)) as run:
        import_candidate(run)
        assert candidates.publish(run)["outcome"] == "published"


async def contrasted(lake: Path, **config: Any) -> tuple[dict[str, dict[str, int]], pl.DataFrame]:
    """Attempts by method and state, which are printed, and the pairs."""
    told = await staged(config_of(lake, dataset="contrasts", shard_prompts=256, **config))
    adds_up(told)
    found = {name: dict(about["attempts"]) for name, about in told["contrast"]["methods"].items()}
    for name, states in found.items():
        passed = f"{states.get('ok', 0):,} of {sum(states.values()):,} attempts passed"
        print(f"{config['source']}, {name}: {passed}; {states}, {told['seconds']} s")
    with storage.open_lake(lake) as opened:
        return found, storage.scan(storage.resolve(opened, "contrasts")).collect()


def written(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@with_data
async def test_best_of_sixteen(lake_root: Path) -> None:
    await brought_in(lake_root, "bon16", DATA / "nc" / "bon16_tulu2_dpo_13b.jsonl.gz")
    methods = ["west_of_n", "max_min", "max_min_len", "max_second", "max_random", "best_of_all_vs_min_of_m", "sigma"]
    found, pairs = await contrasted(lake_root, source="bon16", methods=methods, **DOUBLES)
    assert set(pairs.filter(pl.col("margin") <= 0)["kind"]) <= {"max_min_len"}
    assert {sum(states.values()) for states in found.values()} == {386}  # the prompts with a pair, of 389
    of = {name: pairs.filter(pl.col("kind") == name).sort("prompt_id") for name in ("west_of_n", "max_min", "max_second")}
    assert of["west_of_n"]["chosen"].equals(of["max_min"]["chosen"])
    for name, rows in of.items():
        longer = rows.select((pl.col("chosen").str.len_chars() > pl.col("rejected").str.len_chars()).mean()).item()
        print(f"{name}: mean margin {rows.select(pl.col('margin').mean()).item():.3f}, chosen is longer in {longer:.1%}")


@with_data
async def test_wrong_steps_of_models_solutions(tmp_path: Path, lake_root: Path) -> None:
    """`is_correct` is true or false, and an imported score is a number."""
    rows = []
    with gzip.open(DATA / "gsm8k_test_model_solutions.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            texts = [each["output"] for each in row["responses"]]
            scores = [float(each["is_correct"]) for each in row["responses"]]
            rows.append({"prompt": row["question"], "reference": row["ground_truth"], "texts": texts, "scores": scores})
    columns = {"prompt": "prompt", "reference": "reference", "response_text": "texts[]", "response_score": "scores[]"}
    await brought_in(lake_root, "gsm", written(tmp_path / "gsm.jsonl", rows), columns=columns)
    methods = {"step_error": {}, "ladder": {"operator": "corrupt", "degrees": [1]}}
    _, pairs = await contrasted(lake_root, source="gsm", methods=methods, verifier="numeric")
    numeric = load_verifier("numeric").check
    references = {row["prompt"]: row["reference"] for row in rows}
    for pair in pairs.iter_rows(named=True):
        case = {"prompt": said(pair["prompt"]), "reference": references[said(pair["prompt"])]}
        assert numeric(**case, response=said(pair["chosen"]))
        assert not numeric(**case, response=said(pair["rejected"]))


@with_data
@pytest.mark.parametrize("name", ["ultrafeedback_binarized_sample", "hh_rlhf_harmless_base_test"])
async def test_constraints_and_reversals_of_recorded_pairs(name: str, lake_root: Path) -> None:
    await brought_in(lake_root, name[:2], DATA / f"{name}.jsonl.gz", limit=1000)
    methods = {"mapl_intra": {}, "mapl_inter": {}, "reversed": {}}
    found, pairs = await contrasted(lake_root, source=name[:2], methods=methods)
    assert set(found["reversed"]) == {"ok"}
    joint = pairs.filter(pl.col("kind") == "mapl_intra")
    assert joint["chosen"].equals(joint["rejected"])
    assert (joint["prompt"] != joint["rejected_prompt"]).all()
    with storage.open_lake(lake_root) as lake:
        made = lake.facts("contrasts").filter((pl.col("method") == "mapl_intra") & (pl.col("state") == "ok"))
    for row in made.iter_rows(named=True):
        checks = json.loads(row["checks"])
        assert all(holds(said(row["chosen"]), each) for each in checks["constraints_w"])
        assert not all(holds(said(row["chosen"]), each) for each in checks["constraints_l"])


@with_data
async def test_traces_with_a_mistake(tmp_path: Path, lake_root: Path) -> None:
    """One trace a prompt, a list of steps where a file of answers has a text."""
    rows = []
    with gzip.open(DATA / "big_bench_mistake.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            rows.append({"prompt": row["input"], "reference": row["target"], "answer": ["\n".join(row["steps"])]})
    file = written(tmp_path / "mistakes.jsonl", rows)
    columns = {"prompt": "prompt", "reference": "reference", "response_text": "answer[]"}
    methods = {"step_error": {}, "mapl_intra": {}}
    found, pairs = await contrasted(lake_root, source=str(file), columns=columns, methods=methods, verifier="numeric")
    assert sum(found["step_error"].values()) == sum(found["mapl_intra"].values()) == len({row["prompt"] for row in rows})
    assert pairs.height == sum(states.get("ok", 0) for states in found.values())


QUESTIONS = ("Why is the sky blue?", "How do I boil an egg?", "Name three rivers of Europe.", "What does a librarian do?")
WANTED = {"constraints": [{"kind": "max_words", "value": 60}, {"kind": "no_commas"}]}


@pytest.mark.skipif(not MODEL.is_dir(), reason="models/SmolLM2-135M-Instruct is not there")
async def test_a_small_chat_model_writes(tmp_path: Path, lake_root: Path) -> None:
    """Its own answers, shorter ones scored higher, are revised, contrasted by an affix, and given constraints."""
    short = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 96}
    asked = frame([make_prompt(f"{each} Use at most 60 words and no commas.", reference=WANTED) for each in QUESTIONS], PROMPTS)
    engine = open_engine(f"hf:{MODEL}")
    own = await sample(asked, engine, n=3, sampling=Sampling(**short))
    await engine.aclose()
    rows = []
    for prompt in asked.iter_rows(named=True):
        texts = own.filter((pl.col("prompt_id") == prompt["prompt_id"]) & (pl.col("state") == "ok"))["text"].to_list()
        scores = [-len(text) for text in texts]
        rows.append({"prompt": said(prompt["messages"]), "reference": prompt["reference"], "texts": texts, "scores": scores})
    columns = {"prompt": "prompt", "reference": "reference", "response_text": "texts[]", "response_score": "scores[]"}
    await brought_in(lake_root, "own", written(tmp_path / "own.jsonl", rows), columns=columns)
    (tmp_path / "shorter.py").write_text("def shorter(*, prompt, response, reference):\n    return -float(len(response.split()))\n")
    methods = {
        "rlcd": {"affixes": [["(one short sentence)", "(many long sentences)"]], "retries": 0, "sampling": short},
        "clair": {"sampling": {"max_tokens": 160}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        hands = {"writer": f"hf:{MODEL}", "verifier": "shorter:shorter"}
        found, pairs = await contrasted(lake_root, source="own", methods=methods, gates={"min_pairs": 0}, **hands)
    assert sum(found["rlcd"].values()) <= len(QUESTIONS)
    for pair in pairs.iter_rows(named=True):
        assert len(said(pair["chosen"]).split()) < len(said(pair["rejected"]).split())
    constrained, pairs = await contrasted(lake_root, source="own", methods=["mapl_intra", "single_edit"], gates={"min_pairs": 0})
    assert constrained["mapl_intra"].keys() <= {"ok", "duplicate_pair"}  # what its answers satisfy is read from them
    for pair in pairs.filter(pl.col("kind") == "single_edit").iter_rows(named=True):
        sides = [[holds(said(pair[side]), each) for each in WANTED["constraints"]] for side in ("chosen", "rejected")]
        assert (all(sides[0]), sides[1].count(False)) == (True, 1)
