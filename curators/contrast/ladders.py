"""Degradation ladders: one answer made worse by known degrees, and pairs between its rungs.

A rung of degree d has d units (lines, or sentences of a one-line text) changed; the units of degree d + 1 include those of degree d, so
that nothing gets better on the way down. Operators:

* `corrupt`: a number in the unit is replaced by another
* `drop`: the unit is left out
* `inject`: one of `injections` (texts with a property that is not wanted) is put after the unit

The verifier scores every rung, and the score must never rise with the degree: else none of the ladder's pairs is used (`not_monotone`). A
pair is used where the score falls (`checker_failed` otherwise: a yes-or-no check does not tell degree 1 from 2). Units are picked by hash
of seed and generation id. A house construct, no paper's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import polars as pl

from curators.contrast.candidates import Attempt, Side, contrasts, settings, text_of
from curators.contrast.checkers import compared, scores_of
from curators.contrast.differences import edit_sim
from curators.errors import ConfigError
from curators.pairs import unit_hash
from curators.sampling import Row
from curators.verifiers import Verifier

OPERATORS = ("corrupt", "drop", "inject")
_NUMBER = re.compile(r"(?<!\d)\d{1,18}(?!\d)")
_ENUMERATOR = re.compile(r"^\s*\d+\s*[.):]\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderConfig:
    """`degrees` are numbers of units. `pairs`: `original` compares every rung with the answer itself, `adjacent` with the rung above,
    `all` with every rung above. `min_edit_sim` bounds how far a rung may be from the answer (`too_different`).
    """

    operator: Literal["corrupt", "drop", "inject"] = "corrupt"
    degrees: tuple[int, ...] = (1, 2, 3)
    pairs: Literal["original", "adjacent", "all"] = "original"
    injections: tuple[str, ...] = ()
    min_edit_sim: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise ConfigError(f"ladder: operator is {self.operator!r}; allowed are {list(OPERATORS)}")
        if list(self.degrees) != sorted({degree for degree in self.degrees if degree >= 1}) or not self.degrees:
            raise ConfigError(f"ladder: degrees are {self.degrees}; they are whole numbers from 1, rising")
        if self.operator == "inject" and not any(text.strip() for text in self.injections):
            raise ConfigError("ladder: operator inject needs `injections`, texts to put in")


def degradation_ladder(rows: pl.DataFrame, *, config: LadderConfig | None = None, verifier: Verifier) -> pl.DataFrame:
    """`contrasts` of `answers`: for each answer one row a pair of rungs, whose `degree` is the rejected one's."""
    config = config or LadderConfig()
    return contrasts(made for row in rows.iter_rows(named=True) for made in _ladder(row, config, verifier))


def units(text: str) -> list[str]:
    """Lines, or the sentences of a text of one line; joined they are the text.

    >>> units("1. 2 + 2 = 4\\nAnswer: 4"), units("It is 4. Surely.")
    (['1. 2 + 2 = 4\\n', 'Answer: 4'], ['It is 4. ', 'Surely.'])
    """
    lines = text.splitlines(keepends=True)
    if sum(bool(line.strip()) for line in lines) > 1:
        return lines
    return [part for part in re.split(r"(?<=[.!?]\s)", text) if part]


def degrade(text: str, degree: int, *, config: LadderConfig, key: str) -> str | None:
    """The rung of a degree; null where fewer units can be changed. `key` names the answer in draws.

    >>> degrade("1. 2 + 2 = 4\\nAnswer: 4", 2, config=LadderConfig(), key="a")
    '1. 2 + 2 = 7\\nAnswer: 6'
    """
    parts = units(text)
    able = [place for place, part in enumerate(parts) if _able(part, config)]
    order = sorted(able, key=lambda place: (unit_hash("rung", config.seed, key, place), place))
    if len(order) < degree or (config.operator == "drop" and degree >= len(able)):
        return None
    for nth, place in enumerate(order[:degree]):
        parts[place] = _changed(parts[place], config, (key, nth))
    return "".join(parts).rstrip() if config.operator == "drop" else "".join(parts)


