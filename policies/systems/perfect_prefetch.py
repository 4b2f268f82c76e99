"""Perfect prediction with LRU eviction: the counterpart of `belady`, which evicts perfectly and predicts nothing.

`policies.systems.clairvoyant` combines both.
"""

from collections.abc import Iterable

import numpy as np
from typing_extensions import override

from common.errors import UserError
from policies.base import Policy, Prefetcher
from policies.evictors.recency import LeastRecentlyUsed
from policies.prediction.next_use import NextUse
from policies.types import Batch, ChunkBytes, Float, Gate, Prefetch, Setup


class PerfectPrefetcher(Prefetcher):
    """Prefetch exactly what the next `prefetch_distance` layers will demand, in this iteration and the next one.

    The nearest layer goes first. In a batch, demands of the next iteration are estimates (see `NextUse`).
    """

    requires = frozenset({"future"})

    def __init__(self, *, prefetch_distance: int = 3) -> None:
        self.prefetch_distance = prefetch_distance

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        if not 1 <= self.prefetch_distance <= model.layers:
            raise UserError(
                f"perfect-prefetch: prefetch_distance: must be from 1 to {model.layers}, not {self.prefetch_distance}"
            )
        self._shape = model.layers, model.experts
        self._next = NextUse()
        self._next.start(setup)

    @override
    def on_batch(self, batch: Batch) -> Iterable[Prefetch]:
        self._next.advance(batch)
        self._demands = _used(self._next.now.reshape(self._shape) == 0)
        self._demands += _used(self._next.later.reshape(self._shape) == 1)
        return [self._plan(layer) for layer in range(self.prefetch_distance)]

    @override
    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch]:
        return (self._plan(gate.layer + self.prefetch_distance),)

    def _plan(self, place: int) -> Prefetch:
        """The plan of a layer; `place` counts on beyond L, into the next iteration."""
        experts = self._demands[place]
        return Prefetch(place % self._shape[0], experts, [1.0] * len(experts))


def _used(demands: Float) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in demands]


def perfect_prefetch(prefetch_distance: int = 3, chunk_bytes: ChunkBytes | None = None) -> Policy:
    """Prefetch exactly what the next layers will demand, evict the least recently used: perfect prediction."""
    prefetcher = PerfectPrefetcher(prefetch_distance=prefetch_distance)
    return Policy(prefetcher=prefetcher, evictor=LeastRecentlyUsed(), chunk_bytes=chunk_bytes)
