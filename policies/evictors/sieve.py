"""SIEVE: lazy promotion, quick demotion.

It beats more elaborate algorithms on web traces and resists scans, of which prefetches that were wrong are one. S3-FIFO
follows the same idea, but its queues have sizes in proportion to the cache, which an evictor that serves several GPUs
does not know.
"""

from collections.abc import Sequence

import numpy as np

from policies.base import Evictor
from policies.types import Setup

_LAP = 2.0**40  # more than there are arrivals


class Sieve(Evictor):
    """Keep what was used since the hand last passed it; the hand moves from the oldest arrival to the newest.

    Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU (NSDI 2024). Scores are the order in which the hand
    would drop: first what has not been visited, ahead of the hand and then behind it. What the hand has passed is no
    longer visited. One hand serves all GPUs.
    """

    distinct = True

    def start(self, setup: Setup) -> None:
        """Nothing has arrived yet."""
        model = setup.model
        super().start(setup)
        self._arrival = np.zeros(model.total_experts)  # number of the arrival
        self._present = np.zeros(model.total_experts, bool)
        self._visited = np.zeros(model.total_experts, bool)
        self._arrivals = self._settled = 0  # all, and those before the running event
        self._hand = 0.0  # arrival of the last one dropped

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """A visit to what is there, the arrival of what is not."""
        self._settled = self._arrivals
        for expert in experts:
            x = layer * self.experts + expert
            if not self._present[x]:
                self._insert(x)
            elif not self._visited[x]:
                self._visited[x] = True
                self.scores[x] += 2 * _LAP

    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetch arrives; it has not been visited."""
        self._insert(layer * self.experts + expert)

    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """Move the hand to what was dropped; all that it passed on its way must be visited again."""
        x = layer * self.experts + expert
        here, hand, arrival = self._arrival[x], self._hand, self._arrival
        if self._visited[x]:  # once round
            self._visited[:] = False
        elif here > hand:
            self._visited[(arrival > hand) & (arrival < here)] = False
        else:
            self._visited[(arrival > hand) | (arrival < here)] = False
        self._present[x] = self._visited[x] = False
        newer = self._present & (arrival > here) & (arrival <= self._settled)
        self._hand = here if newer.any() else 0.0  # from the newest on, the hand begins anew at the oldest
        self.scores[:] = arrival + _LAP * (arrival < self._hand) + 2 * _LAP * self._visited

    def _insert(self, x: int) -> None:
        self._arrivals += 1
        self._present[x] = True
        self._visited[x] = False
        self._arrival[x] = self.scores[x] = self._arrivals
