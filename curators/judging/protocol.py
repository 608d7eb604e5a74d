"""One prompt's generations → judgments: what is shown to the judge, how it is asked, and one row for every attempt.

Pairwise shows every pair in both presentation orders; pointwise shows each generation alone; listwise shows all at once.
The verdict is read through the strongest channel that rubric and engine allow (`curators.judging.channels`).
A reply that was cut off is asked once more with twice the tokens, one that cannot be read is asked again with a note on the
form; every reply stays a row. What needs no judge (an empty answer, two equal texts) is `gated` and costs no call.

Both orders, because judges favour a position: Zheng et al. 2023 (arXiv:2306.05685). Deliberately not done here: combining
judgments (`verdicts`), and choosing which pairs of a group to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import orjson

from curators.engines.base import Completion, Engine, Reply, Request, Sampling, canonical, digest
from curators.errors import ConfigError
from curators.judging.channels import Channel, channels
from curators.judging.presentations import Shown, presentations
from curators.judging.prompts import conversation_text, nonce, render
from curators.judging.replies import (
    NO_JSON,
    no_answer,
    read_json,
    read_options,
    read_text,
    reply_form,
    reply_schema,
    required_form,
    tokens,
)
from curators.judging.rubric import Rubric
from curators.judging.verdicts import VerdictConfig
from curators.judging.votes import CONFIDENCE, settled
from curators.sampling import Row, gather_all
from curators.schema import OUTCOME


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """How a judge is asked.

    `channel` and `min_channel`: see `curators.judging.channels`; a judgment's column `channel` says by which one it was read.
    `capabilities`: what the engine has shown that it can do; null: what it says of itself. `both_orders` off shows a pair once, the
    smaller generation id first: ids are hashes, so that is a random order. `pairs` chain: each generation with the next by id, n - 1
    pairs. `repairs` counts re-asks of a reply that cannot be read. `votes` are always asked for; beyond them a pair gets one more in
    each order, up to `max_votes`, while that can change its verdict by `verdicts` and its votes are less sure than `stop_at`
    (`curators.judging.votes`). `finished`: an answer that only announces one is gated. `secret` keys the marks of fences and is kept with
    the lake.
    """

    channel: Literal["auto"] | Channel = "auto"
    min_channel: Channel = "text"
    capabilities: frozenset[str] | None = None
    votes: int = 1
    max_votes: int | None = None
    stop_at: float = CONFIDENCE
    both_orders: bool = True
    max_tokens: int = 4096
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    repairs: int = 1
    pairs: Literal["all", "chain"] = "all"
    min_label_mass: float = 0.05
    use_truncated: bool = False
    finished: bool = True
    chat_template_kwargs: Mapping[str, Any] | None = None
    secret: bytes = field(default=b"", repr=False)
    verdicts: VerdictConfig = field(default_factory=VerdictConfig)

    def __post_init__(self) -> None:
        if self.votes < 1 or self.max_tokens < 1 or self.repairs < 0:
            raise ConfigError(f"judge: votes {self.votes} and max_tokens {self.max_tokens} must be ≥ 1, repairs {self.repairs} ≥ 0")
        if self.max_votes is not None and self.max_votes < self.votes:
            raise ConfigError(f"judge: max_votes is {self.max_votes}, fewer than votes, {self.votes}")
        if not 0.5 < self.stop_at <= 1:
            raise ConfigError(f"judge: stop_at is {self.stop_at}; it is a probability above 1/2")
        if max(self.votes, self.max_votes or 0) > 1 and self.temperature == 0:
            raise ConfigError(
                f"judge: {max(self.votes, self.max_votes or 0)} votes at temperature 0 are one vote; set a temperature above 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What all presentations of a prompt share."""

    prompt_id: str
    prompt: str
    reference: str | None
    engine: Engine
    rubric: Rubric
    config: JudgeConfig
    ladder: tuple[Channel, ...]

    @property
    def form(self) -> Literal["text", "json"]:
        """How a reply is to be written."""
        return "json" if "json" in self.ladder else "text"

    def mark(self, shown: Shown, attempt: int) -> str | None:
        return nonce(self.config.secret, *shown.ids, shown.order, attempt) if self.rubric.fence else None

    def forged(self, shown: Shown) -> bool:
        mark = self.mark(shown, 0)
        return mark is not None and any(mark in text for text in (self.prompt, *shown.texts))

    def messages(self, shown: Shown, attempt: int, form: Literal["text", "json"] = "text") -> list[dict[str, str]]:
        mark = self.mark(shown, attempt)
        return render(self.rubric, prompt=self.prompt, answers=shown.texts, reference=self.reference, fence_nonce=mark, form=form)

    def row(self, shown: Shown, *, channel: str, vote: int = 0, attempt: int = 0, **columns: Any) -> Row:
        c, rubric = self.config, self.rubric
        names = ("temperature", "top_p", "max_tokens", "seed", "chat_template_kwargs")
        sampling = canonical({"channel": channel} | {name: getattr(c, name) for name in names}).decode()
        answered = [columns.get(name) for name in OUTCOME]
        return {
            "judgment_id": digest(self.engine.fingerprint, rubric.digest, shown.ids, vote, attempt, sampling, answered),
            "prompt_id": self.prompt_id,
            "protocol": rubric.protocol,
            "judge": self.engine.fingerprint,
            "engine": self.engine.spec,
            "rubric": rubric.name,
            "rubric_digest": rubric.digest,
            "generation_ids": list(shown.ids),
            "order": shown.order,
            "vote": vote,
            "attempt": attempt,
            "channel": channel,
            "sampling": sampling,
            **columns,
        }


