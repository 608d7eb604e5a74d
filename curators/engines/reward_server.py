"""`classify:MODEL@http://host:port[,…]` and `score:MODEL@http://host:port[,…]`: a reward model behind a server.

`classify` sends the whole conversation to POST /classify, where the server applies the model's chat template (vLLM's chat form, with
`messages`); every class is a head of the model, named by its number, one alone `score`. `score` sends the prompt as `text_1` and the
answer as `text_2` to POST /score, for models that read two texts (rerankers, cross-encoders). Both ask for the numbers as they leave the
model (`use_activation` false); a server that does not know the field gives probabilities.

The formats: vLLM, `entrypoints/pooling/{classify,score,base}/protocol.py`. Nothing asks for truncation: a text that is too long is
refused by the server, and that is a `context_overflow`. Tools are not sent, as vLLM does not take them there.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from curators.engines.base import Capability, Completion, Message, Reply, Request, digest
from curators.engines.budget import Price
from curators.engines.http import checked_url, failed
from curators.engines.model_card import ModelCard, fetch_model_card
from curators.engines.openai_format import MalformedReply, error_message
from curators.engines.transport import HttpOptions, Transport


class RewardServer:
    """See the module. Open it with `curators.engines.open_engine`; use it in one event loop."""

    capabilities: frozenset[Capability] = frozenset({"scores"})

    def __init__(self, route: str, model: str, urls: Sequence[str], options: HttpOptions | None = None) -> None:
        self._route, self._model = route, model
        self._urls = tuple(checked_url(url) for url in urls)
        self._options = options or HttpOptions()
        self._transport = Transport(self._urls, self._options, f"/{route}")
        self._card: ModelCard | None = None
        self._card_lock = threading.Lock()
        self._ever_answered = False

    @property
    def spec(self) -> str:
        return f"{self._route}:{self._model}@{','.join(self._urls)}"

    @property
    def fingerprint(self) -> str:
        """The route, the model, and a digest of what GET /v1/models says of it; never the URL. The first use asks the server.

        Raises:
            EngineBusy: no endpoint can be reached, or none can say now which model it serves.
            EngineError: the key is wrong, or the URL is not that of an API.
        """
        with self._card_lock:
            if self._card is None:
                listed = [url if url.endswith("/v1") else f"{url}/v1" for url in self._urls]
                self._card = fetch_model_card(self._model, listed, self._options)
        name = f"{self._route}:{self._model}"
        return f"{name}#{digest(self._card.identity, size=4)}" if self._card.identity else name

    @property
    def price(self) -> Price | None:
        return self._options.price

    @property
    def max_concurrency(self) -> int:
        return self._options.max_concurrency

    async def complete(self, request: Request) -> Reply:
        """See `Engine`. The conversation ends with the turn to be scored."""
        if (body := self._body(request)) is None:
            return Reply(error="unsupported", reason=f"{self.spec} scores the assistant's last turn, and there is none")
        answer = await self._transport.exchange(orjson.dumps(body), READERS[self._route])
        if answer.reply is None:
            advice = {"key": self._options.key_advice, "url": f"ends where /{self._route} begins; only a server of a reward model has it"}
            return failed(self.spec, answer, answer.sent, advice=advice, ever_answered=self._ever_answered)
        self._ever_answered = True
        return self._answered(request, answer.reply, answer.sent)

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _body(self, request: Request) -> dict[str, Any] | None:
        *before, last = [dict(message) for message in request.messages] or [{}]
        if last.get("role") != "assistant":
            return None
        body = {"model": self._model, "use_activation": False}
        if self._route == "score":
            return body | {"text_1": _prompt_text(before), "text_2": _text(last)}
        extra = {"chat_template_kwargs": dict(request.chat_template_kwargs)} if request.chat_template_kwargs else {}
        return body | {"messages": [*before, last], "add_generation_prompt": False} | extra

    def _answered(self, request: Request, found: Scored, sent: int) -> Reply:
        extra, tokens = {"sent": sent}, found.prompt_tokens
        cost = None if self.price is None else self.price.cost(tokens, 0)
        about: dict[str, Any] = {"prompt_tokens": tokens, "cost_usd": cost, "model": found.model, "extra": extra}
        if bad := not_finite(found.scores):
            return Reply(error="refused", reason=f"{self.spec}: {bad}", **about)
        completion = Completion(text="", sample_index=request.first_sample, n_tokens=0, scores=found.scores)
        return Reply(completions=(completion,), **about)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A parsed body; a score that is no number is NaN."""

    scores: Mapping[str, float]
    prompt_tokens: int
    model: str | None


def read_classes(raw: bytes) -> Scored:
    """The heads in a reply of /classify.

    >>> read_classes(b'{"data": [{"index": 0, "label": "LABEL_0", "probs": [-1.5], "num_classes": 1}]}').scores
    {'score': -1.5}

    Raises:
        MalformedReply: not JSON, or not one conversation with at least one class.
    """
    return _read(raw, lambda item: item["probs"])


def read_score(raw: bytes) -> Scored:
    """The score in a reply of /score.

    >>> read_score(b'{"data": [{"index": 0, "object": "score", "score": 0.25}], "usage": {"prompt_tokens": 9}}').prompt_tokens
    9

    Raises:
        MalformedReply: not JSON, or not one score.
    """
    return _read(raw, lambda item: [item["score"]])


READERS = {"classify": read_classes, "score": read_score}


def _read(raw: bytes, of_item: Any) -> Scored:
    try:
        value = json.loads(raw)  # and not orjson: Python's servers write NaN and Infinity as such
        (item,) = value["data"]
        found = of_item(item)
        numbers = [float(x) if isinstance(x, int | float) and not isinstance(x, bool) else math.nan for x in found]
        tokens = int((value.get("usage") or {}).get("prompt_tokens") or 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedReply(f"the reply holds no scores of one text: {error_message(raw, 120)!r}") from error
    if not numbers:
        raise MalformedReply("the reply has no class")
    model = value.get("model")
    names = ["score"] if len(numbers) == 1 else [str(i) for i in range(len(numbers))]
    return Scored(scores=dict(zip(names, numbers, strict=True)), prompt_tokens=tokens, model=model if isinstance(model, str) else None)


def not_finite(scores: Mapping[str, float]) -> str | None:
    """What is wrong with scores, null where all are finite numbers.

    >>> not_finite({"a": 1.0, "b": math.inf})
    'the score of b is inf, not a finite number'
    """
    return next((f"the score of {name} is {x}, not a finite number" for name, x in scores.items() if not math.isfinite(x)), None)


def _prompt_text(messages: Sequence[Message]) -> str:
    """The bare text of a single turn, else every turn under its role."""
    texts = [_text(message) for message in messages]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"[{message['role']}]\n{text}" for message, text in zip(messages, texts, strict=True))


def _text(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(str(part.get("text") or "") for part in content)
