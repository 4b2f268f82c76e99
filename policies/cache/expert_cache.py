"""The expert cache: what is on which GPU, what is copied next and what is evicted for it.

Both drivers share it. It has no clock and moves no bytes: a driver reports what happens when, asks the device of each
idle link for its next copy, and reports when a chunk has arrived.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, chain

import numpy as np

from common.errors import UserError
from policies.base import CopyKey, Evictor
from policies.cache.awaited_turns import AwaitedTurns
from policies.cache.demand_turns import DemandTurns
from policies.cache.device import Device, Shared
from policies.cache.placement import homes_of, round_robin
from policies.cache.residency import ABSENT, COPYING, NEVER, RESIDENT, Counts, Residency
from policies.cache.residency_view import CacheView
from policies.types import Batch, ChunkBytes, Demand, Int, ModelShape, Prefetch, ResidencyView, Search

MOST_CHUNKS = 1000  # of an expert; runs with far smaller chunks would take hours


class ExpertCache:
    """Residency, plans, copies and victims of all GPUs.

    `slots` lists the number of experts that fit on each GPU, `home` `[L, J]` the GPU of each expert. The cache is
    single-threaded: a driver with threads takes a reentrant lock, and puts it into `lock` for the view. After each
    call, `wake` lists devices whose link, if idle, should ask for its `next_copy`, some perhaps twice; the driver
    empties it. After `begin_iteration` and `demand`, `work` lists updates of the evictor to charge; the driver empties
    it too.

    Prefetches move in chunks of `chunk_bytes` and give way between two of them. A demanded expert moves whole, and so
    does the rest of one that has begun. With `serial_demand`, demanded experts move one at a time over all links
    (`DemandTurns`), and so do prefetches that a layer waits for (`AwaitedTurns`); a link whose next expert waits for
    its turn moves nothing. Without `prefetch`, only demanded experts are copied; plans only pass beliefs to the
    evictor.

    With `replicas` R > 1, an expert may live on R GPUs, its `homes`: the one in `home` and the next ones. More expert
    parallelism adds replicas and so offloading opportunities (paper §7): the copies of a layer spread over more links.
    An expert occupies a slot on only one of them at a time: in a cache that is too small, a second copy would only take
    the slot of another expert. An absent expert that is demanded or planned goes to the home whose link has the least
    to do: the fewest demanded experts waiting, then, for a plan, the fewest planned ones, then the first. The attribute
    `home` `[L·J]` is the current home of each; it changes only while the expert is absent and in no link's queue.
    """

    def __init__(
        self,
        model: ModelShape,
        evictor: Evictor,
        *,
        slots: Sequence[int],
        home: Int | None = None,
        replicas: int = 1,
        chunk_bytes: ChunkBytes = "whole",
        copy_key: CopyKey | None = None,
        refused_blocks: bool = False,
        prefetch: bool = True,
        serial_demand: bool = False,
    ) -> None:
        self.model = model
        self.evictor = evictor
        self.residency = Residency(model)
        chunks = {size: _chunks(size, chunk_bytes) for size in model.layer_expert_bytes}
        rests = {size: list(accumulate(chunks[size][::-1]))[::-1] for size in chunks}
        self.chunk_bytes = [chunks[size] for size in model.layer_expert_bytes]  # by layer, of an expert's chunks
        self.copy_bytes = sorted({*chain.from_iterable([*chunks.values(), *rests.values()])})  # that a copy may have
        shared = Shared(
            residency=self.residency,
            evictor=evictor,
            chunk_bytes=self.chunk_bytes,
            rest_bytes=[rests[size] for size in model.layer_expert_bytes],
            copy_key=copy_key,
            refused_blocks=refused_blocks,
            turns=DemandTurns() if serial_demand else None,
            awaited=AwaitedTurns() if serial_demand else None,
        )
        self.turns, self.awaited = shared.turns, shared.awaited
        self.stalled, self.wake, self.devices = shared.stalled, shared.wake, shared.devices
        self.devices += [self._device(gpu, count, shared) for gpu, count in enumerate(slots)]
        self.lock: AbstractContextManager[object] = nullcontext()
        self.view: ResidencyView = CacheView(self.residency, self.devices, lambda: self.lock)
        primary = round_robin(model, len(slots)) if home is None else home
        self.homes: list[list[int]] = homes_of(primary, replicas, len(slots)).reshape(-1, replicas).tolist()
        self.home: list[int] = primary.ravel().tolist()
        self.fixed = replicas == 1  # no expert ever changes its home
        self._device_of = [self.devices[gpu] for gpu in self.home]
        self.work: list[Search] = []
        self.plans = 0  # number of plans that were not empty, since the start
        self._has_plan = bytearray(model.layers)
        self._none_planned = bytes(model.experts)
        self._fewest = min(slots)
        self._computed: set[int] = set()  # experts of a layer that runs in waves
        self._ties = not evictor.distinct
        self._prefetch = prefetch
        self._guards = evictor.guards
        self._touched = evictor.touched
        self._hears_belief = evictor.reads_beliefs

    @property
    def counts(self) -> Counts:
        """Totals since the start."""
        return self.residency.counts

    @property
    def peak_slots(self) -> int:
        """The largest number of slots taken at one time, summed over the GPUs."""
        return sum(device.peak_slots for device in self.devices)

    @property
    def layer_now(self) -> int:
        """The last gated layer of the running iteration, -1 before the first."""
        return self.residency.layer_now

    def begin_iteration(self, batch: Batch, now_s: float) -> None:
        """A new iteration: no layer has been gated."""
        self.residency.layer_now = -1
        work = self.evictor.on_batch(batch)
        if work is not None:
            self.work += work

    def demand(self, layer: int, experts: Sequence[int], now_s: float) -> Demand:
        """The router has run: these distinct experts of `layer` are needed from now until they are released.

        This is one accounting event. Prefetches waiting for the layer are dropped; copies under way are promoted.
        """
        residency = self.residency
        residency.layer_now = layer
        residency.pin_base = base = layer * residency.experts
        residency.pinned = experts
        residency.unpin_s = NEVER
        if self._computed:
            self._computed.clear()
        if self._has_plan[layer]:
            self._drop_plan(layer)
        where, counts = residency.where, residency.counts
        hits: list[int] = []
        late: list[int] = []
        misses: list[int] = []
        for expert in experts:
            x = base + expert
            state = where[x]
            if state == RESIDENT:
                hits.append(expert)
                if residency.unused[x]:
                    residency.unused[x] = 0
                    counts.useful += 1
            elif state == ABSENT:
                misses.append(expert)
                device = self._device_of[x] if self.fixed else self._rehome(x, planned=False)
                device.demanded.append(x)
                if self.turns is not None:
                    self.turns.wait(x, device.gpu, begun=False)
                self.wake.append(device)
            else:
                late.append(expert)
                residency.unused[x] = 0
                self._device_of[x].promote(x)
        counts.hits += len(hits)
        if misses:
            counts.misses += len(misses)
        if late:
            counts.late += len(late)
        residency.events = event = residency.events + 1
        if self._ties:
            for expert in experts:
                residency.last_use[base + expert] = event
        self.wake_stalled()
        work = self._touched(layer, experts, now_s)
        if work is not None:
            self.work += work
        return Demand(layer, hits, late, misses, 1 if len(experts) <= self._fewest else self._waves(base, experts))

    def release(self, layer: int, experts: Sequence[int], at_s: float, now_s: float) -> None:
        """The running layer no longer needs these experts from `at_s` on, which may be later than `now_s`.

        A release in advance saves a driver the event at `at_s`; it must name all experts that are still pinned. Experts
        released while their layer runs in waves stay until their GPU has no other in use or under way, so eviction
        between waves is independent of timing.
        """
        residency = self.residency
        if at_s > now_s:
            residency.unpin_s = at_s
            return
        base, where = residency.pin_base, residency.where
        self._computed.update(experts)
        in_use = {
            self.home[base + expert]
            for expert in residency.pinned
            if expert not in self._computed and where[base + expert] != ABSENT
        }
        pinned = [
            expert for expert in residency.pinned if expert not in self._computed or self.home[base + expert] in in_use
        ]
        if len(pinned) < len(residency.pinned):
            residency.pinned = pinned
            self.wake_stalled()

    def plan(self, prefetch: Prefetch, now_s: float) -> None:
        """Replace the plan of a layer; if the layer has been gated, the plan is for the next iteration."""
        if self._prefetch:
            self._replace_plan(prefetch)
        if self._hears_belief:
            belief = prefetch.belief
            if belief is None:
                belief = np.zeros(self.model.experts)
                belief[list(prefetch.experts)] = prefetch.weights
            self.evictor.believe(prefetch.layer, belief)

    def _replace_plan(self, prefetch: Prefetch) -> None:
        layer = prefetch.layer
        if len(prefetch.experts):
            self.plans += 1
        if self._has_plan[layer]:
            self._drop_plan(layer)
        residency, wake = self.residency, self.wake
        residency.events += 1
        planned, base = residency.planned, layer * residency.experts
        states = residency.where[base : base + residency.experts]
        unsorted = []
        for expert in prefetch.experts:
            planned[base + expert] = 1
        for expert, weight in [
            each for each in zip(prefetch.experts, prefetch.weights, strict=True) if states[each[0]] == ABSENT
        ]:
            x = base + expert
            device = self._device_of[x]
            if x not in device.demanded:
                if not self.fixed:
                    device = self._rehome(x, planned=True)
                queue = device.pending.get(layer)
                if queue is None:
                    device.pending[layer] = [(weight, -x)]
                    wake.append(device)
                else:
                    queue.append((weight, -x))
                    if len(queue) == 2:
                        unsorted.append(queue)
        for queue in unsorted:
            queue.sort()
        self._has_plan[layer] = 1
        if self._guards:
            for expert, weight in zip(prefetch.experts, prefetch.weights, strict=True):
                residency.weight[base + expert] = weight
        self.wake_stalled()

    def begin_wait(self, layer: int) -> None:
        """A layer begins, but waits as long as it `waits_for` something planned for it."""
        if self.awaited is not None:
            self.awaited.begin_wait(layer)

    def end_wait(self) -> None:
        """The waiting layer starts."""
        if self.awaited is not None:
            self.awaited.end_wait()

    def waits_for(self, layer: int) -> bool:
        """Whether something planned for the layer is under way or can still be copied."""
        residency = self.residency
        base = layer * residency.experts
        end = base + residency.experts
        x = residency.where.find(COPYING, base, end)
        while x >= 0:
            if residency.planned[x]:
                return True
            x = residency.where.find(COPYING, x + 1, end)
        return any(layer in device.pending and not device.stalled for device in self.devices)

    def wake_stalled(self) -> None:
        """Let every link that found no slot try again, since something has changed."""
        if self.stalled:
            self.wake += self.stalled

    def preload(self) -> None:
        """Put every expert on its GPU before anything runs; there must be a slot for each."""
        for x, gpu in enumerate(self.home):
            self.devices[gpu].preload(x)

    def _device(self, gpu: int, slots: int, shared: Shared) -> Device:
        return Device(gpu, slots, shared)

    def _rehome(self, x: int, *, planned: bool) -> Device:
        """Assign an absent expert, in no link's queue, to its home with the least to do."""
        device = min(
            (self.devices[gpu] for gpu in self.homes[x]),
            key=lambda device: (len(device.demanded), device.prefetches if planned else 0),
        )
        self.home[x], self._device_of[x] = device.gpu, device
        return device

    def _drop_plan(self, layer: int) -> None:
        """Forget the plan of a layer, and its waiting prefetches."""
        residency = self.residency
        base = layer * residency.experts
        residency.planned[base : base + residency.experts] = self._none_planned
        for device in self.devices:
            device.pending.pop(layer, None)
        self._has_plan[layer] = 0
        if self.awaited is not None and self.awaited.layer == layer:
            self.wake += [self.devices[gpu] for gpu in self.awaited.clear_waiting()]

    def _waves(self, base: int, experts: Sequence[int]) -> int:
        needed = [0] * len(self.devices)
        for expert in experts:
            needed[self.home[base + expert]] += 1
        return max(-(-count // device.slots) for count, device in zip(needed, self.devices, strict=True))


def _chunks(size: int, chunk_bytes: ChunkBytes) -> list[int]:
    """The bytes of each chunk of an expert of `size` bytes; the last one may be smaller."""
    chunk = size if chunk_bytes == "whole" else min(chunk_bytes, size)
    if size > MOST_CHUNKS * chunk:
        raise UserError(
            f"chunk_bytes {chunk}: an expert of {size} bytes would take more than {MOST_CHUNKS:,} chunks; "
            f"give at least {-(-size // MOST_CHUNKS)}"
        )
    return [min(chunk, size - start) for start in range(0, size, chunk)]
