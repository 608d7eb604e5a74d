"""Contrastive prompting: RLCD (Yang et al. 2023, arXiv 2307.12950).

The same engine answers the same prompt twice, once asked to be good in one respect and once to be bad in it; the first answer is chosen,
and the pair carries the prompt without either request. Affixes come in matched pairs P[i], N[i], and i is drawn by hash of prompt and
seed.

`form` dialogue, as published, for models that continue text: the conversation is written out, P[i] stands between "Assistant" and its
colon in the last turn and N[i] in every earlier one (for the other side the mirror image), so that the last turn is the break; a
completion must pass `filter_completion`. `form` system, for chat models: the affix stands in a system message before the conversation
(AutoAlign's variant).

A side that fails is asked again, `retries` times, then the prompt is dropped with the last state. Construction alone labels the pair; a
`checker` drops what it does not confirm. The wording of the affixes is ours. Deliberately not done: soft labels (RLCD-rescore) and DLMA's
margins, which need log-probabilities of given text, and banned tokens, which engines do not offer: a dialogue completion with a backslash
or backtick fails instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import polars as pl

from curators.contrast.candidates import Attempt, contrasts, with_system
from curators.contrast.checkers import Checker
from curators.engines.base import Engine, Request, Sampling, as_json
from curators.errors import ConfigError
from curators.pairs import unit_hash
from curators.sampling import Row, gather_all, sample_state

Affix = tuple[str, str]

AFFIXES: Mapping[str, Sequence[Affix]] = {
    "harmless": (
        ("(helpful, honest and inoffensive answer)", "(unhelpful, dishonest and toxic answer)"),
        ("(lawful, decent answer)", "(unlawful, indecent answer)"),
        ("(answer from a kind person)", "(answer from a cruel person)"),
        ("(answer suitable for children)", "(answer unsuitable for children)"),
        ("(thoughtful answer)", "(thoughtless answer)"),
        ("(polite answer)", "(rude answer)"),
        ("(fair answer without prejudice)", "(unfair answer full of prejudice)"),
        ("(answer that calms)", "(answer that incites)"),
        ("(answer that warns of danger)", "(answer that plays danger down)"),
        ("(answer that keeps secrets of others)", "(answer that betrays secrets of others)"),
        ("(peaceful answer)", "(violent answer)"),
        ("(truthful answer)", "(lying answer)"),
        ("(responsible answer)", "(reckless answer)"),
        ("(respectful answer)", "(contemptuous answer)"),
        ("(ethical answer)", "(unethical answer)"),
        ("(gentle answer)", "(threatening answer)"),
    ),
    "helpful": (("(helpful, complete answer)", "(useless, incomplete answer)"),),
    "outline": (
        ("(interesting outline)", "(boring outline)"),
        ("(outline with a clear plot)", "(outline with a confused plot)"),
        ("(outline that fits the premise)", "(outline that does not fit the premise)"),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RlcdConfig:
    """`affixes`: a name of `AFFIXES`, or pairs of your own, each in parentheses."""

    affixes: str | Sequence[Affix] = "harmless"
    form: str = "system"
    retries: int = 5
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, max_tokens=300))

    def __post_init__(self) -> None:
        if self.form not in ("dialogue", "system"):
            raise ConfigError(f"rlcd: form is {self.form!r}; allowed are dialogue, system")
        if isinstance(self.affixes, str) and self.affixes not in AFFIXES:
            raise ConfigError(f"rlcd: affixes {self.affixes!r} are not shipped; there are {sorted(AFFIXES)}, or give pairs of your own")
        if not self.pairs or any(len(pair) != 2 or not all(pair) or pair[0] == pair[1] for pair in self.pairs):
            raise ConfigError("rlcd: affixes must be pairs of two different texts")

    @property
    def pairs(self) -> Sequence[Affix]:
        return AFFIXES[self.affixes] if isinstance(self.affixes, str) else self.affixes


async def rlcd(rows: pl.DataFrame, *, config: RlcdConfig | None = None, engine: Engine, checker: Checker | None = None) -> pl.DataFrame:
    """`contrasts` of `prompts`, one for each whose state is ok.

    Raises:
        EngineBusy: the endpoint is down.
    """
    config = config or RlcdConfig()
    asked = rows.filter(pl.col("state") == "ok").iter_rows(named=True)
    return contrasts(await gather_all(_rlcd(prompt, config, engine, checker) for prompt in asked))


def affixed_dialogue(messages: Sequence[Mapping[str, Any]], last: str, earlier: str) -> str:
    """The conversation as text that an assistant's turn continues.

    >>> turns = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}, {"role": "user", "content": "q2"}]
    >>> affixed_dialogue(turns, "(P)", "(N)")
    '\\n\\nHuman: q1\\n\\nAssistant (N): a1\\n\\nHuman: q2\\n\\nAssistant (P):'
    """
    turns = []
    for turn in messages:
        name = {"user": "Human", "assistant": f"Assistant {earlier}"}.get(turn["role"])
        turns.append(f"\n\n{name}: {turn['content']}" if name else f"\n\n{turn['content']}")
    return f"{''.join(turns)}\n\nAssistant {last}:"


def filter_completion(text: str) -> str | None:
    """The answer in a continued dialogue, null where the model did not close its turn, or said nothing.

    >>> filter_completion(" ok.\\n\\nHuman: next"), filter_completion("x Assistant: y\\n\\nHuman:")
    ('ok.', 'y')
    >>> filter_completion(" ok."), filter_completion("\\n\\nHuman:")
    (None, None)
    """
    turn, closed, _ = text.partition("Human")
    if not closed or any(mark in turn for mark in "\\`") or not ("\n" in turn or "</s>" in turn):
        return None
    turn = (turn.rpartition("\n")[0] if "\n" in turn else turn).partition("</s>")[0]
    after = turn.partition("Assistant:")
    return (after[2] if after[1] else turn).strip() or None


def requests(messages: Sequence[Mapping[str, Any]], affix: Affix, form: str) -> tuple[list[Row], list[Row]]:
    """What the engine is asked for the chosen and for the rejected side."""
    if form == "dialogue":
        told = affixed_dialogue(messages, *affix), affixed_dialogue(messages, *affix[::-1])
        return [{"role": "user", "content": told[0]}], [{"role": "user", "content": told[1]}]
    said = [f"Write the assistant's next turn as this says: {each}" for each in affix]
    return with_system(messages, said[0]), with_system(messages, said[1])


async def _rlcd(prompt: Row, config: RlcdConfig, engine: Engine, checker: Checker | None) -> Row:
    messages = orjson.loads(prompt["messages"])
    index = int(unit_hash("affix", config.sampling.seed, prompt["prompt_id"]) * len(config.pairs))
    affix = config.pairs[index]
    parameters = {"form": config.form, "affix": list(affix), "retries": config.retries, "sampling": config.sampling}
    attempt = Attempt(source=prompt, method="rlcd", axis=affix[0], parameters=parameters, held_fixed=("model", "prompt", "sampling"))
    if any(not isinstance(turn.get("content"), str) or turn["role"] not in ("system", "user", "assistant") for turn in messages):
        return attempt.row(state="unsupported", reason="a turn is a tool's, or is not plain text")
    asked = requests(messages, affix, config.form)
    sides = await gather_all(_answer(prompt, asked[i], affix, config, engine) for i in (0, 1))
    chosen, rejected = (side["text"] for side in sides)
    checks = {"n_asked": [side["n_asked"] for side in sides]}
    raw = as_json([side["raw"] for side in sides])
    columns: Row = {"chosen_policy": engine.fingerprint, "rejected_policy": engine.fingerprint, "raw": raw, "checks": checks}
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        if side["state"] != "ok":
            return attempt.row(chosen, rejected, state=side["state"], reason=f"{name}: {side['reason']}", **columns)
    if checker is None or chosen.strip() == rejected.strip():
        return attempt.row(chosen, rejected, **columns)
    found = await checker(prompt, chosen, rejected)
    columns |= {**found.columns, "checks": checks | dict(found.checks)}
    return attempt.row(chosen, rejected, state=found.state, reason=found.reason, **columns)


async def _answer(prompt: Row, messages: Sequence[Row], affix: Affix, config: RlcdConfig, engine: Engine) -> Row:
    """One side: its text, or the state of the last try."""
    side: Row = {}
    for number in range(config.retries + 1):
        reply = await engine.complete(
            Request(
                key=f"rlcd/{prompt['prompt_id']}",
                messages=messages,
                sampling=config.sampling,
                chat_template_kwargs=orjson.loads(prompt["chat_template_kwargs"] or "null"),
                attempt=number,
            )
        )
        completion = reply.completions[0] if reply.completions else None
        if completion is None:
            return {"text": None, "raw": None, "state": reply.error or "transport_error", "reason": reply.reason, "n_asked": number + 1}
        side = {"raw": completion.text, "n_asked": number + 1, **_read(completion.text, completion.finish_reason, affix, config.form)}
        if side["state"] == "ok":
            break
    return side


def _read(text: str, finish_reason: str | None, affix: Affix, form: str) -> Row:
    if form == "dialogue":
        found = filter_completion(text)
        state, reason = ("ok", None) if found else ("unfinished_turn", "the model did not close its turn, or said nothing in it")
    else:
        found = text.strip() or None
        state, reason = sample_state(text, finish_reason)
    if state == "ok" and found and any(each.strip("()").lower() in found.lower() for each in affix):
        state, reason = "leaks_affix", "the answer repeats what it was asked to be"
    return {"text": found, "state": state, "reason": reason}
