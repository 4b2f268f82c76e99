"""Does fine-grained prediction beat coarse? Recall of the executed experts, from recorded routing.

A check of the model, not of a policy: every predictor names K experts of a layer for one token, before that layer's
router has spoken, and the score is the share of the executed ones among them. The policies proper are in `policies/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.types import Float, Int


@dataclass(frozen=True, slots=True)
class Routing:
    """What the routers said about the `T` tokens of one request; the first `prompt` of them are not predicted."""

    gate: Float  # [T, L, J] softmax over all experts
    experts: Int  # [T, L, K] experts executed
    prompt: int


@dataclass(frozen=True, slots=True)
class Recall:
    """Mean recall of three predictors over the same tokens and layers."""

    distance: int
    fine: float  # the nearest stored expert map, by cosine of the trajectory
    coarse: float  # the request's own counts so far
    popularity: float  # counts over all stored requests

    @property
    def shares(self) -> tuple[float, float, float]:
        """Fine, coarse, popularity."""
        return self.fine, self.coarse, self.popularity


def recall(
    stored: Sequence[Routing], requests: Sequence[Routing], distance: int, capacity: int = 1000, seed: int = 0
) -> Recall:
    """Recall at prefetch distance `d`, over layers `d … L−1` and all tokens of `requests` beyond their prompts.

    The store holds the maps of `capacity` tokens drawn at random from `stored` (paper eq. 5 with a random store); ties
    go to the first. A request's counts fall back on popularity where they tie, so for its first token altogether.
    """
    gates = np.concatenate([request.gate for request in stored])  # [N, L, J]
    experts = np.concatenate([request.experts for request in stored])  # [N, L, K]
    layers, top_k, width = gates.shape[1], experts.shape[2], gates.shape[2]
    if not 1 <= distance < layers:
        raise ValueError(f"distance {distance} must be between 1 and {layers - 1}")
    popularity = _one_hot(experts, width).mean(0)  # [L, J]
    kept = np.sort(np.random.default_rng(seed).permutation(len(gates))[:capacity])
    hits = np.zeros(3)
    total = 0
    for request in requests:
        executed = _one_hot(request.experts, width)  # [T, L, J]
        seen = np.cumsum(executed, axis=0) - executed  # [T, L, J] by earlier tokens of the request
        rows = slice(request.prompt, None)
        for layer in range(distance, layers):
            prefix = slice(0, layer - distance + 1)
            nearest = _nearest(request.gate[rows, prefix], gates[kept, prefix])  # [T]
            predictions = (
                gates[kept[nearest], layer],
                seen[rows, layer] + popularity[layer] / 2,  # a half keeps counts above popularity
                np.broadcast_to(popularity[layer], (len(nearest), width)),
            )
            truth = executed[rows, layer]
            for at, scores in enumerate(predictions):
                chosen = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
                hits[at] += np.take_along_axis(truth, chosen, axis=1).sum()
            total += truth.shape[0] * top_k
    fine, coarse, popular = hits / total
    return Recall(distance, float(fine), float(coarse), float(popular))


def _nearest(queries: Float, stored: Float) -> Int:
    """The index of the stored trajectory with the largest cosine, `[T, l, J]` against `[C, l, J]` → `[T]`."""
    left = queries.reshape(len(queries), -1)
    right = stored.reshape(len(stored), -1)
    right = right / np.linalg.norm(right, axis=1, keepdims=True)
    nearest: Int = np.argmax(left @ right.T, axis=1)  # a query's own norm does not change its argmax
    return nearest


def _one_hot(experts: Int, width: int) -> Float:
    """`[…, K]` ids → `[…, J]` with a one at each id."""
    marks = np.zeros((*experts.shape[:-1], width), dtype=np.float32)
    np.put_along_axis(marks, experts, 1.0, axis=-1)
    return marks
