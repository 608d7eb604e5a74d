"""Drawing the next token of every running sample, with noise that belongs to the sample and not to the batch.

Gumbel-max in its exponential form: with independent E_v ~ Exp(1), argmax_v p_v / E_v is distributed as p. E_v is a function of the sample's
key, the token's position and v (a counter-based hash), so a sample draws the same noise alone and in any batch, and can be started
again. An inverse-CDF draw needs one number a token and not one a vocabulary entry, but a rounding difference anywhere in p shifts
every later threshold: it changed .17 of the tokens in bfloat16 and .0013 in float32 between batches, Gumbel .009 and 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CELLS_AT_ONCE = 1 << 18
"""Probabilities that are handled together, so that they stay in a core's cache."""

_NUCLEUS = 256
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): a bijection of 64-bit words that looks random."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def position_keys(keys: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One word for each (sample, position): position 0 is the sample's first new token."""
    return mix64(keys + (positions + np.uint64(1)) * _GOLDEN)


def exponential_noise(words: NDArray[np.uint64], n: int, device: torch.device) -> Tensor:
    """Exp(1) noise [len(words), n], float32, every entry a function of its word and its column alone."""
    halves = torch.from_numpy(words.view(np.int32).reshape(-1, 2).copy()).to(device)
    bits = _column_words(n, device) ^ halves[:, :1]
    _mix32(bits)
    bits.bitwise_xor_(halves[:, 1:])
    _mix32(bits)
    uniform = bits.bitwise_and_(0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31)
    return uniform.neg_().log1p_().neg_()  # 31 bits near 0, where the winners are; a 1 by rounding gives infinity, which never wins


@lru_cache(maxsize=8)
def _column_words(n: int, device: torch.device) -> Tensor:
    words = mix64(np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN)
    return torch.from_numpy(words.view(np.int32)[::2].copy()).to(device)


def _mix32(bits: Tensor) -> None:
    """In place: `lowbias32` (Wellons 2018). The `&` makes torch's arithmetic shifts logical ones."""
    shifted = torch.empty_like(bits)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - (1 << 32)), (16, 1)):
        torch.bitwise_right_shift(bits, shift, out=shifted)
        bits.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))
        if factor != 1:
            bits.mul_(factor)


def nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Zero everything outside the smallest set of most likely tokens whose mass reaches `top_p` [rows, 1]; not renormalised."""
    width = min(_NUCLEUS, probabilities.shape[1])
    values, columns = probabilities.topk(width, dim=-1)
    if width < probabilities.shape[1] and bool((values.sum(-1, keepdim=True) < top_p).any()):
        values, columns = probabilities.sort(dim=-1, descending=True)
    before = values.cumsum(-1) - values
    return torch.zeros_like(probabilities).scatter_(-1, columns, values.masked_fill(before >= top_p, 0))


def draw(
    logits: Tensor,
    *,
    keys: NDArray[np.uint64],
    positions: NDArray[np.uint64],
    temperatures: NDArray[np.float32],
    top_ps: NDArray[np.float32],
    rows: NDArray[np.int64] | None = None,
) -> tuple[list[int], list[float]]:
    """One token for each key and its natural log-probability, from the row of `logits` [.., vocabulary], float32, that `rows` names.

    Without `rows` there is one row for each key. Keys side by side with the same row, temperature and top-p share the work on that row.
    Temperature 0 takes the most likely token (the lowest id of equals). The log-probability is the model's own, before temperature and
    top-p, so that it equals what a scorer says of the same text.
    """
    n_at_once = max(1, CELLS_AT_ONCE // logits.shape[1])
    rows = np.arange(len(keys)) if rows is None else rows
    tokens, logprobs = [], []
    for begin in range(0, len(keys), n_at_once):
        part = slice(begin, begin + n_at_once)
        new = _changes(rows[part], temperatures[part], top_ps[part])
        first = begin + new.nonzero()[0]
        own, index = logits[torch.from_numpy(rows[first])], torch.from_numpy(new.cumsum() - 1).to(logits.device)
        words = position_keys(keys[part], positions[part])
        chosen = _draw_rows(own, index, words, temperatures[first], top_ps[first])
        tokens.append(chosen)
        logprobs.append(own[index, chosen] - own.logsumexp(-1)[index])
    return torch.cat(tokens).tolist(), torch.cat(logprobs).tolist()


def _changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Where an entry of any column differs from the one before it; the first one does."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[0] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _draw_rows(
    logits: Tensor, index: Tensor, words: NDArray[np.uint64], temperatures: NDArray[np.float32], top_ps: NDArray[np.float32]
) -> Tensor:
    """One token for each word, from the row that `index` names."""
    greedy = temperatures == 0
    if greedy.all():
        return logits.argmax(-1)[index]
    if (temperatures != 1).any():
        scale = torch.from_numpy(np.where(greedy, 1, temperatures)).to(logits.device)
        probabilities = (logits / scale[:, None]).softmax(-1)
    else:
        probabilities = logits.softmax(-1)
    if (narrow := torch.from_numpy((top_ps < 1).nonzero()[0]).to(logits.device)).numel():
        bounds = torch.from_numpy(top_ps[top_ps < 1]).to(logits.device)[:, None]
        probabilities[narrow] = nucleus(probabilities[narrow], bounds)
    noise = exponential_noise(words, logits.shape[1], logits.device)
    drawn = torch.div(probabilities[index], noise, out=noise).argmax(-1)
    if not greedy.any():
        return drawn
    return torch.where(torch.from_numpy(greedy).to(logits.device)[index], logits.argmax(-1)[index], drawn)
