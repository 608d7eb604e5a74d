"""Recorded judges, judged again: what one judge said under one strategy goes the way of any judge, from `replay:` to its health.

The replies become a replay file whose keys are those of `judge_group` and `score_group`; the judgments, verdicts and health that follow
are made by the code that makes them in a run. Only the comparison with what the transcript's own parser made of the replies is new.

The items of a recording have ids in the place of content ids, `<key>/1` and `<key>/2`, so that presentation 0 is the order of the file.
What a recording was asked is not known beyond its texts, so its rubrics are the bare grammars, and nothing can be asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from curators.engines.base import Engine, digest
from curators.judging.grammars import THREE
from curators.judging.health import judge_health
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import Rubric, parse_rubric
from curators.judging.transcripts import FLIPPED, Item, Said
from curators.judging.verdicts import VerdictConfig, gold_verdicts, verdicts
from curators.sampling import Row, gather_all
from curators.schema import GENERATIONS, JUDGMENTS, PROMPTS, VERDICTS, empty, frame
from curators.scoring import score_group
from curators.statistics.agreement import krippendorff_alpha
from curators.statistics.intervals import share_by

CLOSE = 1e-6
"""How near a probability must come to the one that the file states."""

_FORMS = {
    "output-letter": "protocol: pairwise\nverdict: output-letter",
    "levels": "protocol: pairwise\nverdict: levels",
    "brackets": "protocol: pairwise\nverdict: brackets",
    "result-letter": "protocol: pairwise\nverdict: result",
    "options": "protocol: pairwise\nlabels: m, M",
    "number": "protocol: pointwise\nverdict: number\nscale: 0-9",
    "result": "protocol: pointwise\nverdict: result\nscale: 1-5",
}
"""The rubric of each form but `reward`. LLMBar asks for a number from 0 to 9."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One judge under one strategy. `rubric` is null for a reward model; `n_twice` items of the same key were left out."""

    judge: str
    strategy: str
    form: str
    items: tuple[Item, ...]
    rubric: Rubric | None
    n_twice: int = 0

    @property
    def votes(self) -> int:
        return 1 + max(said.vote for item in self.items for said in item.said)

    @property
    def both_orders(self) -> bool:
        return any(said.order for item in self.items for said in item.said)

    @property
    def of_pairs(self) -> bool:
        return all(len(item.texts) == 2 for item in self.items)


def recordings(items: Iterable[Item]) -> list[Recording]:
    """The items by judge, strategy, form and votes, sorted; of items with the same key the first counts."""
    groups: dict[tuple[str, str, str, int], dict[str, Item]] = {}
    twice: Counter[tuple[str, str, str, int]] = Counter()
    for item in items:
        group = (item.judge, item.strategy, item.form, len({said.vote for said in item.said}))
        known = groups.setdefault(group, {})
        twice[group] += item.key in known
        known.setdefault(item.key, item)
    return [
        Recording(judge=key[0], strategy=key[1], form=key[2], items=tuple(found.values()), rubric=_rubric(key[2]), n_twice=twice[key])
        for key, found in sorted(groups.items())
    ]


def _rubric(form: str) -> Rubric | None:
    if form == "reward":
        return None
    shown = "{{answer}}" if "pointwise" in _FORMS[form] else "{{first}}\n\n{{second}}"
    return parse_rubric(f"---\nname: recorded-{form}\n{_FORMS[form]}\n---\n# user\n{{{{prompt}}}}\n\n{shown}\n")


def sides(item: Item) -> list[str]:
    """The ids of an item's texts."""
    return [f"{item.key}/{number}" for number in range(1, len(item.texts) + 1)]


def replay_lines(recording: Recording) -> Iterator[dict[str, Any]]:
    """The replay file of a recording: a line for each reply, and one that says so for each presentation that is not there."""
    for item in recording.items:
        said = {(one.order, one.side, one.vote): one for one in item.said}
        if recording.rubric is not None and recording.rubric.protocol == "pairwise":
            for order in (0, 1) if recording.both_orders else (0,):
                said.setdefault((order, None, 0), Said(reply={"error": "unsupported", "reason": "not recorded"}, order=order))
        for (order, side, vote), one in sorted(said.items(), key=lambda entry: entry[0][::2]):
            text = item.key if side is None else sides(item)[side]
            of = f"{item.key}/1-{item.key}/2" if side is None else text
            key = f"reward/{of}" if recording.form == "reward" else f"judge/{of}/{order}/0"
            yield {"key": key, **one.reply, **({} if "error" in one.reply else {"sample_index": vote})}


