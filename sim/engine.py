"""The SimPy driver: lets modelled time pass between the decisions of a policy.

Every link, the running layer and every search are callbacks on events that are scheduled again and again; processes and
resources would cost ten times more. A layer that finds all its experts on the GPUs needs one event.

    iteration:  layer 0 | layer 1 | … | layer L−1 | head
    layer:      attention, router | gate: demand, what is missing is copied | experts | exchange between GPUs
"""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import simpy
from simpy.events import NORMAL

from policies.base import Policy, Prefetcher
from policies.cache import ExpertCache
from policies.types import Batch, Copy, Found, Gate, Prefetch, Search
from sim.batching import Step
from sim.cost import CostModel
from sim.recorder import Recorder


class _Event(simpy.Event):
    """An event that calls one function and can be scheduled again once it has happened."""

    def __init__(self, env: simpy.Environment, call: Callable[..., None]) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self._call = [call]
        self._schedule = env.schedule

    def after(self, delay_s: float) -> None:
        """Happen so many seconds from now."""
        self.callbacks = self._call
        self._schedule(self, NORMAL, delay_s)


class _LinkEvent(_Event):
    """The arrival of the chunk that a link carries."""

    idle = True
    copy: Copy


class _SearchEvent(_Event):
    """The end of a search."""

    batch: Batch
    asked: Search
    found: Found


