"""Recency: evict the least recently used."""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from policies.base import Evictor, items
from policies.types import Setup


class LeastRecentlyUsed(Evictor):
    """Keep what was used or prefetched last.

    Baseline of Mixtral-Offloading (paper §6.1); weak on layer-by-layer access (paper §4.5). Of the experts of one
    event, the higher id counts as used later, so scores never tie.
    """

    distinct = True

    @override
    def start(self, setup: Setup) -> None:
        super().start(setup)
        self.scores[:] = -np.inf  # number of the last use
        self._scores = items(self.scores)
        self._uses = 0

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        scores, base = self._scores, layer * self.experts
        self._uses = uses = self._uses + self.experts  # above all numbers of earlier events
        for expert in experts:
            scores[base + expert] = uses + expert

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """Count the arrival of a prefetch as a use; otherwise it would be evicted first."""
        self._uses += self.experts
        self._scores[layer * self.experts + expert] = self._uses + expert
