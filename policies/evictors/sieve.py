"""SIEVE: lazy promotion, quick demotion.

It beats more elaborate algorithms on web traces and resists scans, and wrong prefetches are a kind of scan. S3-FIFO
follows the same idea, but the sizes of its queues are in proportion to a cache, while an evictor here serves the caches
of several GPUs.
"""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from policies.base import Evictor
from policies.types import Setup

_LAP = 2.0**40  # more than there are arrivals


class Sieve(Evictor):
    """Keep what was used since the hand last passed it; the hand moves from the oldest arrival to the newest.

    Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU (NSDI 2024). Scores follow the order in which the
    hand would evict: first experts that have not been visited, ahead of the hand and then behind it. Experts that the
    hand has passed no longer count as visited. The experts of an event are taken in turn, like single accesses, except
    that the hand skips those that the event still needs. One hand serves all GPUs.

    With `event_atomic`, which is not SIEVE, the experts of an event arrive together after all evictions for them, so
    the hand, once past all others, begins again at the oldest. On real routing that can hit more often: with
    gpt-oss-20b and room for half of its experts, 0.70 against 0.66 (LRU: 0.89).
    """

    distinct = True

    def __init__(self, *, event_atomic: bool = False) -> None:
        self.event_atomic = event_atomic

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        super().start(setup)
        self._slots = sum(setup.slots)
        self._arrival = np.zeros(model.total_experts)  # number of the arrival
        self._present = np.zeros(model.total_experts, bool)
        self._visited = np.zeros(model.total_experts, bool)
        self._arrivals = self._settled = 0  # all, and those that got a slot, which the hand may meet
        self._visits: list[tuple[int, int]] = []  # of the running event: (arrivals before it, expert's number)
        self._hand = 0.0  # arrival number of the last one evicted

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Visit the experts that are present; the others arrive."""
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
        if not self.event_atomic:  # the first ones to arrive take open slots
            self._settled = min(self._settled + open_slots, self._arrivals)

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        self._insert(layer * self.experts + expert)
        if not self.event_atomic and self._settled == self._arrivals - 1:
            self._settled = self._arrivals

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """Move the hand to the evicted expert; all that it passed on its way must be visited again."""
        x = layer * self.experts + expert
        here, hand, arrival = self._arrival[x], self._hand, self._arrival
        if self._visited[x]:  # the hand went all the way round
            self._visited[:] = False
        elif here > hand:
            self._visited[(arrival > hand) & (arrival < here)] = False
        else:
            self._visited[(arrival > hand) | (arrival < here)] = False
        self._present[x] = self._visited[x] = False
        newer = self._present & (arrival > here) & (arrival <= self._settled)
        self._hand = here if newer.any() else 0.0  # past the newest, the hand begins again at the oldest
        if not self.event_atomic:
            self._visited[[visited for before, visited in self._visits if before > self._settled]] = True
            self._settled = min(self._settled + 1, self._arrivals)  # the arrival that it was evicted for
        self.scores[:] = arrival + _LAP * (arrival < self._hand) + 2 * _LAP * self._visited

    def _insert(self, x: int) -> None:
        self._arrivals += 1
        self._present[x] = True
        self._visited[x] = False
        self._arrival[x] = self.scores[x] = self._arrivals
