"""Prompts → generations.

A prompt is a list of chat turns with its tools and template arguments; `make_prompt` turns whatever a file held into one
row of `prompts`, and what is wrong with it into a state. A group of `n` samples is one request, so that an engine can share
the prefill; every sample becomes one row of `generations`, also where the request failed.

Deliberately not done here: retries, rate limits and caching (`curators.engines`), and choosing which generations to use.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
import polars as pl

from curators.engines.base import Completion, Engine, Reply, Request, Sampling, as_json, canonical, digest
from curators.schema import GENERATIONS, frame

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_PROMPT_CHARS = 1_000_000

Row = dict[str, Any]
_Result = TypeVar("_Result")
_PROMPT_COLUMNS = {"prompt", "messages", "tools", "chat_template_kwargs", "reference"}


def make_prompt(
    messages: Any,
    *,
    tools: Any = None,
    chat_template_kwargs: Any = None,
    reference: Any = None,
    meta: Mapping[str, Any] | None = None,
    source: str | None = None,
) -> Row:
    """One row of `prompts`; a plain string is a single user turn. What is wrong with it is its state, never an exception.

    >>> row = make_prompt("What is 2 + 2?", reference=4)
    >>> row["messages"], row["reference"], row["state"]
    ('[{"role":"user","content":"What is 2 + 2?"}]', '4', 'ok')
    >>> make_prompt([{"role": "robot", "content": "hi"}])["reason"]
    "turn 1: role is 'robot'; allowed are system, developer, user, assistant, tool"
    """
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    try:
        texts = [None if value is None else as_json(value) for value in (turns, tools, chat_template_kwargs, meta or None)]
        reference_text = reference if reference is None or isinstance(reference, str) else canonical(reference).decode()
        (reference_text or "").encode()
    except (TypeError, ValueError) as error:  # a lone surrogate, a number beyond 64 bits, a value that JSON does not know
        return bad_prompt("wrong_type", f"cannot be written as JSON: {error}", source=source, content=repr(messages)[:1000])
    state, reason = _fault(turns, tools, chat_template_kwargs, texts[0]) or ("ok", None)
    return {
        "prompt_id": digest(turns, tools, chat_template_kwargs),
        "messages": texts[0],
        "tools": texts[1],
        "chat_template_kwargs": texts[2],
        "reference": reference_text,
        "meta": texts[3],
        "source": source,
        "state": state,
        "reason": reason,
    }


def bad_prompt(state: str, reason: str, *, source: str | None, content: str = "") -> Row:
    """A row for input that is no prompt at all; its id keeps two such rows apart."""
    return {
        "prompt_id": digest("bad", state, source, content.encode("utf-8", "replace").decode()),
        "source": source,
        "state": state,
        "reason": reason,
    }


def _fault(turns: Any, tools: Any, kwargs: Any, text: str | None) -> tuple[str, str] | None:
    if not isinstance(turns, list):
        return "wrong_type", f"messages is {type(turns).__name__}, must be a list of turns or a string"
    if not turns:
        return "empty", "there are no turns"
    for number, turn in enumerate(turns, 1):
        if problem := _turn_fault(turn):
            return "wrong_type", f"turn {number}: {problem}"
    if turns[-1]["role"] == "assistant":
        return "wrong_type", "the last turn is the assistant's: there is nothing to answer"
    if not _has_text(turns[-1].get("content")):
        return "empty", f"the last turn ({turns[-1]['role']}) has no text"
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        return "wrong_type", f"tools is {type(tools).__name__}, must be a list of objects"
    if kwargs is not None and not isinstance(kwargs, dict):
        return "wrong_type", f"chat_template_kwargs is {type(kwargs).__name__}, must be an object"
    if len(text or "") > MAX_PROMPT_CHARS:
        return "too_long", f"{len(text or '')} characters; at most {MAX_PROMPT_CHARS}"
    return None


def _turn_fault(turn: Any) -> str | None:
    if not isinstance(turn, dict):
        return f"is {type(turn).__name__}, must be an object"
    if turn.get("role") not in ROLES:
        return f"role is {turn.get('role')!r}; allowed are {', '.join(ROLES)}"
    content = turn.get("content")
    if content is None:
        return None if turn.get("tool_calls") else "has neither content nor tool_calls"
    if isinstance(content, str):
        return None
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
        return None
    return f"content is {type(content).__name__}, must be a string or a list of parts with a type"


def _has_text(content: Any) -> bool:
    if isinstance(content, list):
        return any(part["type"] != "text" or str(part.get("text") or "").strip() for part in content)
    return bool(content and content.strip())


def prompt_of(record: Mapping[str, Any], *, source: str | None = None) -> Row:
    """A row of a file: `messages` or `prompt`, with `tools`, `chat_template_kwargs`, `reference`; the rest goes into `meta`.

    A list or object column given as a string (as in CSV) is read as JSON.
    """
    rest = {key: value for key, value in record.items() if key not in _PROMPT_COLUMNS and value is not None}
    given = record.get("messages")
    messages = _unpack(given) if given is not None else record.get("prompt")
    if messages is None:
        return bad_prompt("missing", f"neither `messages` nor `prompt` in {sorted(record)}", source=source, content=repr(sorted(record)))
    return make_prompt(
        messages,
        tools=_unpack(record.get("tools")),
        chat_template_kwargs=_unpack(record.get("chat_template_kwargs")),
        reference=record.get("reference"),
        meta=rest,
        source=source,
    )


def _unpack(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except ValueError:
        return value


def prompt_of_line(line: bytes, *, source: str | None = None) -> Row:
    """A line of a JSON Lines file as a row of `prompts`, whatever it holds."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return bad_prompt("not_utf8", f"byte {error.start} of the line: {error.reason}", source=source, content=line.hex()[:1000])
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return bad_prompt("not_json", str(error), source=source, content=text[:1000])
    if not isinstance(record, dict):
        return bad_prompt("wrong_type", f"the line is {type(record).__name__}, must be an object", source=source, content=text[:1000])
    return prompt_of(record, source=source)


