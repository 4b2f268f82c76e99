"""How well the nearest stored expert map predicts the layers ahead (paper eq. 5).

Model cards and the naturalness of traces use the same measure: maps of single tokens in a fixed store are searched for
the trajectory up to layer `l`, and the nearest map predicts the experts of layer `l + d`.
"""

import numpy as np

from policies.types import Float, Int
from traces.analysis.iterations import top

DISTANCE = 3  # layers ahead: the prefetch distance of the paper
MAPS = 1000  # size of the store, as in the paper


def nearest_maps(queries: Float, stored: Float) -> Int:
    """`[T, L]`: after each layer, the stored map whose trajectory up to there is nearest by cosine.

    `queries` `[T, L, J]`, `stored` `[C, L, J]`. The dot products of trajectories accumulate from layer to layer.
    """
    dots = np.zeros((len(queries), len(stored)), np.float32)
    squares = np.zeros(len(stored), np.float32)
    nearest = np.empty(queries.shape[:2], np.int64)
    for layer in range(queries.shape[1]):
        right = stored[:, layer].astype(np.float32)
        dots += queries[:, layer].astype(np.float32) @ right.T
        squares += np.square(right).sum(axis=1)
        nearest[:, layer] = np.argmax(dots / np.sqrt(squares), axis=1)  # a query's own norm does not change its argmax
    return nearest


def predicted_ahead(nearest: Int, stored: Float, distance: int, top_k: int) -> Int:
    """`[T, L − d, K]`: the top K experts of the `nearest` maps in layers `d … L − 1`."""
    found = nearest[:, : nearest.shape[1] - distance]
    return top(stored[found, np.arange(distance, stored.shape[1])], top_k)


def share_predicted(executed: Int, predicted: Int) -> float:
    """Share of the `executed` experts `[T, l, K]` that were `predicted` `[T, l, K]`; negative ids do not count."""
    hits = (executed[..., :, None] == predicted[..., None, :]).any(axis=3)
    return float(hits.sum() / (executed >= 0).sum())
