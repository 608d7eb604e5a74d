"""ISA, Information Sampling for Alignment (arXiv 2411.10545): a row is worth what it adds to an entropy of embedding densities.

A Gaussian mixture is fitted to the embeddings. With l the log-likelihood of a row, and l' = (l - min l) / (max l - min l) over all rows:

    p = exp(l')      H = - sum p log p = - sum l' exp(l')      D_i = H - H without row i = - l'_i exp(l'_i)

**What that ranks by.** D falls strictly with l', so the order is that of the likelihood and nothing else; scaling, exponential and entropy
never change it. The paper does not say whether its "max change in entropy" is signed, releases no code, and the two readings keep opposite
ends:

| order | keeps | of planted bad rows (10 %) far out / in a dense spot, at a budget of 10 % |
|---|---|---|
| `signed` (default) | the least likely rows: outliers, and rare cases | 96 % / 0 % of the kept are bad |
| `abs` | the most likely rows: the typical ones, and near-duplicates | 0 % / 72 % |
| `normalized` | rows of middling likelihood; ours, not the paper's | 0 % / 0 % |

`normalized` takes q = p / sum p and the entropy of q, with one row left out and the rest normalised again: with Z = sum p, S = sum p l',

    D_i = - log(1 - p_i/Z) + p_i (S - l'_i Z) / (Z (Z - p_i))      which is largest near l' = S/Z

The default is `signed`, because only that reading fits the paper's claim of diversity; it is a poor choice where outliers are errors. The
paper states neither covariance, regularisation, initialisation nor reduction: ours are in `SelectConfig`, and stated in the diagnostics.
Nothing is sampled. Labels are no input. Deliberately not here: refitting the mixture without each row.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from curators.selection.config import Order, SelectConfig
from curators.selection.pool import Pool, Ranking, Vectors, blocks, ranked
from curators.statistics.intervals import Floats

ROWS_A_DIMENSION = 20
REG = 1e-6  # of the mean feature variance
TOLERANCE = 1e-4
FIRST_ITERATIONS, MAX_ITERATIONS = 5, 50  # of each start; of the best one from there on
RANKS_BY = {
    "signed": "lowest mixture likelihood first",
    "abs": "highest mixture likelihood first",
    "normalized": "middling mixture likelihood first",
}


def isa(pool: Pool, k: int, config: SelectConfig) -> Ranking:
    """The `k` rows with the largest change in entropy, by the order that the configuration names. Scores are D, in nats."""
    assert pool.vectors is not None
    if len(pool) < config.n_components:
        why = f"{len(pool)} rows are fewer than the {config.n_components} components of the mixture"
        return ranked(np.zeros(len(pool)), k, degenerate=why)
    density = fit_density(pool, config)
    found = density.log_likelihood(pool.vectors)
    ranking = rank_by_density(found, k, config.order)
    return Ranking(
        order=ranking.order,
        scores=ranking.scores,
        degenerate=ranking.degenerate,
        diagnostics=dict(density.diagnostics) | dict(ranking.diagnostics) | {"ranks_by": RANKS_BY[config.order]},
    )


def rank_by_density(log_likelihood: Floats, k: int, order: Order) -> Ranking:
    """The `k` rows of largest change in entropy, from their log-likelihoods.

    >>> rank_by_density(np.array([-10.0, -8, -6, -2]), 4, "signed").order.tolist()
    [0, 1, 2, 3]
    >>> rank_by_density(np.array([-10.0, -8, -6, -2]), 4, "normalized").order.tolist()
    [2, 1, 0, 3]
    """
    scaled = min_max(log_likelihood)
    if scaled is None:
        return ranked(np.zeros(len(log_likelihood)), k, degenerate="all rows have the same likelihood")
    change = entropy_change(scaled, normalized=order == "normalized")
    # By l itself where D only mirrors it: two rows may differ in l and not in the rounded D.
    keys = {"signed": log_likelihood, "abs": -log_likelihood, "normalized": -change}[order]
    entropy = {"entropy": -float(np.sum(scaled * np.exp(scaled)))}
    kept = np.argsort(keys, kind="stable")[:k]
    return ranked(
        change, k, keys=keys, diagnostics=entropy | _likelihoods("all", log_likelihood) | _likelihoods("kept", log_likelihood[kept])
    )


def min_max(log_likelihood: Floats) -> Floats | None:
    """l' in [0, 1]; null where all rows are alike, up to rounding."""
    low, high = float(log_likelihood.min()), float(log_likelihood.max())
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return None
    return np.asarray((log_likelihood - low) / (high - low))