def facts(recording: Recording) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """`prompts` (one for all items with the same text), `generations`, and the gold as recorded `judgments`."""
    prompts: dict[str, Row] = {}
    generations: list[Row] = []
    gold: list[Row] = []
    for item in recording.items:
        prompt = item.prompt if item.prompt is not None else f"(the prompt of {item.key} is not in the file)"
        prompt_id = digest(prompt, item.reference)
        messages = orjson.dumps([{"role": "user", "content": prompt}]).decode()
        prompts.setdefault(prompt_id, {"prompt_id": prompt_id, "messages": messages, "reference": item.reference, "state": "ok"})
        for index, (generation_id, text) in enumerate(zip(sides(item), item.texts, strict=True)):
            shown = text if text is not None else f"(text {index + 1} of {item.key} is not in the file)"
            row = {"generation_id": generation_id, "prompt_id": prompt_id, "policy": "source:recorded", "sample_index": index}
            generations.append(row | {"text": shown, "state": "ok"})
        if item.label is not None and len(item.texts) == 2:
            gold.append(_gold(item, prompt_id))
    return frame(list(prompts.values()), PROMPTS), frame(generations, GENERATIONS), frame(gold, JUDGMENTS)


def _gold(item: Item, prompt_id: str) -> Row:
    p_first = {"first": THREE["A"], "second": THREE["B"], "tie": THREE["tie"]}[item.label or "tie"]
    shared = {"protocol": "pairwise", "judge": "source:gold", "channel": "recorded", "order": 0, "vote": 0, "attempt": 0, "state": "ok"}
    outcome = {"generation_ids": sides(item), "label": item.label, "p_first": p_first}
    return {"judgment_id": digest("gold", item.key), "prompt_id": prompt_id, **shared, **outcome}


async def replayed(recording: Recording, engine: Engine) -> pl.DataFrame:
    """The `judgments` of a recording from the engine that replays it; re-asks, which nobody recorded, leave no row."""
    prompts, generations, _ = facts(recording)
    groups = {key[0]: rows.to_dicts() for key, rows in generations.partition_by("prompt_id", as_dict=True).items()}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for item in recording.items:
        if len(item.texts) == 2:
            first, second = sides(item)
            pairs.setdefault(first, []).append((first, second))
    config = JudgeConfig(
        channel="options" if recording.form == "options" else "text",
        capabilities=engine.capabilities,
        votes=recording.votes,
        temperature=1.0 if recording.votes > 1 else 0.0,
        both_orders=recording.both_orders,
        repairs=0,
    )

    async def one(prompt: Mapping[str, Any]) -> list[Row]:
        group = groups[prompt["prompt_id"]]
        if recording.rubric is None:
            return await score_group(prompt, group, engine)
        asked = [pair for row in group for pair in pairs.get(row["generation_id"], [])]
        return await judge_group(prompt, group, engine, rubric=recording.rubric, config=config, pairs=asked)

    rows = [row for rows in await gather_all(one(prompt) for prompt in prompts.iter_rows(named=True)) for row in rows]
    return frame([row for row in rows if not (row["attempt"] and row["state"] == "unsupported")], JUDGMENTS)


