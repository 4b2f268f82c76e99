"""Recency by layer: each layer has an equal share of the slots and evicts its own least recently used expert."""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from policies.base import Evictor
from policies.types import Setup

_FIRST = 2.0**40  # more than there are uses


class LeastRecentlyUsedByLayer(Evictor):
    """Give each layer the same number of slots, and evict what the running layer used least recently.

    The cache of Mixtral-Offloading as released. Slots that do not divide evenly go to the first layers. A layer exceeds
    its share by taking open slots, or by demanding more at once; a layer within its share takes such slots back first.
    Shares count the slots of all GPUs together: on a GPU without an expert of a layer beyond its share, the least
    recently used of any layer is evicted. So on one GPU, once no layer exceeds its share, each has its own LRU cache.
    """

    distinct = True

    @override
    def start(self, setup: Setup) -> None:
        super().start(setup)
        layers, slots = setup.model.layers, sum(setup.slots)
        self._share = slots // layers + (np.arange(layers) < slots % layers)  # [L]
        self._used_slots = np.zeros(layers, np.int64)  # [L] by experts that are present or demanded
        self._present = np.zeros(setup.model.total_experts, bool)
        self._last = np.full((layers, self.experts), -np.inf)  # [L, J] number of the last use
        self._uses = 0
        self._running = 0

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        self._running = layer
        self._use(layer, experts)

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        self._use(layer, [expert])

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        self._present[layer * self.experts + expert] = False
        self._used_slots[layer] -= 1
        self._rank()

    def _use(self, layer: int, experts: Sequence[int]) -> None:
        self._uses += self.experts  # above all numbers before
        for expert in experts:
            x = layer * self.experts + expert
            self._used_slots[layer] += not self._present[x]
            self._present[x] = True
            self._last[layer, expert] = self._uses + expert
        self._rank()

    def _rank(self) -> None:
        """Rank first the experts of the running layer if it exceeds its share, then those of others that do."""
        rank = (self._used_slots > self._share).astype(float)
        rank[self._running] *= 2
        self.scores[:] = (self._last - _FIRST * rank[:, None]).ravel()
