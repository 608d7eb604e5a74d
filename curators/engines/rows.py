"""Keys and values of a batch in which the samples of one prompt share one row.

A row holds one prompt's prefix once and, beside it, the tokens of several samples of it ("lanes"). Each token has a column of its own;
an additive mask says which lane sees which column, so siblings never see each other, and the place of a column means nothing (keys carry
their position already). Every forward pass is one flat list of tokens without padding: the newest token of every running lane, then
whole prompts to be read (segments). Only attention knows of rows, through a function registered with `transformers`.

Buffers are written in place: concatenating them at every token costs more than the attention itself. A finished lane's columns are used
again. Not done here: paging, quantised keys, attention windows (the engine keeps contexts
shorter than the window, where both are the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "pairmill_rows"
CHUNK = 8
"""Rows that attend in one call on a CPU: each chunk reads only as many columns as its longest row has. A GPU takes all rows at once."""


PLAIN = frozenset({"dropout", "is_causal", "position_ids", "use_cache", "cache_position", "output_router_logits", "output_attentions"})
"""Keywords of an attention call that change nothing here. Any other one (a soft cap, sinks, a position bias) is a feature rows lack."""


@dataclass(slots=True)
class Asked:
    """What a model has asked of attention: by which layers, with which windows, and which features that are not there."""

    layers: set[int] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)
    features: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Row:
    """One prompt in the batch. `columns` were ever used; `spare` of them are free again. `running` holds the number of live lanes."""

    index: int
    columns: int
    spare: list[int] = field(default_factory=list)
    running: int = 0

    def columns_after_step(self) -> int:
        return self.columns + max(0, self.running - len(self.spare))

    def take_column(self) -> int:
        if self.spare:
            return self.spare.pop()
        self.columns += 1
        return self.columns - 1


class RowCache:
    """The buffers: for each layer keys and values [rows, heads, columns, dim], and one mask [rows, lanes, columns]."""

    def __init__(self, *, lanes: int, device: torch.device, dtype: torch.dtype) -> None:
        self.lanes = lanes
        self.device, self.dtype = device, dtype
        self.cell_bytes = 0
        self.asked = Asked()
        self.clear()

    def clear(self) -> None:
        """Give all memory back."""
        self.n_rows = self.n_columns = 0
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.mask = torch.empty(0, self.lanes, 0, device=self.device, dtype=self.dtype)

    def reserve(self, n_rows: int, n_columns: int, *, max_cells: int) -> None:
        """Make room for at least that many rows and columns, with some to spare within `max_cells`; what those rows hold stays."""
        if n_rows <= self.n_rows and n_columns <= self.n_columns:
            return
        wide = max(self.n_columns, n_columns if n_columns <= self.n_columns else n_columns + n_columns // 4 + 32)
        columns = max(n_columns, min(wide, max_cells // n_rows))
        tall = max(self.n_rows, n_rows if n_rows <= self.n_rows else n_rows + n_rows // 2)
        rows = max(n_rows, min(tall, max_cells // columns))
        mask = torch.full((rows, self.lanes, columns), -torch.inf, device=self.device, dtype=self.dtype)
        _copy(self.mask, mask)
        self.mask = mask
        for buffers in (self.keys, self.values):
            for layer, old in buffers.items():
                buffers[layer] = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
                _copy(old, buffers[layer])
        self.n_rows, self.n_columns = rows, columns

    def layer(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """That layer's buffers; they are made when the layer is first seen, from the shapes [.., heads, .., dim] it hands in."""
        if layer not in self.keys:
            for buffers, state in ((self.keys, key), (self.values, value)):
                buffers[layer] = state.new_zeros(self.n_rows, state.shape[1], self.n_columns, state.shape[3])
            self.cell_bytes = sum(b.shape[1] * b.shape[3] * b.element_size() for b in (*self.keys.values(), *self.values.values()))
        return self.keys[layer], self.values[layer]

    def open(self, row: Row) -> None:
        """Every lane of the row sees the prefix, columns 0 … columns - 1, and nothing else."""
        self.mask[row.index] = -torch.inf
        self.mask[row.index, :, : row.columns] = 0

    def restart_lane(self, row: Row, lane: int, prefix: int) -> None:
        """The lane forgets everything but the prefix."""
        self.mask[row.index, lane, prefix:] = -torch.inf

    def copy_prefix(self, source: Row, target: Row, prefix: int) -> None:
        for buffers in (self.keys, self.values):
            for buffer in buffers.values():
                buffer[target.index, :, :prefix] = buffer[source.index, :, :prefix]

    def move(self, row: Row, index: int) -> None:
        """Move a whole row to the place `index`, whose content is lost."""
        for buffers in (self.keys, self.values):
            for buffer in buffers.values():
                buffer[index, :, : row.columns] = buffer[row.index, :, : row.columns]
        self.mask[index] = self.mask[row.index]
        row.index = index


def _copy(old: Tensor, new: Tensor) -> None:
    rows, columns = min(old.shape[0], new.shape[0]), min(old.shape[2], new.shape[2])
    new[:rows, :, :columns] = old[:rows, :, :columns]


