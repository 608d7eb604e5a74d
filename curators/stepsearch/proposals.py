"""The steps below a node: one engine request for all siblings, read as steps, graded where the answer ends.

A step goes up to the delimiter, which is the request's stop string and is kept in the step: an answer's steps joined are the answer.
An answer ends where the model ends its turn, or with a step in which the pattern `answer` is found; an engine that does not say which of
the two stopped it (`Completion.ended`) needs the pattern. What a sample becomes, first reason first:

| state | sample |
|---|---|
| the reply's error | it did not arrive |
| `unsupported` | a tool call, an end that is none (a content filter), or nobody says whether the answer ended |
| `empty` | blank, unless it only ends an answer that has begun |
| `truncated` | cut off by `max_tokens`, or at `max_depth` still without an answer; valued `truncated_outcome` |
| `duplicate` | exactly the text of a sibling; nothing is sampled instead |
| `verifier_error` | an answer that the verifier cannot grade, or failed to |
| `value_error` | not graded, and a value that was asked for did not come (`evaluation`) |

Seeds derive from the search's seed, the prompt and the node's place, and the sample index is the engine's own, so that a sample depends
on nothing else that is in flight. The key `step/<prompt_id>/<place>`, such as `step/3f…/0/2`, is what `replay:` matches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from curators.engines.base import Completion, Engine, Reply, Request, Sampling, digest
from curators.errors import ConfigError
from curators.sampling import sample_state
from curators.stepsearch.config import SearchConfig
from curators.stepsearch.evaluation import Values, rate
from curators.stepsearch.step import SELECTABLE, Step
from curators.stepsearch.tree import Tree
from curators.stepsearch.values import state_value
from curators.verifiers import TIMEOUT_S, Verifier, verify_group


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """How steps are sampled and answers graded. `max_tokens` are those of one step, its delimiter included.

    `answer`: a regular expression; a step in which it is found ends the answer (null: only the model's own end does). `right_from`: the
    verifier's score from which an answer is right. `in_flight`: simulations of one tree at a time; with more the tree is another one.

    Raises:
        ConfigError: a value that is not allowed.
    """

    delimiter: str = "\n"
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128
    answer: str | None = None
    right_from: float = 1.0
    in_flight: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.delimiter or self.max_tokens < 1 or self.in_flight < 1:
            raise ConfigError(
                f"steps: delimiter is {self.delimiter!r}, must not be empty; max_tokens is {self.max_tokens} "
                f"and in_flight {self.in_flight}, must be ≥ 1"
            )
        try:
            re.compile(self.answer or "")
        except re.error as error:
            raise ConfigError(f"steps: answer is {self.answer!r}, no regular expression: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What came of one request: a step for every sample, and the tokens it took. `ended`: why the tree must ask for nothing more, and
    which `tree_state` that is."""

    steps: Sequence[Step] = ()
    n_tokens: int = 0
    ended: str | None = None
    tree_state: str = "budget"


class Proposer:
    """Samples, grades and values the steps below the nodes of a prompt's tree. `prompt` is a row of `prompts`; no verifier: nothing is
    graded."""

    def __init__(
        self,
        prompt: Mapping[str, Any],
        engine: Engine,
        verifier: Verifier | None,
        steps: StepConfig,
        *,
        values: Values | None = None,
        verifier_timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._prompt, self._engine, self._verifier, self._steps = prompt, engine, verifier, steps
        self._values, self._timeout_s = values or Values(), verifier_timeout_s
        self._sampling = Sampling(
            temperature=steps.temperature, top_p=steps.top_p, max_tokens=steps.max_tokens, stop=(steps.delimiter,), seed=steps.seed
        )
        fields = {name: prompt.get(name) for name in ("messages", "tools", "chat_template_kwargs")}
        self._fields = {name: orjson.loads(value) for name, value in fields.items() if value}

    async def __call__(self, tree: Tree, node: int) -> Proposal:
        """The steps below a node of a tree, every one with its value.

        Raises:
            EngineBusy: the endpoint is down.
            EngineError: no request can succeed.
        """
        request = self.request(tree, node)
        reply = await self._engine.complete(request)
        if reply.error == "budget_skipped":
            return Proposal(n_tokens=reply.completion_tokens, ended=reply.reason or reply.error)
        before = request.prefix or ""
        sampled = read_steps(reply, n=request.n, before=before, depth=tree.depth[node], config=tree.config, steps=self._steps)
        graded = await self._graded(before, sampled)
        rated = await rate(self._values, self._prompt, graded, key=request.key, before=before, config=tree.config)
        n_tokens = reply.completion_tokens + rated.n_tokens
        if rated.ended is not None:
            return Proposal(n_tokens=n_tokens, ended=rated.ended)
        return Proposal(steps=[_valued(step, tree, node) for step in rated.steps], n_tokens=n_tokens)

    def request(self, tree: Tree, node: int) -> Request:
        """The one request for all siblings below a node."""
        place = tree.place(node)
        seed = (
            int(digest("step", self._steps.seed, self._prompt["prompt_id"], place, size=4), 16) >> 1
        )  # 31 bits: some servers take no more
        return Request(
            key="/".join(("step", self._prompt["prompt_id"], *map(str, place))),
            sampling=replace(self._sampling, seed=seed),
            n=tree.config.children_at(tree.depth[node]),
            prefix=tree.text(node) or None,
            logprobs="logprobs" in self._engine.capabilities,
            **self._fields,
        )

    async def _graded(self, before: str, steps: Sequence[Step]) -> list[Step]:
        """The steps, those that end an answer with its outcome; the whole answer is what the verifier sees."""
        answers = [
            {"generation_id": str(i), "state": "ok", "text": before + step.text}
            for i, step in enumerate(steps)
            if step.terminal and step.state == "ok"
        ]
        found = list(steps)
        if self._verifier is None or not answers:
            return found
        for row in await verify_group(self._prompt, answers, self._verifier, timeout_s=self._timeout_s):
            i = int(row["generation_ids"][0])
            if row["state"] == "ok":
                found[i] = replace(found[i], outcome=1.0 if row["scores"][0] >= self._steps.right_from else -1.0)
            else:
                found[i] = replace(found[i], state="verifier_error", reason=row["reason"])
        return found


def read_steps(reply: Reply, *, n: int, before: str, depth: int, config: SearchConfig, steps: StepConfig) -> list[Step]:
    """A step for each of `n` samples below a node of that depth, after the text `before`; not graded."""
    found: list[Step] = []
    seen: set[tuple[str, str]] = set()
    for index in range(n):
        completion = reply.sample(index)
        if completion is None:
            missing = f"the engine gave {len(reply.completions)} samples, sample {index} is missing"
            found.append(Step(text="", state=reply.error or "transport_error", reason=reply.reason or reply.error or missing))
            continue
        step = _read(completion, before, depth, config, steps)
        if (step.text, step.state) in seen and step.state in SELECTABLE:
            step = replace(step, state="duplicate", reason="another sample is the same step")
        seen.add((step.text, step.state))
        found.append(step)
    return found


def _read(completion: Completion, before: str, depth: int, config: SearchConfig, steps: StepConfig) -> Step:
    text, ended = completion.text, completion.ended
    state, reason = sample_state(text, completion.finish_reason)
    if steps.answer is not None:
        ended = bool(ended) or (state == "ok" and re.search(steps.answer, text) is not None)
    if completion.tool_calls:
        state, reason = "unsupported", "a tool call is no step"
    elif completion.finish_reason not in (None, "stop", "length"):
        state, reason = "unsupported", f"the engine stopped with {completion.finish_reason!r}"
    elif completion.finish_reason != "length":
        if ended is None:
            state, reason = "unsupported", "the engine does not say whether the answer ended; set `answer` to a pattern that tells"
        elif state == "empty" and ended and before.strip():
            state, reason = "ok", None
        if ended is False or completion.ended is False:
            text += steps.delimiter
        if state == "ok" and not ended and config.max_depth is not None and depth + 1 >= config.max_depth:
            state, reason = "truncated", f"no answer within {config.max_depth} steps"
    return Step(
        text=text,
        terminal=bool(ended) and state == "ok",
        token_ids=completion.token_ids,
        n_tokens=completion.n_tokens,
        sum_logprob=math.fsum(completion.logprobs) if completion.logprobs else None,
        state=state,
        reason=reason,
    )


def _valued(step: Step, tree: Tree, node: int) -> Step:
    if step.state not in SELECTABLE:
        return step
    value = state_value(
        step.outcome,
        step.self_eval,
        tree.config,
        reward=step.reward,
        truncated=step.state == "truncated",
        parent_depth=tree.depth[node],
        parent_value=tree.R[node],
    )
    return replace(step, value=value)
