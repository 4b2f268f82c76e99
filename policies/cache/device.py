"""One GPU of the expert cache: its slots, what waits for its link, and which expert goes when a slot is needed."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from policies.base import Evictor
from policies.cache.residency import ABSENT, COPYING, NEVER, RESIDENT, Residency
from policies.types import Copy, Float

Queue = list[tuple[float, int]]


class Device:
    """The slots and the link of one GPU.

    `all_stalled` is shared by the devices of a cache: those whose link found work but no slot that it may take.
    """

    def __init__(
        self,
        gpu: int,
        slots: int,
        residency: Residency,
        evictor: Evictor,
        chunk_bytes: Sequence[int],
        all_stalled: "list[Device]",
    ) -> None:
        self.gpu = gpu
        self.stalled = False
        self._all_stalled = all_stalled
        self.slots = slots
        self.demanded: deque[int] = deque()
        self.pending: dict[int, Queue] = {}  # per layer (weight, -expert) in rising order
        self.paused = -1  # a prefetch between two chunks
        self._residency = residency
        self._evictor = evictor
        self._chunk_bytes = chunk_bytes
        self._chunks = len(chunk_bytes)
        self._open = list(range(slots))[::-1]
        self._least_open = slots
        self._occupants = np.zeros(slots, np.int64)
        self._occupant = self._occupants.data
        self._ties = not evictor.distinct
        self._guards = evictor.guards
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
        """The chunk that the idle link moves next: demand first, then by weight / distance (eq. 10).

        None when there is nothing to move, or no slot for it: then the device is stalled.
        """
        if self.stalled:
            self.stalled = False
            self._all_stalled.remove(self)
        residency = self._residency
        if self.demanded:
            x = self.demanded[0]
            if residency.where[x] == ABSENT and not self._take_slot(x, 0, now_s):
                return None
            self.demanded.popleft()
            demanded = True
        elif self.pending or self.paused >= 0:
            x = self._next_prefetch(now_s)
            if x < 0:
                return None
            demanded = False
        else:
            return None
        chunk = residency.arrived[x]
        self._flying = copy = Copy(
            self.gpu, x, chunk, self._chunk_bytes[chunk], residency.slot[x], self._victim, demanded
        )
        self._victim = -1
        return copy

    def copied(self, copy: Copy, now_s: float) -> bool:
        """A chunk has arrived; True if its expert is now complete."""
        residency, x = self._residency, copy.number
        residency.counts.bytes += copy.bytes
        arrived = copy.chunk + 1
        if arrived < self._chunks:
            residency.arrived[x] = arrived
            if copy.demanded:
                self.demanded.appendleft(x)
            else:
                self.paused = x
            return False
        if arrived > 1:
            residency.arrived[x] = 0
        residency.where[x] = RESIDENT
        if self._tell_loaded and not copy.demanded:
            self._evictor.loaded(*divmod(x, residency.experts), now_s)
        return True

    def promote(self, x: int) -> None:
        """A prefetch on its way has become a demand."""
        if self.paused == x:
            self.paused = -1
            self.demanded.appendleft(x)
        else:  # a chunk is in the air
            self._flying.demanded = True

    @property
    def prefetches(self) -> int:
        """How many wait for the link."""
        return sum(map(len, self.pending.values()))

    @property
    def peak_slots(self) -> int:
        """The most slots that were taken at a time."""
        return self.slots - self._least_open

    def preload(self, x: int) -> None:
        """Put an expert into an open slot before anything runs."""
        slot = self._open_slot()
        residency = self._residency
        residency.slot[x] = slot
        residency.where[x] = RESIDENT
        self._occupant[slot] = x

    def _next_prefetch(self, now_s: float) -> int:
        """The expert whose next chunk to prefetch, with a slot; -1 if there is none."""
        x = self.paused
        if x >= 0:
            if self._residency.planned[x]:
                self.paused = -1
                return x
            self._cancel()  # its layer has been gated without it, or a new plan is without it
        pending = self.pending
        if self._guards:  # what comes after the most urgent is needed later, so it may take even less
            layers = [self._most_urgent()] if pending else []
        else:
            layers = self._by_priority() if len(pending) > 1 else list(pending)
        for layer in layers:
            queue = pending[layer]
            x = -queue[-1][1]
            if self._take_slot(x, self._residency.distance(layer), now_s):
                if len(queue) > 1:
                    queue.pop()
                else:
                    del pending[layer]
                self._residency.unused[x] = 1
                self._residency.counts.prefetched += 1
                return x
        return -1

    def _most_urgent(self) -> int:
        """The layer with the largest weight / distance."""
        now, layers = self._residency.layer_now, self._residency.layers
        urgent, most = -1, -1.0
        for layer, queue in self.pending.items():
            priority = queue[-1][0] / (layer - now if layer > now else layer - now + layers)
            if priority > most:
                urgent, most = layer, priority
        return urgent

    def _by_priority(self) -> list[int]:
        """Layers by falling weight / distance of their best expert; equal ones by distance."""
        now, layers = self._residency.layer_now, self._residency.layers
        ranks = []
        for layer, queue in self.pending.items():
            distance = layer - now if layer > now else layer - now + layers
            ranks.append((-queue[-1][0] / distance, distance, layer))
        ranks.sort()
        return [layer for _, _, layer in ranks]

    def _open_slot(self) -> int:
        slot = self._open.pop()
        self._least_open = min(self._least_open, len(self._open))
        return slot

    def _cancel(self) -> None:
        x, self.paused = self.paused, -1
        residency = self._residency
        residency.where[x] = ABSENT
        residency.arrived[x] = 0
        residency.unused[x] = 0
        residency.counts.cancelled += 1
        self._open.append(residency.slot[x])

    def _take_slot(self, x: int, distance: int, now_s: float) -> bool:
        """Give an expert a slot, as its copy is to begin; False if there is none that it may take.

        It is for the layer `distance` away, 0 for a demand: what is planned for nearer ones, or that one, stays.
        """
        residency = self._residency
        if self._open:
            slot = self._open_slot()
        else:
            guarded = self._guards and distance > 0
            slot = self._guarded_slot(x, now_s) if guarded else self._victim_slot(distance, now_s)
            if slot >= 0:
                self._victim = dropped = self._occupant[slot]
                residency.where[dropped] = ABSENT
                residency.counts.evictions += 1
                if residency.unused[dropped]:
                    residency.unused[dropped] = 0
                    residency.counts.wasted += 1
                if self._tell_evicted:
                    self._evictor.evicted(*divmod(dropped, residency.experts), now_s)
                if self._guards and residency.planned[dropped]:
                    self.wish(dropped // residency.experts, dropped, residency.weight[dropped])
            elif distance or self.paused < 0:
                if not self.stalled:  # several layers may find no slot
                    self.stalled = True
                    self._all_stalled.append(self)
                return False
            else:
                self._cancel()
                slot = self._open_slot()
        self._occupant[slot] = x
        residency.slot[x] = slot
        residency.where[x] = COPYING
        residency.counts.copies += 1
        return True

    def _victim_slot(self, distance: int, now_s: float) -> int:
        """The slot of the expert to drop: least score, then least recent use, then lowest number; -1 if none may go."""
        residency = self._residency
        if now_s >= residency.unpin_s:
            residency.pinned = ()
            residency.unpin_s = NEVER
        scores = self._evictor.scores[self._occupants]
        for _ in range(self.slots):
            slot = int(scores.argmin())
            if self._ties:
                slot = self._least_recent(slot, scores)
            x = self._occupant[slot]
            if (
                residency.where[x] == RESIDENT
                and x - residency.pin_base not in residency.pinned
                and not (residency.planned[x] and residency.distance(x // residency.experts) <= distance)
            ):
                return slot
            scores[slot] = NEVER
        return -1

    def _guarded_slot(self, fetched: int, now_s: float) -> int:
        """The slot of the best victim that the evictor foresees for a prefetch; -1 if it may not go yet, or none is.

        It must be scored below what is fetched.
        """
        residency, evictor = self._residency, self._evictor
        if now_s >= residency.unpin_s:
            residency.pinned = ()
            residency.unpin_s = NEVER
        own = evictor.scores[fetched]
        scores = evictor.foreseen(fetched, self._occupants)
        for _ in range(self.slots):
            slot = int(scores.argmin())
            if scores[slot] >= own:
                return -1
            x = self._occupant[slot]
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
        last_use, occupant = self._residency.last_use, self._occupant
        ties: list[int] = (scores == least).nonzero()[0].tolist()
        return min(ties, key=lambda tie: (last_use[occupant[tie]], occupant[tie]))