@dataclass(frozen=True, slots=True)
class Segment:
    """A prompt that is read in one go: tokens start … start + length - 1 of the pass, kept in `row` if there is one.

    Right after it stand its branches, continuations that see the prompt and themselves but not each other; they are never kept.
    """

    start: int
    length: int
    row: Row | None = None
    branches: tuple[int, ...] = ()


class RowPass:
    """One forward pass: `n_steps` running lanes first (row, lane and column of each), then segments."""

    def __init__(self, cache: RowCache, *, steps: Sequence[tuple[Row, int, int]], segments: Sequence[Segment]) -> None:
        self.cache, self.segments, self.n_steps = cache, segments, len(steps)
        if not steps:
            return
        index = torch.tensor([[row.index, lane, column] for row, lane, column in steps], device=cache.device)
        self.row, lane, self.column = index.unbind(1)
        cache.mask[self.row, lane, self.column] = 0
        self.n_rows = max(row.index for row, _, _ in steps) + 1
        self.n_lanes = max(lane for _, lane, _ in steps) + 1
        self.slot = self.row * self.n_lanes + lane
        ends = [0] * self.n_rows
        for row, _, _ in steps:
            ends[row.index] = row.columns
        size = CHUNK if cache.device.type == "cpu" else self.n_rows
        self.chunks = [(i, min(i + size, self.n_rows), max(1, *ends[i : i + size])) for i in range(0, self.n_rows, size)]
        self.masks: dict[int, list[Tensor]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """[1, heads, tokens, dim] each to [1, tokens, heads, dim]; the keys and values of steps and kept segments are stored."""
        keys, values = self.cache.layer(layer, key, value)
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        if self.n_steps:
            keys[self.row, :, self.column] = key[0, :, : self.n_steps].transpose(0, 1)
            values[self.row, :, self.column] = value[0, :, : self.n_steps].transpose(0, 1)
            out[0, : self.n_steps] = self._attend_steps(query[0, :, : self.n_steps], keys, values, scaling)
        for segment in self.segments:
            if segment.row is not None:
                part = slice(segment.start, segment.start + segment.length)
                keys[segment.row.index, :, : segment.length] = key[0, :, part]
                values[segment.row.index, :, : segment.length] = value[0, :, part]
            _attend_segment(segment, query, key, value, scaling, out)
        return out

    def _attend_steps(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
        """[heads, steps, dim] to [steps, heads, dim]. Heads that share keys are put side by side with the lanes, so nothing is repeated."""
        n_heads, _, dim = query.shape
        shared = n_heads // keys.shape[1]
        spread = query.new_zeros(self.n_rows * self.n_lanes, n_heads, dim)
        spread[self.slot] = query.transpose(0, 1)
        spread = spread.view(self.n_rows, self.n_lanes, n_heads, dim).transpose(1, 2)
        spread = spread.reshape(self.n_rows, keys.shape[1], shared * self.n_lanes, dim)
        parts = [
            scaled_dot_product_attention(
                spread[begin:end], keys[begin:end, :, :columns], values[begin:end, :, :columns], attn_mask=mask, scale=scaling
            )
            for (begin, end, columns), mask in zip(self.chunks, self._masks(shared), strict=True)
        ]
        mixed = torch.cat(parts).view(self.n_rows, n_heads, self.n_lanes, -1).transpose(1, 2)
        return mixed.reshape(self.n_rows * self.n_lanes, n_heads, -1)[self.slot]

    def _masks(self, shared: int) -> list[Tensor]:
        if shared not in self.masks:
            lanes = self.cache.mask[:, : self.n_lanes]
            self.masks[shared] = [lanes[begin:end, :, :columns].repeat(1, shared, 1)[:, None] for begin, end, columns in self.chunks]
        return self.masks[shared]


def _attend_segment(segment: Segment, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, out: Tensor) -> None:
    begin, end = segment.start, segment.start + segment.length
    gqa = query.shape[1] != key.shape[1]
    if segment.length:
        prompt = slice(begin, end)
        mixed = scaled_dot_product_attention(
            query[:, :, prompt], key[:, :, prompt], value[:, :, prompt], is_causal=True, scale=scaling, enable_gqa=gqa
        )
        out[:, prompt] = mixed.transpose(1, 2)
    for length in segment.branches:
        part = slice(end, end + length)
        seen = torch.ones(length, segment.length + length, dtype=torch.bool, device=query.device).tril(segment.length)
        prompt_and_part = torch.cat([torch.arange(begin, begin + segment.length), torch.arange(end, end + length)]).to(query.device)
        mixed = scaled_dot_product_attention(
            query[:, :, part], key[:, :, prompt_and_part], value[:, :, prompt_and_part], attn_mask=seen, scale=scaling, enable_gqa=gqa
        )
        out[:, part] = mixed.transpose(1, 2)
        end += length


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
    layer, asked = cast("int", module.layer_idx), row_pass.cache.asked
    if layer not in asked.layers:
        asked.layers.add(layer)
        asked.windows |= {sliding_window} if sliding_window is not None else set()
        asked.features |= {name for name, value in others.items() if value is not None and name not in PLAIN}
    return row_pass.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION, row_attention)