def mark_duplicates(rows: Iterable[Row]) -> list[Row]:
    """The rows, where a prompt that an earlier row holds already has the state `duplicate`."""
    seen: dict[str, Row] = {}
    out = []
    for row in rows:
        first = seen.setdefault(row["prompt_id"], row)
        if first is not row and row["state"] == "ok":
            row = {**row, "state": "duplicate", "reason": f"the same prompt as {first['source']}"}
        out.append(row)
    return out


def prompt_rows(records: Iterable[Mapping[str, Any] | bytes], *, source: str) -> list[Row]:
    """Rows of `prompts` from records or raw lines, in order, each with its number in `source`, duplicates marked.

    >>> rows = prompt_rows([{"prompt": "Hi"}, b"{", {"prompt": "Hi"}], source="file.jsonl")
    >>> [(row["source"], row["state"]) for row in rows]
    [('file.jsonl:1', 'ok'), ('file.jsonl:2', 'not_json'), ('file.jsonl:3', 'duplicate')]
    """
    read = ((record, f"{source}:{number}") for number, record in enumerate(records, 1))
    return mark_duplicates(
        prompt_of_line(record, source=where) if isinstance(record, bytes) else prompt_of(record, source=where) for record, where in read
    )


async def gather_all(awaitables: Iterable[Awaitable[_Result]]) -> list[_Result]:
    """All results in order; at the first exception the others are cancelled, and it is raised as it is."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def sample_prompt(prompt: Mapping[str, Any], engine: Engine, *, n: int, sampling: Sampling, logprobs: bool = False) -> list[Row]:
    """`n` rows of `generations` for one row of `prompts`, with one request; a sample that failed gives a row that says why."""
    kwargs = prompt.get("chat_template_kwargs")
    tools = prompt.get("tools")
    reply = await engine.complete(
        Request(
            key=f"sample/{prompt['prompt_id']}",
            messages=orjson.loads(prompt["messages"]),
            sampling=sampling,
            n=n,
            tools=orjson.loads(tools) if tools else None,
            chat_template_kwargs=orjson.loads(kwargs) if kwargs else None,
            logprobs=logprobs,
        )
    )
    shared = {
        "prompt_id": prompt["prompt_id"],
        "policy": engine.fingerprint,
        "engine": engine.spec,
        "seed": sampling.seed,
        "sampling": sampling_json(sampling),
    }
    return [_generation(shared, index, reply) for index in range(n)]


def sampling_json(sampling: Sampling) -> str:
    """What `generations.sampling` holds: everything about the sampling but the seed, which has its own column."""
    settings = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
    }
    return canonical(settings).decode()


def _generation(shared: Row, index: int, reply: Reply) -> Row:
    row: Row = {"generation_id": None, **shared, "sample_index": index}
    if completion := reply.sample(index):
        row |= _sampled(completion)
    elif reply.error:
        row |= {"state": reply.error, "reason": reply.reason or reply.error}
    else:
        row |= {"state": "transport_error", "reason": f"the engine gave {len(reply.completions)} samples, sample {index} is missing"}
    content = [row.get("text"), row["tool_calls"]] if row.get("tool_calls") else row.get("text")
    row["generation_id"] = digest(row["prompt_id"], row["policy"], row["sampling"], row["seed"], index, row["state"], content)
    return row


def _sampled(completion: Completion) -> Row:
    state, reason = sample_state(completion.text, completion.finish_reason, completion.tool_calls)
    return {
        "text": completion.text,
        "reasoning": completion.reasoning,
        "tool_calls": as_json(list(completion.tool_calls)) if completion.tool_calls else None,
        "token_ids": completion.token_ids,
        "logprobs": completion.logprobs,
        "sum_logprob": math.fsum(completion.logprobs) if completion.logprobs else None,
        "n_tokens": completion.n_tokens,
        "finish_reason": completion.finish_reason,
        "state": state,
        "reason": reason,
    }


def sample_state(text: str, finish_reason: str | None, tool_calls: Sequence[Any] | None = None) -> tuple[str, str | None]:
    """State and reason of one sample that arrived.

    >>> sample_state("Well", "length"), sample_state(" ", "stop"), sample_state("", "tool_calls", [{}])
    (('truncated', 'cut off by max_tokens'), ('empty', 'no text and no tool call'), ('ok', None))
    """
    if not text.strip() and not tool_calls:
        return "empty", "cut off by max_tokens before any text" if finish_reason == "length" else "no text and no tool call"
    if finish_reason == "length":
        return "truncated", "cut off by max_tokens"
    return "ok", None


async def sample(prompts: pl.DataFrame, engine: Engine, *, n: int, sampling: Sampling, logprobs: bool = False) -> pl.DataFrame:
    """`generations` of every prompt whose state is `ok`, all in flight at once; the engine bounds its own concurrency."""
    rows = prompts.filter(pl.col("state") == "ok").iter_rows(named=True)
    groups = await gather_all(sample_prompt(row, engine, n=n, sampling=sampling, logprobs=logprobs) for row in rows)
    return frame([row for group in groups for row in group], GENERATIONS)
