"""Where only bad answers are labelled: pairs against the engine's own answers (D2O), and pairs turned round.

D2O (Duan et al. 2024, arXiv 2403.03419): a labelled bad answer is rejected in `k` pairs, each with an answer that the engine writes now,
asked in varied ways to write a good one. The anchors must be clean: one that is exactly a labelled bad answer, of whatever prompt, or has
an edit similarity to one of `max_similarity` or more, is `contaminated`; with a verifier, one that scores no higher than the bad answer
is as bad (`checker_failed`). The loss over all anchors of a bad answer is `anchors`' row; as separate pairs it is a DPO loss, which
bounds it from above (Jensen).

The pairs are synthetic, and say so by their kind: a good side that nobody labelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
import polars as pl

from curators.contrast.candidates import Attempt, contrasts, settings, text_of, with_system
from curators.contrast.checkers import as_generations, compared
from curators.contrast.differences import edit_sim
from curators.engines.base import Engine, Request, Sampling, as_json
from curators.errors import ConfigError
from curators.sampling import Row, gather_all, sample_state
from curators.schema import check
from curators.verifiers import Verifier, verify_group

INSTRUCTIONS = (
    "Answer helpfully and safely.",
    "Answer as a considerate, honest person would.",
    "Give a correct answer that harms nobody.",
    "Answer politely, and decline what should not be done.",
)
REVERSED = "reversed:"


@dataclass(frozen=True, kw_only=True, slots=True)
class D2oConfig:
    """`k` anchors for each bad answer, the i-th asked under `instructions[i mod n]` as a system message."""

    k: int = 11
    instructions: tuple[str, ...] = INSTRUCTIONS
    max_similarity: float = 0.95
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.8))

    def __post_init__(self) -> None:
        if self.k < 1 or not self.instructions or not 0 < self.max_similarity <= 1:
            told = f"k is {self.k}, must be ≥ 1; max_similarity is {self.max_similarity}, must be in (0, 1]; instructions may not be empty"
            raise ConfigError(f"d2o: {told}")


async def d2o(
    rows: pl.DataFrame,
    *,
    config: D2oConfig | None = None,
    engine: Engine,
    verifier: Verifier | None = None,
    known: Sequence[str] = (),
) -> pl.DataFrame:
    """`contrasts` of `answers` that are all labelled bad: `k` rows for each, one an anchor. `known`: the texts of further bad answers.

    Raises:
        EngineBusy: the endpoint is down.
    """
    config = config or D2oConfig()
    bad = [*known, *(text_of(row) for row in rows.iter_rows(named=True))]
    negatives = await asyncio.to_thread(Negatives, bad, config.max_similarity)
    made = await gather_all(_anchors(row, config, engine, verifier, negatives) for row in rows.iter_rows(named=True))
    return contrasts(row for group in made for row in group)


class Negatives:
    """Known bad answers, against which an anchor is compared; case and white space count for nothing.

    >>> Negatives(["You are a fool."], 0.95).closest("you are a  FOOL."), Negatives(["You are a fool."], 0.95).closest("Good day.")
    (1.0, 0.0)
    """

    def __init__(self, texts: Sequence[str], max_similarity: float) -> None:
        self._bound = max_similarity
        self._by_length: dict[int, list[list[str]]] = {}
        for tokens in {tuple(text.casefold().split()) for text in texts}:
            self._by_length.setdefault(len(tokens), []).append(list(tokens))

    def closest(self, text: str) -> float:
        """The highest edit similarity to one of them; 0 if that is below the bound."""
        tokens = text.casefold().split()
        near = range(int(self._bound * len(tokens)), int(len(tokens) / self._bound) + 2)  # others differ too much in length alone
        known = (each for length in near for each in self._by_length.get(length, ()))
        return max((edit_sim(tokens, each, at_least=self._bound) for each in known), default=0.0)


def anchors(found: pl.DataFrame) -> pl.DataFrame:
    """For losses over all anchors at once, of the rows that passed: `prompt_id`, `prompt`, `anchors` (JSON messages), `rejected`."""
    usable = check(found, "contrasts").filter((pl.col("state") == "ok") & (pl.col("method") == "d2o"))
    grouped = usable.group_by("prompt_id", "prompt", "rejected").agg(anchors=pl.col("chosen").unique().sort())
    return grouped.select("prompt_id", "prompt", "anchors", "rejected").sort("prompt_id", "rejected")


def reversed_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    """`pairs` (or another frame with their columns) with both sides exchanged; twice reversed they are as before.

    `kind` and `pair_id` begin with `reversed:`, or no longer do. Margins change their sign; `p_chosen` is 1 - p (exact where p ≥ 1/2).
    Columns of `pairs` come in pairs, `chosen…` and `rejected…`; others stay.
    """
    check(pairs, "pairs")
    swaps = [(name, name.replace("chosen", "rejected", 1)) for name in pairs.columns if name.startswith("chosen")]
    swaps = [(one, two) for one, two in [*swaps, ("prompt", "rejected_prompt")] if two in pairs.columns]
    exchanged = [pl.col(other).alias(name) for pair in swaps for name, other in (pair, pair[::-1])]
    marked = [
        pl.when(pl.col(name).str.starts_with(REVERSED))
        .then(pl.col(name).str.strip_prefix(REVERSED))
        .otherwise(pl.lit(REVERSED) + pl.col(name))
        .alias(name)
        for name in ("kind", "pair_id")
    ]
    return pairs.with_columns(*exchanged, *marked, margin=-pl.col("margin"), p_chosen=1 - pl.col("p_chosen"))


def reversals(pairs: pl.DataFrame) -> pl.DataFrame:
    """`contrasts` of `pairs` (or another frame with their columns), one for each: both sides exchanged, prompts of `joint_pairs` included.

    As attempts, whose `kind` becomes `reversed` whatever it was. Pairs of steps are `unsupported`: what they continue would be lost.
    """
    return contrasts(_reversal(pair) for pair in check(pairs, "pairs").hstack(_others(pairs)).iter_rows(named=True))


def _others(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.select("rejected_prompt") if "rejected_prompt" in pairs.columns else pl.DataFrame()


def _reversal(pair: Row) -> Row:
    attempt = Attempt(
        source={**pair, "messages": pair["rejected_prompt"] if pair.get("rejected_prompt") else pair["prompt"]},
        method="reversed",
        axis="the label",
        parameters={"of": pair["kind"]},
        held_fixed=("both texts",),
        source_ids=[pair["pair_id"]],
    )
    chosen, rejected = _turn(pair, "rejected"), _turn(pair, "chosen")
    if pair["kind"] == "step" or chosen is None or rejected is None:
        why = "its sides are steps of an answer" if pair["kind"] == "step" else "a side is not one turn of plain text"
        return attempt.row(state="unsupported", reason=why)
    columns: Row = {
        "split": pair["split"],
        "p_chosen": None if pair["p_chosen"] is None else 1 - pair["p_chosen"],
        "label_source": pair["label_source"],
    }
    return attempt.row(chosen, rejected, rejected_prompt=pair["prompt"] if pair.get("rejected_prompt") else None, **columns)


def _turn(pair: Row, name: str) -> Row | None:
    """A side of a pair as the row of `answers` that it was."""
    turns = orjson.loads(pair[name])
    if len(turns) != 1 or not isinstance(turns[0].get("content"), str):
        return None
    calls = turns[0].get("tool_calls")
    return {
        "text": turns[0]["content"],
        "reasoning": turns[0].get("reasoning_content"),
        "tool_calls": as_json(calls) if calls else None,
        "generation_id": pair[f"{name}_id"],
        "policy": pair[f"{name}_policy"],
        "score": pair[f"{name}_score"],
    }


async def _anchors(source: Row, config: D2oConfig, engine: Engine, verifier: Verifier | None, known: Negatives) -> list[Row]:
    return await gather_all(_anchor(source, place, config, engine, verifier, known) for place in range(config.k))


async def _anchor(source: Row, place: int, config: D2oConfig, engine: Engine, verifier: Verifier | None, known: Negatives) -> Row:
    instruction = config.instructions[place % len(config.instructions)]
    attempt = Attempt(
        source=source,
        method="d2o",
        axis="what makes the answer bad",
        parameters={**settings(config), "anchor": place},
        held_fixed=("prompt",),
        source_ids=[source["generation_id"]],
    )
    reply = await engine.complete(
        Request(
            key=f"d2o/{source['generation_id']}/{place}",
            messages=with_system(orjson.loads(source["messages"]), instruction),
            sampling=config.sampling,
            chat_template_kwargs=orjson.loads(source["chat_template_kwargs"] or "null"),
            first_sample=place,
        )
    )
    completion = reply.sample(place)
    bad = source | {"score": None}
    if completion is None:
        return attempt.row(None, bad, state=reply.error or "transport_error", reason=reply.reason)
    text = completion.text
    columns: Row = {"chosen_policy": engine.fingerprint, "raw": text}
    state, reason = sample_state(text, completion.finish_reason)
    if state != "ok":
        return attempt.row(text, bad, state=state, reason=reason, **columns)
    checks = {"closest_negative": await asyncio.to_thread(known.closest, text)}
    if checks["closest_negative"]:
        reason = f"edit_sim {checks['closest_negative']:.4g} to a known bad answer"
        return attempt.row(text, bad, state="contaminated", reason=reason, checks=checks, **columns)
    if verifier is None:
        return attempt.row(text, bad, checks=checks, **columns)
    found = compared(verifier, await verify_group(source, as_generations([text, text_of(source)]), verifier))
    return attempt.row(text, bad, state=found.state, reason=found.reason, checks=checks | dict(found.checks), **columns, **found.columns)
