"""Which expert of a GPU goes when a slot is needed for another one."""

import numpy as np

from policies.base import Evictor
from policies.cache.residency import NEVER, RESIDENT, Residency
from policies.types import Float


class Victims:
    """Chooses among the experts in the slots of one GPU, all of which are taken when it is asked.

    `occupant` `[slots]` holds the number of the expert in each slot, -1 if it is open; its owner keeps it.
    """

    def __init__(self, slots: int, residency: Residency, evictor: Evictor) -> None:
        self._residency = residency
        self._evictor = evictor
        self._ties = not evictor.distinct
        self._occupants = np.full(slots, -1, np.int64)
        self.occupant = self._occupants.data
        self._every_slot = range(slots)

    def least(self, distance: int, now_s: float) -> int:
        """The slot with the least score, then least recent use, then lowest number, of those that may go; -1 if none.

        It is for a layer `distance` away, 0 for a demand: what is planned for nearer layers, or that one, stays.
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
        """Slots that `least` will answer, the first one last, to so many prefetches for one layer in a row.

        Holds while nothing is demanded or planned and scores stay. It ends early where another slot may come to be the
        least by then, and is empty if there is none now.
        """
        residency = self._residency
        if now_s >= residency.unpin_s:
            residency.pinned = ()
            residency.unpin_s = NEVER
        planned, occupant = residency.planned, self.occupant
        slots: list[int] = []
        uncertain = False  # a slot with a lower score may be free to go soon
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
        """The slot of the best victim that the evictor foresees for a prefetch; -1 if it may not go yet, or none is.

        It must be scored below what is fetched.
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
                    return -1  # it is worth the wait
                return slot
            if pinned and evictor.patience and residency.complete():
                return -1  # it can go as soon as its layer ends, which is not long
            scores[slot] = NEVER
        return -1

    def _least_recent(self, slot: int, scores: Float) -> int:
        """Among the slots whose score equals that of `slot`, the first with the least, the one used least recently."""
        least = scores[slot]
        scores[slot] = NEVER
        tied = scores[scores.argmin()] == least
        scores[slot] = least
        if not tied:
            return slot
        last_use, occupant = self._residency.last_use, self.occupant
        ties: list[int] = (scores == least).nonzero()[0].tolist()
        return min(ties, key=lambda tie: (last_use[occupant[tie]], occupant[tie]))
