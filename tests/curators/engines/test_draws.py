"""Draws follow the model's distribution, and their noise belongs to a sample and a position alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from curators.engines.draws import CELLS_AT_ONCE, draw, exponential_noise, nucleus, position_keys

CPU = torch.device("cpu")
LOGITS = torch.tensor([2.0, 1.0, 0.0, 0.0, -1.0, -2.0])
N = 40_000


def draws_of(logits: torch.Tensor, *, temperature: float = 1.0, top_p: float = 1.0, n: int = N) -> tuple[np.ndarray, list[float]]:
    """`n` samples' first tokens from one row of logits: counts by token, and the log-probabilities."""
    tokens, logprobs = draw(
        logits.expand(n, -1),
        keys=np.arange(n, dtype=np.uint64),
        positions=np.zeros(n, dtype=np.uint64),
        temperatures=np.full(n, temperature, dtype=np.float32),
        top_ps=np.full(n, top_p, dtype=np.float32),
    )
    return np.bincount(tokens, minlength=len(logits)), logprobs


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float((((counts - expected) ** 2) / expected).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_counts_follow_the_distribution_at_a_temperature(temperature):
    counts, _ = draws_of(LOGITS, temperature=temperature)
    expected = (LOGITS / temperature).softmax(-1).numpy() * N
    assert chi_square(counts, expected) < 20.5  # 5 degrees of freedom, p = .001


def test_counts_follow_the_distribution_over_positions_of_one_sample():
    """The same test along one sample: position t of key 7 for t = 0 … N - 1."""
    tokens, _ = draw(
        LOGITS.expand(N, -1),
        keys=np.full(N, 7, dtype=np.uint64),
        positions=np.arange(N, dtype=np.uint64),
        temperatures=np.ones(N, dtype=np.float32),
        top_ps=np.ones(N, dtype=np.float32),
    )
    counts = np.bincount(tokens, minlength=6)
    assert chi_square(counts, LOGITS.softmax(-1).numpy() * N) < 20.5
    pairs = np.bincount(np.array(tokens[:-1]) * 6 + np.array(tokens[1:]), minlength=36)
    p = LOGITS.softmax(-1).numpy()
    assert chi_square(pairs, np.outer(p, p).ravel() * (N - 1)) < 66.6  # neighbours are independent: 35 degrees of freedom, p = .001


def test_keys_that_share_a_row_draw_what_they_would_from_rows_of_their_own():
    """Nine keys over four rows, temperatures and nuclei side by side, in parts that cut through a row's keys."""
    logits = torch.randn(4, CELLS_AT_ONCE // 4, generator=torch.Generator().manual_seed(0))
    rows = np.array([0, 0, 0, 1, 2, 2, 2, 2, 3])
    given = {
        "keys": np.arange(9, dtype=np.uint64),
        "positions": np.arange(9, dtype=np.uint64),
        "temperatures": np.array([1, 1, 0.5, 0, 1, 0, 0, 1.5, 1], dtype=np.float32),
        "top_ps": np.array([1, 1, 1, 1, 0.001, 1, 1, 0.9, 0.9], dtype=np.float32),
    }
    shared = draw(logits, rows=rows, **given)
    own = draw(logits[torch.from_numpy(rows)], **given)
    assert shared[0] == own[0]
    assert shared[1] == pytest.approx(own[1], abs=1e-5)
    assert len(set(shared[0])) > 4


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    # softmax of LOGITS: .586, .216, .079, .079, .029, .011; .586 + .216 = .802 reaches .75, .586 does not
    counts, logprobs = draws_of(LOGITS, top_p=0.75)
    assert counts[2:].sum() == 0
    share = LOGITS[:2].softmax(-1).numpy() * N
    assert chi_square(counts[:2], share) < 10.8  # 1 degree of freedom, p = .001
    assert max(logprobs) == pytest.approx(math.log(0.5860), abs=1e-3)  # the model's own, not of the cut distribution


def test_a_nucleus_wider_than_the_first_look_is_found():
    flat = torch.full((1, 1000), 1e-3)
    assert int((nucleus(flat, torch.tensor([[0.9]])) > 0).sum()) == pytest.approx(900, abs=1)
    assert int((nucleus(flat, torch.tensor([[0.0001]])) > 0).sum()) == 1


def test_temperature_zero_takes_the_first_of_the_most_likely():
    tokens, logprobs = draw(
        torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, 0.0]]),
        keys=np.array([1, 2], dtype=np.uint64),
        positions=np.zeros(2, dtype=np.uint64),
        temperatures=np.array([0.0, 1.0], dtype=np.float32),
        top_ps=np.ones(2, dtype=np.float32),
    )
    assert tokens[0] == 1
    assert logprobs[0] == pytest.approx(3 - math.log(1 + 2 * math.exp(3)), abs=1e-6)


def test_logprobs_are_those_of_the_untempered_distribution():
    counts, logprobs = draws_of(LOGITS, temperature=2.0, n=50)
    assert counts.sum() == 50
    assert {round(p, 4) for p in logprobs} <= {round(float(p), 4) for p in LOGITS.log_softmax(-1)}


def test_noise_is_a_function_of_word_and_column():
    words = position_keys(np.array([5, 6, 5], dtype=np.uint64), np.array([0, 0, 0], dtype=np.uint64))
    noise = exponential_noise(words, 700, CPU)
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise[1:2], exponential_noise(words[1:2], 700, CPU))
    assert torch.equal(noise[:, :100], exponential_noise(words, 100, CPU))
    assert not torch.isclose(noise[0], noise[1]).any()
    assert not torch.equal(*exponential_noise(position_keys(words[:1].repeat(2), np.array([0, 1], dtype=np.uint64)), 700, CPU))


def test_noise_is_exponential():
    noise = exponential_noise(position_keys(np.arange(400, dtype=np.uint64), np.zeros(400, dtype=np.uint64)), 1000, CPU).flatten()
    assert (noise > 0).all()
    assert noise.mean().item() == pytest.approx(1, abs=0.01)  # standard error .0016
    assert noise.var().item() == pytest.approx(1, abs=0.03)
    assert (noise > 3).float().mean().item() == pytest.approx(math.exp(-3), abs=0.002)
    rows = noise.view(400, 1000)
    assert abs(torch.corrcoef(rows[:2])[0, 1].item()) < 0.15
    assert abs(torch.corrcoef(rows.T[:2])[0, 1].item()) < 0.2
