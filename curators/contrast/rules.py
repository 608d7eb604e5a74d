"""Which two of n scored answers make a pair: one function, all rules.

| rule | chosen, rejected | used by |
|---|---|---|
| `max_min` | best, worst | SimPO, RLHFlow, West-of-N |
| `max_min_len` | best, worst of score - `length_penalty` * characters | RLHFlow (max_min_p) |
| `max_second` | best, second best | RLHFlow (max_max) |
| `max_random` | best, drawn among those below it | Tulu 3 |
| `first_two` | the first two samples, by score | RLHFlow (its "random") |
| `best_of_all_vs_min_of_m` | best of all, worst of `m` drawn from all | Sweet Spot, its rule for many samples |
| `sigma` | nearest to mean + `high` sd, nearest to mean + `low` sd (population sd; null: the best, the worst) | Sweet Spot, its grid |
| `margin` | every two whose scores differ by at least `min_margin`, widest first | DNO; thresholds of Tajwar et al. |
| `winrate` | best, worst mean probability to beat the others | SPPO, SPO |

SimPO: arXiv 2405.14734; RLHFlow: 2405.07863; Tulu 3: 2411.15124; Sweet Spot: 2502.16825; DNO: 2404.03715; Tajwar: 2404.14367; SPPO:
2405.00675.

Of equal values the earlier candidate is taken, and no rule ever gives a pair whose value ties (`tie`) or whose texts are the same
(`identical_text`): released code does, which makes pairs that say nothing. Draws are hashes of the seed and the candidates' keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from curators.contrast.candidates import Attempt, by_prompt, contrasts, text_of
from curators.errors import ConfigError
from curators.pairs import unit_hash
from curators.sampling import Row
from curators.statistics.intervals import Floats

Rule = Literal["max_min", "max_min_len", "max_second", "max_random", "first_two", "best_of_all_vs_min_of_m", "sigma", "margin", "winrate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleConfig:
    """`length_penalty` is a score per character; `high` and `low` are in standard deviations, null for the best and the worst; `min_margin`
    is inclusive, in the unit of the scores.
    """

    rule: Rule = "max_min"
    length_penalty: float = 0.001
    m: int = 5
    high: float | None = None
    low: float | None = -2.0
    min_margin: float = 0.0
    max_pairs_per_prompt: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"pair rule is {self.rule!r}; allowed are {sorted(RULES)}")
        if self.m < 1 or self.max_pairs_per_prompt < 1 or self.min_margin < 0:
            bounds = f"m {self.m} and max_pairs_per_prompt {self.max_pairs_per_prompt} must be ≥ 1, min_margin {self.min_margin} ≥ 0"
            raise ConfigError(f"pair rule {self.rule}: {bounds}")


class Choice(NamedTuple):
    """Places of a chosen and a rejected candidate; `state` ok, tie, identical_text or over_cap."""

    chosen: int
    rejected: int
    state: str = "ok"


@dataclass(frozen=True, slots=True)
class _Group:
    values: Floats
    texts: Sequence[str]
    keys: Sequence[str]
    config: RuleConfig

    @property
    def best(self) -> int:
        return int(np.argmax(self.values))

    @property
    def worst(self) -> int:
        return int(np.argmin(self.values))

    def drawn(self, places: Sequence[int], what: str) -> list[int]:
        return sorted(places, key=lambda place: (unit_hash(what, self.config.seed, self.keys[place]), self.keys[place]))

    def nearest(self, deviations: float) -> int:
        return int(np.argmin(np.abs(self.values - (self.values.mean() + deviations * self.values.std()))))


def choose(
    texts: Sequence[str],
    scores: Sequence[float],
    *,
    config: RuleConfig | None = None,
    keys: Sequence[str] | None = None,
    wins: Sequence[Sequence[float | None]] | None = None,
) -> list[Choice]:
    """The pairs of one prompt by a rule, those that it cannot use with their state; none for fewer than two candidates.

    `keys` (default: the places) name the candidates in draws. `wins[i][j]` is P(i beats j), null where it is not known: rule `winrate`
    only, whose scores are `win_rates` of it; without `wins` the scores are taken for win rates.

    >>> choose(["a", "b", "c", "d"], [0.3, 0.9, 0.9, 0.1])
    [Choice(chosen=1, rejected=3, state='ok')]
    >>> choose(["a", "b"], [0.5, 0.5])
    [Choice(chosen=0, rejected=0, state='tie')]

    Raises:
        ConfigError: a score is not finite, or there is not one for each text.
    """
    config = config or RuleConfig()
    values = np.array(win_rates(wins) if wins is not None and config.rule == "winrate" else scores, dtype=np.float64)
    if len(values) != len(texts) or not np.isfinite(values).all():
        raise ConfigError(f"pair rule {config.rule}: {len(texts)} texts need as many finite scores; there are {list(values)!r:.80}")
    if len(texts) < 2:
        return []
    if config.rule == "max_min_len":
        values = values - config.length_penalty * np.array([len(text) for text in texts])
    group = _Group(values, texts, keys or [str(place) for place in range(len(texts))], config)
    kept, out = 0, []
    for chosen, rejected in RULES[config.rule](group):
        state = _fault(group, chosen, rejected)
        kept += state == "ok"
        out.append(Choice(chosen, rejected, "over_cap" if state == "ok" and kept > config.max_pairs_per_prompt else state))
    return out


def _fault(group: _Group, chosen: int, rejected: int) -> str:
    if not group.values[chosen] > group.values[rejected]:
        return "tie"
    return "identical_text" if group.texts[chosen].strip() == group.texts[rejected].strip() else "ok"


def _max_second(group: _Group) -> list[tuple[int, int]]:
    rest = [place for place in range(len(group.values)) if place != group.best]
    return [(group.best, max(rest, key=lambda place: (group.values[place], -place)))]


def _max_random(group: _Group) -> list[tuple[int, int]]:
    best = group.best
    below = [place for place in range(len(group.values)) if _fault(group, best, place) == "ok"]
    return [(best, (group.drawn(below, "rejected") or [group.worst])[0])]


def _first_two(group: _Group) -> list[tuple[int, int]]:
    return [(0, 1) if group.values[0] >= group.values[1] else (1, 0)]


def _min_of_m(group: _Group) -> list[tuple[int, int]]:
    drawn = sorted(group.drawn(range(len(group.values)), "drawn")[: group.config.m])
    return [(group.best, min(drawn, key=lambda place: (group.values[place], place)))]


def _sigma(group: _Group) -> list[tuple[int, int]]:
    high, low = group.config.high, group.config.low
    return [(group.best if high is None else group.nearest(high), group.worst if low is None else group.nearest(low))]


def _margin(group: _Group) -> list[tuple[int, int]]:
    n, values = len(group.values), group.values
    rounding = 1e-9
    found = [
        (i, j) for i in range(n) for j in range(n) if values[i] > values[j] and values[i] - values[j] >= group.config.min_margin - rounding
    ]
    return sorted(found, key=lambda pair: (-(values[pair[0]] - values[pair[1]]), pair)) or [(group.best, group.best)]


RULES: Mapping[str, Callable[[_Group], list[tuple[int, int]]]] = {
    "max_min": lambda group: [(group.best, group.worst)],
    "max_min_len": lambda group: [(group.best, group.worst)],
    "max_second": _max_second,
    "max_random": _max_random,
    "first_two": _first_two,
    "best_of_all_vs_min_of_m": _min_of_m,
    "sigma": _sigma,
    "margin": _margin,
    "winrate": lambda group: [(group.best, group.worst)],
}


def win_rates(wins: Sequence[Sequence[float | None]]) -> list[float]:
    """Mean probability to beat the others, over those that are known; NaN for a candidate that met nobody.

    >>> win_rates([[None, 0.8, 0.6], [0.2, None, None], [0.4, None, None]])
    [0.7, 0.2, 0.4]
    """
    known = [[p for j, p in enumerate(row) if j != i and p is not None] for i, row in enumerate(wins)]
    return [math.fsum(row) / len(row) if row else math.nan for row in known]


def rule_pairs(rows: pl.DataFrame, *, config: RuleConfig | None = None) -> pl.DataFrame:
    """`contrasts` of `answers` with scores, one row for each pair that the rule looks at, at least one for each prompt.

    An answer without a finite score takes no part and is counted in `checks`. For the rule `winrate` the score is the mean probability to
    beat the others (`judging.verdicts.group_scores`). `chosen_score` and `rejected_score` are the raw ones, also where the rule takes
    length off.
    """
    config = config or RuleConfig()
    return contrasts(row for group in by_prompt(rows) for row in _group_rows(group, config))


def _group_rows(group: Sequence[Row], config: RuleConfig) -> list[Row]:
    scored = [row for row in group if row["score"] is not None and math.isfinite(row["score"])]
    ids = [row["generation_id"] for row in scored]
    texts = [text_of(row) for row in scored]
    parameters = {name: getattr(config, name) for name in ("rule", *READS.get(config.rule, ()))}
    checks = {"n_candidates": len(group), "n_scored": len(scored)}
    found = choose(texts, [row["score"] for row in scored], config=config, keys=ids)
    if not found:
        attempt = Attempt(source=group[0], method=config.rule, axis="score", parameters=parameters, source_ids=sorted(ids))
        return [attempt.row(state="too_few_scored", reason=f"{len(scored)} of {len(group)} answers have a score", checks=checks)]
    out = []
    for choice in found:
        sides = scored[choice.chosen], scored[choice.rejected]
        sources = [side["generation_id"] for side in sides]
        attempt = Attempt(source=group[0], method=config.rule, axis="score", parameters=parameters, source_ids=sources)
        out.append(attempt.row(*sides, state=choice.state, reason=_REASONS.get(choice.state), checks=checks))
    return out


_REASONS = {
    "tie": "the rule's chosen answer is worth no more than its rejected one",
    "identical_text": "both answers have the same text",
    "over_cap": "the prompt has max_pairs_per_prompt pairs",
}
READS: Mapping[str, Sequence[str]] = {
    "max_min_len": ("length_penalty",),
    "max_random": ("seed",),
    "best_of_all_vs_min_of_m": ("m", "seed"),
    "sigma": ("high", "low"),
    "margin": ("min_margin", "max_pairs_per_prompt"),
}
"""The settings that each rule reads; one that is not named reads none."""
