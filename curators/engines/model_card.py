"""What an endpoint says of the model that it serves: GET /models.

Only what names the weights goes into the fingerprint. `created` does not: vLLM, SGLang and llama.cpp put the time of the answer
there, so that every run would be another model and buy everything again.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from curators.errors import EngineBusy

IDENTITY = ("root", "parent", "revision", "sha", "digest")
"""Of a model's entry: where its weights lie, what an adapter is built on, which revision. Null and absent are the same."""

CONTINUES_PREFIX = frozenset({"vllm", "sglang"})
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


def fetch_model_card(model: str, urls: Sequence[str], *, api_key: str | None) -> ModelCard:
    """Ask the endpoints in turn; the first that answers speaks for all. Blocks for at most half a minute.

    Raises:
        EngineBusy: none can be reached.
    """
    failures: dict[str, str] = {}
    for attempt in range(TRIES):
        for url in urls:
            try:
                return read_card(model, _get(f"{url}/models", api_key))
            except OSError as error:
                failures[url] = str(error) or type(error).__name__
        if attempt < TRIES - 1:
            time.sleep(0.5 * (attempt + 1))
    reached = "; ".join(f"{url} cannot be reached ({why})" for url, why in failures.items())
    raise EngineBusy(f"{reached}; start the server or correct the engine's URL")


def read_card(model: str, raw: bytes) -> ModelCard:
    """The entry of a model in the body of GET /models; an empty card where there is none.

    >>> read_card("m", b'{"data": [{"id": "m", "root": "org/m", "owned_by": "vllm", "created": 1}]}').identity
    {'root': 'org/m'}
    """
    try:
        entries = [e for e in orjson.loads(raw)["data"] if isinstance(e, dict) and e.get("id") == model]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        entries = []
    entry = entries[0] if entries else {}
    return ModelCard(
        identity={name: str(entry[name]) for name in IDENTITY if entry.get(name)},
        continues_prefix=str(entry.get("owned_by", "")).lower() in CONTINUES_PREFIX,
    )


def _get(url: str, api_key: str | None) -> bytes:
    """The body of a GET, empty for any status but 200. Not urllib: that reads proxies from the environment."""
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
        raw = response.read(MAX_BYTES)
        return raw if response.status == 200 else b""
    except http.client.HTTPException:
        return b""
    finally:
        connection.close()
