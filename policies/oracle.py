"""Policies that are told the future: Belady's eviction without prefetch, and perfect prefetch with LRU.

Bounds for one half of the problem each; `policies.clairvoyant` has both.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from policies.base import Evictor, Policy, Prefetcher
from policies.classic import LeastRecentlyUsed
from policies.errors import UserError
from policies.next_use import NextUse
from policies.types import Batch, Float, Future, Gate, History, ModelShape, Prefetch


class Belady(Evictor):
    """Drop what is demanded again last; told the future of every request.

    Exact when requests are served one after the other: no on-demand policy misses less. An estimate in a batch (see
    `NextUse`). Experts that are there and those that are not are scored alike.
    """

    requires = frozenset({"future"})

    def __init__(self) -> None:
        self._next = NextUse()

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Find each expert's first use in the requests to come."""
        super().start(model, future)
        self._next.start(model, future)
        self._layers = model.layers
        self._layer = np.repeat(np.arange(model.layers, dtype=np.float64), model.experts)  # [L·J]

    def on_batch(self, batch: Batch) -> None:
        """Score each expert by its next use, in layers from the beginning of this iteration."""
        self._next.advance(batch)
        self._use_later = -(self._next.later * self._layers + self._layer)
        self.scores[:] = -(self._next.now * self._layers + self._layer)

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """This iteration's use has happened; the next one counts from here."""
        for expert in experts:
            x = layer * self.experts + expert
            self.scores[x] = self._use_later[x]


class PerfectPrefetcher(Prefetcher):
    """Knows what the next `prefetch_distance` layers will demand, in this iteration and the next one.

    Nearest layer first. In a batch the next iteration is an estimate (see `NextUse`).
    """

    requires = frozenset({"future"})

    def __init__(self, *, prefetch_distance: int = 3) -> None:
        self.prefetch_distance = prefetch_distance

    def start(
        self, model: ModelShape, history: History | None, future: Future | None, rng: np.random.Generator
    ) -> None:
        """Be told."""
        if not 1 <= self.prefetch_distance <= model.layers:
            raise UserError(
                f"perfect-prefetch: prefetch_distance {self.prefetch_distance} is not in 1 … {model.layers}"
            )
        self._shape = model.layers, model.experts
        self._next = NextUse()
        self._next.start(model, future)

    def on_batch(self, batch: Batch) -> Iterable[Prefetch]:
        """Plan the first layers, and look up what the others and those of the next iteration will demand."""
        self._next.advance(batch)
        self._demands = _used(self._next.now.reshape(self._shape) == 0)
        self._demands += _used(self._next.later.reshape(self._shape) == 1)
        return [self._plan(layer) for layer in range(self.prefetch_distance)]

    def on_gate(self, batch: Batch, gate: Gate) -> Iterable[Prefetch]:
        """Plan the layer that has come within the distance."""
        return (self._plan(gate.layer + self.prefetch_distance),)

    def _plan(self, place: int) -> Prefetch:
        """`place` counts layers from the first one of this iteration."""
        experts = self._demands[place]
        return Prefetch(place % self._shape[0], experts, [1.0] * len(experts))


def _used(demands: Float) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in demands]


def belady() -> Policy:
    """Copy on demand only, drop what is needed again last (Belady): a bound for eviction, not for time."""
    return Policy(prefetcher=Prefetcher(), evictor=Belady())


def perfect_prefetch(prefetch_distance: int = 3) -> Policy:
    """Prefetch exactly what the next layers will demand, drop the least recently used: a bound for prediction."""
    prefetcher = PerfectPrefetcher(prefetch_distance=prefetch_distance)
    return Policy(prefetcher=prefetcher, evictor=LeastRecentlyUsed())
