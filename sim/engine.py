"""The SimPy driver: lets modelled time pass between the decisions of a policy.

Every link, the running layer and every search are callbacks on events that are scheduled again and again; processes and
resources would cost ten times more. A layer that finds all its experts on the GPUs needs one event.

    iteration:  layer 0 | layer 1 | … | layer L−1 | head
    layer:      attention, router | gate: demand, what is missing is copied | experts | exchange between GPUs
"""

import gc
from collections.abc import Iterable, Iterator, Sequence

import simpy

from policies.base import Policy, Prefetcher
from policies.cache import ExpertCache
from policies.types import Batch, Copy, Found, Prefetch, Search
from sim.batching import Step, gates_of, predicted
from sim.cost import CostModel
from sim.events import Event
from sim.links import Links
from sim.recorder import Recorder
from sim.searcher import Searcher


class _ComputedEvent(Event):
    """The end of one expert's computation, where the layer runs in waves."""

    expert: int


class Engine:
    """One run of a policy over the steps of a trace; the policy has been started, the cache is as it shall begin."""

    def __init__(
        self, *, policy: Policy, cache: ExpertCache, cost: CostModel, steps: Iterator[Step], recorder: Recorder
    ) -> None:
        self._policy = policy
        self._prefetcher = policy.prefetcher
        self._cache = cache
        self._cost = cost
        self._steps = predicted(steps, policy.prefetcher)
        self._recorder = recorder
        self._env = simpy.Environment()
        self._over = self._env.event()

        kind = type(policy.prefetcher)
        self._tell_gate = kind.on_gate is not Prefetcher.on_gate
        self._gate_event = Event(self._env, self._gated)
        self._tell_layer = policy.blocking_prefetch or kind.on_layer is not Prefetcher.on_layer
        # What follows the layer before: the beginning of a layer if anyone wants to know, or at once its gate.
        self._next_event = Event(self._env, self._layer_begins) if self._tell_layer else self._gate_event
        self._end_event = Event(self._env, self._iteration_ends)
        self._links = Links(self._env, cache, cost, self._arrived)
        self._searcher = Searcher(self._env, policy.prefetcher, cost, self._found)
        self._spare_computed: list[_ComputedEvent] = []

        self._layers, self._total = cache.model.layers, cache.model.experts
        self._home = [cache.home[start : start + self._total] for start in range(0, len(cache.home), self._total)]
        self._blocking = policy.blocking_prediction
        self._on_arrival = policy.compute_on_arrival
        self._gpus = len(cache.devices)
        self._one_token_s = cost.expert_s(1)
        self._one_token_each_s = dict.fromkeys(range(self._total), self._one_token_s)
        self._held_back = False  # the layer waits for its prefetches
        self._missing = 0  # experts of the running layer that are still on their way
        self._uncomputed = 0  # experts of a layer that runs in waves

    def run(self) -> float:
        """Replay all steps; the answer is the makespan in seconds."""
        collecting = gc.isenabled()
        gc.disable()  # nothing here makes cycles, and looking for them costs a fifth of the time
        try:
            if self._begin_iteration():
                self._env.run(self._over)
        finally:
            if collecting:
                gc.enable()
        return self._env.now

    # ---- iterations ----------------------------------------------------------------------------------------------

    def _begin_iteration(self) -> bool:
        """Begin the next step now; False if there is none."""
        step = next(self._steps, None)
        if step is None:
            return False
        now_s = self._env.now
        batch = step.batch
        self._step, self._batch = step, batch
        self._start_s, self._wait_s = now_s, 0.0
        if self._tell_gate:
            self._gates = gates_of(step)
        tokens = len(batch.token)
        self._dense_s = self._cost.dense_s(tokens, step.context, step.attended)
        self._lead_s = 0.0 if self._tell_layer else self._dense_s
        self._exchange_s = self._cost.exchange_s(tokens)
        self._layer = 0
        for request in step.starting:
            self._prefetcher.on_request_start(request)
        self._cache.begin_iteration(batch, now_s)
        self._act(self._prefetcher.on_batch(batch), now_s)
        self._links.wake(now_s)
        self._next_event.after(self._lead_s)
        return True

    def _iteration_ends(self, event: Event) -> None:
        step, now_s = self._step, self._env.now
        self._recorder.iteration(step, self._start_s, now_s, self._wait_s, self._cache.counts)
        for update in self._prefetcher.on_batch_end(step.batch, step.maps):
            self._searcher.charge(update, now_s)
        for request in step.ending:
            self._prefetcher.on_request_end(request)
        if not self._begin_iteration():
            self._over.succeed()

    # ---- layers --------------------------------------------------------------------------------------------------

    def _layer_begins(self, event: Event) -> None:
        now_s = self._env.now
        self._act(self._prefetcher.on_layer(self._batch, self._layer), now_s)
        self._held_back, self._held_since_s = True, now_s
        self._links.wake(now_s)
        self._let_through()

    def _let_through(self) -> None:
        """Start a layer that is held back, unless the policy wants its prefetches to arrive first."""
        if self._policy.blocking_prefetch and self._cache.waits_for(self._layer):
            return
        self._held_back = False
        self._wait_s += self._env.now - self._held_since_s
        self._gate_event.after(self._dense_s)

    def _gated(self, event: Event) -> None:
        """The router has spoken: demand its experts, predict, and compute what is there."""
        now_s = self._env.now
        layer, step, cache = self._layer, self._step, self._cache
        self._experts = experts = step.demands[layer]
        demand = cache.demand(layer, experts, now_s)
        if self._tell_gate:
            self._act(self._prefetcher.on_gate(step.batch, self._gates[layer]), now_s)
        home = self._home[layer]
        if step.loads is None:
            gpus = [*map(home.__getitem__, experts)]
            work_s = max(map(gpus.count, gpus)) * self._one_token_s
            self._seconds = self._one_token_each_s
        else:
            self._seconds = dict(zip(experts, map(self._cost.expert_s, step.loads[layer]), strict=True))
            work_s = max(self._computed_from(0.0, experts))
        self._ready_s = now_s + work_s
        start_s = max(now_s, self._searcher.free_s) if self._blocking else now_s
        self._missing = len(experts) - len(demand.hits)
        if demand.waves > 1:
            self._uncomputed = len(experts)
            self._busy_s = [start_s] * self._gpus
            for expert in demand.hits:
                self._compute_in_wave(expert, home[expert], now_s)
        elif self._missing:
            self._busy_s = busy_s = [start_s] * self._gpus
            if self._on_arrival:
                for expert in demand.hits:
                    busy_s[home[expert]] += self._seconds[expert]
        else:
            self._experts_done(start_s + work_s, now_s)
        if cache.wake:
            self._links.wake(now_s)

    def _computed_from(self, start_s: float, experts: Sequence[int]) -> list[float]:
        """When each GPU has computed these experts of the running layer, beginning at `start_s`."""
        busy_s = [start_s] * self._gpus
        home = self._home[self._layer]
        for expert in experts:
            busy_s[home[expert]] += self._seconds[expert]
        return busy_s

    def _arrived(self, copy: Copy, now_s: float) -> None:
        """An expert is complete; the running layer goes on if it was missing."""
        if not copy.demanded:
            if self._held_back:
                self._let_through()
            return
        self._missing = missing = self._missing - 1
        expert, busy_s = copy.number % self._total, self._busy_s
        if self._uncomputed:
            self._compute_in_wave(expert, copy.gpu, now_s)
            return
        if self._on_arrival:
            begin_s = busy_s[copy.gpu]
            if begin_s < now_s:
                begin_s = now_s
            busy_s[copy.gpu] = begin_s + self._seconds[expert]
        if not missing:
            if not self._on_arrival:
                busy_s = self._computed_from(max(now_s, *busy_s), self._experts)
            self._experts_done(max(busy_s), now_s)

    def _compute_in_wave(self, expert: int, gpu: int, now_s: float) -> None:
        """Let a GPU compute an expert next, and tell when it is done: its slot is wanted."""
        end_s = max(self._busy_s[gpu], now_s) + self._seconds[expert]
        self._busy_s[gpu] = end_s
        event = self._spare_computed.pop() if self._spare_computed else _ComputedEvent(self._env, self._computed)
        event.expert = expert
        event.after(end_s - now_s)

    def _computed(self, event: _ComputedEvent) -> None:
        """An expert of a layer that runs in waves is done with its slot."""
        self._spare_computed.append(event)
        self._uncomputed -= 1
        now_s = self._env.now
        if self._uncomputed:
            self._cache.release(self._layer, [event.expert], now_s, now_s)
        else:
            self._experts_done(now_s, now_s)
        self._links.wake(now_s)

    def _experts_done(self, end_s: float, now_s: float) -> None:
        """It is known when the last expert of the layer has been computed; what follows takes its time from there."""
        self._wait_s += end_s - self._ready_s
        self._cache.release(self._layer, self._experts, end_s, now_s)
        self._layer += 1
        if self._layer < self._layers:
            self._next_event.after(end_s - now_s + self._exchange_s + self._lead_s)
        else:
            rows = len(self._batch.request)
            self._end_event.after(end_s + self._exchange_s + self._cost.head_s(rows) - now_s)

    # ---- predictions ---------------------------------------------------------------------------------------------

    def _act(self, actions: Iterable[Prefetch | Search], now_s: float) -> None:
        for action in actions:
            if isinstance(action, Prefetch):
                self._cache.plan(action, now_s)
            else:
                self._searcher.ask(self._batch, action, now_s)

    def _found(self, batch: Batch, asked: Search, found: Found) -> None:
        """A search has ended; what it says about layers that have been gated meanwhile comes too late."""
        cache, now_s = self._cache, self._env.now
        layer_now = cache.layer_now if batch is self._batch else self._layers
        for prefetch in self._prefetcher.on_found(batch, layer_now, asked, found):
            cache.plan(prefetch, now_s)
        if cache.wake:
            self._links.wake(now_s)
        if self._held_back:
            self._let_through()
