"""What the texts of a dataset are about, as a map: clusters with the words that set them apart, and a place for every text.

Words are weighed by TF-IDF, brought to few dimensions (latent semantic analysis, Deerwester et al. 1990) and clustered by k-means; the map
shows the two directions in which the reduced texts differ most. It is to look at: distances on it are no measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curators.pairs import unit_hash

FEWEST = 12
DIMENSIONS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterMap:
    """`places` is n × 2 and `cluster` n numbers into `words` (the three words of each cluster), of `n_drawn` texts of `n_texts`."""

    places: np.ndarray
    cluster: np.ndarray
    words: tuple[str, ...]
    n_drawn: int
    n_texts: int


def cluster_map(texts: Sequence[str], *, clusters: int = 8, most: int = 2000, seed: int = 0) -> ClusterMap | None:
    """The map of different texts, of at most `most` of them, drawn by a hash; null for fewer than a dozen, or texts without words.

    The same texts in another order give the same map.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    different = sorted(set(texts))
    drawn = sorted(different, key=lambda text: unit_hash("map", seed, text))[:most]
    if len(drawn) < FEWEST:
        return None
    weigher = TfidfVectorizer(sublinear_tf=True, max_features=20_000, stop_words="english")
    try:
        weights = weigher.fit_transform(drawn)
    except ValueError:  # no words at all
        return None
    if weights.shape[1] <= 2:
        return None
    reduced = TruncatedSVD(min(DIMENSIONS, weights.shape[1] - 1), random_state=seed).fit_transform(weights)
    found = KMeans(min(clusters, len(drawn) // 4), n_init=4, random_state=seed).fit_predict(reduced)
    order = np.argsort(-np.bincount(found))
    rank = np.argsort(order)[found]
    names = weigher.get_feature_names_out()
    everywhere = np.asarray(weights.mean(axis=0)).ravel()
    words = []
    for number in range(len(order)):
        apart = np.asarray(weights[rank == number].mean(axis=0)).ravel() - everywhere
        words.append(", ".join(names[place] for place in np.argsort(-apart)[:3]))
    places = PCA(2, random_state=seed).fit_transform(reduced)
    return ClusterMap(places=places, cluster=rank, words=tuple(words), n_drawn=len(drawn), n_texts=len(different))
