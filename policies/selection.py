"""Which experts a found map calls for (paper eq. 6-8)."""

import numpy as np

from policies.types import Bool, Float


def select(probs: Float, score: Float, top_k: int) -> Bool:
    """The experts to prefetch from distributions `[…, J]` that were found with similarity `score` `[…]`.

    Eq. 6: δ = clip(1 − score, 0, 1). Eq. 7, 8: experts in falling probability (ties by id) until their sum exceeds δ,
    and at least `top_k` of them. The answer is a mask of the shape of `probs`.
    """
    total = probs.shape[-1]
    rows = probs.reshape(-1, total)
    # Places of the experts in falling order, within the flattened array: indexing that is faster than along an axis.
    order = (-rows).argsort(axis=1, kind="stable") + np.arange(0, rows.size, total)[:, None]
    running = rows.reshape(-1)[order].cumsum(axis=1)
    delta = np.minimum(np.maximum(1 - score, 0), 1).reshape(-1, 1)
    chosen = np.ones(rows.shape, bool)
    chosen[:, top_k:] = running[:, top_k - 1 : -1] <= delta  # the sum before an expert has not passed δ yet
    mask = np.empty(rows.size, bool)
    mask[order] = chosen
    return mask.reshape(probs.shape)
