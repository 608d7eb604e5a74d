"""Keys and values of a batch in which the samples of one prompt share one row.

A row holds one prompt's prefix once and, beside it, the tokens of what was drawn after it, in branches ("lanes") that part where samples
differ. Each token has a column of its own; an additive mask says which lane sees which column, so siblings never see each other, and
the place of a column means nothing (keys carry their position already). Every forward pass is one flat list of tokens without padding:
the newest token of every lane, then prompts to be read (segments). Only attention knows of rows, through a function registered with
`transformers`.

Buffers are written in place: concatenating them at every token costs more than the attention itself. A column that no lane sees is used
again. Not done here: paging, quantised keys, attention windows (the engine keeps contexts shorter than the window, where both are the
same).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from curators.engines.prefixes import States

Kind = tuple[int, int, torch.dtype]
"""Heads, dimensions and numbers of a layer's keys, or of its values."""


@dataclass(slots=True)
class Asked:
    """What a model has asked of attention: with which windows, and which features that are not there."""

    windows: set[int] = field(default_factory=set)
    features: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Row:
    """One prompt in the batch. All its lanes see the first `prefix` columns; of the others, `users` counts the lanes that see each.

    `columns` were ever used and `spare` of them are free again; `lanes` holds the lanes in use, of which there were `most_lanes` at a time.
    """

    index: int
    prefix: int
    columns: int = 0
    spare: list[int] = field(default_factory=list)
    users: dict[int, int] = field(default_factory=dict)
    lanes: set[int] = field(default_factory=set)
    most_lanes: int = 0

    def __post_init__(self) -> None:
        self.columns = self.prefix

    def columns_after_step(self) -> int:
        new = len(self.lanes) - len(self.spare)
        return self.columns + new if new > 0 else self.columns

    def take_column(self) -> int:
        if self.spare:
            column = self.spare.pop()
        else:
            column, self.columns = self.columns, self.columns + 1
        self.users[column] = 1
        return column

    def share(self, columns: Sequence[int]) -> None:
        for column in columns:
            self.users[column] += 1

    def release(self, columns: Sequence[int]) -> None:
        for column in columns:
            self.users[column] -= 1
            if not self.users[column]:
                self.spare.append(column)

    def take_lane(self) -> int:
        lane = next(i for i in range(len(self.lanes) + 1) if i not in self.lanes)
        self.lanes.add(lane)
        self.most_lanes = max(self.most_lanes, len(self.lanes))
        return lane


