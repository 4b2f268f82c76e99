"""The iterations of a request, made of its tokens: the grain of the paper's analysis."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.executed import demands_of, tokens_by_expert
from policies.types import Bool, Float, Int, RecordedRequest

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iterations:
    """All forward passes of one request, `I` of them in order."""

    request: int
    prefill: bool  # whether the first of them is the prefill
    maps: Array  # [I, L, J] expert maps: the mean of the tokens' gates, each summing to 1
    demands: Bool  # [I, L, J] the experts that were executed: the union over the tokens
    tokens: Counts  # [L, J] how many tokens each expert was executed for
    embeddings: Float | None  # [I, h] mean of the tokens' embeddings

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def first(self) -> int:
        """The number of the first one in the trace: 0 if it is the prefill, else 1."""
        return 0 if self.prefill else 1


def iterations_of(recorded: RecordedRequest, prefill: bool) -> Iterations:
    """Put the tokens of each forward pass together; `prefill` says whether the first of them is the prefill."""
    _, first, rows = np.unique(recorded.iteration, return_index=True, return_counts=True)
    experts = recorded.gate.shape[2]
    maps = np.add.reduceat(recorded.gate, first, axis=0, dtype=np.float64)
    maps /= maps.sum(axis=2, keepdims=True)  # float16 gates sum to 1 only nearly
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
    """The same as shares of their sum; of nothing, 0."""
    total = np.asarray(counts, np.float64).sum(axis=axis, keepdims=True)
    found: Array = np.divide(counts, total, out=np.zeros(np.shape(counts)), where=total > 0)
    return found


def ratio(part: Float | Counts, whole: Float | Counts | int) -> Array:
    """Element by element, NaN where the whole is 0."""
    parts, wholes = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    found: Array = np.divide(parts, wholes, out=np.full(parts.shape, np.nan), where=wholes != 0)
    return found


def top(scores: Float, count: int) -> Int:
    """`[…, J]` → `[…, count]` int16: the experts with the highest scores, best first, ties to the lower number."""
    found: Int = np.argsort(-scores, axis=-1, kind="stable")[..., :count].astype(np.int16)
    return found
