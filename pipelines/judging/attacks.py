"""A judge under attack: `pairmill judge-attack`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib import resources
from typing import Any

import polars as pl

from curators.errors import ConfigError
from curators.judging.attacks import LIMITS, attack_judge, attack_rows, choose_attacks, fooled, items_of_gold, judged_attacks
from curators.judging.attacks.factorial import effects, settings
from curators.judging.verdicts import VerdictConfig
from pipelines.judging.config import AttackConfig
from pipelines.judging.labelling import Judge
from pipelines.judging.trials import open_session

FACTORIAL = "factorial"
"""In place of attacks' names: the full factorial design over toggles."""

BUILT_IN = str(resources.files("curators.judging.attacks") / "items.jsonl")
"""Plain questions with a plainly right and a plainly wrong answer: gold where a user gives none."""


async def judge_attack(config: AttackConfig, advance: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Attack a judge on gold pairs; what came of it as JSON.

    Raises:
        ConfigError: judge, rubric, channel, gold and attacks do not fit together; nothing has been sent then.
    """
    designed = config.attacks == (FACTORIAL,)
    if FACTORIAL in config.attacks and not designed:
        raise ConfigError(f"attacks: {FACTORIAL} is a design of its own and stands alone; try the other attacks by a command of their own")
    attacks = list(settings()) if designed else choose_attacks(config.attacks)
    async with open_session(config) as session:
        gold, items = session.gold, items_of_gold(session.gold)
        if not items:
            raise ConfigError(f"judge-attack: none of {gold.pairs.height} gold pairs has two answers in plain text to attack")
        judge = await session.judge()
        shown, judgments = await attack_judge(
            items,
            attacks,
            judge.engine,
            rubric=judge.rubric,
            config=judge.config,
            seed=config.seed,
            advance=lambda done, total: advance("attacks", done, total),
        )
        fingerprint, spec = judge.engine.fingerprint, judge.engine.spec
    return {
        **_measured(judge, shown, judgments, seed=config.seed, designed=designed),
        "judge": fingerprint,
        "engine": spec,
        "rubric": {"name": judge.rubric.name, "digest": judge.rubric.digest, "protocol": judge.rubric.protocol},
        "channels": dict(Counter(judgments["channel"])),
        "gold": {
            "source": "built-in items" if config.gold.source == BUILT_IN else config.gold.source,
            "items": len(items),
            "prompts": gold.prompts.height,
        },
        "states": dict(Counter(judgments["state"])),
        "calls": session.calls,
        "capped": session.spend.exhausted,
        "limits": LIMITS,
    }


def _measured(judge: Judge, shown: pl.DataFrame, judgments: pl.DataFrame, *, seed: int, designed: bool) -> dict[str, Any]:
    """What the attacks did, and whether the judge was fooled."""
    by_scores = judge.rubric.protocol != "pairwise"
    reading = VerdictConfig(both_orders=judge.config.both_orders)
    judged = judged_attacks(shown, judgments, config=reading, scale=judge.rubric.scale)
    rows = attack_rows(judged, by_scores=by_scores, seed=seed)
    unit = "scale" if by_scores else "logit" if set(judgments["channel"]) == {"options"} else "probability"
    factorial = effects(judged, unit=unit, seed=seed) if designed else None
    swayed = factorial is not None and any(row["status"] == "beyond" for row in factorial["effects"])
    counted = rows if factorial is None else factorial["effects"]
    return {
        "outcome": "fooled" if fooled(rows) or swayed else "not fooled",
        "attacks": rows,
        "factorial": factorial,
        "statuses": dict(Counter(row["status"] for row in counted if row["status"])),
    }
