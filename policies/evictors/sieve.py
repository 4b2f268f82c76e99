"""SIEVE: lazy promotion, quick demotion.

It beats more elaborate algorithms on web traces and resists scans, of which prefetches that were wrong are one. S3-FIFO
follows the same idea, but its queues have sizes in proportion to the cache, which an evictor that serves several GPUs
does not know.
"""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from policies.base import Evictor
from policies.types import Setup

_LAP = 2.0**40  # more than there are arrivals


class Sieve(Evictor):
    """Keep what was used since the hand last passed it; the hand moves from the oldest arrival to the newest.

    Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU (NSDI 2024). Scores are the order in which the hand
    would drop: first what has not been visited, ahead of the hand and then behind it. What the hand has passed is no
    longer visited. The experts of an event are taken in turn, as single accesses would be, but for one thing: the hand
    passes over those that the event still needs. One hand serves all GPUs.

    With `event_atomic`, which is not SIEVE, the experts of an event arrive together after all that is dropped for them,
    so the hand, once past all others, begins anew at the oldest. On real routing that can hit more often: gpt-oss-20b
    with room for half of its experts 0.70 against 0.66 (LRU 0.89).
    """

    distinct = True

    def __init__(self, *, event_atomic: bool = False) -> None:
        self.event_atomic = event_atomic

    @override
    def start(self, setup: Setup) -> None:
        """Nothing has arrived yet."""
        model = setup.model
        super().start(setup)
        self._slots = sum(setup.slots)
        self._arrival = np.zeros(model.total_experts)  # number of the arrival
        self._present = np.zeros(model.total_experts, bool)
        self._visited = np.zeros(model.total_experts, bool)
        self._arrivals = self._settled = 0  # all, and those for which there was or is a slot: a hand may meet them
        self._visits: list[tuple[int, int]] = []  # of the running event: (arrivals before it, expert's number)
        self._hand = 0.0  # arrival of the last one dropped

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """A visit to what is there, the arrival of what is not."""
        self._settled = self._arrivals
        open_slots = self._slots - int(np.count_nonzero(self._present))
        self._visits.clear()
        for expert in experts:
            x = layer * self.experts + expert
            if not self._present[x]:
                self._insert(x)
                continue
            self._visits.append((self._arrivals, x))
            if not self._visited[x]:
                self._visited[x] = True
                self.scores[x] += 2 * _LAP
        if not self.event_atomic:  # the first ones to arrive need nobody's slot
            self._settled = min(self._settled + open_slots, self._arrivals)

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """A prefetch arrives; it has not been visited."""
        self._insert(layer * self.experts + expert)
        if not self.event_atomic and self._settled == self._arrivals - 1:
            self._settled = self._arrivals

    @override
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
        if not self.event_atomic:
            self._visited[[visited for before, visited in self._visits if before > self._settled]] = True
            self._settled = min(self._settled + 1, self._arrivals)  # the one that it was dropped for
        self.scores[:] = arrival + _LAP * (arrival < self._hand) + 2 * _LAP * self._visited

    def _insert(self, x: int) -> None:
        self._arrivals += 1
        self._present[x] = True
        self._visited[x] = False
        self._arrival[x] = self.scores[x] = self._arrivals
