"""Textbook caches: recency and frequency for eviction, no prefetch; and everything resident."""

from collections.abc import Sequence

import numpy as np

from policies.base import Evictor, Policy, Prefetcher, items
from policies.types import Future, ModelShape


class LeastRecentlyUsed(Evictor):
    """Keep what was used, or prefetched, last.

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

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetch counts as a use when it arrives; otherwise it would be the first to go."""
        self._uses += self.experts
        self._scores[layer * self.experts + expert] = self._uses + expert


class LeastFrequentlyUsed(Evictor):
    """Keep what was used most often, in (iteration, layer) events since the start; ties by recency.

    A prefetched expert counts as used once more until it is used or dropped. Counts outlive the stay in the cache.
    """

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Nothing has been used yet."""
        super().start(model, future)
        self._count = [0] * model.total_experts
        self._scores = items(self.scores)

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Count the event for each expert."""
        base = layer * self.experts
        for expert in experts:
            self._count[base + expert] = self._scores[base + expert] = self._count[base + expert] + 1

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """Credit the use that is expected; half a use more wins the tie, as it has no recency yet."""
        x = layer * self.experts + expert
        self._scores[x] = self._count[x] + 1.5

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """What was credited did not come."""
        x = layer * self.experts + expert
        self._scores[x] = self._count[x]


def lru() -> Policy:
    """Copy on demand only, drop the least recently used."""
    return Policy(prefetcher=Prefetcher(), evictor=LeastRecentlyUsed())


def lfu() -> Policy:
    """Copy on demand only, drop the least frequently used."""
    return Policy(prefetcher=Prefetcher(), evictor=LeastFrequentlyUsed())


def no_offload() -> Policy:
    """Every expert on its GPU from the start: what offloading is measured against."""
    return Policy(prefetcher=Prefetcher(), evictor=Evictor(), preloaded=True)
