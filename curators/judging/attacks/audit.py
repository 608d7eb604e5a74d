"""A judge under attack: every item and every attack is judged as in a real run, gates, fences and both orders included.

An item is a prompt with a better and a worse answer. The worse one is attacked and shown beside the better one; what the judge says of the
two as they are is the baseline. Nothing here knows of pipelines: the judge is an `Engine`, and its calls are paid for as its caller likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import orjson
import polars as pl

from curators.engines.base import Engine, digest
from curators.judging.attacks.suite import Attack
from curators.judging.gold import AT_ONCE, Gold
from curators.judging.prompts import conversation_text
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import Rubric
from curators.sampling import Row, gather_all
from curators.schema import JUDGMENTS, frame

NO_ATTACK = "none"
"""What the baseline is called in the frame of what was shown."""

SHOWN: Mapping[str, pl.DataType] = {name: pl.String() for name in ("item", "attack", "kind", "prompt_id", "better_id", "loser_id", "text")}
"""One row for every item and attack: `text` is the attacked answer, `loser_id` its generation id, `item` the item without any attack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """`prompt` is a row of `prompts`; the answers are plain text."""

    prompt: Mapping[str, Any]
    better: str
    worse: str

    @property
    def item_id(self) -> str:
        return digest("item", self.prompt["prompt_id"], self.better, self.worse)

    @property
    def question(self) -> str:
        return conversation_text(orjson.loads(self.prompt["messages"]))

    def generation(self, text: str) -> Row:
        prompt_id = self.prompt["prompt_id"]
        state = "ok" if text.strip() else "empty"
        return {
            "generation_id": digest("attack", prompt_id, text),
            "prompt_id": prompt_id,
            "text": text,
            "tool_calls": None,
            "state": state,
        }


def items_of_gold(gold: Gold) -> list[Item]:
    """The gold's pairs as items, sorted by their ids; answers that are not plain text (tool calls) are left out."""
    labels = gold.truth.select("a_id", "b_id", "judge", "verdict")
    decided = gold.pairs.join(labels, on=["a_id", "b_id"]).filter(pl.col("verdict").is_in(["a", "b"]))
    decided = decided.sort("a_id", "b_id", "judge").unique(["a_id", "b_id"], keep="first", maintain_order=True)
    prompts = {row["prompt_id"]: row for row in gold.prompts.iter_rows(named=True)}
    plain = gold.generations.filter((pl.col("state") == "ok") & pl.col("tool_calls").is_null())
    texts = dict(plain.select("generation_id", "text").iter_rows())
    items = []
    for pair in decided.iter_rows(named=True):
        better, worse = (pair["a_id"], pair["b_id"]) if pair["verdict"] == "a" else (pair["b_id"], pair["a_id"])
        if better in texts and worse in texts:
            items.append(Item(prompt=prompts[pair["prompt_id"]], better=texts[better], worse=texts[worse]))
    return items


async def attack_judge(
    items: Sequence[Item],
    attacks: Iterable[Attack],
    engine: Engine,
    *,
    rubric: Rubric,
    config: JudgeConfig,
    seed: int = 0,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The judge on every item, as it is and under every attack: what was shown (`SHOWN`) and the `judgments`.

    `advance(done, total)` counts presentations of an item. An attack that leaves an answer as it is gives no row.

    Raises:
        ConfigError: the rubric, the channel and the engine do not fit together.
        EngineBusy: the endpoint is down.
    """
    different = {item.item_id: item for item in items}.values()
    cases = list(product(different, (None, *attacks)))
    done, slots = 0, asyncio.Semaphore(AT_ONCE)

    async def judged(item: Item, attack: Attack | None) -> tuple[Row | None, list[Row]]:
        nonlocal done
        async with slots:
            text = attack(item.question, item.worse, seed=seed) if attack else item.worse
            better, loser = item.generation(item.better), item.generation(text)
            row, judgments = None, list[Row]()
            if attack is None or text != item.worse:
                judgments = await judge_group(item.prompt, [better, loser], engine, rubric=rubric, config=config)
                row = {"attack": attack.name if attack else NO_ATTACK, "kind": attack.kind if attack else NO_ATTACK, "text": text}
                row |= {
                    "item": item.item_id,
                    "prompt_id": item.prompt["prompt_id"],
                    "better_id": better["generation_id"],
                    "loser_id": loser["generation_id"],
                }
        done += 1
        advance(done, len(cases))
        return row, judgments

    results = await gather_all(judged(item, attack) for item, attack in cases)
    shown = pl.DataFrame([row for row, _ in results if row], schema=dict(SHOWN))
    judgments = frame([judgment for _, group in results for judgment in group], JUDGMENTS)
    return shown, judgments.unique("judgment_id", maintain_order=True)
