"""Prompt-side contrast by verifiable constraints: MAPL (arXiv 2505.12845).

Intra-sample: one answer y, two prompts. Drawn generators write a constraint each for two flags; those of x_w are met by y, those of x_l
are not all. The pair (x_w, y) over (x_l, y) is one of `joint_pairs`: the text of y is untouched on both sides. Two forms are pairs
(`flag_case`):

    a: y meets every constraint of x_w and not all of x_l
    b: y meets at least one of x_w and none of x_l

Inter-sample (only the abstract could be read; this is our reading): to the prompt of a pair (x, y_w, y_l) drawn constraints are added.
The pair stays if y_w meets at least as many of them as y_l; with `override`, it is turned round if y_l meets all and y_w does not.

Because the two prompts of an intra-sample pair differ, the partition terms of DPO do not cancel: a loss over it is an approximation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from curators.constraints import holds
from curators.contrast.candidates import Attempt, contrasts, last_user_turn_with, settings, text_of
from curators.contrast.generators import GENERATORS, Constraint, wording
from curators.engines.base import digest
from curators.errors import ConfigError
from curators.pairs import unit_hash
from curators.rationales.prompts import side_text
from curators.sampling import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class ConstraintConfig:
    """`n_constraints` are added to a prompt, `n_unmet` of those of x_l are not met (at least). `form` b: none of x_l is met, and one of
    x_w is not.

    `override` (inter-sample): pairs whose constraints overrule their quality are kept, turned round. `generators`: names of `GENERATORS`.
    """

    n_constraints: int = 3
    n_unmet: int = 1
    form: str = "a"
    override: bool = False
    generators: tuple[str, ...] = tuple(GENERATORS)
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.generators) - set(GENERATORS)):
            raise ConfigError(f"constraints: generators {unknown} are not there; there are {sorted(GENERATORS)}")
        if not 1 <= self.n_unmet <= self.n_constraints:
            raise ConfigError(f"constraints: n_unmet is {self.n_unmet}, must be from 1 to n_constraints, {self.n_constraints}")
        if self.form not in ("a", "b") or (self.form == "b" and self.n_constraints < 2):
            raise ConfigError(f"constraints: form is {self.form!r}, must be a, or b with at least 2 constraints ({self.n_constraints})")


def flag_case(first: Sequence[bool], second: Sequence[bool]) -> str | None:
    """Which of the two forms the outcomes of two prompts for one answer are; `swap`: they are one the other way round; null: neither.

    >>> flag_case([True, True], [True, False]), flag_case([True, False], [False, False]), flag_case([False, False], [True, False])
    ('a', 'b', 'swap')
    >>> flag_case([True, True], [True, True]) is None
    True
    """
    for name, one, other in (("a", first, second), ("b", first, second), ("swap", second, first)):
        form_a = all(one) and not all(other)
        form_b = any(one) and not any(other)
        if (name != "b" and form_a) or (name != "a" and form_b):
            return name
    return None


def intra_sample(rows: pl.DataFrame, *, config: ConstraintConfig | None = None) -> pl.DataFrame:
    """`contrasts` of `answers`, one for each: the same answer under a prompt that it satisfies and one that it does not."""
    config = config or ConstraintConfig()
    return contrasts(_intra(row, config) for row in rows.iter_rows(named=True))


def inter_sample(rows: pl.DataFrame, *, config: ConstraintConfig | None = None) -> pl.DataFrame:
    """`contrasts` of `pairs`, one for each: the same two answers under the prompt with constraints added."""
    config = config or ConstraintConfig()
    return contrasts(_inter(row, config) for row in rows.iter_rows(named=True))


def _intra(source: Row, config: ConstraintConfig) -> Row:
    text, key = text_of(source), source["generation_id"]
    attempt = Attempt(
        source=source,
        method="mapl_intra",
        axis="constraints of the prompt",
        parameters=settings(config),
        held_fixed=("response",),
        source_ids=[key],
    )
    drawn = _both_ways(text, key, config)
    if drawn is None:
        return attempt.row(source, source, state="unsatisfiable", reason="too few constraints can be written for this answer")
    wanted, unwanted = drawn
    met, unmet = [holds(text, each) for each in wanted], [holds(text, each) for each in unwanted]
    prompts = [with_constraints(source["messages"], each) for each in drawn]
    checks = {"satisfied_w": met, "satisfied_l": unmet, "constraints_w": wanted, "constraints_l": unwanted, "text": digest(text)}
    if None in prompts:
        return attempt.row(source, source, state="unsupported", reason="the last turn is not a user's plain text", checks=checks)
    form = flag_case(met, unmet)
    return attempt.row(
        source,
        source,
        prompt=prompts[0],
        rejected_prompt=prompts[1],
        state="ok" if form in ("a", "b") else "checker_failed",
        reason=None if form in ("a", "b") else "the answer does not tell the two prompts apart",
        checks=checks,
        label_source="constraints",
        degree=float(unmet.count(False)),
    )


def _both_ways(text: str, key: str, config: ConstraintConfig) -> tuple[list[Constraint], list[Constraint]] | None:
    """Constraints of x_w and x_l, by the same generators in the same order; null if there are too few.

    Form a: all of x_w are met, `n_unmet` of x_l are not. Form b: all but one of x_w are met, none of x_l.
    """
    n, unmet = config.n_constraints, config.n_unmet if config.form == "a" else config.n_constraints
    wanted: list[Constraint] = []
    unwanted: list[Constraint] = []
    topics: set[str] = set()
    for name in _drawn_names(key, config):
        topic, make = GENERATORS[name]
        place, left = len(wanted), n - len(wanted)
        draw = int(unit_hash("constraint", config.seed, key, name) * 2**30)
        no = make(text, False, draw) if place < unmet else None
        yes = make(text, True, draw)
        if config.form == "b" and left == 1:
            yes = make(text, False, draw + 1)
        if topic in topics or yes is None or (place < unmet and no is None):
            continue
        topics.add(topic)
        wanted.append(yes)
        unwanted.append(no or yes)
        if len(wanted) == n:
            order = sorted(range(n), key=lambda i: unit_hash("order", config.seed, key, i))
            return [wanted[i] for i in order], [unwanted[i] for i in order]
    return None


def _drawn_names(key: str, config: ConstraintConfig) -> list[str]:
    return sorted(config.generators, key=lambda name: (unit_hash("generator", config.seed, key, name), name))


def with_constraints(messages: str, wanted: Sequence[Mapping[str, Any]]) -> str | None:
    """JSON messages whose last user turn ends with the constraints as a list; null when it is not plain text."""
    return last_user_turn_with(messages, "\n".join(f"- {wording(dict(each))}" for each in wanted))


def _inter(pair: Row, config: ConstraintConfig) -> Row:
    chosen, rejected = side_text(pair["chosen"]), side_text(pair["rejected"])
    source = {**pair, "messages": pair["prompt"]}
    attempt = Attempt(
        source=source,
        method="mapl_inter",
        axis="constraints of the prompt",
        parameters=settings(config),
        held_fixed=("responses",),
        source_ids=[pair["pair_id"]],
    )
    if pair["kind"] == "step" or pair.get("rejected_prompt"):
        why = "its sides are steps of an answer" if pair["kind"] == "step" else "its sides have two prompts"
        return attempt.row(chosen, rejected, state="unsupported", reason=why)
    drawn = _for_two(chosen, rejected, pair["pair_id"], config)
    prompt = with_constraints(pair["prompt"], drawn) if drawn else None
    if not drawn:
        return attempt.row(chosen, rejected, state="unsatisfiable", reason="too few constraints can be written for these answers")
    if prompt is None:
        return attempt.row(chosen, rejected, state="unsupported", reason="the last turn is not a user's plain text")
    met, met_low = [holds(chosen, each) for each in drawn], [holds(rejected, each) for each in drawn]
    turned = config.override and all(met_low) and not all(met)
    state = "ok" if turned or sum(met) >= sum(met_low) else "checker_failed"
    checks = {"constraints": drawn, "satisfied_w": met_low if turned else met, "satisfied_l": met if turned else met_low, "turned": turned}
    return attempt.row(
        rejected if turned else chosen,
        chosen if turned else rejected,
        prompt=prompt,
        state=state,
        reason=None if state == "ok" else f"the chosen answer meets {sum(met)} constraints, the rejected one {sum(met_low)}",
        checks=checks,
        label_source="constraints" if turned else pair.get("label_source"),
        split=pair["split"],
        **_sides_of(pair, turned=turned),
    )


def _for_two(chosen: str, rejected: str, key: str, config: ConstraintConfig) -> list[Constraint]:
    """Constraints that one of the two answers, drawn for each, is sure to meet."""
    drawn: list[Constraint] = []
    topics: set[str] = set()
    for name in _drawn_names(key, config):
        topic, make = GENERATORS[name]
        noise = unit_hash("constraint", config.seed, key, name)
        constraint = make(rejected if noise < 0.5 else chosen, True, int(noise * 2**30))
        if constraint is not None and topic not in topics:
            topics.add(topic)
            drawn.append(constraint)
        if len(drawn) == config.n_constraints:
            return drawn
    return []


def _sides_of(pair: Row, *, turned: bool) -> Row:
    names = {"chosen": "rejected", "rejected": "chosen"} if turned else {"chosen": "chosen", "rejected": "rejected"}
    return {f"{side}_{what}": pair.get(f"{names[side]}_{what}") for side in names for what in ("id", "policy")}
