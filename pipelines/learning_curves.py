"""How much data is enough: the checkpoints that were trained on versions of a dataset, as a learning curve. `pairmill learning-curve`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from curators.errors import ConfigError
from curators.selection.learning_curve import fit_learning_curve
from storage.checkpoints import Checkpoint, checkpoints


def learning_curve(lake_root: Path, datasets: Sequence[str], *, tolerance: float = 0.05) -> dict[str, Any]:
    """Gain by pairs trained on, over all checkpoints of those datasets, as JSON: `points` by size, `fit`, `left_out` with the reason.

    A curve is of one policy: the one that most of the checkpoints were trained from. Size 0 is that policy, whose gain is 0. The noise of a
    point is the standard error of its evaluation.

    Raises:
        ConfigError: no checkpoint was trained on them and evaluated.
    """
    trained = [each for each in checkpoints(lake_root) if (each.dataset or "").partition("@")[0] in datasets]
    if not trained:
        raise ConfigError(f"learning-curve: no checkpoint was trained on {' or '.join(datasets)}; `pairmill run train` registers them")
    parents = Counter(each.parent for each in trained)
    parent = max(parents, key=lambda each: (parents[each], str(each)))
    points, left_out = [], []
    for each in trained:
        why = _unfit(each, parent)
        if why is None:
            points.append(_point(each))
        else:
            left_out.append({"checkpoint": each.ref, "dataset": each.dataset, "reason": why})
    if not points:
        raise ConfigError(f"learning-curve: none of {len(trained)} checkpoints can be used; the first: {left_out[0]['reason']}")
    points.sort(key=lambda point: (point["pairs"], point["checkpoint"]))
    sizes, gains = [0.0, *(point["pairs"] for point in points)], [0.0, *(point["gain"] for point in points)]
    noise = float(np.mean([point["se"] for point in points]))
    fit = fit_learning_curve(sizes, gains, noise=noise, tolerance=tolerance)
    return {"datasets": list(datasets), "policy": parent, "points": points, "fit": asdict(fit), "left_out": left_out}


def _unfit(checkpoint: Checkpoint, parent: str | None) -> str | None:
    """Why the checkpoint is no point of the curve of that policy; null where it is one."""
    metrics = checkpoint.metrics
    if checkpoint.parent != parent:
        return f"it was trained from another policy ({checkpoint.parent})"
    if (metrics.get("evaluation") or {}).get("gain") is None:
        return "it was not evaluated"
    if (metrics.get("training") or {}).get("n_pairs") is None:
        return "its trainer did not say how many pairs it saw (n_pairs)"
    return None


def _point(checkpoint: Checkpoint) -> dict[str, Any]:
    told = {name: checkpoint.metrics["evaluation"][name] for name in ("gain", "low", "high", "se")}
    training = checkpoint.metrics["training"]
    return {
        "pairs": training["n_pairs"] - (training.get("n_pairs_dropped") or 0),
        **told,
        "dataset": checkpoint.dataset,
        "checkpoint": checkpoint.ref,
    }


def verdict(found: dict[str, Any]) -> str:
    """One sentence: how many pairs are enough, or why that cannot be said."""
    fit = found["fit"]
    if fit["recommended"] is None:
        return f"no size can be recommended: {fit['reason']}"
    size, plateau = fit["size"], fit["plateau"]
    interval = "" if size["low"] is None else f" (95% interval {size['low']:,.0f} to {size['high']:,.0f})"
    left = 1 - fit["tolerance"]
    return f"{fit['recommended']:,.0f} pairs{interval} give {left:.0%} of the gain; the plateau is {plateau['value']:+.1%}"
