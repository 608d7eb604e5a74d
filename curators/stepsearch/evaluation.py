"""What steps are worth beside the outcome of their answers: a model's own judgement of them, a reward model, a reward function.

A source rates answers so far, as many as there are siblings, all at once, and gives judgments for them. `Judged` is any engine with a
pointwise rubric. With the policy itself and the rubric `step` it is stepwise self-evaluation (MCTS-DPO, arXiv 2405.00451):

    C(s) = P(correct) / (P(correct) + P(incorrect)) as the next word after "is it on the right way? (A) incorrect (B) correct"

where the engine gives log-probabilities of options, else the share of votes for "correct". The reference is shown where a prompt has one,
as in the paper. With an engine as reward and any rubric it is a reward in [0, 1], the rubric's scale; `Scored` is a reward model and
`Checked` a function of the user's own, `module:function`, both of any size. Not as in the reference's code: there P(correct) is not
normalised, and 0 where it is missing.

A value that failed is never a score. An answer that is graded goes on without it, and `reason` says so; any other step is no child, with
the state `value_error`, or `transport_error` where the request never arrived. A spent budget or an endpoint that is down ends the tree.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from curators.engines.base import Engine
from curators.errors import ConfigError
from curators.judging.protocol import JudgeConfig, judge_group
from curators.judging.rubric import Rubric
from curators.sampling import Row, gather_all
from curators.scoring import score_group
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.step import SELECTABLE, Step
from curators.verifiers import TIMEOUT_S, Verifier, verify_group

BY_VOTES = JudgeConfig(votes=5, temperature=1.0, max_tokens=16)


class Source(Protocol):
    """Who says what answers so far are worth."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What decides what it says, as `nodes.search` keeps it."""
        ...

    async def rate(self, prompt: Mapping[str, Any], answers: Sequence[Row]) -> list[Row]:
        """Rows of `judgments` for rows of `generations` that are ok; those in state ok have one score."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An engine that is asked. In the channel `auto` the rubric's labels are read from log-probabilities where the engine gives them, in
    one request and without sampling; what it cannot answer so, and everything in the channel `text`, is put to `config.votes` votes.

    Raises:
        ConfigError: the rubric is not pointwise.
    """

    engine: Engine
    rubric: Rubric
    config: JudgeConfig = BY_VOTES

    def __post_init__(self) -> None:
        if self.rubric.protocol != "pointwise":
            raise ConfigError(
                f"values: rubric {self.rubric.name!r} is {self.rubric.protocol}; a value of a single answer needs a pointwise one"
            )

    @property
    def about(self) -> Mapping[str, Any]:
        c = self.config
        asked = {"channel": c.channel, "votes": c.votes, "temperature": c.temperature, "top_p": c.top_p, "max_tokens": c.max_tokens}
        limits = {"seed": c.seed, "repairs": c.repairs, "min_label_mass": c.min_label_mass}
        return {"engine": self.engine.fingerprint, "rubric": self.rubric.name, "rubric_digest": self.rubric.digest} | asked | limits

    async def rate(self, prompt: Mapping[str, Any], answers: Sequence[Row]) -> list[Row]:
        rows: list[Row] = []
        auto = self.config.channel == "auto"
        if self.config.channel == "options" or (auto and self.rubric.labels and "options" in self.engine.capabilities):
            rows = await self._ask(prompt, answers, replace(self.config, channel="options", votes=1))
            # a server may only now say that it has no log-probabilities
            unread = {row["generation_ids"][0] for row in rows if row["state"] == "unsupported" and auto}
            rows = [row for row in rows if row["generation_ids"][0] not in unread]
            answers = [answer for answer in answers if answer["generation_id"] in unread]
        if answers:
            rows += await self._ask(prompt, answers, replace(self.config, channel="text"))
        low, high = self.rubric.scale
        return [row | {"scores": [(row["scores"][0] - low) / (high - low)]} if row["state"] == "ok" else row for row in rows]

    async def _ask(self, prompt: Mapping[str, Any], answers: Sequence[Row], config: JudgeConfig) -> list[Row]:
        return await judge_group(prompt, answers, self.engine, rubric=self.rubric, config=replace(config, finished=False))


