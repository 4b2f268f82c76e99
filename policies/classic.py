"""Textbook policies: no prefetch, with recency for eviction, and everything resident."""

from collections.abc import Sequence

import numpy as np

from policies.base import Evictor, Policy, Prefetcher, items
from policies.types import Future, ModelShape


class LeastRecentlyUsed(Evictor):
    """Keep what was used last.

    Baseline of Mixtral-Offloading (paper §6.1); loses on layer-wise access (paper §4.5). Among the experts of one event
    the higher id counts as used later, so that scores never tie.
    """

    distinct = True

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Nothing has been used yet."""
        super().start(model, future)
        self.scores[:] = -np.inf  # number of the last use
        self._scores = items(self.scores)
        self._uses = 0

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Number the uses."""
        scores, base = self._scores, layer * self.experts
        self._uses = uses = self._uses + self.experts  # above all numbers of the events before
        for expert in experts:
            scores[base + expert] = uses + expert


def lru() -> Policy:
    """Copy on demand only, drop the least recently used."""
    return Policy(prefetcher=Prefetcher(), evictor=LeastRecentlyUsed())


def no_offload() -> Policy:
    """Every expert on its GPU from the start: what offloading is measured against."""
    return Policy(prefetcher=Prefetcher(), evictor=Evictor(), preloaded=True)