class _ComputedEvent(_Event):
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
        self._steps = steps
        self._ahead: deque[Step] = deque()
        self._recorder = recorder
        self._env = simpy.Environment()
        self._over = self._env.event()

        kind = type(policy.prefetcher)
        self._tell_gate = kind.on_gate is not Prefetcher.on_gate
        self._gate_event = _Event(self._env, self._gated)
        self._tell_layer = policy.blocking_prefetch or kind.on_layer is not Prefetcher.on_layer
        # What follows the layer before: the beginning of a layer if anyone wants to know, or at once its gate.
        self._next_event = _Event(self._env, self._layer_begins) if self._tell_layer else self._gate_event
        self._end_event = _Event(self._env, self._iteration_ends)
        self._expiry_event = _Event(self._env, self._pins_expire)
        self._links = [_LinkEvent(self._env, self._copied) for _ in cache.devices]
        self._spare_searches: list[_SearchEvent] = []
        self._spare_computed: list[_ComputedEvent] = []

        self._layers, self._total = cache.model.layers, cache.model.experts
        self._home = [cache.home[start : start + self._total] for start in range(0, len(cache.home), self._total)]
        self._blocking = policy.blocking_prediction
        self._on_arrival = policy.compute_on_arrival
        self._devices = cache.devices
        self._searcher_free_s = 0.0
        self._copy_s = {size: cost.copy_s(size) for size in cache.chunk_bytes}
        self._one_token_s = cost.expert_s(1)
        self._held_back = False  # the layer waits for its prefetches
        self._missing = 0  # experts of the running layer that are still on their way
        self._uncomputed = 0  # experts of a layer that runs in waves
        self._expiry_s = 0.0  # when the pins of the last gated layer end
        self._expiry_scheduled = False

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
        step = self._next_step()
        if step is None:
            return False
        now_s = self._env.now
        batch = step.batch
        self._step, self._batch = step, batch
        self._start_s, self._wait_s = now_s, 0.0
        tokens = len(batch.token)
        self._dense_s = self._cost.dense_s(tokens, step.context, step.attended)
        self._lead_s = 0.0 if self._tell_layer else self._dense_s
        self._exchange_s = self._cost.exchange_s(tokens)
        self._layer = 0
        for request in step.starting:
            self._prefetcher.on_request_start(request)
        self._cache.begin_iteration(batch, now_s)
        self._act(self._prefetcher.on_batch(batch))
        self._wake_links()
        self._next_event.after(self._lead_s)
        return True

    def _next_step(self) -> Step | None:
        if not self._ahead:
            block = self._prefetcher.block
            self._ahead.extend(islice(self._steps, max(1, block)))
            if block and self._ahead:
                self._prefetcher.predict_block(*zip(*((step.batch, step.maps) for step in self._ahead), strict=True))
        return self._ahead.popleft() if self._ahead else None

    def _iteration_ends(self, event: _Event) -> None:
        step, now_s = self._step, self._env.now
        self._recorder.iteration(step, self._start_s, now_s, self._wait_s, self._cache.counts)
        for update in self._prefetcher.on_batch_end(step.batch, step.maps):
            self._charge(update)
        for request in step.ending:
            self._prefetcher.on_request_end(request)
        if not self._begin_iteration():
            self._over.succeed()

    # ---- layers --------------------------------------------------------------------------------------------------

    def _layer_begins(self, event: _Event) -> None:
        self._act(self._prefetcher.on_layer(self._batch, self._layer))
        self._held_back, self._held_since_s = True, self._env.now
        self._wake_links()
        self._let_through()

    def _let_through(self) -> None:
        """Start a layer that is held back, unless the policy wants its prefetches to arrive first."""
        if self._policy.blocking_prefetch and self._cache.waits_for(self._layer):
            return
        self._held_back = False
        self._wait_s += self._env.now - self._held_since_s
        self._gate_event.after(self._dense_s)

    def _gated(self, event: _Event) -> None:
        """The router has spoken: demand its experts, predict, and compute what is there."""
        now_s = self._env.now
        layer, step, cache = self._layer, self._step, self._cache
        self._experts = experts = step.demands[layer]
        demand = cache.demand(layer, experts, now_s)
        if self._tell_gate:
            lookahead = {distance: probs[:, layer] for distance, probs in step.lookahead.items()}
            gate = Gate(layer, step.maps[:, layer], step.experts[:, layer], lookahead)
            self._act(self._prefetcher.on_gate(step.batch, gate))
        home = self._home[layer]
        if step.loads is None:
            gpus = [*map(home.__getitem__, experts)]
            work_s = max(map(gpus.count, gpus)) * self._one_token_s
        else:
            self._seconds = dict(zip(experts, map(self._cost.expert_s, step.loads[layer]), strict=True))
            work_s = max(self._computed_from(0.0, experts))
        self._ready_s = now_s + work_s
        start_s = max(now_s, self._searcher_free_s) if self._blocking else now_s
        self._missing = len(demand.misses) + len(demand.late)
        if demand.waves > 1:
            self._uncomputed = len(experts)
            self._busy_s = [start_s] * len(self._links)
            for expert in demand.hits:
                self._compute_in_wave(expert, home[expert], now_s)
        elif self._missing:
            self._busy_s = self._computed_from(start_s, demand.hits if self._on_arrival else ())
        else:
            self._experts_done(start_s + work_s, now_s)
        if cache.wake:
            self._wake_links()

    def _computed_from(self, start_s: float, experts: Sequence[int]) -> list[float]:
        """When each GPU has computed these experts of the running layer, beginning at `start_s`."""
        busy_s = [start_s] * len(self._links)
        home = self._home[self._layer]
        for expert in experts:
            busy_s[home[expert]] += self._seconds[expert] if self._step.loads else self._one_token_s
        return busy_s

    def _arrived(self, copy: Copy, now_s: float) -> None:
        """An expert that the running layer misses is there."""
        self._missing -= 1
        expert = copy.number % self._total
        if self._uncomputed:
            self._compute_in_wave(expert, copy.gpu, now_s)
            return
        busy_s = self._busy_s
        if self._on_arrival:
            begin_s = busy_s[copy.gpu]
            if begin_s < now_s:
                begin_s = now_s
            busy_s[copy.gpu] = begin_s + (self._seconds[expert] if self._step.loads else self._one_token_s)
        if not self._missing:
            if not self._on_arrival:
                busy_s = self._computed_from(max(now_s, *busy_s), self._experts)
            self._experts_done(max(busy_s), now_s)

    def _compute_in_wave(self, expert: int, gpu: int, now_s: float) -> None:
        """Let a GPU compute an expert next, and tell when it is done: its slot is wanted."""
        end_s = max(self._busy_s[gpu], now_s) + (self._seconds[expert] if self._step.loads else self._one_token_s)
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
        self._wake_links()

    def _experts_done(self, end_s: float, now_s: float) -> None:
        """It is known when the last expert of the layer has been computed; what follows takes its time from there."""
        self._wait_s += end_s - self._ready_s
        self._expiry_s = end_s
        self._cache.release(self._layer, self._experts, end_s, now_s)
        self._layer += 1
        if self._layer < self._layers:
            self._next_event.after(end_s - now_s + self._exchange_s + self._lead_s)
        else:
            rows = len(self._batch.request)
            self._end_event.after(end_s + self._exchange_s + self._cost.head_s(rows) - now_s)

    # ---- links ---------------------------------------------------------------------------------------------------

    def _wake_links(self) -> None:
        """Let every idle link that may have work ask for it."""
        cache = self._cache
        now_s = self._env.now
        for device in cache.wake:
            link = self._links[device.gpu]
            if link.idle:
                copy = device.next_copy(now_s)
                if copy is not None:
                    link.idle = False
                    link.copy = copy
                    link.after(self._copy_s[copy.bytes])
        cache.wake.clear()
        if cache.stalled:
            self._watch_expiry()

    def _copied(self, event: _LinkEvent) -> None:
        """A chunk has arrived."""
        copy, now_s = event.copy, self._env.now
        device = self._devices[copy.gpu]
        complete = device.copied(copy, now_s)
        following = device.next_copy(now_s)
        if following is not None:
            event.copy = following
            event.after(self._copy_s[following.bytes])
        else:
            event.idle = True
        if complete:
            if copy.demanded:
                self._arrived(copy, now_s)
            if self._held_back:
                self._let_through()
        if self._cache.stalled:
            self._watch_expiry()

    def _watch_expiry(self) -> None:
        """A link is waiting for a slot: wake it when the pins of the layer end, if that is known and ahead."""
        delay_s = self._expiry_s - self._env.now
        if delay_s > 0 and not self._expiry_scheduled:
            self._expiry_scheduled = True
            self._expiry_event.after(delay_s)

    def _pins_expire(self, event: _Event) -> None:
        self._expiry_scheduled = False
        self._cache.wake_stalled()
        self._wake_links()

    # ---- predictions ---------------------------------------------------------------------------------------------

    def _act(self, actions: Iterable[Prefetch | Search]) -> None:
        now_s = self._env.now
        for action in actions:
            if isinstance(action, Prefetch):
                self._cache.plan(action, now_s)
                continue
            event = self._spare_searches.pop() if self._spare_searches else _SearchEvent(self._env, self._found)
            event.batch, event.asked, event.found = self._batch, action, self._prefetcher.search(action)
            event.after(self._charge(action) - now_s)

    def _charge(self, search: Search) -> float:
        """Searches are served one at a time, first come, first served; the answer is when this one will have ended."""
        self._searcher_free_s = max(self._searcher_free_s, self._env.now) + self._cost.search_s(search)
        return self._searcher_free_s

    def _found(self, event: _SearchEvent) -> None:
        """A search has ended; what it says about layers that have been gated meanwhile comes too late."""
        cache, now_s = self._cache, self._env.now
        layer_now = cache.layer_now if event.batch is self._batch else cache.model.layers
        for prefetch in self._prefetcher.on_found(event.batch, layer_now, event.asked, event.found):
            cache.plan(prefetch, now_s)
        self._spare_searches.append(event)
        if cache.wake:
            self._wake_links()
        if self._held_back:
            self._let_through()
