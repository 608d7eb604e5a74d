"""What a judge is shown of one prompt's generations, and what is decided without showing it.

Pairwise shows every pair in both orders, pointwise each generation alone, listwise all at once. What needs no judge (an empty answer, two
equal texts, a forged mark) is gated with its reason and costs no call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal

from curators.errors import ConfigError
from curators.judging.defences import empty_reason
from curators.judging.parsing import normalise
from curators.judging.prompts import LETTERS, answer_text
from curators.judging.rubric import Rubric

IDENTICAL = "identical text"
"""The reason of a gated pair that is a tie without a call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One presentation: the generations in the order shown; `order` 1 where a pair is swapped."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    order: int = 0

    @property
    def item(self) -> str:
        """What is judged, in whichever order."""
        return "-".join(sorted(self.ids))

    @property
    def swapped(self) -> Shown:
        return Shown(ids=self.ids[::-1], texts=self.texts[::-1], order=1)


Gated = tuple[Shown, str]
"""A presentation that is not made, and why."""


def presentations(
    rubric: Rubric,
    generations: Sequence[Mapping[str, Any]],
    *,
    reference: str | None,
    both_orders: bool = True,
    pairs: Literal["all", "chain"] | Iterable[tuple[str, str]] = "all",
    use_truncated: bool = False,
    finished: bool = True,
) -> tuple[list[Shown], list[Gated]]:
    """The presentations of one prompt's rows of `generations`, in an order that does not depend on theirs, and the gated ones.

    Shown are the generations whose state is ok (with `use_truncated` also truncated); failed ones have no text and are left out. `pairs`
    chain: each generation with the next by id; or the pairs of ids themselves. Answers that are not `finished` may only announce one.
    """
    usable = {"ok", "empty", "truncated"} if use_truncated else {"ok", "empty"}
    candidates = {g["generation_id"]: answer_text(g) for g in sorted(generations, key=_id) if g["state"] in usable}
    trivial = {gid: why for gid, text in candidates.items() if (why := _trivial(rubric, text, reference, finished))}
    if rubric.protocol == "pairwise":
        return _pairs(candidates, trivial, both_orders, _chosen(candidates, pairs))
    gated = [(Shown(ids=(gid,), texts=(candidates[gid],)), why) for gid, why in trivial.items()]
    kept = {gid: text for gid, text in candidates.items() if gid not in trivial}
    if rubric.protocol == "pointwise":
        return [Shown(ids=(gid,), texts=(text,)) for gid, text in kept.items()], gated
    if rubric.line_labels and len(kept) > len(LETTERS):
        raise ConfigError(f"rubric {rubric.name!r}: line labels go to {len(LETTERS)} texts, there are {len(kept)}")
    return ([Shown(ids=tuple(kept), texts=tuple(kept.values()))] if kept else []), gated


def _id(generation: Mapping[str, Any]) -> str:
    return str(generation["generation_id"])


def _chosen(candidates: Mapping[str, str], pairs: Literal["all", "chain"] | Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    if pairs == "all":
        return combinations(candidates, 2)
    if pairs == "chain":
        return pairwise(candidates)
    ordered = {(min(pair), max(pair)) for pair in pairs}
    return sorted(pair for pair in ordered if pair[0] in candidates and pair[1] in candidates)


def _pairs(
    candidates: Mapping[str, str], trivial: Mapping[str, str], both_orders: bool, pairs: Iterable[tuple[str, str]]
) -> tuple[list[Shown], list[Gated]]:
    shown: list[Shown] = []
    gated: list[Gated] = []
    plain = {gid: normalise(text) for gid, text in candidates.items()}
    for a, b in pairs:
        one = Shown(ids=(a, b), texts=(candidates[a], candidates[b]))
        if why := trivial.get(a) or trivial.get(b):
            gated.append((one, why))
        elif plain[a] == plain[b]:
            gated.append((one, IDENTICAL))
        else:
            shown += [one, one.swapped] if both_orders else [one]
    return shown, gated


def _trivial(rubric: Rubric, text: str, reference: str | None, finished: bool) -> str | None:
    """Why an answer is not worth a call: judges are fooled by answers without content."""
    if why := empty_reason(text, reference, finished=finished):
        return why
    if reference is None and rubric.needs_reference:
        return f"rubric {rubric.name!r} shows a reference and the prompt has none"
    return None