@dataclass(frozen=True, slots=True)
class Scored:
    """A reward model, whose numbers are taken as they are; `weights` of its heads as in `curators.scoring`."""

    engine: Engine
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def about(self) -> Mapping[str, Any]:
        return {"engine": self.engine.fingerprint, "weights": dict(self.weights)}

    async def rate(self, prompt: Mapping[str, Any], answers: Sequence[Row]) -> list[Row]:
        return await score_group(prompt, answers, self.engine, weights=self.weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A function that is called, as a verifier is (docs/verifiers.md): with the prompt, the answer so far and the reference."""

    verifier: Verifier
    timeout_s: float = TIMEOUT_S

    @property
    def about(self) -> Mapping[str, Any]:
        return {"verifier": self.verifier.judge}

    async def rate(self, prompt: Mapping[str, Any], answers: Sequence[Row]) -> list[Row]:
        return await verify_group(prompt, answers, self.verifier, timeout_s=self.timeout_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Values:
    """Who is asked for the parts of a value; `SearchConfig.weights` says how much each one counts."""

    self_eval: Source | None = None
    reward: Source | None = None

    def asked(self, config: SearchConfig) -> dict[str, Source]:
        """The sources that count in a search."""
        sources = {"self_eval": self.self_eval, "reward": self.reward}
        return {name: source for name, source in sources.items() if source is not None and getattr(config.weights, name)}

    def about(self, config: SearchConfig) -> dict[str, Any]:
        """What `nodes.search` keeps under `values`."""
        return {name: dict(source.about) for name, source in self.asked(config).items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rated:
    """Steps with their values, the tokens that these took, and why the tree must ask for nothing more."""

    steps: Sequence[Step]
    n_tokens: int = 0
    ended: str | None = None


async def rate(values: Values, prompt: Mapping[str, Any], steps: Sequence[Step], *, key: str, before: str, config: SearchConfig) -> Rated:
    """Ask for the values of the steps that may become children, after the text `before`. `key` names the request that sampled them.

    Raises:
        EngineBusy: an endpoint is down.
        EngineError: no request can succeed.
    """
    if not (sources := values.asked(config)):
        return Rated(steps=steps)
    answers = [
        {"generation_id": f"{key}/{i}", "state": "ok", "text": before + step.text}
        for i, step in enumerate(steps)
        if step.state in SELECTABLE
    ]
    if not answers:
        return Rated(steps=steps)
    judgments = dict(zip(sources, await gather_all(source.rate(prompt, answers) for source in sources.values()), strict=True))
    rows = [row for found in judgments.values() for row in found]
    skipped = [row["reason"] or row["state"] for row in rows if row["state"] == "budget_skipped"]
    return Rated(
        steps=[_rated(step, f"{key}/{i}", judgments, config) for i, step in enumerate(steps)],
        n_tokens=sum(row.get("completion_tokens") or 0 for row in rows),
        ended=skipped[0] if skipped else None,
    )


def _rated(step: Step, generation_id: str, judgments: Mapping[str, Sequence[Row]], config: SearchConfig) -> Step:
    if step.state not in SELECTABLE:
        return step
    found: dict[str, Any] = {}
    failed: list[Row] = []
    for name, rows in judgments.items():
        own = [row for row in rows if row["generation_ids"] == [generation_id]]
        if scores := [row["scores"][0] for row in own if row["state"] == "ok"]:
            found[name] = statistics.fmean(scores)
        else:
            failed.append(own[-1] | {"reason": f"no {name}: {own[-1]['reason'] or own[-1]['state']}"})
    if failed:
        found["reason"] = "; ".join([*filter(None, [step.reason]), *(row["reason"] for row in failed)])
        graded = step.outcome is not None or (step.state == "truncated" and config.truncated_outcome is not None)
        if not graded:
            found["state"] = "transport_error" if any(row["state"] == "transport_error" for row in failed) else "value_error"
    return replace(step, **found)
