"""One GPU of the expert cache: its slots, the copies that wait for its link, and the experts evicted for them."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from policies.base import CopyKey, Evictor
from policies.cache.awaited_turns import NOBODY, AwaitedTurns
from policies.cache.copy_order import Queue, by_key, by_layer, most_urgent_layer, weight_by_distance
from policies.cache.demand_turns import DemandTurns
from policies.cache.residency import ABSENT, COPYING, RESIDENT, Residency
from policies.cache.victims import Victims
from policies.types import Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the devices of a cache share; the choices are those of `Policy`."""

    residency: Residency
    evictor: Evictor
    chunk_bytes: Sequence[Sequence[int]]  # by layer, of an expert's chunks
    rest_bytes: Sequence[Sequence[int]]  # by layer, of each chunk and all that follow it
    copy_key: CopyKey | None
    refused_blocks: bool
    turns: DemandTurns | None  # None if demanded experts move over all links at once
    awaited: AwaitedTurns | None  # None if prefetches that a layer waits for move over all links at once
    devices: "list[Device]" = field(default_factory=list)
    stalled: "list[Device]" = field(default_factory=list)  # whose link found work but no slot that it may take
    wake: "list[Device]" = field(default_factory=list)  # as in `ExpertCache`


class Device:
    """The slots and the link of one GPU."""

    def __init__(self, gpu: int, slots: int, shared: Shared) -> None:
        evictor = shared.evictor
        self.gpu = gpu
        self.stalled = False
        self._all_stalled = shared.stalled
        self._turns = shared.turns
        self._awaited = shared.awaited
        self._devices = shared.devices
        self._wake = shared.wake
        self.slots = slots
        self.demanded: deque[int] = deque()
        self.pending: dict[int, Queue] = {}
        self.paused = -1  # a prefetch between two chunks
        self._residency = shared.residency
        self._evictor = evictor
        self._chunk_bytes = shared.chunk_bytes
        self._rest_bytes = shared.rest_bytes
        self._experts = shared.residency.experts
        self._refused_blocks = shared.refused_blocks
        self._key = shared.copy_key
        if evictor.guards and not self._refused_blocks:  # it may refuse one expert of a layer and accept another
            self._key = self._key or weight_by_distance
        self._chooses_runs = evictor.steady and evictor.distinct and not evictor.guards and self._key is None
        self._run: list[int] = []  # slots that the next prefetches from `_run_queue` take, the first one last
        self._run_queue: Queue = []  # the only queue that waited when the run was chosen
        self._run_event = -1  # the last event at that time; the run is valid until the next
        self._open = list(range(slots))[::-1]
        self._least_open = slots
        self._victims = Victims(slots, shared.residency, evictor)
        self._occupant = self._victims.occupant
        self._guards = evictor.guards
        self._hears_loaded = type(evictor).loaded is not Evictor.loaded
        self._hears_evicted = type(evictor).evicted is not Evictor.evicted
        self._victim = -1  # the expert evicted for the copy that begins
        self._in_flight: Copy | None = None

    def queue_prefetch(self, layer: int, x: int, weight: float) -> None:
        """Queue a prefetch."""
        queue = self.pending.get(layer)
        if queue is None:
            self.pending[layer] = [(weight, -x)]
        else:
            queue.append((weight, -x))
            queue.sort()

    def next_copy(self, now_s: float) -> Copy | None:
        """What the idle link moves next: demand first, then by weight / distance (eq. 10) or the policy's own key.

        None if there is nothing to move, if the next expert waits for its turn, or if it finds no slot: then the device
        is stalled.
        """
        if self.stalled:
            self._unstall()
        awaited = self._awaited
        if awaited is not None:
            awaited.choose(self.gpu)
        residency = self._residency
        if self.demanded:
            x = self.demanded[0]
            if self._turns is not None and not self._turns.may_begin(x):
                return None
            if residency.where[x] == ABSENT and not self._take_slot(x, 0, now_s):
                return None
            self.demanded.popleft()
            chunk = residency.arrived[x]
            demanded = True
        elif self.pending or self.paused >= 0:
            x = self._next_prefetch(now_s)
            if x < 0:
                if awaited is not None:
                    self._pass_turn_on(awaited)
                return None
            chunk = residency.arrived[x]
            if not chunk:
                residency.unused[x] = 1
                residency.counts.prefetched += 1
            demanded = False
        else:
            if awaited is not None:
                self._pass_turn_on(awaited)
            return None
        slot, layer = residency.slot[x], x // self._experts
        if demanded:
            rest = self._rest_bytes[layer]
            copy = Copy(self.gpu, x, chunk, rest[chunk], slot, self._victim, demanded, len(rest) - chunk)
            if self._turns is not None:
                self._turns.begin(copy)
        else:
            copy = Copy(self.gpu, x, chunk, self._chunk_bytes[layer][chunk], slot, self._victim, demanded)
            if awaited is not None:
                if layer == awaited.layer:
                    awaited.begin(copy)
                else:
                    self._pass_turn_on(awaited)
        self._in_flight = copy
        self._victim = -1
        return copy

    def copied(self, copy: Copy, now_s: float) -> bool:
        """A copy has arrived; returns whether its expert is now complete."""
        residency, x = self._residency, copy.number
        residency.counts.bytes += copy.bytes
        self._in_flight = None
        if self._turns is not None:
            self._end_turn(self._turns, copy)
        if self._awaited is not None:
            self._awaited.end(copy)
        arrived = copy.chunk + copy.chunks
        if arrived < len(self._chunk_bytes[x // self._experts]):
            residency.arrived[x] = arrived
            if copy.demanded:  # promoted in flight: the rest moves next, in one piece
                self._demand_rest(x)
            else:
                self.paused = x
            return False
        if copy.chunk:
            residency.arrived[x] = 0
        residency.where[x] = RESIDENT
        if self._hears_loaded and not copy.demanded:
            self._evictor.loaded(*divmod(x, residency.experts), now_s)
        return True

    def promote(self, x: int) -> None:
        """A prefetch under way has become a demand."""
        if self.paused == x:
            self.paused = -1
            self._demand_rest(x)
        elif self._in_flight is not None:
            self._in_flight.demanded = True

    @property
    def prefetches(self) -> int:
        """The number of prefetches that wait for the link."""
        return sum(map(len, self.pending.values()))

    @property
    def queued_bytes(self) -> int:
        """Bytes that the link still has to move: the rest of begun copies, demanded copies and waiting prefetches."""
        begun_or_demanded = [*self.demanded]
        if self.paused >= 0:
            begun_or_demanded.append(self.paused)
        if self._in_flight is not None:
            begun_or_demanded.append(self._in_flight.number)
        rest, arrived = self._rest_bytes, self._residency.arrived
        waiting = sum(rest[layer][0] * len(queue) for layer, queue in self.pending.items())
        return waiting + sum(rest[x // self._experts][arrived[x]] for x in begun_or_demanded)

    @property
    def peak_slots(self) -> int:
        """The largest number of slots that were taken at one time."""
        return self.slots - self._least_open

    def preload(self, x: int) -> None:
        """Put an expert into an open slot before anything runs."""
        slot = self._open_slot()
        residency = self._residency
        residency.slot[x] = slot
        residency.where[x] = RESIDENT
        self._occupant[slot] = x

    def _demand_rest(self, x: int) -> None:
        """Queue the rest of a begun copy before all experts that this GPU misses."""
        self.demanded.appendleft(x)
        if self._turns is not None:
            self._turns.wait(x, self.gpu, begun=True)

    def _end_turn(self, turns: DemandTurns, copy: Copy) -> None:
        """Wake the link of the expert that has the next turn; this link chooses anyway."""
        gpu = turns.end(copy)
        if gpu not in (-1, self.gpu):
            self._wake.append(self._devices[gpu])

    def _waits_for_turn(self, awaited: AwaitedTurns, x: int, *, begun: bool) -> bool:
        """Whether a prefetch that the waiting layer needs must wait for its turn; then this link waits with it."""
        if x // self._experts != awaited.layer or awaited.may_begin(self.gpu, x, begun=begun):
            return False
        if self.stalled:  # a more urgent one of another layer has found no slot
            self._unstall()
        return True

    def _unstall(self) -> None:
        self.stalled = False
        self._all_stalled.remove(self)

    def _pass_turn_on(self, awaited: AwaitedTurns) -> None:
        """This link begins no awaited prefetch: wake the link that has the turn now."""
        gpu = awaited.pass_on(self.gpu)
        if gpu != NOBODY:
            self._wake.append(self._devices[gpu])

    def _next_prefetch(self, now_s: float) -> int:
        """The expert, now with a slot, whose chunk to prefetch next; -1 if there is none or it waits for its turn."""
        x = self.paused
        if x >= 0:
            if self._residency.planned[x]:
                if self._awaited is not None and self._waits_for_turn(self._awaited, x, begun=True):
                    return -1
                self.paused = -1
                return x
            self._cancel()  # its layer was gated without demanding it, or a new plan leaves it out
        if self._key is not None:
            return self._next_by_key(self._key, now_s)
        pending, residency = self.pending, self._residency
        layers: Iterable[int] = pending
        if len(pending) > 1:
            order = most_urgent_layer if self._refused_blocks else by_layer
            layers = order(pending, residency)
        elif (self._run and self._run_event == residency.events) or (self._chooses_runs and self._begin_run(now_s)):
            queue = self._run_queue
            x = -queue[-1][1]
            if self._awaited is not None and self._waits_for_turn(self._awaited, x, begun=False):
                return -1
            queue.pop()
            if not queue:
                pending.clear()
            self._put(x, self._run.pop(), now_s)
            return x
        now = residency.layer_now
        for layer in layers:
            queue = pending[layer]
            entry = queue[-1]
            x = -entry[1]
            if self._awaited is not None and self._waits_for_turn(self._awaited, x, begun=False):
                return -1
            if self._take_slot(x, layer - now if layer > now else layer - now + residency.layers, now_s):
                if len(queue) == 1:
                    del pending[layer]
                elif queue[-1] is entry:
                    queue.pop()
                else:  # an expert of the same layer was evicted for it and is queued again
                    queue.remove(entry)
                return x
        return -1

    def _begin_run(self, now_s: float) -> bool:
        """Choose the slots that the next prefetches of the only waiting layer take; False if that is not possible."""
        if self._open:
            return False
        ((layer, self._run_queue),) = self.pending.items()
        self._run = self._victims.run(len(self._run_queue), self._residency.distance(layer), now_s)
        self._run_event = self._residency.events
        return bool(self._run)

    def _next_by_key(self, key: CopyKey, now_s: float) -> int:
        """The same as `_next_prefetch`, with all waiting prefetches ordered by a key."""
        pending, residency = self.pending, self._residency
        refused: set[int] = set()  # layers whose other experts would be refused too
        for _, distance, x, weight in by_key(key, pending, residency):
            layer = x // residency.experts
            if layer in refused:
                continue
            if self._awaited is not None and self._waits_for_turn(self._awaited, x, begun=False):
                return -1
            if self._take_slot(x, distance, now_s):
                pending[layer].remove((weight, -x))
                if not pending[layer]:
                    del pending[layer]
                return x
            if self._refused_blocks:
                break
            if not self._guards:
                refused.add(layer)
        return -1

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
        slot = residency.slot[x]
        self._occupant[slot] = -1
        self._open.append(slot)

    def _take_slot(self, x: int, distance: int, now_s: float) -> bool:
        """Give an expert a slot, since its copy is about to begin; False if it may take none.

        The expert is for the layer `distance` away, 0 for a demand. Experts planned for this layer or nearer ones stay.
        """
        if self._open:
            slot = self._open_slot()
        elif distance and self._guards:
            slot = self._victims.guarded(x, now_s)
        else:
            slot = self._victims.least(distance, now_s)
        if slot < 0:
            if distance or self.paused < 0:
                if not self.stalled:  # it may be already, since several layers may find no slot
                    self.stalled = True
                    self._all_stalled.append(self)
                return False
            self._cancel()
            slot = self._open_slot()
        self._put(x, slot, now_s)
        return True

    def _put(self, x: int, slot: int, now_s: float) -> None:
        """Begin the copy of an expert into a slot; an expert that occupies the slot is evicted."""
        residency, occupant = self._residency, self._occupant
        dropped = occupant[slot]
        if dropped >= 0:
            self._victim = dropped
            residency.where[dropped] = ABSENT
            residency.counts.evictions += 1
            if residency.unused[dropped]:
                residency.unused[dropped] = 0
                residency.counts.wasted += 1
            if self._hears_evicted:
                self._evictor.evicted(*divmod(dropped, residency.experts), now_s)
            if self._guards and residency.planned[dropped]:
                self.queue_prefetch(dropped // residency.experts, dropped, residency.weight[dropped])
        occupant[slot] = x
        residency.slot[x] = slot
        residency.where[x] = COPYING
        residency.counts.copies += 1
