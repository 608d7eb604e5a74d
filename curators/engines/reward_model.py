"""`rm:PATH[@REV]`: a transformers reward model in this process (`AutoModelForSequenceClassification`), as an engine that scores.

The conversation goes through the model's own chat template, without a generation prompt, as TRL's `RewardTrainer` reads it. What waits is
scored together, sorted by length, in a thread of its own. Padding stands on the right, where no position changes and no causal attention
looks, so in float32 a score does not depend on what else is in the batch. A conversation longer than the model's context is a
`context_overflow`, never cut.

The heads are the model's outputs, named as in `id2label`; the only one of a model is `score`. They are given as they leave the model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from jinja2 import TemplateError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from curators.engines.base import Capability, Completion, Reply, Request
from curators.engines.fingerprint import fingerprint
from curators.engines.models import first_line, loading, locate
from curators.engines.reward_server import not_finite
from curators.errors import ConfigError, EngineError

DTYPES = ("auto", "float32", "bfloat16", "float16")
CELLS = 16384
"""Tokens of one batch, padding included."""

Waiting = tuple[Request, "asyncio.Future[Reply]"]


def open_reward_model(
    path: str, *, max_concurrency: int = 64, dtype: str = "auto", threads: int | None = None, device: str | None = None
) -> RewardModel:
    """Open a model directory or a hub name; the weights are loaded at the first request.

    Args:
        path: `PATH[@REV]` as of `hf:`.
        max_concurrency: conversations in a batch.
        dtype: `auto` is float32 on a CPU and the checkpoint's own on a GPU; or `float32`, `bfloat16`, `float16`.
        threads: CPU threads; null leaves torch's own choice.
        device: as torch names it; null takes a GPU if there is one.

    Raises:
        ConfigError: a value that is not allowed.
        EngineError: there is no model, it is not the one that REV names, or it is a language model without a head that scores.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"rm:{path}: dtype is {dtype!r}; allowed are {list(DTYPES)}")
    if min(max_concurrency, threads or 1) < 1:
        raise ConfigError(f"rm:{path}: max_concurrency {max_concurrency}, threads {threads}: each must be at least 1")
    folder = locate(path, kind="rm")
    if folder.is_file():
        raise EngineError(f"rm:{path}: a .gguf file has no head that scores; give the directory of a sequence classification model")
    built_as = orjson.loads((folder / "config.json").read_bytes()).get("architectures") or []
    if built_as and not any("Classification" in name or "Reward" in name for name in built_as):
        raise EngineError(f"rm:{path}: {built_as[0]} writes text and has no head that scores; {ADVICE}")
    return RewardModel(path, folder, RewardOptions(max_concurrency=max_concurrency, dtype=dtype, threads=threads, device=device))


ADVICE = "give a sequence classification model, or use this one as `judge`"


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardOptions:
    """How the model runs; see `open_reward_model`."""

    max_concurrency: int
    dtype: str
    threads: int | None
    device: str | None


class RewardModel:
    """See the module. Use it in one event loop; its thread ends with `aclose`."""

    capabilities: frozenset[Capability] = frozenset({"scores"})

    def __init__(self, path: str, folder: Path, options: RewardOptions) -> None:
        self.spec = f"rm:{path}"
        self.fingerprint = fingerprint(folder) + ("" if options.dtype == "auto" else f"+{options.dtype}")
        self.max_concurrency = options.max_concurrency
        self._folder, self._options = folder, options
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=self.spec)
        self._scorer: Scorer | None = None
        self._waiting: list[Waiting] = []
        self._work: asyncio.Task[None] | None = None
        self._failure: str | None = None

    async def complete(self, request: Request) -> Reply:
        """Score the conversation, which ends with the assistant's turn.

        Raises:
            EngineError: the model does not load, failed while running, or the engine is closed.
        """
        if self._failure:
            raise EngineError(self._failure)
        if not request.messages or request.messages[-1].get("role") != "assistant":
            return Reply(error="unsupported", reason=f"{self.spec} scores the assistant's last turn, and there is none")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._work is None:
            self._work = asyncio.create_task(self._serve())
        return await future

    async def aclose(self) -> None:
        """End the thread and free the model. Requests that wait fail with `EngineError`."""
        self._failure = self._failure or f"{self.spec}: the engine is closed"
        if self._work is not None:
            await self._work
        await asyncio.to_thread(self._thread.shutdown)
        self._scorer = None

    async def _serve(self) -> None:
        """Batches until nothing waits; the one place where any failure of a library becomes ours."""
        while self._waiting:
            await asyncio.sleep(0)  # what comes in the same turn of the loop goes along
            taken = self._waiting[: self.max_concurrency]
            del self._waiting[: self.max_concurrency]
            asked = [(request, future) for request, future in taken if not future.done()]
            try:
                if self._failure:
                    raise EngineError(self._failure)
                requests = [request for request, _ in asked]
                replies = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, requests)
            except Exception as caught:
                error = (
                    caught if isinstance(caught, EngineError) else EngineError(f"{self.spec}: failed while running: {first_line(caught)}")
                )
                error.__cause__ = caught if error is not caught else None
                self._failure = str(error)
                _settle(asked, [error] * len(asked))
            else:
                _settle(asked, replies)
        self._work = None

    def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        if self._scorer is None:
            if self._options.threads:
                torch.set_num_threads(self._options.threads)
            self._scorer = load_scorer(self.spec, self._folder, self._options)
        return self._scorer.replies(requests)


