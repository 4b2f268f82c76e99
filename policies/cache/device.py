"""One GPU of the expert cache: its slots, what waits for its link, and which expert goes when a slot is needed."""

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
    """What the devices of a cache have in common; the choices are those of `Policy`."""

    residency: Residency
    evictor: Evictor
    chunk_bytes: Sequence[Sequence[int]]  # by layer, of an expert's chunks
    rest_bytes: Sequence[Sequence[int]]  # by layer, of each chunk and all that follow it
    copy_key: CopyKey | None
    refused_blocks: bool
    turns: DemandTurns | None  # None if demanded experts move over all links at once
    awaited: AwaitedTurns | None  # None if what a layer waits for does
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
        if evictor.guards and not self._refused_blocks:  # it may refuse one expert of a layer and let another through
            self._key = self._key or weight_by_distance
        self._decides_runs = evictor.steady and evictor.distinct and not evictor.guards and self._key is None
        self._run: list[int] = []  # slots that the next prefetches from `_run_queue` take, the first one last
        self._run_queue: Queue = []  # the only one that waited when that was decided
        self._run_event = -1  # the last event then; the run holds until the next
        self._open = list(range(slots))[::-1]
        self._least_open = slots
        self._victims = Victims(slots, shared.residency, evictor)
        self._occupant = self._victims.occupant
        self._guards = evictor.guards
        self._tell_loaded = type(evictor).loaded is not Evictor.loaded
        self._tell_evicted = type(evictor).evicted is not Evictor.evicted
        self._victim = -1  # what was dropped for the copy that begins
        self._flying: Copy | None = None

    def wish(self, layer: int, x: int, weight: float) -> None:
        """Queue a prefetch."""
        queue = self.pending.get(layer)
        if queue is None:
            self.pending[layer] = [(weight, -x)]
        else:
            queue.append((weight, -x))
            queue.sort()

    def next_copy(self, now_s: float) -> Copy | None:
        """What the idle link moves next: demand first, then by weight / distance (eq. 10) or the policy's own key.

        None when there is nothing to move, if an expert waits for its turn, or without a slot for what would move: then
        the device is stalled.
        """
        if self.stalled:
            self.stalled = False
            self._all_stalled.remove(self)
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
                if layer == awaited.held:
                    awaited.begin(copy)
                else:
                    self._pass_turn_on(awaited)
        self._flying = copy
        self._victim = -1
        return copy

    def copied(self, copy: Copy, now_s: float) -> bool:
        """A copy has arrived; True if its expert is now complete."""
        residency, x = self._residency, copy.number
        residency.counts.bytes += copy.bytes
        self._flying = None
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
        if self._tell_loaded and not copy.demanded:
            self._evictor.loaded(*divmod(x, residency.experts), now_s)
        return True

    def promote(self, x: int) -> None:
        """A prefetch on its way has become a demand."""
        if self.paused == x:
            self.paused = -1
            self._demand_rest(x)
        elif self._flying is not None:
            self._flying.demanded = True

    @property
    def prefetches(self) -> int:
        """How many wait for the link."""
        return sum(map(len, self.pending.values()))

    @property
    def queued_bytes(self) -> int:
        """Bytes that the link has still to move: the rest of begun copies, what is demanded, and what waits."""
        begun_or_demanded = [*self.demanded]
        if self.paused >= 0:
            begun_or_demanded.append(self.paused)
        if self._flying is not None:
            begun_or_demanded.append(self._flying.number)
        rest, arrived = self._rest_bytes, self._residency.arrived
        waiting = sum(rest[layer][0] * len(queue) for layer, queue in self.pending.items())
        return waiting + sum(rest[x // self._experts][arrived[x]] for x in begun_or_demanded)

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

    def _demand_rest(self, x: int) -> None:
        """What is left of a begun copy moves before all that this GPU misses."""
        self.demanded.appendleft(x)
        if self._turns is not None:
            self._turns.wait(x, self.gpu, begun=True)

    def _end_turn(self, turns: DemandTurns, copy: Copy) -> None:
        """Let the link of the expert whose turn is next look for it; this one does so anyway."""
        gpu = turns.end(copy)
        if gpu not in (-1, self.gpu):
            self._wake.append(self._devices[gpu])

    def _waits_for_turn(self, awaited: AwaitedTurns, x: int, *, begun: bool) -> bool:
        """Whether a prefetch waits for its turn, of those that the held layer awaits; then this link waits with it."""
        if x // self._experts != awaited.held or awaited.may_begin(self.gpu, x, begun=begun):
            return False
        if self.stalled:  # a more urgent one of another layer has found no slot
            self.stalled = False
            self._all_stalled.remove(self)
        return True

    def _pass_turn_on(self, awaited: AwaitedTurns) -> None:
        """This link begins no awaited prefetch: let the one whose turn it is now look for it."""
        gpu = awaited.pass_on(self.gpu)
        if gpu != NOBODY:
            self._wake.append(self._devices[gpu])

    def _next_prefetch(self, now_s: float) -> int:
        """The expert whose next chunk to prefetch, with a slot; -1 if there is none, or it waits for its turn."""
        x = self.paused
        if x >= 0:
            if self._residency.planned[x]:
                if self._awaited is not None and self._waits_for_turn(self._awaited, x, begun=True):
                    return -1
                self.paused = -1
                return x
            self._cancel()  # its layer has been gated without it, or a new plan is without it
        if self._key is not None:
            return self._next_by_key(self._key, now_s)
        pending, residency = self.pending, self._residency
        layers: Iterable[int] = pending
        if len(pending) > 1:
            order = most_urgent_layer if self._refused_blocks else by_layer
            layers = order(pending, residency)
        elif (self._run and self._run_event == residency.events) or (self._decides_runs and self._begin_run(now_s)):
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
                else:  # an expert of its own layer was dropped for it and waits again
                    queue.remove(entry)
                return x
        return -1

    def _begin_run(self, now_s: float) -> bool:
        """Decide which slots the next prefetches of the only layer that waits take; False if that is still open."""
        if self._open:
            return False
        ((layer, self._run_queue),) = self.pending.items()
        self._run = self._victims.run(len(self._run_queue), self._residency.distance(layer), now_s)
        self._run_event = self._residency.events
        return bool(self._run)

    def _next_by_key(self, key: CopyKey, now_s: float) -> int:
        """What `_next_prefetch` answers, all that waits being ordered by a key."""
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
        """Give an expert a slot, as its copy is to begin; whether there is one that it may take.

        It is for the layer `distance` away, 0 for a demand: what is planned for nearer ones, or that one, stays.
        """
        if self._open:
            slot = self._open_slot()
        elif distance and self._guards:
            slot = self._victims.guarded(x, now_s)
        else:
            slot = self._victims.least(distance, now_s)
        if slot < 0:
            if distance or self.paused < 0:
                if not self.stalled:  # several layers may find no slot
                    self.stalled = True
                    self._all_stalled.append(self)
                return False
            self._cancel()
            slot = self._open_slot()
        self._put(x, slot, now_s)
        return True

    def _put(self, x: int, slot: int, now_s: float) -> None:
        """Let the copy of an expert into a slot begin; the expert that is there is dropped."""
        residency, occupant = self._residency, self._occupant
        dropped = occupant[slot]
        if dropped >= 0:
            self._victim = dropped
            residency.where[dropped] = ABSENT
            residency.counts.evictions += 1
            if residency.unused[dropped]:
                residency.unused[dropped] = 0
                residency.counts.wasted += 1
            if self._tell_evicted:
                self._evictor.evicted(*divmod(dropped, residency.experts), now_s)
            if self._guards and residency.planned[dropped]:
                self.wish(dropped // residency.experts, dropped, residency.weight[dropped])
        occupant[slot] = x
        residency.slot[x] = slot
        residency.where[x] = COPYING
        residency.counts.copies += 1
