"""The candidate version of a run: from its facts to pairs, figures and gates, and from there into the lake.

Shared by every flow that ends in a published version. Everything here is synchronous; the tasks run it in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from curators.errors import SchemaError
from curators.funnel import Funnel, count_states
from curators.gates import Candidate, GateBounds, check_gates
from curators.judging.health import judge_health
from curators.judging.verdicts import VerdictConfig, final_judgments, group_scores, verdicts
from curators.pairs import PairConfig, build_pairs
from curators.sampling import bad_prompt, mark_duplicates, prompt_of
from curators.schema import GENERATIONS, JUDGMENTS, PROMPTS, frame
from pipelines.config import CurateConfig, login_name
from pipelines.runs import Run, code_digest
from storage import Release
from storage import publish as publish_version
from storage import tag as move_tag
from storage.files import read_rows


def read_prompts(run: Run) -> dict[str, int]:
    """The prompt file → `prompts.parquet`, bad and repeated rows included with their states."""
    config = run.config
    assert isinstance(config, CurateConfig)
    name = Path(config.prompts).name
    rows = mark_duplicates(prompt_row(row, name) for row in islice(read_rows(config.prompts), config.limit))
    prompts = frame(rows, PROMPTS)
    run.write("prompts", prompts)
    run.figures.funnels = [count_states(prompts, stage="prompts", unit="rows")]
    if not run.figures.funnels[0].n_kept:
        reasons = dict(run.figures.funnels[0].dropped)
        raise SchemaError(f"{config.prompts}: none of {len(rows)} rows is a usable prompt: {reasons}; the first: {rows[0]['reason']}")
    return {"prompts": run.figures.funnels[0].n_kept}


def prompt_row(row: Any, file: str) -> dict[str, Any]:
    """A row of a file as a row of `prompts`; `source` is the file's name and the row's number."""
    source = f"{file}:{row.number}"
    if row.row is None:
        return bad_prompt(row.state, row.reason or row.state, source=source)
    return prompt_of(row.row, source=source)


def build(run: Run) -> dict[str, int]:
    """Facts of the run's shards → `pairs.parquet` and the run's figures."""
    config = run.config
    assert isinstance(config, CurateConfig)
    prompts = run.read("prompts").filter(pl.col("state") == "ok")
    generations = run.read_shards("generations", GENERATIONS)
    judgments = run.read_shards("judgments", JUDGMENTS)
    labelling, gold = _by_role(run, config, judgments)
    usable = ("ok", "truncated") if config.sampling.use_truncated else ("ok",)
    both_orders = config.judge.both_orders if config.judge else False
    run.figures.funnels = [
        *run.figures.funnels[:1],
        count_states(generations, stage="sample", unit="generations", kept=usable),
        count_states(final_judgments(labelling), stage="judge", unit="judgments"),
    ]
    if gold is not None:
        run.figures.funnels.append(count_states(final_judgments(gold), stage="gold", unit="judgments"))
    pairing = PairConfig(
        pair_policy=config.pairs.policy,
        min_margin=config.pairs.min_margin,
        max_per_prompt=config.pairs.max_per_prompt,
        policy=run.fingerprints["policy"],
        seed=run.seed,
        test_share=config.pairs.test_share,
        use_truncated=config.sampling.use_truncated,
    )
    return decide(run, Facts(prompts, generations, labelling, gold), pairing, VerdictConfig(both_orders=both_orders))


@dataclass(frozen=True)
class Facts:
    """The facts that a candidate is made of. `labelling`: judgments of the one judge that labels; `gold`: a verifier's, or none."""

    prompts: pl.DataFrame
    generations: pl.DataFrame
    labelling: pl.DataFrame
    gold: pl.DataFrame | None


def decide(run: Run, facts: Facts, pairing: PairConfig, reading: VerdictConfig) -> dict[str, int]:
    """Verdicts, scores, pairs, health and gates; the pairs go into the run's directory, the rest into its figures."""
    found = verdicts(facts.labelling, reading)
    scores = group_scores(found, facts.generations, facts.labelling)
    judge = facts.labelling["judge"].unique().to_list()
    pairs, funnels = build_pairs(
        facts.prompts, facts.generations, scores, verdicts=found, label_source=judge[0] if judge else None, config=pairing
    )
    figures = run.figures
    figures.funnels += [_verdict_funnel(found), *funnels]
    figures.health = judge_health(facts.labelling, found, generations=facts.generations, gold=facts.gold) if pairing.policy else None
    figures.gates = check_gates(Candidate(pairs=pairs, health=figures.health), GateBounds(**run.config.gates.model_dump()))
    figures.on_policy_share = int(pairs["on_policy"].sum()) / pairs.height if pairs.height and pairing.policy else None
    figures.counts = {
        "prompts": facts.prompts.height,
        "generations": facts.generations.height,
        "judgments": facts.labelling.height + (facts.gold.height if facts.gold is not None else 0),
        "pairs": pairs.height,
    }
    run.write("pairs", pairs)
    return figures.counts