def _settle(asked: Sequence[Waiting], outcomes: Sequence[Reply | EngineError]) -> None:
    for (_, future), outcome in zip(asked, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Reply):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


def load_scorer(spec: str, folder: Path, options: RewardOptions) -> Scorer:
    """Load model and tokenizer.

    Raises:
        EngineError: it does not load, lacks weights (a language model lacks those of the head), or has no chat template.
    """
    place = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wanted = ("float32" if place.type == "cpu" else "auto") if options.dtype == "auto" else options.dtype
    try:
        with loading():
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            model, found = AutoModelForSequenceClassification.from_pretrained(
                str(folder), dtype=wanted if wanted == "auto" else getattr(torch, wanted), output_loading_info=True
            )
            model = model.to(place).eval()
    except Exception as error:
        raise EngineError(f"{spec}: the model does not load: {type(error).__name__}: {first_line(error)}; {ADVICE}") from error
    if missing := sorted(found["missing_keys"]):
        raise EngineError(f"{spec}: its files hold no weights for {missing[:3]}, which would be random; {ADVICE}")
    if not tokenizer.chat_template:
        raise EngineError(
            f"{spec}: the tokenizer has no chat template; put a chat_template.jinja beside the weights, or serve it as score:"
        )
    return Scorer(spec, model, tokenizer)


class Scorer:
    """A loaded reward model."""

    def __init__(self, spec: str, model: Any, tokenizer: Any) -> None:
        self._spec, self._model, self._tokenizer = spec, model, tokenizer
        model.config.use_cache = False
        self._text_config = model.config.get_text_config()
        self._own_pad: int | None = self._text_config.pad_token_id
        n = model.config.num_labels
        self.heads = ["score"] if n == 1 else [str(model.config.id2label[i]) for i in range(n)]
        limits = [getattr(self._text_config, "max_position_embeddings", None), tokenizer.model_max_length]
        self.context = int(min(limit for limit in limits if limit))

    def replies(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in their order."""
        found: dict[int, Reply] = {}
        rows: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            read = self._encode(request)
            if isinstance(read, Reply):
                found[i] = read
            else:
                rows[i] = read
        for batch in _batches(rows):
            for i, numbers in zip(batch, self._forward([rows[i] for i in batch]), strict=True):
                found[i] = self._reply(requests[i], numbers, len(rows[i]))
        return [found[i] for i in range(len(requests))]

    def _encode(self, request: Request) -> list[int] | Reply:
        """The conversation's tokens, or why there are none."""
        tools = [dict(tool) for tool in request.tools] if request.tools else None
        options = dict(request.chat_template_kwargs or {})
        try:
            text = self._tokenizer.apply_chat_template([dict(m) for m in request.messages], tools=tools, tokenize=False, **options)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            reason = f"the chat template does not take these messages: {type(error).__name__}: {error}"
            return Reply(error="refused", reason=reason)
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if not ids:
            return Reply(error="refused", reason="the chat template makes an empty text of these messages")
        if len(ids) > self.context:
            reason = f"the conversation has {len(ids)} tokens; the model takes {self.context}"
            return Reply(error="context_overflow", reason=reason, prompt_tokens=len(ids), extra={"sent": 0})
        return ids

    @torch.inference_mode()
    def _forward(self, rows: Sequence[list[int]]) -> list[list[float]]:
        longest, pad = max(map(len, rows)), self._own_pad
        if pad is None:
            # Such a model reads the last token; in a batch it takes the last that is not padding, so padding must occur nowhere else.
            used = {token for row in rows for token in row}
            pad = self._text_config.pad_token_id = next(token for token in range(self._text_config.vocab_size) if token not in used)
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=self._model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._model.device)
        logits = self._model(input_ids=ids, attention_mask=mask).logits
        return [list(map(float, numbers)) for numbers in logits.float().reshape(len(rows), -1).tolist()]

    def _reply(self, request: Request, numbers: Sequence[float], n_tokens: int) -> Reply:
        scores = dict(zip(self.heads, numbers, strict=True))
        if bad := not_finite(scores):
            return Reply(error="refused", reason=f"{self._spec}: {bad}", prompt_tokens=n_tokens)
        completion = Completion(text="", sample_index=request.first_sample, n_tokens=0, scores=scores)
        return Reply(completions=(completion,), prompt_tokens=n_tokens)


def _batches(rows: dict[int, list[int]]) -> list[list[int]]:
    """The keys of rows in batches of similar length, none with more than `CELLS` tokens unless it is one row."""
    batches: list[list[int]] = []
    for i in sorted(rows, key=lambda i: len(rows[i])):
        if batches and (len(batches[-1]) + 1) * len(rows[i]) <= CELLS:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
