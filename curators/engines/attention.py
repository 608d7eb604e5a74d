"""One forward pass over rows: a flat list of tokens, and the attention function that `transformers` calls in every layer for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from curators.engines.prefixes import States
from curators.engines.rows import Row, RowCache

ATTENTION = "pairmill_rows"
CHUNK = 16
"""Rows that attend in one call on a CPU: each chunk reads only as many columns as its longest row has. A GPU takes all rows at once."""

PLAIN = frozenset({"dropout", "is_causal", "position_ids", "use_cache", "cache_position", "output_router_logits", "output_attentions"})
"""Keywords of an attention call that change nothing here. Any other one (a soft cap, sinks, a position bias) is a feature rows lack."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A prompt that is read in one go: tokens start … start + length - 1 of the pass, after `cached` tokens that were read before.

    With a `row` those are its first columns, and what is read is written after them. Without one they are `past`, and what is read is
    left in `read`, by layer. Right after the segment stand its branches, continuations that see the prompt and themselves but not each
    other; they are never kept.
    """

    start: int
    length: int
    cached: int = 0
    row: Row | None = None
    past: States = ()
    branches: tuple[int, ...] = ()
    read: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that attend together: the columns of the longest of them, and the lanes of the one with most."""

    rows: slice
    columns: int
    lanes: int


class RowPass:
    """One forward pass: `n_steps` lanes first (row, lane and column of each), then segments."""

    def __init__(self, cache: RowCache, *, steps: Sequence[tuple[Row, int, int]] = (), segments: Sequence[Segment] = ()) -> None:
        self.cache, self.segments, self.n_steps = cache, segments, len(steps)
        if not steps:
            return
        index = torch.tensor([[row.index, lane, column] for row, lane, column in steps], device=cache.device)
        self.row, lane, self.column = index.unbind(1)
        cache.mask[self.row, lane, self.column] = 0
        self.n_rows = max(row.index for row, _, _ in steps) + 1
        self.n_lanes = max(lane for _, lane, _ in steps) + 1
        self.slot = self.row * self.n_lanes + lane
        columns, lanes = [1] * self.n_rows, [1] * self.n_rows
        for row, number, _ in steps:
            columns[row.index] = row.columns
            lanes[row.index] = max(lanes[row.index], number + 1)
        size = CHUNK if cache.device.type == "cpu" else self.n_rows
        starts = range(0, self.n_rows, size)
        self.chunks = [Chunk(slice(i, min(i + size, self.n_rows)), max(columns[i : i + size]), max(lanes[i : i + size])) for i in starts]
        self.masks: dict[int, list[Tensor]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """[1, heads, tokens, dim] each to [1, tokens, heads, dim]; keys and values of steps and segments are stored."""
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        if self.n_steps:
            keys, values = self.cache.layers[layer]
            keys[self.row, :, self.column] = key[0, :, : self.n_steps].transpose(0, 1)
            values[self.row, :, self.column] = value[0, :, : self.n_steps].transpose(0, 1)
            out[0, : self.n_steps] = self._attend_steps(query[0, :, : self.n_steps], keys, values, scaling)
        for segment in self.segments:
            self._attend_segment(layer, segment, query, key, value, scaling, out)
        return out

    def _attend_steps(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
        """[heads, steps, dim] to [steps, heads, dim]. Heads that share keys are put side by side with the lanes, so nothing is repeated."""
        n_heads, _, dim = query.shape
        shared = n_heads // keys.shape[1]
        spread = query.new_zeros(self.n_rows * self.n_lanes, n_heads, dim)
        spread[self.slot] = query.transpose(0, 1)
        spread = spread.view(self.n_rows, self.n_lanes, n_heads, dim).transpose(1, 2)
        mixed = query.new_empty(self.n_rows, self.n_lanes, n_heads, values.shape[3])
        for chunk, mask in zip(self.chunks, self._masks(shared), strict=True):
            rows, lanes = chunk.rows, chunk.lanes
            part = spread[rows, :, :lanes].reshape(-1, keys.shape[1], shared * lanes, dim)
            seen = keys[rows, :, : chunk.columns], values[rows, :, : chunk.columns]
            found = scaled_dot_product_attention(part, *seen, attn_mask=mask, scale=scaling)
            mixed[rows, :lanes] = found.view(-1, n_heads, lanes, found.shape[3]).transpose(1, 2)
        return mixed.view(self.n_rows * self.n_lanes, n_heads, -1)[self.slot]

    def _masks(self, shared: int) -> list[Tensor]:
        if shared not in self.masks:
            mask = self.cache.mask[: self.n_rows]
            self.masks[shared] = [mask[c.rows, : c.lanes, : c.columns].repeat(1, shared, 1)[:, None] for c in self.chunks]
        return self.masks[shared]

    def _attend_segment(
        self, layer: int, segment: Segment, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, out: Tensor
    ) -> None:
        begin, end = segment.start, segment.start + segment.length
        prompt_keys, prompt_values = key[:, :, begin:end], value[:, :, begin:end]
        if segment.row is None:
            segment.read[layer] = prompt_keys, prompt_values
        else:
            self._store(layer, segment.row, segment.cached, prompt_keys, prompt_values)
        if segment.cached:
            past_keys, past_values = self._past(layer, segment)
            prompt_keys, prompt_values = torch.cat([past_keys, prompt_keys], 2), torch.cat([past_values, prompt_values], 2)
        _attend(query[:, :, begin:end], prompt_keys, prompt_values, scaling, out[:, begin:end])
        for length in filter(None, segment.branches):
            part = slice(end, end := end + length)
            keys, values = torch.cat([prompt_keys, key[:, :, part]], 2), torch.cat([prompt_values, value[:, :, part]], 2)
            _attend(query[:, :, part], keys, values, scaling, out[:, part])

    def _store(self, layer: int, row: Row, begin: int, key: Tensor, value: Tensor) -> None:
        for buffer, state in zip(self.cache.layers[layer], (key, value), strict=True):
            buffer[row.index, :, begin : begin + state.shape[2]] = state[0]

    def _past(self, layer: int, segment: Segment) -> tuple[Tensor, Tensor]:
        if segment.row is None:
            return self.cache.layer_of(layer, segment.past)
        keys, values = self.cache.layers[layer]
        place = slice(segment.row.index, segment.row.index + 1)
        return keys[place, :, : segment.cached], values[place, :, : segment.cached]


def _attend(query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, out: Tensor) -> None:
    """The queries stand at the end of the keys, and each sees what is not after it; [1, heads, tokens, dim] to [1, tokens, heads, dim]."""
    n, before = query.shape[2], keys.shape[2] - query.shape[2]
    seen = torch.ones(n, before + n, dtype=torch.bool, device=query.device).tril(before) if before else None
    gqa = query.shape[1] != keys.shape[1]
    mixed = scaled_dot_product_attention(query, keys, values, attn_mask=seen, is_causal=not before, scale=scaling, enable_gqa=gqa)
    out.copy_(mixed.transpose(1, 2))


def row_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    row_pass: RowPass | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function that `transformers` calls in every layer; `row_pass` travels as a keyword of the model's own call."""
    if row_pass is None:
        raise ValueError(f"attention {ATTENTION!r} is for curators.engines only: call the model with row_pass=")
    layer, cache = cast("int", module.layer_idx), row_pass.cache
    if layer not in cache.places:
        cache.learn(layer, key, value)
        cache.asked.windows |= {sliding_window} if sliding_window is not None else set()
        cache.asked.features |= {name for name, value in others.items() if value is not None and name not in PLAIN}
    return row_pass.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION, row_attention)