class RowCache:
    """The buffers: keys and values [buffers, rows, heads, columns, dim], layers of one shape together, and one mask [rows, lanes, columns].

    `layers` holds the views of each layer, `cell_bytes` is what one token takes in all of them. Nothing is reserved before `learn` has
    seen every layer.
    """

    def __init__(self, *, lanes: int, device: torch.device, dtype: torch.dtype) -> None:
        self.lanes, self.device, self.dtype = lanes, device, dtype
        self.places: dict[int, tuple[tuple[Kind, int], tuple[Kind, int]]] = {}
        self.sizes: dict[Kind, int] = {}
        self.cell_bytes = 0
        self.asked = Asked()
        self.clear()

    def learn(self, layer: int, key: Tensor, value: Tensor) -> None:
        """What keys and values [.., heads, .., dim] that layer makes; buffers are made when rows are reserved."""
        places = []
        for state in (key, value):
            kind = (state.shape[1], state.shape[3], state.dtype)
            places.append((kind, self.sizes.get(kind, 0)))
            self.sizes[kind] = self.sizes.get(kind, 0) + 1
            self.cell_bytes += state.shape[1] * state.shape[3] * state.dtype.itemsize
        self.places[layer] = (places[0], places[1])

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.n_columns * self.cell_bytes

    def clear(self) -> None:
        """Give all memory back."""
        self._make(0, 0)

    def _make(self, n_rows: int, n_columns: int) -> None:
        self.n_rows, self.n_columns = n_rows, n_columns
        self.mask = torch.full((n_rows, self.lanes, n_columns), -torch.inf, device=self.device, dtype=self.dtype)
        self.buffers = {
            kind: torch.zeros(n, n_rows, kind[0], n_columns, kind[1], device=self.device, dtype=kind[2]) for kind, n in self.sizes.items()
        }
        self.layers = {layer: (self.buffers[key][i], self.buffers[value][j]) for layer, ((key, i), (value, j)) in self.places.items()}

    def reserve(self, n_rows: int, n_columns: int, *, max_cells: int) -> None:
        """Make room for at least that many rows and columns, with some to spare within `max_cells`; what those rows hold stays."""
        if n_rows <= self.n_rows and n_columns <= self.n_columns:
            return
        wide = max(self.n_columns, n_columns if n_columns <= self.n_columns else n_columns + n_columns // 2 + 32)
        columns = max(n_columns, min(wide, max_cells // n_rows))
        tall = max(self.n_rows, n_rows if n_rows <= self.n_rows else n_rows + n_rows // 2)
        rows = max(n_rows, min(tall, max_cells // columns))
        mask, buffers = self.mask, self.buffers
        self._make(rows, columns)
        rows, columns = min(rows, mask.shape[0]), min(columns, mask.shape[2])
        self.mask[:rows, :, :columns] = mask[:rows, :, :columns]
        for kind, old in buffers.items():
            self.buffers[kind][:, :rows, :, :columns] = old[:, :rows, :, :columns]

    def open(self, rows: Sequence[Row]) -> None:
        """Every lane of each row sees its prefix and nothing else."""
        index, prefix = torch.tensor([[row.index, row.prefix] for row in rows], device=self.device).unbind(1)
        hidden = torch.arange(self.n_columns, device=self.device) >= prefix[:, None]
        self.mask[index] = torch.zeros_like(hidden, dtype=self.dtype).masked_fill_(hidden, -torch.inf)[:, None]

    def restart_lane(self, row: Row, lane: int) -> None:
        """The lane forgets everything but the prefix."""
        self.mask[row.index, lane, row.prefix :] = -torch.inf

    def part_lane(self, row: Row, lane: int, new: int) -> None:
        """The new lane sees what the lane sees."""
        self.mask[row.index, new] = self.mask[row.index, lane]

    def load(self, row: Row, pieces: Sequence[tuple[States, int]]) -> None:
        """Write states into the row's first columns, one after the other, of each as many tokens as its number says."""
        begin = 0
        for states, n in pieces:
            for buffer, state in zip(self.buffers.values(), states, strict=True):
                buffer[:, row.index, :, begin : begin + n] = state[:, :, :n]
            begin += n

    def states(self, row: Row, columns: Sequence[int]) -> States:
        """A copy of what those columns of the row hold, in that order."""
        index = torch.tensor(columns, device=self.device)
        return tuple(buffer[:, row.index].index_select(2, index) for buffer in self.buffers.values())

    def joined(self, read: dict[int, tuple[Tensor, Tensor]], begin: int) -> States:
        """Keys and values by layer, each [1, heads, tokens, dim], as states, without the first `begin` tokens."""
        found: dict[Kind, list[Tensor]] = {kind: [] for kind in self.sizes}
        for layer, places in self.places.items():
            for (kind, _), state in zip(places, read[layer], strict=True):
                found[kind].append(state[0, :, begin:])
        return tuple(torch.stack(states) for states in found.values())

    def layer_of(self, layer: int, states: States) -> tuple[Tensor, Tensor]:
        """Keys and values [1, heads, tokens, dim] of one layer."""
        by_kind = dict(zip(self.sizes, states, strict=True))
        (key, i), (value, j) = self.places[layer]
        return by_kind[key][i][None], by_kind[value][j][None]

    def move(self, row: Row, index: int) -> None:
        """Move a whole row to the place `index`, whose content is lost."""
        for buffer in self.buffers.values():
            buffer[:, index, :, : row.columns] = buffer[:, row.index, :, : row.columns]
        self.mask[index] = self.mask[row.index]
        row.index = index
