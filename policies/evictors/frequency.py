"""Frequency: evict the least frequently used."""

from collections.abc import Sequence

from typing_extensions import override

from policies.base import Evictor, items
from policies.types import Setup


class LeastFrequentlyUsed(Evictor):
    """Keep what was used most often, in (iteration, layer) events since the start; ties are broken by recency.

    A prefetched expert counts as used once more until it is used or evicted. Counts survive an eviction.
    """

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        super().start(setup)
        self._count = [0] * model.total_experts
        self._scores = items(self.scores)

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        base = layer * self.experts
        for expert in experts:
            self._count[base + expert] = self._scores[base + expert] = self._count[base + expert] + 1

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """Credit the expected use; half a use more wins ties, as the expert has no recency yet."""
        x = layer * self.experts + expert
        self._scores[x] = self._count[x] + 1.5

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        x = layer * self.experts + expert
        self._scores[x] = self._count[x]