def _by_role(run: Run, config: CurateConfig, judgments: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """The labels' judgments and the gold's: a model judge labels where there is one, and the verifier is then its gold."""
    if config.judge is None:
        return judgments, None
    by_model = pl.col("protocol") != "verifier"
    gold = judgments.filter(~by_model)
    return judgments.filter(by_model), gold if config.verifier else None


def _verdict_funnel(found: pl.DataFrame) -> Funnel:
    counts: dict[str, int] = dict(found["verdict"].value_counts().rows())
    decided = sum(counts.pop(side, 0) for side in ("a", "b"))
    return Funnel(stage="verdicts", unit="compared pairs", n_in=found.height, n_kept=decided, dropped=counts)


OWN_FACTS = {"generations": ["policy", "sampling", "seed"], "judgments": ["judge", "rubric_digest", "sampling"]}
"""What a version's facts have in common: without it, a night's version would hold every earlier night's samples of the same prompts."""


def publish(run: Run) -> dict[str, Any]:
    """Every fact into the lake, also of a refused candidate: it was paid for. The pairs only when all gates pass."""
    own: dict[str, pl.DataFrame] = {}
    for table, data in _facts(run):
        run.lake.append(table, data, commit_id=f"{run.key}/{table}", replacing="reference" if table == "prompts" else None)
        own |= {table: data.select(OWN_FACTS[table]).unique()} if table in OWN_FACTS else {}
    if run.figures.refusal is None:
        release = publish_version(
            run.lake,
            run.config.dataset,
            run.read("pairs"),
            manifest=manifest(run),
            author=run.config.author or login_name(),
            commit_id=run.key,
            facts=own,
        )
        run.release = release
    outcome = run.outcome()
    run.note("outcome", outcome)
    _drop_intermediates(run)
    return outcome


def announce(run: Run, emit: Callable[[Release], None]) -> None:
    """Move the tag and send the event of the run's version, each once, also where a killed attempt published it."""
    release, done = run.release, run.noted("announced") or {"tags": [], "event": False}
    if release is None:
        return
    if (tag := run.config.tag) and tag not in done["tags"]:
        move_tag(run.lake, release.ref, tag)
        done["tags"].append(tag)
    if not release.reused and not done["event"]:
        emit(release)
        done["event"] = True
    run.note("announced", done)


def _facts(run: Run) -> Iterable[tuple[str, pl.DataFrame]]:
    # A duplicate has the id of the row that it repeats, and that row is there.
    yield "prompts", run.read("prompts").filter(pl.col("state") != "duplicate").unique("prompt_id", keep="first", maintain_order=True)
    yield "generations", run.read_shards("generations", GENERATIONS)
    yield "judgments", run.read_shards("judgments", JUDGMENTS)


def _drop_intermediates(run: Run) -> None:
    """The frames are in the lake now; the outcome stays as the run's record."""
    for path in run.directory.glob("*.parquet"):
        path.unlink()


def manifest(run: Run) -> Mapping[str, Any]:
    """What the version says of itself: how it was made, by which code and models, and every count on the way."""
    figures = run.figures
    return {
        "kind": run.kind,
        "recipe": run.config.model_dump(mode="json", exclude={"lake", "author"}),
        "recipe_digest": run.key,
        "code_digest": code_digest(),
        "seed": run.seed,
        "policy": run.fingerprints.get("policy"),
        "policy_spec": run.engines["policy"].spec if "policy" in run.engines else None,
        "judge": run.fingerprints.get("judge"),
        "funnel": [funnel.as_dict() for funnel in figures.funnels],
        "health": figures.health,
        "gates": [gate.as_dict() for gate in figures.gates],
        "counts": figures.counts,
        "on_policy_share": figures.on_policy_share,
        "capped": run.capped,
        **({"source": figures.source} if figures.source else {}),
    }