async def judge_group(
    prompt: Mapping[str, Any],
    generations: Sequence[Mapping[str, Any]],
    engine: Engine,
    *,
    rubric: Rubric,
    config: JudgeConfig | None = None,
    pairs: Iterable[tuple[str, str]] | None = None,
) -> list[Row]:
    """Rows of `judgments` for the rows of `generations` of one prompt, gated ones first. `pairs` of their ids: those alone.

    Judged are the generations whose state is ok (with `use_truncated` also truncated); empty ones are gated; failed ones have
    no text and give no row. Each row is one attempt; `state` says what became of it.

    Raises:
        ConfigError: the channel, the votes and the rubric do not fit together.
        EngineBusy: the endpoint is down.
    """
    config = config or JudgeConfig()
    capabilities = engine.capabilities if config.capabilities is None else config.capabilities
    ladder = channels(rubric, capabilities, channel=config.channel, min_channel=config.min_channel)
    if ladder[0] == "options" and max(config.votes, config.max_votes or 1) > 1:
        raise ConfigError(
            f"judge: votes is {config.votes}, but log-probabilities do not vary between votes; use 1, or channel json or text"
        )
    case = _Case(
        prompt_id=prompt["prompt_id"],
        prompt=conversation_text(orjson.loads(prompt["messages"])),
        reference=prompt.get("reference"),
        engine=engine,
        rubric=rubric,
        config=config,
        ladder=ladder,
    )
    shown, gated = presentations(
        rubric,
        generations,
        reference=case.reference,
        both_orders=config.both_orders,
        pairs=config.pairs if pairs is None else pairs,
        use_truncated=config.use_truncated,
        finished=config.finished,
    )
    forged = [one for one in shown if case.forged(one)]
    gated += [(one, "an answer contains the fence's mark") for one in forged]
    items: dict[str, list[Shown]] = {}
    for one in shown:
        if one not in forged:
            items.setdefault(one.item, []).append(one)
    asked = await gather_all(_ask_item(case, orders) for orders in items.values())
    return [case.row(one, channel=ladder[0], state="gated", reason=reason) for one, reason in gated] + list(chain.from_iterable(asked))


async def _ask_item(case: _Case, orders: Sequence[Shown]) -> list[Row]:
    """All presentations of one item; a pair is then asked for further votes while they can change its verdict."""
    by_order = await gather_all(_ask(case, one) for one in orders)
    for vote in range(case.config.votes, case.config.max_votes or 0):
        if case.rubric.protocol != "pairwise" or _settled(case, by_order, left=(case.config.max_votes or 0) - vote):
            break
        more = await gather_all(_ask_text(case, one, vote=vote) for one in orders)
        by_order = [rows + extra for rows, extra in zip(by_order, more, strict=True)]
    return list(chain.from_iterable(by_order))


def _settled(case: _Case, by_order: Sequence[Sequence[Row]], *, left: int) -> bool:
    """Log-probabilities do not vary, so that a pair that was read from them is."""
    if any(row["channel"] == "options" for rows in by_order for row in rows):
        return True
    a_id = min(by_order[0][0]["generation_ids"])
    votes = [
        [row["p_first"] if row["generation_ids"][0] == a_id else 1 - row["p_first"] for row in rows if row["state"] == "ok"]
        for rows in by_order
    ]
    return settled(votes[0], votes[1] if len(votes) > 1 else None, left=left, config=case.config.verdicts, confidence=case.config.stop_at)