def entropy_change(scaled: Floats, *, normalized: bool = False) -> Floats:
    """D of every row, from l' in [0, 1]: what the entropy loses when the row is left out, in closed form.

    >>> entropy_change(np.array([0, 0.25, 0.5, 1])).round(6).tolist()
    [-0.0, -0.321006, -0.824361, -2.718282]
    >>> entropy_change(np.array([0, 0.25, 0.5, 1]), normalized=True).round(6).tolist()
    [0.265731, 0.29367, 0.31154, 0.235762]
    """
    p = np.exp(scaled)
    if not normalized:
        return np.asarray(-scaled * p)
    z, s = float(p.sum()), float((p * scaled).sum())
    return np.asarray(-np.log1p(-p / z) + p * (s - scaled * z) / (z * (z - p)))


@dataclass(frozen=True, kw_only=True)
class Density:
    """A fitted mixture, and how embeddings come into its space: centred, divided by one scale, projected."""

    mixture: GaussianMixture
    centre: Floats
    scale: float
    projection: PCA | None
    diagnostics: dict[str, Any]

    def log_likelihood(self, vectors: Vectors) -> Floats:
        """Of every row, in nats."""
        return np.concatenate([self.mixture.score_samples(self.place(rows)) for _, rows in blocks(vectors)])

    def place(self, vectors: Vectors) -> Floats:
        """Rows in the mixture's space, with 64 bits."""
        return _place(vectors, self.centre, self.scale, self.projection)


def fit_density(pool: Pool, config: SelectConfig) -> Density:
    """A Gaussian mixture over the pool's vectors, or over `fit_rows` of them drawn by hash; one scale is divided out of them."""
    assert pool.vectors is not None
    sample = pool.vectors
    if len(pool) > config.fit_rows:
        drawn = np.argsort(pool.draws("fit", config.seed), kind="stable")[: config.fit_rows]
        sample = pool.vectors[np.sort(drawn)]
    wide = np.asarray(sample, dtype=np.float64)
    n, d = wide.shape
    centre = wide.mean(axis=0)
    scale = float(np.sqrt(np.square(wide - centre).mean())) or 1.0
    kind, reduced = _shape(n, d, config)
    projection = PCA(reduced, svd_solver="covariance_eigh").fit((wide - centre) / scale) if reduced < d else None
    placed = _place(sample, centre, scale, projection)
    mixture = _fit_mixture(placed, kind, config)
    told = {
        "n_fit": n,
        "n_components": config.n_components,
        "covariance": kind,
        "dimensions": reduced,
        "explained_variance": 1.0 if projection is None else float(projection.explained_variance_ratio_.sum()),
        "converged": bool(mixture.converged_),
        "n_iterations": int(mixture.n_iter_),
        "weights": sorted((float(weight) for weight in mixture.weights_), reverse=True),
        "bic": float(mixture.bic(placed)),
    }
    return Density(mixture=mixture, centre=centre, scale=scale, projection=projection, diagnostics=told)


def _fit_mixture(placed: Floats, kind: str, config: SelectConfig) -> GaussianMixture:
    """The best of several short starts, carried on to convergence (Biernacki et al. 2003): most of a fit's time goes into its end."""
    shared = {"covariance_type": kind, "reg_covar": REG * float(placed.var(axis=0).mean()), "tol": TOLERANCE, "random_state": config.seed}
    n = config.n_components
    start = GaussianMixture(n, n_init=config.n_init, max_iter=FIRST_ITERATIONS, **shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in the diagnostics
        start.fit(placed)
        begin = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
        return GaussianMixture(n, max_iter=MAX_ITERATIONS, **begin, **shared).fit(placed)


def _shape(n: int, d: int, config: SelectConfig) -> tuple[str, int]:
    """Kind of covariance, and dimensions after reduction: only full covariances are worth one."""
    most = d if config.dimensions is None else max(1, min(config.dimensions, d, n // ROWS_A_DIMENSION))
    full = n >= ROWS_A_DIMENSION * most if config.covariance == "auto" else config.covariance == "full"
    return ("full", most) if full else ("diag", d)


def _place(vectors: Vectors, centre: Floats, scale: float, projection: PCA | None) -> Floats:
    moved = (np.asarray(vectors, dtype=np.float64) - centre) / scale
    return moved if projection is None else np.asarray(projection.transform(moved))


def _likelihoods(of: str, found: Floats) -> dict[str, float]:
    return {
        f"log_likelihood_{of}_{name}": float(value) for name, value in (("min", found.min()), ("mean", found.mean()), ("max", found.max()))
    }
