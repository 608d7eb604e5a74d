"""Transcripts of judges that others have run: rows of a file → what was judged, what the judge replied, what the file made of it.

A layout is known by its columns: LLMBar (`results` with both orders, or two ratings), JudgeBench (`judgments`, of judges that write and of
reward models), Prometheus' rubric scores, AlpacaEval's annotations with log-probabilities. Nothing is taken from the file's own
reading of a reply but to be compared with ours (`claim`). A reply that never came is an error with its reason, not an empty text; a row
that is of the layout and cannot be read is dropped and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from curators.errors import SchemaError

Texts = Mapping[str, Mapping[str, Any]]
"""Rows of the file with the texts that were judged, by their id."""

FLIPPED = {"first": "second", "second": "first", "tie": "tie"}
_ENDS = {"length": "length", "max_tokens": "length", "stop": "stop", "end_turn": "stop", "eos": "stop"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One reply as a line of a replay file holds it, without the key.

    `order` 1: the pair was swapped; `side`: the text that was rated alone.
    `claim` is what the file says that the reply means, as the judge saw the pair: first, second, tie, or a number; null: nothing.
    """

    reply: Mapping[str, Any]
    order: int = 0
    side: int | None = None
    vote: int = 0
    claim: str | float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One pair or one answer that a judge was asked about; `texts` in the order of presentation 0, null where the file lacks them.

    `form` says how the replies are read: a verdict grammar, `options` (log-probabilities of m and M) or `reward`. `label` is the gold,
    `claim` what the file makes of all replies together; both null where there is none.
    """

    judge: str
    strategy: str
    form: str
    key: str
    said: tuple[Said, ...]
    prompt: str | None = None
    reference: str | None = None
    texts: tuple[str | None, ...] = (None, None)
    label: str | None = None
    claim: str | None = None


def layout_of(rows: Sequence[Mapping[str, Any]], *, file: str) -> str:
    """The layout of a file by the columns of its rows.

    Raises:
        SchemaError: it is none of those known.
    """
    columns = set[str]().union(*(row.keys() for row in rows))
    if found := next((name for name, (needed, _) in LAYOUTS.items() if needed <= columns), None):
        return found
    known = "; ".join(f"{name}: {', '.join(sorted(needed))}" for name, (needed, _) in LAYOUTS.items())
    raise SchemaError(f"{file}: the columns {sorted(columns)} are those of no transcript that is known ({known})")


def read_item(row: Mapping[str, Any], layout: str, texts: Texts) -> list[Item]:
    """What a row of a layout holds; a file that asks a second time after a disagreement gives an item for each round.

    Raises:
        SchemaError: the row is not of the layout.
    """
    try:
        return list(LAYOUTS[layout][1](row, texts))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SchemaError(f"not a row of {layout}: {type(error).__name__} {error}") from error


def text_id(row: Mapping[str, Any]) -> str | None:
    """By what a row with the judged texts is found."""
    return next((str(row[name]) for name in ("id", "pair_id", "row") if row.get(name) is not None), None)


def _reply(said: Any) -> dict[str, Any]:
    """A text, or a text and why it ended. A reason that is no way of ending, with no text, is a refusal; no text at all never arrived."""
    text, end = (*said, None, None)[:2] if isinstance(said, (list, tuple)) else (said, None)
    if text is None:
        return {"error": "transport_error", "reason": "no reply is recorded"}
    if not str(text).strip() and end and end not in _ENDS:
        return {"error": "refused", "reason": str(end)}
    return {"text": str(text), "finish_reason": _ENDS.get(str(end), "stop")}


def _llmbar(row: Mapping[str, Any], texts: Texts) -> Iterator[Item]:
    pair = texts.get(str(row["id"]), {})
    common: dict[str, Any] = {
        "judge": str(row["evaluator"]),
        "key": str(row["id"]),
        "prompt": pair.get("input"),
        "texts": (pair.get("output_1"), pair.get("output_2")),
        "label": _SIDES.get(str(pair.get("label", row.get("label")))),
    }
    rounds = [result for result in row["results"] if isinstance(result, Mapping)]
    for number, result in enumerate(rounds, 1):
        strategy = str(row["strategy"]) + ("" if number == len(rounds) else f" (round {number}, overruled)")
        sides = [_SIDES.get(str(result[f"swap = {swap}"]["winner"])) for swap in (False, True)]
        if "score_1" in result:
            said = tuple(Said(reply=_reply(result[f"score_{side + 1}"]), side=side) for side in (0, 1))
            yield Item(**common, strategy=strategy, form="number", said=said, claim=_agreed(sides[0], sides[1]))
        else:
            said = tuple(
                Said(reply=_reply(result[f"swap = {bool(order)}"]["completion"]), order=order, claim=_seen(sides[order], order))
                for order in (0, 1)
            )
            yield Item(**common, strategy=strategy, form="output-letter", said=said)


def _seen(side: str | None, order: int) -> str | None:
    """A side of the pair as the judge saw it."""
    return FLIPPED[side] if side and order else side


def _agreed(first: str | None, second: str | None) -> str | None:
    """The side that both orders name; a tie where they differ."""
    return None if first is None or second is None else first if first == second else "tie"


_SIDES = {"1": "first", "2": "second", "A>B": "first", "B>A": "second", "A>>B": "first", "B>>A": "second", "A=B": "tie", "tie": "tie"}


_JUDGEBENCH = {"vanilla": "output-letter", "skywork_critic": "brackets", "prometheus_2": "result-letter"}
"""How JudgeBench's other prompts ask for the verdict; arena_hard and what is not known: five levels."""