async def _ask(case: _Case, shown: Shown) -> list[Row]:
    """By the strongest channel; by the next where an engine turns out not to give log-probabilities."""
    if case.ladder[0] != "options":
        return await _ask_text(case, shown)
    rows = await _ask_options(case, shown)
    return await _ask_text(case, shown) if rows[0]["state"] == "unsupported" and case.ladder[1:] else rows


async def _ask_options(case: _Case, shown: Shown) -> list[Row]:
    """One call for the log-probabilities of the rubric's labels."""
    config = case.config
    reply = await case.engine.complete(
        Request(
            key=f"judge/{shown.item}/{shown.order}/0",
            messages=case.messages(shown, 0),
            sampling=Sampling(temperature=0.0, max_tokens=1, seed=config.seed),
            options=case.rubric.labels,
            chat_template_kwargs=config.chat_template_kwargs,
        )
    )
    answer = read_options(case.rubric, reply, min_label_mass=config.min_label_mass) | tokens(reply, reply.sample(0))
    return [case.row(shown, channel="options", **answer)]


async def _ask_text(case: _Case, shown: Shown, vote: int | None = None) -> list[Row]:
    """All votes in one request, or the one named, then each vote's re-asks."""
    votes = range(case.config.votes) if vote is None else range(vote, vote + 1)
    reply = await _complete(case, shown, n=len(votes), vote=votes.start)
    read = await gather_all(_settle(case, shown, vote, place, reply) for place, vote in enumerate(votes))
    return list(chain.from_iterable(read))


async def _settle(case: _Case, shown: Shown, vote: int, place: int, reply: Reply) -> list[Row]:
    """The rows of one vote, at its place among those of the reply: the first attempt and re-asks, until one can be read or none is left."""
    completion = reply.sample(vote)
    cost = tokens(reply, completion, place)
    rows: list[Row] = []
    max_tokens, unreadable = case.config.max_tokens, 0
    while True:
        answer: Row = {"channel": case.form} | (_read(case, len(shown.ids), completion) if completion else no_answer(reply))
        rows.append(case.row(shown, vote=vote, attempt=len(rows), **answer, **cost))
        if answer["state"] == "truncated" and max_tokens == case.config.max_tokens:
            max_tokens *= 2
        elif answer["state"] in ("parse_error", "ambiguous") and unreadable < case.config.repairs:
            unreadable += 1
        else:
            return rows
        reply = await _complete(case, shown, vote=vote, attempt=len(rows), max_tokens=max_tokens, unreadable=unreadable)
        completion = reply.completions[0] if reply.completions else None
        cost = tokens(reply, completion)


def _read(case: _Case, n: int, completion: Completion) -> Row:
    """The verdict of a reply; text where JSON was asked for counts only in its strict form, and only where text is enough."""
    if case.form == "text":
        return read_text(case.rubric, n, completion)
    found = read_json(case.rubric, n, completion)
    if found["reason"] != NO_JSON or "text" not in case.ladder:
        return found
    plain = read_text(case.rubric, n, completion)
    return plain | {"channel": "text"} if plain["state"] == "ok" else found


async def _complete(
    case: _Case, shown: Shown, *, n: int = 1, vote: int = 0, attempt: int = 0, max_tokens: int | None = None, unreadable: int = 0
) -> Reply:
    config, n_shown = case.config, len(shown.ids)
    messages = case.messages(shown, attempt, case.form)
    if unreadable:
        form = reply_form(case.rubric, n_shown) if case.form == "json" else required_form(case.rubric, n_shown)
        messages[-1]["content"] += f"\n\n({unreadable} earlier replies to this request could not be read. {form})"
    return await case.engine.complete(
        Request(
            key=f"judge/{shown.item}/{shown.order}/{vote}",
            messages=messages,
            sampling=Sampling(
                temperature=config.temperature, top_p=config.top_p, max_tokens=max_tokens or config.max_tokens, seed=config.seed
            ),
            n=n,
            first_sample=vote,
            chat_template_kwargs=config.chat_template_kwargs,
            json_schema=reply_schema(case.rubric, n_shown) if case.form == "json" else None,
            attempt=attempt,
        )
    )
