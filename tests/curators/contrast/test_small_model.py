"""RLCD, CLAIR and verifiable constraints on a small chat model: which share of its attempts passes the checker.

The shares are printed (`pytest -m slow -s`), and stand in docs/contrast.md. A model of 135 M parameters fails much of it;
what must hold is that every attempt has a state, and that every pair is one that its checker confirms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import polars as pl
import pytest

from curators.constraints import holds, words
from curators.contrast.affixes import RlcdConfig, rlcd
from curators.contrast.candidates import answers, contrast_pairs
from curators.contrast.checkers import by_verifier
from curators.contrast.prompt_side import intra_sample
from curators.contrast.revisions import ClairConfig, clair, revision_fault
from curators.contrast.single_edits import single_edits
from curators.engines import open_engine
from curators.engines.base import Engine, Sampling
from curators.sampling import make_prompt, sample
from curators.schema import PROMPTS, frame
from tests.curators.contrast.conftest import in_process, said

MODEL = Path(__file__).parents[3] / "models" / "SmolLM2-135M-Instruct"
QUESTIONS = (
    "Why is the sky blue?",
    "How do I boil an egg?",
    "Name three rivers of Europe.",
    "What does a librarian do?",
)
PLAIN = frame([make_prompt(question) for question in QUESTIONS], PROMPTS)
SHORT = Sampling(temperature=0.7, top_p=0.9, max_tokens=96, seed=0)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not MODEL.is_dir(), reason="models/SmolLM2-135M-Instruct is not there"),
]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    opened = open_engine(f"hf:{MODEL}")
    yield opened
    await opened.aclose()


def report(name: str, found: pl.DataFrame) -> float:
    share = float((found["state"] == "ok").mean())  # type: ignore[arg-type]
    print(f"{name}: {share:.2f} of {found.height} attempts passed; {dict(sorted(found['state'].value_counts().iter_rows()))}")
    assert found.filter(pl.col("state") != "ok")["reason"].null_count() == 0
    assert contrast_pairs(found)[0].height + contrast_pairs(found)[1].height <= (found["state"] == "ok").sum()
    return share


async def test_affix_pairs(engine: Engine) -> None:
    """The affixes ask for a short and for a long answer, which a program can check: fewer words are chosen."""
    shorter = in_process(lambda *, prompt, response, reference: -float(len(words(response))), "shorter")
    config = RlcdConfig(affixes=[("(one short sentence)", "(many long sentences)")], retries=0, sampling=SHORT)
    found = await rlcd(PLAIN, config=config, engine=engine, checker=by_verifier(shorter))
    assert found.height == len(QUESTIONS)
    report("rlcd", found)
    for row in found.filter(pl.col("state") == "ok").iter_rows(named=True):
        assert len(words(said(row["chosen"]))) < len(words(said(row["rejected"])))


async def test_revisions_of_its_own_answers(engine: Engine) -> None:
    asked = frame([make_prompt(f"{question} Answer in one sentence.") for question in QUESTIONS], PROMPTS)
    own = answers(asked, await sample(asked, engine, n=2, sampling=SHORT))
    found = await clair(own, config=ClairConfig(sampling=Sampling(temperature=0.7, max_tokens=160)), engine=engine)
    assert found.height == own.height
    report("clair", found)
    for row in found.filter(pl.col("state") == "ok").iter_rows(named=True):
        assert revision_fault(said(row["rejected"]), said(row["chosen"]), min_edit_sim=0.3) is None


async def test_verifiable_constraints(engine: Engine) -> None:
    wanted = [{"kind": "max_words", "value": 60}, {"kind": "no_commas"}]
    asked = [make_prompt(f"{each} Use at most 60 words and no commas.", reference={"constraints": wanted}) for each in QUESTIONS]
    prompts = frame(asked, PROMPTS)
    own = answers(prompts, await sample(prompts, engine, n=2, sampling=SHORT))
    assert not own.is_empty()
    share = report("mapl_intra", intra_sample(own))
    assert share == 1  # what its answers satisfy is read from them
    found = single_edits(own)
    report("single_edit", found)
    kept = found.filter(pl.col("state") == "ok")
    for row in kept.iter_rows(named=True):
        checks = orjson.loads(row["checks"])
        assert [holds(said(row["chosen"]), each) for each in wanted] == checks["chosen"] == [True, True]
        assert [holds(said(row["rejected"]), each) for each in wanted].count(False) == 1
