"""Frequency: the least frequently used goes first."""

from collections.abc import Sequence

from typing_extensions import override

from policies.base import Evictor, items
from policies.types import Setup


class LeastFrequentlyUsed(Evictor):
    """Keep what was used most often, in (iteration, layer) events since the start; ties by recency.

    A prefetched expert counts as used once more until it is used or dropped. Counts outlive the stay in the cache.
    """

    @override
    def start(self, setup: Setup) -> None:
        """Nothing has been used yet."""
        model = setup.model
        super().start(setup)
        self._count = [0] * model.total_experts
        self._scores = items(self.scores)

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Count the event for each expert."""
        base = layer * self.experts
        for expert in experts:
            self._count[base + expert] = self._scores[base + expert] = self._count[base + expert] + 1

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """Credit the use that is expected; half a use more wins the tie, as it has no recency yet."""
        x = layer * self.experts + expert
        self._scores[x] = self._count[x] + 1.5

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """What was credited did not come."""
        x = layer * self.experts + expert
        self._scores[x] = self._count[x]
