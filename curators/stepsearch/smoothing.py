"""Label smoothing of a step pair: how much weight the flipped label gets in the loss (conservative DPO).

| mode | α |
|---|---|
| `paper` | N_l / (N_w + N_l): above ½, and so flipping the label, where the better step has fewer visits; ½ where neither has any |
| `ref` | min(N_l / (max(1, N_w) + N_l), ½): 0, full certainty, where neither has any |
| `visits` | min((N_l + κ) / (N_w + N_l + 2κ), ½): ours |
| `q` | σ(-(Q_w - Q_l) / τ), at most ½ |

By construction the first three shrink like 1/√simulations; none is a measured rate of wrong labels. Everything needed to compute
another is kept with the pair.
"""

from __future__ import annotations

import math
from typing import Literal

AlphaMode = Literal["visits", "q", "paper", "ref"]


def smoothing(
    chosen_visits: int,
    rejected_visits: int,
    *,
    chosen_q: float = 0.0,
    rejected_q: float = 0.0,
    mode: AlphaMode = "visits",
    kappa: float = 1.0,
    tau: float = 0.5,
) -> float:
    """α of a pair.

    >>> [round(smoothing(3, 1, mode=mode), 4) for mode in ("paper", "ref", "visits")]
    [0.25, 0.25, 0.3333]
    """
    both = chosen_visits + rejected_visits
    if mode == "paper":
        return rejected_visits / both if both else 0.5
    if mode == "ref":
        return min(rejected_visits / (max(1, chosen_visits) + rejected_visits), 0.5)
    if mode == "visits":
        return min((rejected_visits + kappa) / (both + 2 * kappa), 0.5) if both + kappa else 0.5
    return 1 / (1 + math.exp(min(max(0.0, chosen_q - rejected_q) / tau, 700)))
