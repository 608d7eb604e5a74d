"""One prompt's generations → judgments by a reward model: one row each, with the score, or the state and reason why there is none.

A reward model is an engine with the capability `scores`: it is asked for each conversation, the prompt and the answer as the
assistant's turn, through the same ledger, budget and retries as any other, and a conversation is scored once whatever run asks.
A model of several heads needs weights, and its score is

    score = sum over heads h of weight_h * value_h

as in HelpSteer2 (Wang et al. 2024, arXiv 2406.08673; its 70B model: helpfulness .65, correctness .80, coherence .45, complexity .55,
verbosity -.40); the values themselves are kept in `attributes`. A head without a weight counts nothing.

Deliberately not done here: bringing scores of two models to one scale (`curators.statistics`), and scores of single steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from curators.engines.base import Engine, Request, Sampling, canonical, digest
from curators.errors import ConfigError
from curators.pairs import assistant_turn
from curators.sampling import Row, gather_all
from curators.schema import OUTCOME

AS_IT_IS = Sampling(temperature=0.0, max_tokens=1)
"""A score has no noise: its key in the ledger has no seed."""


async def score_group(
    prompt: Mapping[str, Any],
    generations: Sequence[Mapping[str, Any]],
    engine: Engine,
    *,
    weights: Mapping[str, float] | None = None,
    use_truncated: bool = False,
) -> list[Row]:
    """Rows of `judgments` (protocol and channel `reward`, one score each) for the rows of `generations` of one prompt.

    Scored are the generations whose state is ok (with `use_truncated` also truncated); an empty one is gated; failed ones have no text
    and give no row.

    Args:
        weights: by the name of a head; null: the model has one head, and its number is the score.

    Raises:
        ConfigError: the engine is no reward model, a weight names no head of it, or it has several heads and there are no weights.
        EngineBusy: the endpoint is down.
        EngineError: no request can succeed.
    """
    check_scorer(engine)
    usable = {"ok", "empty", "truncated"} if use_truncated else {"ok", "empty"}
    asked = [generation for generation in generations if generation["state"] in usable]
    return await gather_all(_score(prompt, generation, engine, dict(weights or {})) for generation in asked)


def check_scorer(engine: Engine) -> None:
    """Refuse an engine that writes text.

    Raises:
        ConfigError: it has no scores.
    """
    if "scores" not in engine.capabilities:
        raise ConfigError(
            f"reward: {engine.spec} writes text and gives no scores; give rm:PATH, classify:MODEL@http://host:port or "
            "score:MODEL@http://host:port, or make it the `judge`"
        )


async def prove_scorer(engine: Engine, weights: Mapping[str, float] | None = None) -> None:
    """Score one conversation that is nobody's, so that a model or server that cannot score shows it before anything is sampled for it.

    Raises:
        ConfigError: the engine is no reward model, or the weights do not fit its heads.
        EngineBusy: the endpoint is down.
        EngineError: no request can succeed.
    """
    check_scorer(engine)
    if engine.spec.startswith("replay:"):
        return  # it has the answers that were recorded and no other
    turns = [{"role": "user", "content": "What colour is the sky?"}, {"role": "assistant", "content": "Blue."}]
    reply = await engine.complete(Request(key="reward/proof", messages=turns, sampling=AS_IT_IS))
    if reply.completions:
        read_scores(reply.completions[0].scores, weights or {}, engine.spec)


async def _score(prompt: Mapping[str, Any], generation: Mapping[str, Any], engine: Engine, weights: Mapping[str, float]) -> Row:
    text, calls = generation["text"] or "", generation.get("tool_calls")
    if not text.strip() and not calls:
        return _row(prompt, generation, engine, weights, {"state": "gated", "reason": "empty answer"})
    kwargs = prompt.get("chat_template_kwargs")
    reply = await engine.complete(
        Request(
            key=f"reward/{generation['generation_id']}",
            messages=[*orjson.loads(prompt["messages"]), *orjson.loads(assistant_turn(text, generation.get("reasoning"), calls))],
            sampling=AS_IT_IS,
            tools=orjson.loads(prompt["tools"]) if prompt.get("tools") else None,
            chat_template_kwargs=orjson.loads(kwargs) if kwargs else None,
        )
    )
    tokens = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    if not reply.completions:
        reason = reply.reason or reply.error or "the engine gave no score"
        return _row(prompt, generation, engine, weights, {"state": reply.error or "transport_error", "reason": reason, **tokens})
    return _row(prompt, generation, engine, weights, read_scores(reply.completions[0].scores, weights, engine.spec) | tokens)


def read_scores(scores: Mapping[str, float | None] | None, weights: Mapping[str, float], spec: str) -> Row:
    """The columns of a judgment from a reward model's heads.

    >>> helpful = {"helpfulness": 4.0, "correctness": 4.0, "coherence": 4.0, "complexity": 2.0, "verbosity": 3.0}
    >>> steer2 = {"helpfulness": 0.65, "correctness": 0.80, "coherence": 0.45, "complexity": 0.55, "verbosity": -0.40}
    >>> round(read_scores(helpful, steer2, "rm:x")["scores"][0], 6)
    7.5

    Raises:
        ConfigError: a weight names no head, or there are several heads and no weights.
    """
    given = dict(scores or {})
    raw = canonical(given).decode()
    if bad := sorted(name for name, x in given.items() if x is None or not math.isfinite(x)) or ([] if given else ["the model"]):
        return {"state": "refused", "reason": f"no finite number from {', '.join(bad)}", "raw": raw}
    if unknown := sorted(set(weights) - set(given)):
        raise ConfigError(f"reward.weights: {spec} has no head {unknown}; its heads are {list(given)}")
    if len(given) > 1 and not weights:
        raise ConfigError(f"reward: {spec} has {len(given)} heads {list(given)}; give each one that counts a weight in reward.weights")
    shares = weights or dict.fromkeys(given, 1.0)
    score = math.fsum(weight * (given[name] or 0.0) for name, weight in shares.items())
    return {"state": "ok", "scores": [score], "attributes": raw if len(given) > 1 else None, "raw": raw}


def _row(
    prompt: Mapping[str, Any], generation: Mapping[str, Any], engine: Engine, weights: Mapping[str, float], outcome: Mapping[str, Any]
) -> Row:
    sampling = canonical({"channel": "reward", "weights": weights}).decode()
    shown = [generation["generation_id"]]
    answered = [outcome.get(name) for name in OUTCOME]
    return {
        "judgment_id": digest(engine.fingerprint, None, shown, 0, 0, sampling, answered),
        "prompt_id": prompt["prompt_id"],
        "protocol": "reward",
        "judge": engine.fingerprint,
        "engine": engine.spec,
        "generation_ids": shown,
        "order": 0,
        "vote": 0,
        "attempt": 0,
        "channel": "reward",
        "sampling": sampling,
        **outcome,
    }