def _able(part: str, config: LadderConfig) -> bool:
    return bool(part.strip()) and (config.operator != "corrupt" or _NUMBER.search(_ENUMERATOR.sub("", part, count=1)) is not None)


def _changed(part: str, config: LadderConfig, key: tuple[str, int]) -> str:
    if config.operator == "drop":
        return ""
    body = part.rstrip()
    if config.operator == "inject":
        chosen = config.injections[int(unit_hash("inject", config.seed, *key) * len(config.injections))]
        return f"{body} {chosen.strip()}{part[len(body) :]}"
    last = list(_NUMBER.finditer(part))[-1]
    other = int(last[0]) + 1 + int(unit_hash("corrupt", config.seed, *key) * 3)
    return f"{part[: last.start()]}{other}{part[last.end() :]}"


def _ladder(source: Row, config: LadderConfig, verifier: Verifier) -> list[Row]:
    rungs: list[str | None] = [text_of(source)]
    rungs += [degrade(text_of(source), degree, config=config, key=source["generation_id"]) for degree in config.degrees]
    present = [(degree, rung) for degree, rung in zip((0, *config.degrees), rungs, strict=True) if rung is not None]
    judged = scores_of(verifier, source, [rung for _, rung in present])
    scores = [row["scores"][0] if row["state"] == "ok" else None for row in judged]
    known = [score for score in scores if score is not None]
    ladder = _Ladder(
        source=source,
        config=config,
        verifier=verifier,
        rungs={degree: (rung, row) for (degree, rung), row in zip(present, judged, strict=True)},
        scores=dict(zip([str(degree) for degree, _ in present], scores, strict=True)),
        rises=any(low > high for high, low in pairwise(known)),
    )
    return [_pair(ladder, high, low) for high, low in _compared((0, *config.degrees), config)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ladder:
    source: Row
    config: LadderConfig
    verifier: Verifier
    rungs: Mapping[int, tuple[str, Row]]  # text and judgment by degree
    scores: Mapping[str, float | None]
    rises: bool


def _pair(ladder: _Ladder, high: int, low: int) -> Row:
    config, attempt = ladder.config, _attempt(ladder.source, high, ladder.config)
    if high not in ladder.rungs or low not in ladder.rungs:
        why = f"fewer than {low + (config.operator == 'drop')} of its units can be changed"
        return attempt.row(state="unsatisfiable", reason=why, degree=float(low))
    (better, judged), (worse, judged_low) = ladder.rungs[high], ladder.rungs[low]
    checked = compared(ladder.verifier, [judged, judged_low])
    state, reason = checked.state, checked.reason
    similarity = edit_sim(better.split(), worse.split())
    if ladder.rises and state != "unverified":
        state, reason = "not_monotone", "the score rises with the degree on this ladder"
    elif state == "ok" and similarity < config.min_edit_sim:
        state, reason = "too_different", f"edit_sim {similarity:.4g} is below {config.min_edit_sim:g}"
    side: Side = better if high else ladder.source | {"score": None}
    checks = {**checked.checks, "ladder": ladder.scores}
    return attempt.row(side, worse, state=state, reason=reason, degree=float(low), checks=checks, **checked.columns)


def _attempt(source: Row, high: int, config: LadderConfig) -> Attempt:
    return Attempt(
        source=source,
        method="ladder",
        axis=config.operator,
        parameters={**settings(config), "chosen_degree": high},
        held_fixed=("units that are not changed",),
        source_ids=[source["generation_id"]],
    )


def _compared(degrees: Sequence[int], config: LadderConfig) -> list[tuple[int, int]]:
    if config.pairs == "adjacent":
        return list(pairwise(degrees))
    return [(high, low) for place, high in enumerate(degrees) for low in degrees[place + 1 :] if high == 0 or config.pairs == "all"]
