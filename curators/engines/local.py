"""`hf:PATH[@REV]`: a transformers model in this process, as an engine.

One worker thread owns the model and the tokenizer; `complete` puts a request into its queue and awaits the reply, so a request costs the
event loop nothing while it runs. The thread feeds `decoding.Decoder`, which batches whatever waits.

Samples depend on model, prompt, sampling, seed, sample index and attempt. In float32 a request gets the same samples whatever else is in
flight; in bfloat16 a batch can change a rounding and with it a token, and nothing is promised.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from curators.engines.base import Capability, Completion, ErrorKind, Reply, Request
from curators.engines.decoding import LANES, Decoder
from curators.engines.fingerprint import fingerprint
from curators.engines.groups import Sample, Scoring
from curators.engines.models import LoadedModel, load_model, locate
from curators.engines.transcripts import Prompts, StopStrings, decode, noise_keys, token_pieces
from curators.errors import ConfigError, EngineError

CAPABILITIES: frozenset[Capability] = frozenset({"n", "seed", "logprobs", "token_ids", "options", "prefix", "tools", "stop"})
DTYPES = ("auto", "float32", "bfloat16", "float16")


def open_local(
    spec: str,
    *,
    max_concurrency: int = 64,
    dtype: str = "auto",
    threads: int | None = None,
    device: str | None = None,
    cache_mb: int = 1024,
) -> LocalEngine:
    """Open a model directory, a `.gguf` file or a hub name; the model is loaded at the first request.

    Args:
        spec: `PATH[@REV]`, with or without `hf:` before it. For a path REV is the beginning of its fingerprint, for a hub name a revision.
        max_concurrency: prompts in the batch, each with up to four samples; where samples are the same for long, more prompts.
        dtype: `auto` is float32 on a CPU and the checkpoint's own on a GPU; or `float32`, `bfloat16`, `float16`.
        threads: CPU threads; null leaves torch's own choice.
        device: as torch names it; null takes a GPU if there is one.
        cache_mb: memory for keys and values, in MiB; what the batch does not need of it holds prefixes that were read before.

    Raises:
        ConfigError: a value that is not allowed.
        EngineError: there is no model, or it is not the one that REV names.
    """
    path = spec.removeprefix("hf:")
    if dtype not in DTYPES:
        raise ConfigError(f"hf:{path}: dtype is {dtype!r}; allowed are {list(DTYPES)}")
    if min(max_concurrency, threads or 1, cache_mb) < 1:
        raise ConfigError(f"hf:{path}: max_concurrency {max_concurrency}, threads {threads}, cache_mb {cache_mb}: each must be at least 1")
    options = LocalOptions(max_concurrency=max_concurrency, dtype=dtype, threads=threads, device=device, cache_mb=cache_mb)
    return LocalEngine(path, locate(path), options)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalOptions:
    """How the model runs; see `open_local`."""

    max_concurrency: int
    dtype: str
    threads: int | None
    device: str | None
    cache_mb: int


@dataclass(slots=True, eq=False)
class _Ticket:
    """One request on its way. `n_open` counts the samples that still run."""

    request: Request
    future: asyncio.Future[Reply]
    prompt: tuple[int, ...] = ()
    work: list[Sample | Scoring] = field(default_factory=list)
    stops: StopStrings | None = None
    n_open: int = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.future.get_loop()


class _Refusal(Exception):
    """This one request cannot be answered."""

    def __init__(self, kind: ErrorKind, reason: str, prompt_tokens: int = 0) -> None:
        self.reply = Reply(error=kind, reason=reason, prompt_tokens=prompt_tokens)


class LocalEngine:
    """An engine over one model in this process. Close it: its thread ends with `aclose`."""

    def __init__(self, path: str, file: Path, options: LocalOptions) -> None:
        self.spec = f"hf:{path}"
        self.fingerprint = fingerprint(file) + ("" if options.dtype == "auto" else f"+{options.dtype}")
        self.capabilities = CAPABILITIES
        self.max_concurrency = LANES * options.max_concurrency  # requests for one sample that the batch can hold
        self._file, self._options = file, options
        self._queue: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._tickets: set[_Ticket] = set()
        self._stops: dict[tuple[str, ...], StopStrings] = {}
        self._pieces: list[str] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    async def complete(self, request: Request) -> Reply:
        """Answer one request. A request that cannot be answered gets a reply with an error.

        Raises:
            EngineError: the model does not load, failed while running, or the engine is closed.
        """
        ticket = _Ticket(request, asyncio.get_running_loop().create_future())
        with self._lock:
            if self._failure:
                raise EngineError(self._failure)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self.spec, daemon=True)
                self._thread.start()
            self._tickets.add(ticket)
            self._queue.put(ticket)
        try:
            return await ticket.future
        finally:
            self._tickets.discard(ticket)
            for work in ticket.work:
                work.cancelled = True

    async def aclose(self) -> None:
        """End the thread and free the model. Requests in flight fail with `EngineError`."""
        with self._lock:
            self._failure = self._failure or f"{self.spec}: the engine is closed"
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        """The worker thread, and the one place where any failure of a library becomes ours."""
        error: EngineError | None = None
        try:
            with torch.inference_mode():
                self._serve()
        except EngineError as caught:
            error = caught
        except Exception as caught:
            error = EngineError(f"{self.spec}: the model failed while running: {type(caught).__name__}: {caught}")
            error.__cause__ = caught
        with self._lock:
            self._failure = self._failure or str(error)
        _settle([(ticket, error or EngineError(self._failure)) for ticket in self._tickets.copy()])

    def _serve(self) -> None:
        options = self._options
        if options.threads:
            torch.set_num_threads(options.threads)
        model = load_model(self._file, dtype=options.dtype, device=options.device)
        decoder = Decoder(model.model, end_ids=model.end_ids, max_rows=options.max_concurrency, cache_bytes=options.cache_mb << 20)
        prompts = Prompts(model.tokenizer)
        while self._take_in(model, decoder, prompts):
            done = []
            for work in decoder.step():
                ticket: _Ticket = work.owner
                ticket.n_open -= 1
                if not ticket.n_open:
                    done.append((ticket, _reply(ticket, model.tokenizer, self.spec)))
            _settle(done)

    def _take_in(self, model: LoadedModel, decoder: Decoder, prompts: Prompts) -> bool:
        """Requests from the queue to the decoder, not far ahead of it; waits while there is nothing to do. False: the engine is closed."""
        while decoder.idle or (decoder.n_waiting < 2 * decoder.max_samples and not self._queue.empty()):
            ticket = self._queue.get()
            if ticket is None:
                break
            if not ticket.future.cancelled():
                self._accept(ticket, model, decoder, prompts)
        return self._failure is None

    def _accept(self, ticket: _Ticket, model: LoadedModel, decoder: Decoder, prompts: Prompts) -> None:
        try:
            self._prepare(ticket, model, prompts, decoder.max_cells)
        except _Refusal as refusal:
            _settle([(ticket, refusal.reply)])
            return
        if not ticket.future.cancelled():
            for work in ticket.work:
                decoder.submit(work)

    def _prepare(self, ticket: _Ticket, model: LoadedModel, prompts: Prompts, max_cells: int) -> None:
        """The request as work for the decoder."""
        request = ticket.request
        _check(request)
        try:
            prompt = prompts.read(request)
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise _Refusal("refused", f"the chat template does not take these messages: {type(error).__name__}: {error}") from error
        ids = ticket.prompt = prompt.ids
        if not ids:
            raise _Refusal("refused", "the chat template makes an empty prompt of these messages")
        options = [prompts.continuation(prompt, option) for option in request.options]
        room = min(model.context, max_cells) - len(ids)
        if room < max(1, *map(len, options), 1):
            limit = f"the model takes {model.context} tokens and cache_mb has room for {max_cells}"
            raise _Refusal("context_overflow", f"the prompt has {len(ids)} tokens; {limit}", len(ids))
        ticket.work = [Scoring(ids, options, owner=ticket)] if options else self._samples(ticket, model, room)
        ticket.n_open = len(ticket.work)

    def _stop_strings(self, strings: tuple[str, ...], tokenizer: Any) -> StopStrings:
        if strings not in self._stops:
            self._pieces = self._pieces or token_pieces(tokenizer)
            self._stops[strings] = StopStrings(tokenizer, strings, self._pieces)
        return self._stops[strings]

    def _samples(self, ticket: _Ticket, model: LoadedModel, room: int) -> list[Sample | Scoring]:
        request, sampling = ticket.request, ticket.request.sampling
        if strings := tuple(filter(None, sampling.stop)):
            ticket.stops = self._stop_strings(strings, model.tokenizer)
        indices = range(request.first_sample, request.first_sample + request.n)
        return [
            Sample(
                ticket.prompt,
                key=key,
                max_tokens=min(sampling.max_tokens, room),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                stops=ticket.stops,
                owner=ticket,
            )
            for key in noise_keys(ticket.prompt, seed=sampling.seed, samples=indices, attempt=request.attempt)
        ]


def _check(request: Request) -> None:
    sampling = request.sampling
    if request.json_schema is not None:
        raise _Refusal("unsupported", "json_schema: an hf: engine does not constrain its output; leave it out or use openai:")
    if "" in request.options:
        raise _Refusal("refused", "an option is empty; there is nothing to score")
    if min(request.n, sampling.max_tokens) < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        given = f"n {request.n}, max_tokens {sampling.max_tokens}, temperature {sampling.temperature}, top_p {sampling.top_p}"
        raise _Refusal("refused", f"{given}: allowed are n and max_tokens from 1, temperature from 0, top_p above 0 and up to 1")


def _settle(outcomes: Sequence[tuple[_Ticket, Reply | EngineError]]) -> None:
    """Hand outcomes to whoever waits for them; all of one event loop at once, as each time costs a turn of both threads."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Ticket, Reply | EngineError]]] = {}
    for ticket, outcome in outcomes:
        by_loop.setdefault(ticket.loop, []).append((ticket, outcome))
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_hand_over, settled)


