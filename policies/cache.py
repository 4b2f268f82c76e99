"""The expert cache: what is on which GPU, what is copied next and what is dropped for it.

The mechanism that both drivers share. It has no clock and moves no bytes: a driver tells it what happens when, asks
each idle link for its next copy, and reports when a chunk has arrived.
"""

from collections.abc import Sequence

import numpy as np

from policies.base import Evictor
from policies.device import Device
from policies.placement import round_robin
from policies.residency import ABSENT, COPYING, RESIDENT, Counts, Residency
from policies.types import Batch, Copy, Demand, Int, ModelShape, Prefetch


class ExpertCache:
    """Residency, plans, copies and victims of all GPUs.

    `slots` holds the number of experts that fit on each GPU, `home` `[L, J]` the GPU of each expert. Single-threaded: a
    driver with threads holds a lock. After each call, `wake` has a bit set for every GPU whose link, if idle, should
    ask for a copy; the driver clears it.
    """

    def __init__(
        self,
        model: ModelShape,
        evictor: Evictor,
        *,
        slots: Sequence[int],
        home: Int | None = None,
        chunk_bytes: int | None = None,
    ) -> None:
        self.model = model
        self.evictor = evictor
        self.residency = Residency(model)
        size = model.expert_bytes
        chunk = min(chunk_bytes or size, size)
        self.chunk_bytes = [min(chunk, size - start) for start in range(0, size, chunk)]
        self.devices = [
            Device(gpu, count, self.residency, evictor, self.chunk_bytes) for gpu, count in enumerate(slots)
        ]
        self.home: list[int] = (round_robin(model, len(slots)) if home is None else home).ravel().tolist()
        self.wake = 0
        self._plans: list[Sequence[int]] = [()] * model.layers
        self._fewest = min(slots)
        self._events = 0
        self._tell_belief = type(evictor).believe is not Evictor.believe

    @property
    def counts(self) -> Counts:
        """Totals since the start."""
        return self.residency.counts

    @property
    def layer_now(self) -> int:
        """The last gated layer of the running iteration, -1 before the first."""
        return self.residency.layer_now

    @property
    def stalled(self) -> int:
        """A bit for each GPU whose link found work but no slot for it."""
        return self.residency.stalled

    def begin_iteration(self, batch: Batch, now_s: float) -> None:
        """A new iteration: no layer has been gated."""
        self.residency.layer_now = -1
        self.evictor.on_batch(batch)

    def demand(self, layer: int, experts: Sequence[int], now_s: float) -> Demand:
        """The router has spoken: these distinct experts of `layer` are needed now, until they are released.

        One accounting event. What was pending for the layer is dropped, what is already on its way is promoted.
        """
        residency = self.residency
        pins = residency.pins
        if pins:
            residency.unpin()
        residency.layer_now = layer
        if self._plans[layer]:
            self._drop_plan(layer)
        where, pinned, unused, last_use = residency.where, residency.pinned, residency.unused, residency.last_use
        base = layer * residency.experts
        counts = residency.counts
        self._events = event = self._events + 1
        hits: list[int] = []
        late: list[int] = []
        misses: list[int] = []
        for expert in experts:
            x = base + expert
            pins.append(x)
            pinned[x] = 1
            last_use[x] = event
            state = where[x]
            if state == RESIDENT:
                hits.append(expert)
                if unused[x]:
                    unused[x] = 0
                    counts.useful += 1
            elif state == ABSENT:
                misses.append(expert)
                gpu = self.home[x]
                self.devices[gpu].demanded.append(x)
                self.wake |= 1 << gpu
            else:
                late.append(expert)
                unused[x] = 0
                counts.promoted += 1
                gpu = self.home[x]
                if self.devices[gpu].promote(x):
                    self.wake |= 1 << gpu
        counts.hits += len(hits)
        counts.late += len(late)
        counts.misses += len(misses)
        self.wake |= residency.stalled
        self.evictor.touched(layer, experts, now_s)
        return Demand(layer, hits, late, misses, 1 if len(experts) <= self._fewest else self._waves(base, experts))

    def release(self, layer: int, experts: Sequence[int], at_s: float, now_s: float) -> None:
        """The running layer has no more use for these experts from `at_s` on, which may lie ahead of `now_s`.

        A release ahead of time must name all that is still pinned: it saves a driver the event at `at_s`.
        """
        residency = self.residency
        if at_s > now_s:
            residency.unpin_s = at_s
            return
        if len(experts) >= len(residency.pins):
            residency.unpin()
        else:
            for expert in experts:
                x = layer * residency.experts + expert
                residency.pinned[x] = 0
                residency.pins.remove(x)
        self.wake |= residency.stalled

    def plan(self, prefetch: Prefetch, now_s: float) -> None:
        """Replace what was pending for a layer; for a layer that has been gated it means the next iteration."""
        layer = prefetch.layer
        if self._plans[layer]:
            self._drop_plan(layer)
        residency = self.residency
        where, planned = residency.where, residency.planned
        base = layer * residency.experts
        self._plans[layer] = plan = [base + expert for expert in prefetch.experts]
        for x, weight in zip(plan, prefetch.weights, strict=True):
            planned[x] = 1
            if where[x] == ABSENT:
                gpu = self.home[x]
                self.devices[gpu].wish(layer, x, weight)
                self.wake |= 1 << gpu
        self.wake |= residency.stalled
        if self._tell_belief:
            belief = prefetch.belief
            if belief is None:
                belief = np.zeros(residency.experts)
                belief[list(prefetch.experts)] = prefetch.weights
            self.evictor.believe(layer, belief)

    def waits_for(self, layer: int) -> bool:
        """Whether something planned for the layer is still on its way, or can be."""
        residency = self.residency
        where = residency.where
        return any(
            where[x] == COPYING or (where[x] == ABSENT and not residency.stalled >> self.home[x] & 1)
            for x in self._plans[layer]
        )

    def next_copy(self, gpu: int, now_s: float) -> Copy | None:
        """The chunk that the idle link of a GPU moves next: demand first, then by weight / distance (eq. 10).

        None when there is nothing to move, or no slot for it: then the GPU is stalled.
        """
        return self.devices[gpu].next_copy(now_s)

    def copied(self, copy: Copy, now_s: float) -> bool:
        """A chunk has arrived; True if its expert is now complete."""
        return self.devices[copy.gpu].copied(copy, copy.layer * self.residency.experts + copy.expert, now_s)

    def preload(self) -> None:
        """Put every expert on its GPU before anything runs; there must be a slot for each."""
        for x, gpu in enumerate(self.home):
            self.devices[gpu].preload(x)

    def _drop_plan(self, layer: int) -> None:
        planned = self.residency.planned
        for x in self._plans[layer]:
            planned[x] = 0
        self._plans[layer] = ()
        for device in self.devices:
            if layer in device.pending:
                del device.pending[layer]

    def _waves(self, base: int, experts: Sequence[int]) -> int:
        needed = [0] * len(self.devices)
        for expert in experts:
            needed[self.home[base + expert]] += 1
        return max(-(-count // device.slots) for count, device in zip(needed, self.devices, strict=True))
