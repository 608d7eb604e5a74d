"""From judgments to a candidate: verdicts, scores, pairs and the judge's health. Flows `curate` and `import`."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from curators.funnel import Funnel, count_states
from curators.judging.health import judge_health
from curators.judging.verdicts import VerdictConfig, final_judgments, gold_verdicts, group_scores, verdicts
from curators.pairs import PairConfig, build_pairs
from curators.schema import GENERATIONS, JUDGMENTS
from pipelines.candidates import weigh
from pipelines.judging.config import CurateConfig, PanelConfig
from pipelines.judging.panels import consistency_told, measured_verdicts, members_verdicts, only_consistent, panel_health, panel_verdicts
from pipelines.runs import Run


def build(run: Run) -> dict[str, int]:
    """Facts of the run's shards → `pairs.parquet` and the run's figures."""
    config = run.config
    assert isinstance(config, CurateConfig)
    prompts = run.read("prompts").filter(pl.col("state") == "ok")
    generations = run.read_shards("generations", GENERATIONS)
    judgments = run.read_shards("judgments", JUDGMENTS)
    labelling, gold = _by_role(run, config, judgments)
    usable = ("ok", "truncated") if config.sampling.use_truncated else ("ok",)
    both_orders = bool(config.judges) and all(judge.both_orders for judge in config.judges.values())
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
    """The facts that a candidate is made of. `labelling`: judgments of the judge or panel that labels; `gold`: a verifier's, or none."""

    prompts: pl.DataFrame
    generations: pl.DataFrame
    labelling: pl.DataFrame
    gold: pl.DataFrame | None


def decide(run: Run, facts: Facts, pairing: PairConfig, reading: VerdictConfig) -> dict[str, int]:
    """Verdicts, scores, pairs, health and gates; the pairs go into the run's directory, the rest into its figures."""
    figures, given = run.figures, getattr(run.config, "panel", None)
    truth = None if facts.gold is None else gold_verdicts(facts.gold)
    if given is None:
        found = verdicts(facts.labelling, reading)
        scores = group_scores(found, facts.generations, facts.labelling)
        if pairing.policy:
            figures.health = judge_health(facts.labelling, found, facts.generations, gold=truth, policy=pairing.policy)
    else:
        found = _by_panel(run, facts, given, reading, truth)
        scores = group_scores(found, facts.generations)
    judge = found["judge"].unique().to_list()
    pairs, funnels = build_pairs(
        facts.prompts, facts.generations, scores, verdicts=found, label_source=judge[0] if judge else None, config=pairing
    )
    figures.funnels += [_verdict_funnel(found), *funnels]
    counts = {
        "prompts": facts.prompts.height,
        "generations": facts.generations.height,
        "judgments": facts.labelling.height + (facts.gold.height if facts.gold is not None else 0),
    }
    return weigh(run, pairs, counts)


def _by_panel(run: Run, facts: Facts, config: PanelConfig, reading: VerdictConfig, truth: pl.DataFrame | None) -> pl.DataFrame:
    """The panel's verdicts; calibrated on the gold pairs that its members were tried on, else on the verifier."""
    members = members_verdicts(facts.labelling, facts.generations, config, reading)
    tried = run.read("trial.verdicts") if run.path("trial.verdicts.parquet").exists() else None
    gold = run.read("trial.gold") if tried is not None else truth
    found = panel_verdicts(members, config, gold=gold, tried=tried)
    measured = measured_verdicts(found, members, config, gold=gold) if tried is None else found
    policy = run.fingerprints["policy"]
    marked = None
    if config.min_agree is not None:
        found, marked = only_consistent(found, members, config, seed=run.seed)
        measured, _ = only_consistent(measured, members, config, seed=run.seed)
    health = panel_health(facts.labelling, members, found, facts.generations, config, gold=truth, measured=measured, policy=policy)
    run.figures.health = health | ({} if marked is None else {"consistency": consistency_told(members, marked, truth)})
    return found


def _by_role(run: Run, config: CurateConfig, judgments: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """The labels' judgments and the gold's: a model judge labels where there is one, else a reward model, and the verifier is its gold."""
    if not config.judges and config.reward is None:
        return judgments, None
    by_reward, by_verifier = pl.col("protocol") == "reward", pl.col("protocol") == "verifier"
    gold = judgments.filter(by_verifier) if config.verifier else None
    return judgments.filter(by_reward if not config.judges else ~by_reward & ~by_verifier), gold


def _verdict_funnel(found: pl.DataFrame) -> Funnel:
    counts: dict[str, int] = dict(found["verdict"].value_counts().rows())
    decided = sum(counts.pop(side, 0) for side in ("a", "b"))
    return Funnel(stage="verdicts", unit="compared pairs", n_in=found.height, n_kept=decided, dropped=counts)
