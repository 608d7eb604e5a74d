"""One prompt's generations → judgments: what is shown to the judge, how it is asked, and one row for every attempt.

Pairwise shows every pair in both presentation orders; pointwise shows each generation alone; listwise shows all at once.
The verdict is read from the log-probabilities of the rubric's labels (`options`) or from the text that the judge writes.
A reply that was cut off is asked once more with twice the tokens, one that cannot be read is asked again with a note on the
form; every reply stays a row. What needs no judge (an empty answer, two equal texts) is `gated` and costs no call.

Both orders, because judges favour a position: Zheng et al. 2023 (arXiv:2306.05685). Deliberately not done here: combining
judgments (`verdicts`), and asking in an adaptive order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, pairwise
from typing import Any, Literal

import orjson

from curators.engines.base import Engine, Reply, Request, Sampling, canonical, digest
from curators.errors import ConfigError
from curators.judging.parsing import normalise
from curators.judging.prompts import LETTERS, Rubric, answer_text, conversation_text, nonce, render
from curators.judging.replies import no_answer, read_options, read_text, required_form, tokens
from curators.sampling import Row, gather_all
from curators.schema import OUTCOME

Channel = Literal["options", "text"]

IDENTICAL = "identical text"
"""The reason of a gated pair that is a tie without a call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """How a judge is asked.

    `channel` auto: options where the rubric names labels and the engine gives log-probabilities of options, else text; the
    column `channel` says which it was. `both_orders` off shows a pair once, the smaller generation id first: ids are hashes,
    so that is a random order. `pairs` chain: each generation with the next by id (n - 1 pairs). `repairs` counts re-asks of
    a reply that cannot be read. `secret` keys the marks of fences and is kept with the lake.
    """

    channel: Literal["auto", "options", "text"] = "auto"
    votes: int = 1
    both_orders: bool = True
    max_tokens: int = 4096
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    repairs: int = 2
    pairs: Literal["all", "chain"] = "all"
    min_label_mass: float = 0.05
    use_truncated: bool = False
    chat_template_kwargs: Mapping[str, Any] | None = None
    secret: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if self.votes < 1 or self.max_tokens < 1 or self.repairs < 0:
            raise ConfigError(f"judge: votes {self.votes} and max_tokens {self.max_tokens} must be ≥ 1, repairs {self.repairs} ≥ 0")
        if self.votes > 1 and self.temperature == 0:
            raise ConfigError(f"judge: {self.votes} votes at temperature 0 are one vote; set a temperature above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """One presentation: the generations in the order shown."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    order: int = 0

    @property
    def key(self) -> str:
        return f"{'-'.join(sorted(self.ids))}/{self.order}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What all presentations of a prompt share."""

    prompt_id: str
    prompt: str
    reference: str | None
    engine: Engine
    rubric: Rubric
    config: JudgeConfig

    def mark(self, shown: _Shown, attempt: int) -> str | None:
        return nonce(self.config.secret, *shown.ids, shown.order, attempt) if self.rubric.fence else None

    def forged(self, shown: _Shown) -> bool:
        mark = self.mark(shown, 0)
        return mark is not None and any(mark in text for text in (self.prompt, *shown.texts))

    def messages(self, shown: _Shown, attempt: int) -> list[dict[str, str]]:
        mark = self.mark(shown, attempt)
        return render(self.rubric, prompt=self.prompt, answers=shown.texts, reference=self.reference, fence_nonce=mark)

    def row(self, shown: _Shown, *, channel: str, vote: int = 0, attempt: int = 0, **columns: Any) -> Row:
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
) -> list[Row]:
    """Rows of `judgments` for the rows of `generations` of one prompt, gated ones first.

    Judged are the generations whose state is ok (with `use_truncated` also truncated); empty ones are gated; failed ones have
    no text and give no row. Each row is one attempt; `state` says what became of it.

    Raises:
        ConfigError: the channel, the votes and the rubric do not fit together.
        EngineBusy: the endpoint is down.
    """
    config = config or JudgeConfig()
    channel = choose_channel(rubric, engine, config)
    case = _Case(
        prompt_id=prompt["prompt_id"],
        prompt=conversation_text(orjson.loads(prompt["messages"])),
        reference=prompt.get("reference"),
        engine=engine,
        rubric=rubric,
        config=config,
    )
    shown, gated = _presentations(case, generations)
    if rubric.fence:
        forged = [one for one in shown if case.forged(one)]
        gated += [(one, "an answer contains the fence's mark") for one in forged]
        shown = [one for one in shown if one not in forged]
    ask = _ask_options if channel == "options" else _ask_text
    asked = await gather_all(ask(case, one) for one in shown)
    return [case.row(one, channel=channel, state="gated", reason=reason) for one, reason in gated] + list(chain.from_iterable(asked))


def choose_channel(rubric: Rubric, engine: Engine, config: JudgeConfig) -> Channel:
    """The channel that a judge is asked through.

    Raises:
        ConfigError: `options` is asked for and the rubric has no labels, or there are several votes (log-probabilities do not vary).
    """
    if config.channel == "text" or (config.channel == "auto" and not (rubric.labels and "options" in engine.capabilities)):
        return "text"
    if not rubric.labels:
        raise ConfigError(f"rubric {rubric.name!r}: channel options needs `labels` in the rubric's header; add them or use channel text")
    if config.votes > 1:
        raise ConfigError(f"judge: votes is {config.votes}, but log-probabilities do not vary between votes; use 1, or channel text")
    return "options"


