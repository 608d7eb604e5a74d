"""Engines: opened from a spec, used through one method (`curators.engines.base.Engine`).

| spec | what | fingerprint |
|---|---|---|
| `hf:PATH[@REV]` | transformers in this process: a directory, a `.gguf` file or a hub name | weights, tokenizer, template, a set dtype |
| `openai:MODEL@http://host:port/v1[,http://…]` | a server that speaks the OpenAI chat format | model id, and its weights by GET /models |
| `rm:PATH[@REV]` | a reward model in this process: it scores | as `hf:` |
| `classify:MODEL@http://host:port`, `score:MODEL@http://host:port` | a reward model behind vLLM's /classify or /score | as `openai:` |
| `replay:FILE` | recorded completions, matched by the request's key | the file's text |
| `fake:`, `fake:judge`, `fake:reward` | no model: deterministic words, verdicts or scores | its name |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curators.engines.base import Completion, Engine, Message, Reply, Request, Sampling
from curators.errors import ConfigError

__all__ = ["Completion", "Engine", "Message", "Reply", "Request", "Sampling", "open_engine"]

FORMS = (
    "hf:PATH[@REV], openai:MODEL@http://host:port/v1[,http://host2:port/v1 …], replay:FILE, fake: or fake:judge; of a reward model "
    "rm:PATH[@REV], classify:MODEL@http://host:port[,…], score:MODEL@http://host:port[,…] or fake:reward"
)
HTTP_OPTIONS = frozenset(
    {"max_concurrency", "timeout_s", "max_attempts", "backoff_s", "api_key", "api_key_env", "prompt_usd", "completion_usd"}
    | {"share_requests"}
)
LOCAL_OPTIONS = frozenset({"max_concurrency", "dtype", "threads", "device", "cache_mb"})


def open_engine(spec: str, *, options: Mapping[str, Any] | None = None) -> Engine:
    """Open an engine. An `hf:` model is loaded here or on first use; a server is not asked before the first use.

    `options` are those of `HttpOptions` and of `open_local`; one that the spec's kind has no use for is ignored, an unknown one refused.

    Raises:
        ConfigError: a spec of no known form, an unknown option, a file or URL that cannot be one.
        EngineError: a model that does not load.
    """
    given = dict(options or {})
    if unknown := sorted(set(given) - HTTP_OPTIONS - LOCAL_OPTIONS):
        raise ConfigError(f"engine {spec!r}: unknown options {unknown}; allowed are {sorted(HTTP_OPTIONS | LOCAL_OPTIONS)}")
    kind, colon, rest = spec.partition(":")
    if kind == "fake" and colon:
        from curators.engines.fake import open_fake

        return open_fake(rest)
    if kind in ("openai", "classify", "score") and rest:
        return _open_http(kind, rest, {name: value for name, value in given.items() if name in HTTP_OPTIONS})
    if kind == "replay" and rest:
        from curators.engines.replay import ReplayEngine

        return ReplayEngine(rest)
    if kind == "hf" and rest:
        from curators.engines.local import open_local

        engine: Engine = open_local(spec, **{name: value for name, value in given.items() if name in LOCAL_OPTIONS})
        return engine
    if kind == "rm" and rest:
        from curators.engines.reward_model import open_reward_model

        allowed = LOCAL_OPTIONS - {"cache_mb"}
        return open_reward_model(rest, **{name: value for name, value in given.items() if name in allowed})
    raise ConfigError(f"engine: {spec!r} is not a spec; give {FORMS}")


def _open_http(kind: str, rest: str, options: Mapping[str, Any]) -> Engine:
    from curators.engines.http import HttpEngine
    from curators.engines.reward_server import RewardServer
    from curators.engines.transport import HttpOptions

    cuts = [i for i in (rest.find("@http://"), rest.find("@https://")) if i > 0]
    if not cuts:
        where = "http://host:port/v1[,http://host2:port/v1 …]" if kind == "openai" else "http://host:port[,http://host2:port …]"
        raise ConfigError(f"engine: '{kind}:{rest}' names no endpoint; give {kind}:MODEL@{where}")
    model, urls = rest[: min(cuts)], [url.strip() for url in rest[min(cuts) + 1 :].split(",")]
    if kind == "openai":
        return HttpEngine(model, urls, HttpOptions(**options))
    return RewardServer(kind, model, urls, HttpOptions(**options))
