"""The choice of the expert to evict from a GPU when a slot is needed."""

import numpy as np

from policies.base import Evictor
from policies.cache.residency import NEVER, RESIDENT, Residency
from policies.types import Float


class Victims:
    """Chooses among the experts in the slots of one GPU; all slots must be taken.

    `occupant` `[slots]` is the number of the expert in each slot, -1 if open; the device keeps it up to date.
    """

    def __init__(self, slots: int, residency: Residency, evictor: Evictor) -> None:
        self._residency = residency
        self._evictor = evictor
        self._ties = not evictor.distinct
        self._occupants = np.full(slots, -1, np.int64)
        self.occupant = self._occupants.data
        self._every_slot = range(slots)

    def least(self, distance: int, now_s: float) -> int:
        """The evictable slot with the least score, then least recent use, then lowest number; -1 if there is none.

        It is for a layer `distance` away, 0 for a demand. Experts planned for that layer or nearer ones stay.
        """
        residency = self._residency
        if now_s >= residency.unpin_s:
            residency.pinned = ()
            residency.unpin_s = NEVER
        planned, occupant, ties = residency.planned, self.occupant, self._ties
        scores = self._evictor.scores[self._occupants]
        for _ in self._every_slot:
            slot = int(scores.argmin())
            if ties:
                slot = self._least_recent(slot, scores)
            x = occupant[slot]
            if (
                not (planned[x] and residency.distance(x // residency.experts) <= distance)
                and residency.where[x] == RESIDENT
                and x - residency.pin_base not in residency.pinned
            ):
                return slot
            scores[slot] = NEVER
        return -1

    def run(self, length: int, distance: int, now_s: float) -> list[int]:
        """Slots that `least` will return, the first one last, for `length` prefetches for one layer in a row.

        Valid while nothing is demanded or planned and scores do not change. The list ends early if another slot may
        become the least by then, and is empty if no slot is evictable now.
        """
        residency = self._residency
        if now_s >= residency.unpin_s:
            residency.pinned = ()
            residency.unpin_s = NEVER
        planned, occupant = residency.planned, self.occupant
        slots: list[int] = []
        uncertain = False  # a slot with a lower score may become evictable soon
        for slot in self._evictor.scores[self._occupants].argsort(kind="stable").tolist():
            x = occupant[slot]
            if planned[x] and residency.distance(x // residency.experts) <= distance:
                continue
            if residency.where[x] == RESIDENT and x - residency.pin_base not in residency.pinned:
                slots.append(slot)
                if uncertain or len(slots) == length:
                    break
            elif slots:
                break
            else:
                uncertain = True
        slots.reverse()
        return slots

    def guarded(self, fetched: int, now_s: float) -> int:
        """The slot of the best victim that the evictor foresees for a prefetch; -1 if it must wait or there is none.

        The victim's score must be below that of the fetched expert.
        """
        residency, evictor = self._residency, self._evictor
        if now_s >= residency.unpin_s:
            residency.pinned = ()
            residency.unpin_s = NEVER
        own = evictor.scores[fetched]
        scores = evictor.foreseen(fetched, self._occupants)
        for _ in self._every_slot:
            slot = int(scores.argmin())
            if scores[slot] >= own:
                return -1
            x = self.occupant[slot]
            pinned = x - residency.pin_base in residency.pinned
            if residency.where[x] == RESIDENT and not pinned:
                if evictor.scores[x] >= own:
                    return -1  # this victim is worth waiting for
                return slot
            if pinned and evictor.patience and residency.complete():
                return -1  # this victim becomes evictable when its layer ends, which is soon
            scores[slot] = NEVER
        return -1

    def _least_recent(self, slot: int, scores: Float) -> int:
        """Of the slots that tie with `slot`, the first with the least score, the one used least recently."""
        least = scores[slot]
        scores[slot] = NEVER
        tied = scores[scores.argmin()] == least
        scores[slot] = least
        if not tied:
            return slot
        last_use, occupant = self._residency.last_use, self.occupant
        ties: list[int] = (scores == least).nonzero()[0].tolist()
        return min(ties, key=lambda tie: (last_use[occupant[tie]], occupant[tie]))
