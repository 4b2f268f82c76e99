"""Which experts a prediction selects (paper eq. 6-8), and the plans made from them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from policies.types import Bool, Float, Prefetch

Threshold = Literal["exceed", "demo", "top-k"]


def select(probs: Float, score: Float, top_k: int, threshold: Threshold = "exceed") -> Bool:
    """The experts to prefetch from distributions `[…, J]` that were found with similarity `score` `[…]`.

    Eq. 6: δ = clip(1 − score, 0, 1). Eq. 7, 8: experts in falling probability (ties by id) until their sum exceeds δ,
    and at least `top_k` of them. The authors' "demo" leaves out the expert with which the sum exceeds δ; "top-k"
    ignores δ. A distribution of zeros, from a layer that was skipped, selects none. Returns a mask of the shape of
    `probs`.
    """
    total = probs.shape[-1]
    rows = probs.reshape(-1, total)
    # Places of the experts in falling order, within the flattened array: indexing that is faster than along an axis.
    order = (-rows).argsort(axis=1, kind="stable") + np.arange(0, rows.size, total)[:, None]
    chosen = np.ones(rows.shape, bool)
    if threshold == "top-k":
        chosen[:, top_k:] = False
    else:
        running = rows.reshape(-1)[order].cumsum(axis=1)
        delta = np.minimum(np.maximum(1 - score, 0), 1).reshape(-1, 1)
        # An expert is chosen while the sum is at most δ: "demo" adds its own probability, others only those before it.
        chosen[:, top_k:] = (running[:, top_k:] if threshold == "demo" else running[:, top_k - 1 : -1]) <= delta
    mask = np.empty(rows.size, bool)
    mask[order] = chosen
    return mask.reshape(probs.shape) & probs.any(axis=-1, keepdims=True)


def plan(layer: int, probs: Float, score: np.floating, top_k: int, threshold: Threshold = "exceed") -> Prefetch:
    """The same as `plans` from `select`, for one record and one layer, `probs` `[J]`, in a fifth of the time."""
    order = (-probs).argsort(kind="stable")
    count = top_k
    if threshold != "top-k":
        running = probs[order].cumsum()
        sums = running[top_k:] if threshold == "demo" else running[top_k - 1 : -1]
        count += int(sums.searchsorted(min(max(float(1 - score), 0.0), 1.0), side="right"))
    if not probs[order[0]]:
        count = 0
    chosen = order[:count]
    chosen.sort()
    return Prefetch(layer, chosen.tolist(), probs[chosen].tolist(), probs.astype(np.float64))


def highest(probs: Float, count: int) -> Float:
    """The probabilities `[…, J]` of the `count` most probable experts, ties by id; −1 for the others and for zeros."""
    total = probs.shape[-1]
    rows = probs.reshape(-1, total)
    order = (-rows).argsort(axis=1, kind="stable")[:, :count] + np.arange(0, rows.size, total)[:, None]
    weights = np.full(rows.size, -1, probs.dtype)
    weights[order] = rows.reshape(-1)[order]
    weights[weights == 0] = -1
    return weights.reshape(probs.shape)


def highest_plan(layer: int, probs: Float, count: int) -> Prefetch:
    """The same as `plans` from `highest`, for one record and one layer, `probs` `[J]`, in a fraction of the time."""
    chosen = (-probs).argsort(kind="stable")[:count]
    chosen.sort()
    weights = probs[chosen]
    if not weights.all():
        chosen = chosen[weights != 0]
        weights = probs[chosen]
    return Prefetch(layer, chosen.tolist(), weights.tolist(), probs.astype(np.float64))


def plans(weights: Float, probs: Float, first: int, starts: Sequence[int] = (0,)) -> list[Prefetch]:
    """Plans of the layers from `first` on, one iteration after the other.

    Each record gives each expert a weight, negative if not selected, and a probability, both `[R, layers, J]`; `starts`
    lists the first record of each iteration. The maximum over an iteration's records counts.
    """
    layers, experts = probs.shape[1:]
    if len(starts) < len(probs):
        weights = np.maximum.reduceat(weights, starts, axis=0)
        probs = np.maximum.reduceat(probs, starts, axis=0)
    weights, beliefs = weights.reshape(-1, experts), probs.reshape(-1, experts).astype(np.float64)
    row, expert = np.nonzero(weights >= 0)
    end = row.searchsorted(np.arange(len(weights)), side="right").tolist()
    ids, weight = expert.tolist(), weights[row, expert].tolist()
    answer, begin = [], 0
    for number, (stop, belief) in enumerate(zip(end, beliefs, strict=True)):
        answer.append(Prefetch(first + number % layers, ids[begin:stop], weight[begin:stop], belief))
        begin = stop
    return answer
