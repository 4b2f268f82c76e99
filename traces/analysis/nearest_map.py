"""What the stored expert map that is nearest to a token's knows of the layers ahead (paper eq. 5).

Model cards and the naturalness of traces measure it alike: maps of single tokens, a store that does not change, the
trajectory until layer `l` searched for, and the experts named in layer `l + d`.
"""

import numpy as np

from policies.types import Float, Int
from traces.analysis.iterations import top

DISTANCE = 3  # layers ahead: the prefetch distance of the paper
MAPS = 1000  # in the store, as in the paper


def nearest_maps(queries: Float, stored: Float) -> Int:
    """`[T, L]`: after each layer, the stored map whose trajectory until then is nearest by cosine.

    `queries` `[T, L, J]`, `stored` `[C, L, J]`. Dot products of a trajectory are those of the layers before plus one.
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


def named_ahead(nearest: Int, stored: Float, distance: int, top_k: int) -> Int:
    """`[T, L − d, K]`: the experts that the `nearest` maps rank first in the layers `d … L − 1`."""
    found = nearest[:, : nearest.shape[1] - distance]
    return top(stored[found, np.arange(distance, stored.shape[1])], top_k)


def share_named(executed: Int, named: Int) -> float:
    """Of the experts that were executed `[T, l, K]`, the share that was named `[T, l, K]`; ids below 0 are none."""
    hits = (executed[..., :, None] == named[..., None, :]).any(axis=3)
    return float(hits.sum() / (executed >= 0).sum())