def recording_report(recording: Recording, judgments: pl.DataFrame) -> dict[str, Any]:
    """What a recording comes to, as JSON; every share is `{n, hits, share, low, high}`, its interval by prompt.

    `read`: replies that could be read, of those about texts that need a judge; `states`: all judgments (a pair that needs none is one).
    `accuracy`: presentations (of scores: pairs) that name the gold's side, of those read; `flip`: pairs whose orders disagree; `kept`:
    pairs with a verdict for one side; `accuracy_kept`: of those, the gold's side. `file`: our reading against the file's own. `unread`
    and `differing` are those replies.
    """
    _, generations, gold = facts(recording)
    found = empty(VERDICTS)
    if recording.of_pairs:
        pairs = pl.DataFrame([sorted(sides(item)) for item in recording.items], schema=["a_id", "b_id"], orient="row")
        found = verdicts(judgments, VerdictConfig(both_orders=recording.both_orders)).join(pairs, on=["a_id", "b_id"], how="semi")
    health = judge_health(judgments, found, generations, gold=gold_verdicts(gold) if gold.height else None)
    decided = found.with_columns(kept=pl.col("verdict").is_in(["a", "b"]))
    compared = list(_compared(recording, judgments, found))
    asked = judgments.filter(pl.col("state") != "gated")
    return {
        "judge": recording.judge,
        "strategy": recording.strategy,
        "form": recording.form,
        "items": len(recording.items),
        "left_out": recording.n_twice,
        "replies": sum(len(item.said) for item in recording.items),
        "read": share_by(asked, pl.col("state") == "ok"),
        "states": dict(sorted(judgments["state"].value_counts().iter_rows())),
        "first": health["first"],
        "flip": health["inconsistent"] if recording.both_orders else None,
        "accuracy": _accuracy(recording, judgments) if recording.both_orders else health.get("agreement"),
        "kept": share_by(decided, pl.col("kept")) if found.height else None,
        "accuracy_kept": health.get("agreement_decided"),
        "votes": _votes(judgments) if recording.votes > 1 else None,
        "file": dict(Counter(one["class"] for one in compared)),
        "unread": asked.filter(pl.col("state") != "ok").select("generation_ids", "order", "state", "reason", "raw").to_dicts(),
        "differing": [one for one in compared if one["class"] == "differs"],
        "health": health,
    }


def _accuracy(recording: Recording, judgments: pl.DataFrame) -> dict[str, Any] | None:
    labels = {tuple(sides(item)): item.label for item in recording.items if item.label in ("first", "second")}
    if not labels:
        return None
    gold = labels | {pair[::-1]: FLIPPED[label] for pair, label in labels.items() if label}
    read = judgments.filter(pl.col("state") == "ok")
    truth = pl.Series("gold", [gold.get(tuple(ids)) for ids in read["generation_ids"]], dtype=pl.String)
    return share_by(read.with_columns(truth).filter(pl.col("gold").is_not_null()), pl.col("label") == pl.col("gold"))


def _votes(judgments: pl.DataFrame) -> dict[str, Any]:
    """How far the votes on one answer agree: all of them alike, and Krippendorff's alpha of an ordinal scale."""
    read = judgments.filter(pl.col("state") == "ok").select(
        "prompt_id", unit=pl.col("generation_ids").list.first(), rater="vote", value=pl.col("scores").list.first()
    )
    each = read.group_by("unit", "prompt_id").agg(alike=pl.col("value").n_unique() == 1)
    alpha = krippendorff_alpha(read, scale="ordinal", cluster="prompt_id", n_resamples=200).coefficient
    return {"alike": share_by(each, pl.col("alike")), "alpha": {"value": alpha.value, "low": alpha.low, "high": alpha.high, "n": alpha.n}}


def _compared(recording: Recording, judgments: pl.DataFrame, found: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Our reading of each reply (of ratings: of each pair) and the file's: same, neither, only_ours, only_file, differs, gated."""
    claims: dict[tuple[Any, ...], Any] = {}
    for item in recording.items:
        ids = sides(item)
        for said in item.said:
            shown = ids[said.side : said.side + 1] if said.side is not None else ids[:: -1 if said.order else 1]
            claims[(*shown, said.vote)] = said.claim
    if any(claim is not None for claim in claims.values()):
        for row in judgments.iter_rows(named=True):
            label = row["label"] if recording.form != "options" else None
            ours = next((one for one in (label, row["p_first"], *(row["scores"] or ())) if one is not None), None)
            yield _class(ours, claims[(*row["generation_ids"], row["vote"])], row["generation_ids"], row["raw"], row["state"])
        return
    pairs = {tuple(sides(item)): item.claim for item in recording.items if item.claim is not None}
    for row in found.iter_rows(named=True):
        if (pair := (row["a_id"], row["b_id"])) in pairs:
            ours = {"a": "first", "b": "second", "tie": "tie"}.get(row["verdict"])
            yield _class(ours, pairs[pair], pair, f"score difference {row['scores_delta']}", row["verdict"])


def _class(ours: Any, file: Any, shown: Sequence[str], raw: str | None, state: str) -> dict[str, Any]:
    if state == "gated":
        named = "gated"
    elif ours is None or file is None:
        named = "neither" if ours is file else "only_ours" if file is None else "only_file"
    else:
        same = abs(ours - file) <= CLOSE if isinstance(file, float) and isinstance(ours, float) else ours == file
        named = "same" if same else "differs"
    return {"class": named, "shown": list(shown), "ours": ours, "file": file, "state": state, "raw": raw}