def _presentations(case: _Case, generations: Sequence[Mapping[str, Any]]) -> tuple[list[_Shown], list[tuple[_Shown, str]]]:
    usable = {"ok", "empty", "truncated"} if case.config.use_truncated else {"ok", "empty"}
    candidates = sorted((g["generation_id"], answer_text(g)) for g in generations if g["state"] in usable)
    trivial = {gid: reason for gid, text in candidates if (reason := _trivial(case, text))}
    if case.rubric.protocol == "pairwise":
        return _pairs(case.config, candidates, trivial)
    gated = [(_Shown(ids=(gid,), texts=(text,)), trivial[gid]) for gid, text in candidates if gid in trivial]
    kept = [(gid, text) for gid, text in candidates if gid not in trivial]
    if case.rubric.protocol == "pointwise":
        return [_Shown(ids=(gid,), texts=(text,)) for gid, text in kept], gated
    if case.rubric.line_labels and len(kept) > len(LETTERS):
        raise ConfigError(f"rubric {case.rubric.name!r}: line labels go to {len(LETTERS)} texts, there are {len(kept)}")
    return ([_Shown(ids=tuple(gid for gid, _ in kept), texts=tuple(text for _, text in kept))] if kept else []), gated


def _pairs(
    config: JudgeConfig, candidates: list[tuple[str, str]], trivial: Mapping[str, str]
) -> tuple[list[_Shown], list[tuple[_Shown, str]]]:
    shown: list[_Shown] = []
    gated: list[tuple[_Shown, str]] = []
    texts = {gid: normalise(text) for gid, text in candidates}
    for (a, a_text), (b, b_text) in combinations(candidates, 2) if config.pairs == "all" else pairwise(candidates):
        one = _Shown(ids=(a, b), texts=(a_text, b_text))
        if reason := trivial.get(a) or trivial.get(b):
            gated.append((one, reason))
        elif texts[a] == texts[b]:
            gated.append((one, IDENTICAL))
        else:
            shown.append(one)
            if config.both_orders:
                shown.append(_Shown(ids=(b, a), texts=(b_text, a_text), order=1))
    return shown, gated


def _trivial(case: _Case, text: str) -> str | None:
    """Why an answer is not worth a call: judges are fooled by answers without content."""
    if not text.strip():
        return "empty answer"
    if not any(character.isalnum() for character in text):
        return "an answer without a letter or digit"
    if case.reference is None and case.rubric.needs_reference:
        return f"rubric {case.rubric.name!r} shows a reference and the prompt has none"
    return None


async def _ask_options(case: _Case, shown: _Shown) -> list[Row]:
    """One call for the log-probabilities of the rubric's labels."""
    config = case.config
    reply = await case.engine.complete(
        Request(
            key=f"judge/{shown.key}/0",
            messages=case.messages(shown, 0),
            sampling=Sampling(temperature=0.0, max_tokens=1, seed=config.seed),
            options=case.rubric.labels,
            chat_template_kwargs=config.chat_template_kwargs,
        )
    )
    if reply.error == "unsupported" and config.channel == "auto":
        return await _ask_text(case, shown)
    answer = read_options(case.rubric, reply, min_label_mass=config.min_label_mass) | tokens(reply, reply.sample(0))
    return [case.row(shown, channel="options", **answer)]


async def _ask_text(case: _Case, shown: _Shown) -> list[Row]:
    """All votes in one request, then each vote's re-asks."""
    config = case.config
    reply = await _complete(case, shown, n=config.votes)
    settled = await gather_all(_settle(case, shown, vote, reply) for vote in range(config.votes))
    return list(chain.from_iterable(settled))


async def _settle(case: _Case, shown: _Shown, vote: int, reply: Reply) -> list[Row]:
    """The rows of one vote: its first attempt and its re-asks, until one can be read or none is left."""
    completion = reply.sample(vote)
    cost = tokens(reply, completion, vote)
    rows: list[Row] = []
    max_tokens, unreadable = case.config.max_tokens, 0
    while True:
        answer = read_text(case.rubric, len(shown.ids), completion) if completion else no_answer(reply)
        rows.append(case.row(shown, channel="text", vote=vote, attempt=len(rows), **answer, **cost))
        if answer["state"] == "truncated" and max_tokens == case.config.max_tokens:
            max_tokens *= 2
        elif answer["state"] in ("parse_error", "ambiguous") and unreadable < case.config.repairs:
            unreadable += 1
        else:
            return rows
        reply = await _complete(case, shown, vote=vote, attempt=len(rows), max_tokens=max_tokens, unreadable=unreadable)
        completion = reply.completions[0] if reply.completions else None
        cost = tokens(reply, completion)


async def _complete(
    case: _Case, shown: _Shown, *, n: int = 1, vote: int = 0, attempt: int = 0, max_tokens: int | None = None, unreadable: int = 0
) -> Reply:
    config = case.config
    messages = case.messages(shown, attempt)
    if unreadable:
        messages[-1]["content"] += (
            f"\n\n({unreadable} earlier replies to this request could not be read. {required_form(case.rubric, len(shown.ids))})"
        )
    return await case.engine.complete(
        Request(
            key=f"judge/{shown.key}/{vote}",
            messages=messages,
            sampling=Sampling(
                temperature=config.temperature, top_p=config.top_p, max_tokens=max_tokens or config.max_tokens, seed=config.seed
            ),
            n=n,
            first_sample=vote,
            chat_template_kwargs=config.chat_template_kwargs,
            attempt=attempt,
        )
    )
