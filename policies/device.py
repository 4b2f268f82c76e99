"""One GPU of the expert cache: its slots, what waits for its link, and which expert goes when a slot is needed."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from policies.base import Evictor
from policies.residency import ABSENT, COPYING, NEVER, RESIDENT, Residency
from policies.types import Copy

Queue = list[tuple[float, int]]


class Device:
    """The slots and the link of one GPU."""

    def __init__(
        self, gpu: int, slots: int, residency: Residency, evictor: Evictor, chunk_bytes: Sequence[int]
    ) -> None:
        self.gpu = gpu
        self.slots = slots
        self.demanded: deque[int] = deque()
        self.pending: dict[int, Queue] = {}  # per layer (weight, -expert) in rising order
        self.paused = -1  # a prefetch between two chunks
        self._residency = residency
        self._evictor = evictor
        self._chunk_bytes = chunk_bytes
        self._open = list(range(slots))[::-1]
        self._occupants = np.zeros(slots, np.int64)
        self._occupant = self._occupants.data
        self._distinct = evictor.distinct
        self._tell_loaded = type(evictor).loaded is not Evictor.loaded
        self._tell_evicted = type(evictor).evicted is not Evictor.evicted
        self._victim = -1  # what was dropped for the copy that begins

    def wish(self, layer: int, x: int, weight: float) -> None:
        """Queue a prefetch."""
        queue = self.pending.get(layer)
        if queue is None:
            self.pending[layer] = [(weight, -x)]
        else:
            queue.append((weight, -x))
            queue.sort()

    def next_copy(self, now_s: float) -> Copy | None:
        """Demand first, then by weight / distance (eq. 10)."""
        self._residency.stalled &= ~(1 << self.gpu)
        if self.demanded:
            x = self.demanded[0]
            if self._residency.where[x] == ABSENT and not self._take_slot(x, 0, now_s):
                return None
            self.demanded.popleft()
            return self._chunk(x, True)
        x = self.paused
        if x >= 0:
            if self._residency.planned[x]:
                self.paused = -1
                return self._chunk(x, False)
            self._cancel()  # its layer has been gated without it, or a new plan is without it
        pending = self.pending
        if not pending:
            return None
        for layer in self._by_priority() if len(pending) > 1 else list(pending):
            queue = pending[layer]
            x = -queue[-1][1]
            if self._take_slot(x, self._residency.distance(layer), now_s):
                if len(queue) > 1:
                    queue.pop()
                else:
                    del pending[layer]
                self._residency.unused[x] = 1
                self._residency.counts.prefetched += 1
                return self._chunk(x, False)
        return None

    def copied(self, copy: Copy, x: int, now_s: float) -> bool:
        """A chunk has arrived; True if its expert is now complete."""
        residency = self._residency
        residency.counts.bytes += copy.bytes
        arrived = residency.arrived[x] = copy.chunk + 1
        if arrived < len(self._chunk_bytes):
            if residency.pinned[x]:
                self.demanded.appendleft(x)
            else:
                self.paused = x
            return False
        residency.where[x] = RESIDENT
        if self._tell_loaded:
            self._evictor.loaded(copy.layer, copy.expert, now_s)
        return True

    def promote(self, x: int) -> bool:
        """A copy on its way has become a demand; True if the link has to be told, because it is paused."""
        if self.paused != x:
            return False  # a chunk is in the air, `copied` queues the rest
        self.paused = -1
        self.demanded.appendleft(x)
        return True

    def preload(self, x: int) -> None:
        """Put an expert into an open slot before anything runs."""
        self._fill(x, self._open.pop())
        self._residency.where[x] = RESIDENT

    def _by_priority(self) -> list[int]:
        """Layers by falling weight / distance of their best expert; equal ones by distance."""
        ranks = []
        for layer, queue in self.pending.items():
            distance = self._residency.distance(layer)
            ranks.append((-queue[-1][0] / distance, distance, layer))
        ranks.sort()
        return [layer for _, _, layer in ranks]

    def _cancel(self) -> None:
        x, self.paused = self.paused, -1
        residency = self._residency
        residency.where[x] = ABSENT
        residency.unused[x] = 0
        residency.taken -= 1
        residency.counts.cancelled += 1
        self._open.append(residency.slot[x])

    def _take_slot(self, x: int, distance: int, now_s: float) -> bool:
        """Give an expert a slot, as its copy is to begin; False if there is none that it may take.

        It is for the layer `distance` away, 0 for a demand: what is planned for nearer ones, or that one, stays.
        """
        residency = self._residency
        self._victim = -1
        if self._open:
            slot = self._open.pop()
        else:
            slot = self._victim_slot(distance, now_s)
            if slot >= 0:
                self._evict(self._occupant[slot], now_s)
            elif distance == 0 and self.paused >= 0:
                self._cancel()
                slot = self._open.pop()
            else:
                residency.stalled |= 1 << self.gpu
                return False
        self._fill(x, slot)
        residency.where[x] = COPYING
        residency.arrived[x] = 0
        residency.counts.copies += 1
        return True

    def _fill(self, x: int, slot: int) -> None:
        residency = self._residency
        residency.slot[x] = slot
        self._occupant[slot] = x
        residency.taken = taken = residency.taken + 1
        if taken > residency.counts.peak_slots:
            residency.counts.peak_slots = taken

    def _victim_slot(self, distance: int, now_s: float) -> int:
        """The slot with the least score, then the least recent use, then the lowest number; -1 if none may go."""
        residency, occupant = self._residency, self._occupant
        if now_s >= residency.unpin_s:
            residency.unpin()
        scores = self._evictor.scores[self._occupants]
        while True:
            slot = int(scores.argmin())
            least = scores[slot]
            if least == NEVER:
                return -1
            if not self._distinct:
                ties = (scores == least).nonzero()[0].tolist()
                if len(ties) > 1:
                    slot = min(ties, key=lambda tie: (residency.last_use[occupant[tie]], occupant[tie]))
            x = occupant[slot]
            held = residency.pinned[x] or residency.where[x] != RESIDENT
            if not held and not (residency.planned[x] and residency.distance(x // residency.experts) <= distance):
                return slot
            scores[slot] = NEVER

    def _evict(self, x: int, now_s: float) -> None:
        residency = self._residency
        self._victim = x
        residency.where[x] = ABSENT
        residency.taken -= 1
        residency.counts.evictions += 1
        if residency.unused[x]:
            residency.unused[x] = 0
            residency.counts.wasted += 1
        if self._tell_evicted:
            self._evictor.evicted(*divmod(x, residency.experts), now_s)

    def _chunk(self, x: int, demanded: bool) -> Copy:
        """The next chunk of an expert that has a slot."""
        residency = self._residency
        layer, expert = divmod(x, residency.experts)
        chunk = residency.arrived[x]
        victim, self._victim = self._victim, -1
        return Copy(self.gpu, layer, expert, chunk, self._chunk_bytes[chunk], residency.slot[x], victim, demanded)
