"""What an endpoint says of the model that it serves: GET /models.

Only what names the weights goes into the fingerprint. `created` does not: vLLM, SGLang and llama.cpp put the time of the answer
there, so that every run would be another model and buy everything again. For the same reason a server that cannot answer just now
(it is starting, it is busy, its reply breaks off) is asked again and then is an error, never a server that says nothing of itself.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from curators.engines.openai_format import error_message
from curators.engines.transport import HttpOptions, passes
from curators.errors import EngineBusy, EngineError

IDENTITY = ("root", "parent", "revision", "sha", "digest")
"""Of a model's entry: where its weights lie, what an adapter is built on, which revision. Null and absent are the same."""

CONTINUES_PREFIX = frozenset({"vllm", "sglang"})
SAYS_NOTHING = frozenset({403, 404, 405, 501})
"""Statuses of a server, or a key, for which there is no such list: the card is empty, today and tomorrow."""

TIMEOUT_S = 10.0
TRIES = 3
MAX_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """`identity` is empty when the server says nothing of the model beyond its name. `continues_prefix`: it is known to continue
    a given prefix (a server that ignores the field would answer anew, and nothing would show it).
    """

    identity: Mapping[str, str]
    continues_prefix: bool


class NotNow(Exception):
    """A reply that says nothing and may be another one in a moment."""


def fetch_model_card(model: str, urls: Sequence[str], options: HttpOptions) -> ModelCard:
    """Ask the endpoints in turn; the first that answers speaks for all. Blocks for at most half a minute.

    Raises:
        EngineBusy: none can be reached, or none can answer now.
        EngineError: the key is wrong, or the URL is not that of an API.
    """
    failures: dict[str, str] = {}
    for attempt in range(TRIES):
        for url in urls:
            try:
                return read_card(model, _list_models(url, options, last=attempt == TRIES - 1))
            except OSError as error:
                failures[url] = f"{url} cannot be reached ({str(error) or type(error).__name__})"
            except (NotNow, http.client.HTTPException, orjson.JSONDecodeError) as error:
                failures[url] = f"GET {url}/models does not say now which model is served ({str(error) or type(error).__name__})"
        if attempt < TRIES - 1:
            time.sleep(0.5 * (attempt + 1))
    raise EngineBusy(f"{'; '.join(failures.values())}; start the server, let it load its model, or correct the engine's URL")


def read_card(model: str, listed: Any) -> ModelCard:
    """The entry of a model in what GET /models lists; an empty card where there is none.

    >>> read_card("m", {"data": [{"id": "m", "root": "org/m", "owned_by": "vllm", "created": 1}]}).identity
    {'root': 'org/m'}
    """
    entries = listed.get("data") if isinstance(listed, dict) else None
    listed_as = [e for e in entries if isinstance(e, dict) and e.get("id") == model] if isinstance(entries, list) else []
    entry = listed_as[0] if listed_as else {}
    return ModelCard(
        identity={name: str(entry[name]) for name in IDENTITY if entry.get(name)},
        continues_prefix=str(entry.get("owned_by", "")).lower() in CONTINUES_PREFIX,
    )


def _list_models(url: str, options: HttpOptions, *, last: bool) -> Any:
    """What GET /models holds, null where the server has no such list.

    A server that is busy or starting says 502, 503, 504 or 429. One that says 500 every time cannot make the list: `transformers
    serve` does so for as long as there is no cache of the hub on its machine, and it serves none the less.
    """
    status, raw = _get(f"{url}/models", options.api_key)
    if status == 200:
        return orjson.loads(raw)
    if status in SAYS_NOTHING or (last and status == 500):
        return None
    said = f"HTTP {status}: {error_message(raw)}"
    if passes(status):
        raise NotNow(said)
    advice = options.key_advice if status == 401 else "check that the URL ends where /models begins (…/v1)"
    raise EngineError(f"GET {url}/models: {said}; {advice}")


def _get(url: str, api_key: str | None) -> tuple[int, bytes]:
    """Status and body of a GET. Not urllib: that reads proxies from the environment."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
        response = connection.getresponse()
        return response.status, response.read(MAX_BYTES)
    finally:
        connection.close()