def _judgebench(row: Mapping[str, Any], texts: Texts) -> Iterator[Item]:
    pair = texts.get(str(row["pair_id"]), {})
    kind, _, judge = str(row["judge"]).rpartition(":")
    judgments = [judgment or {} for judgment in row["judgments"]]
    inner = [judgment.get("judgment") or {} for judgment in judgments]
    decisions = [_SIDES.get(str(judgment.get("decision"))) for judgment in judgments]
    common: dict[str, Any] = {
        "judge": judge,
        "strategy": kind or "judgebench",
        "key": str(row["pair_id"]),
        "prompt": pair.get("question"),
        "texts": (pair.get("response_A"), pair.get("response_B")),
        "label": _SIDES.get(str(pair.get("label", row.get("label")))),
    }
    if any(one.get("scores") is not None for one in inner):
        scores = next(one["scores"] for one in inner if one.get("scores") is not None)
        lines = [{"text": "", "scores": {"score": float(score)}} for score in scores]
        said = tuple(Said(reply=line, side=side) for side, line in enumerate(lines))
        yield Item(**common, form="reward", said=said, claim=decisions[0])
    else:
        said = tuple(
            Said(reply=_reply(one.get("response")), order=order, claim=decision)
            for order, (one, decision) in enumerate(zip(inner, decisions, strict=True))
        )
        yield Item(**common, form=_JUDGEBENCH.get(kind, "levels"), said=said)


def _prometheus(row: Mapping[str, Any], texts: Texts) -> Iterator[Item]:
    """Its feedbacks and scores stand in two columns; they are put together as the prompt asks for them."""
    instruction = str(row["instruction"])
    answer = _between(instruction, "###Response to evaluate:", "###Reference Answer")
    columns = (row["gpt4_feedback"], row["gpt4_score"])
    feedbacks, scores = (column if isinstance(column, list) else [column] for column in columns)
    said = tuple(
        Said(reply=_reply(None if feedback is None else f"Feedback: {feedback} [RESULT] {score}"), side=0, vote=vote, claim=float(score))
        for vote, (feedback, score) in enumerate(zip(feedbacks, scores, strict=True))
    )
    yield Item(
        judge="gpt4",
        strategy=str(row.get("bench") or "prometheus"),
        form="result",
        key="/".join(str(row.get(name)) for name in ("bench", "idx", "response_source")),
        prompt=instruction.replace(answer, "…") if answer else instruction,
        reference=_between(instruction, "###Reference Answer (Score 5):", "###Score Rubrics"),
        texts=(answer,),
        said=said,
    )


def _between(text: str, start: str, end: str) -> str | None:
    _, _, rest = text.partition(start)
    return rest.partition(end)[0].strip() or None


def _alpaca_eval(row: Mapping[str, Any], texts: Texts) -> Iterator[Item]:
    """One order, and the file does not say which: the generator's answer is taken as shown first (m) where p(m) is nearer to its
    stored preference than p(M) is. The stored preference is 1 + p(the generator's answer is better).
    """
    top = {str(token["token"]): float(token["logprob"]) for token in row["raw_completion"]["logprobs"]["content"][0]["top_logprobs"]}
    logprobs = {name: top[name] for name in ("m", "M") if name in top}
    stored = float(row["preference"]) - 1
    p_m = 1 / (1 + math.exp(min(logprobs.get("M", -math.inf) - logprobs.get("m", -math.inf), 700))) if len(logprobs) == 2 else 0.5
    shown_first = abs(p_m - stored) <= abs(1 - p_m - stored)
    about = texts.get(str(row["row"]), {})
    answers = {str(one.get("generator")): one.get("output") for one in about.get("responses") or []}
    pair = (answers.get(str(row["generator"])), about.get("ref_output"))
    yield Item(
        judge=str(row["annotator"]),
        strategy=str(row["generator"]),
        form="options",
        key=f"{row['row']}/{row['generator']}",
        prompt=about.get("instruction"),
        texts=pair if shown_first else pair[::-1],
        said=(
            Said(
                reply={"text": str(row["raw_completion"].get("text") or ""), "option_logprobs": logprobs},
                claim=stored if shown_first else 1 - stored,
            ),
        ),
    )


Reader = Callable[[Mapping[str, Any], Texts], Iterator[Item]]

LAYOUTS: Mapping[str, tuple[frozenset[str], Reader]] = MappingProxyType(
    {
        "llmbar": (frozenset({"id", "evaluator", "strategy", "results"}), _llmbar),
        "judgebench": (frozenset({"pair_id", "judge", "judgments"}), _judgebench),
        "prometheus": (frozenset({"instruction", "gpt4_score", "gpt4_feedback"}), _prometheus),
        "alpaca_eval": (frozenset({"row", "generator", "annotator", "preference", "raw_completion"}), _alpaca_eval),
    }
)
"""The columns that a layout is known by, and its reader."""