def _hand_over(settled: Sequence[tuple[_Ticket, Reply | EngineError]]) -> None:
    for ticket, outcome in settled:
        if ticket.future.done():
            continue
        if isinstance(outcome, Reply):
            ticket.future.set_result(outcome)
        else:
            ticket.future.set_exception(outcome)


def _reply(ticket: _Ticket, tokenizer: Any, model: str) -> Reply:
    request = ticket.request
    if isinstance(scoring := ticket.work[0], Scoring):
        scored = dict(zip(request.options, scoring.logprobs, strict=True))
        completions = [Completion(text="", sample_index=request.first_sample, option_logprobs=scored, n_tokens=0)]
        return Reply(completions=tuple(completions), prompt_tokens=len(ticket.prompt), model=model)
    samples = [sample for sample in ticket.work if isinstance(sample, Sample)]
    texts: dict[tuple[int, ...], str] = {}
    completions = []
    for index, sample in enumerate(samples, request.first_sample):
        ids = tuple(sample.tokens)
        if ids not in texts:
            texts[ids] = decode(tokenizer, ids, after=ticket.prompt[-1:] if request.prefix else ())
        whole = texts[ids]
        text = ticket.stops.cut(whole) if ticket.stops else whole
        completions.append(
            Completion(
                text=text,
                sample_index=index,
                finish_reason=sample.finish,
                token_ids=ids,
                logprobs=tuple(sample.logprobs),
                n_tokens=len(sample.tokens),
                ended=sample.finish == "stop" and text == whole,
            )
        )
    n_tokens = sum(len(sample.tokens) for sample in samples)
    return Reply(completions=tuple(completions), prompt_tokens=len(ticket.prompt), completion_tokens=n_tokens, model=model)
