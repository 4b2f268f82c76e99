"""A request's rows of tokens grouped into iterations, the unit of the paper's analysis."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.executed import demands_of, tokens_by_expert
from policies.types import Bool, Float, Int, RecordedRequest

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iterations:
    """The `I` forward passes of one request, in order."""

    request: int
    prefill: bool  # whether the first one is the prefill
    maps: Array  # [I, L, J] expert maps: mean of the tokens' gates, sums to 1 over J
    demands: Bool  # [I, L, J] executed experts: union over the tokens
    tokens: Counts  # [L, J] number of tokens that executed each expert
    embeddings: Float | None  # [I, h] mean of the tokens' embeddings

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def first(self) -> int:
        """Number of the first iteration in the trace: 0 for a prefill, else 1."""
        return 0 if self.prefill else 1


def iterations_of(recorded: RecordedRequest, prefill: bool) -> Iterations:
    """Group the tokens of each forward pass; `prefill` says whether the first pass is the prefill."""
    _, first, rows = np.unique(recorded.iteration, return_index=True, return_counts=True)
    experts = recorded.gate.shape[2]
    maps = np.add.reduceat(recorded.gate, first, axis=0, dtype=np.float64)
    maps /= maps.sum(axis=2, keepdims=True)  # float16 gates sum to 1 only approximately
    embeddings = None
    if recorded.embedding is not None:
        embeddings = np.add.reduceat(recorded.embedding, first, axis=0, dtype=np.float64) / rows[:, None]
    return Iterations(
        request=recorded.request,
        prefill=prefill,
        maps=maps,
        demands=demands_of(recorded.experts, np.repeat(np.arange(len(first)), rows), experts),
        tokens=tokens_by_expert(recorded.experts, experts),
        embeddings=embeddings,
    )


def shares(counts: Counts | Int | Float, axis: int = -1) -> Array:
    """Counts divided by their sum along `axis`; 0 where the sum is 0."""
    total = np.asarray(counts, np.float64).sum(axis=axis, keepdims=True)
    found: Array = np.divide(counts, total, out=np.zeros(np.shape(counts)), where=total > 0)
    return found


def ratio(part: Float | Counts, whole: Float | Counts | int) -> Array:
    """`part / whole` element by element, NaN where the whole is 0."""
    parts, wholes = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    found: Array = np.divide(parts, wholes, out=np.full(parts.shape, np.nan), where=wholes != 0)
    return found


def top(scores: Float, count: int) -> Int:
    """The experts with the highest scores, `[…, J]` → `[…, count]` int16, best first, ties to the lower number."""
    found: Int = np.argsort(-scores, axis=-1, kind="stable")[..., :count].astype(np.int16)
    return found
