"""The SimPy driver: lets modelled time pass between the decisions of a policy.

Links, the running layer and searches are callbacks on reused events; SimPy's processes and resources would cost ten
times more. A layer with all its experts on the GPUs needs one event. `docs/simulator.md` has all rules.

    iteration:  layer 0 | layer 1 | … | layer L−1 | head
    layer:      framework, attention, router | gate: experts are demanded, missing ones copied | framework, experts |
                exchange between GPUs, driving
"""

import gc
import math
from collections.abc import Iterator

import simpy

from policies.base import Policy
from policies.cache.deadlock import deadlock
from policies.cache.expert_cache import ExpertCache
from policies.hooks import Actions, Hooks
from policies.types import Batch, Found, Prefetch, Search
from sim.engine.batching import Step, gates_of, predicted
from sim.engine.expert_work import ExpertWork
from sim.engine.links import Links
from sim.engine.prediction_tape import PredictionTape
from sim.engine.recorder import Recorder
from sim.engine.reused_event import Event
from sim.engine.searcher import Searcher
from sim.engine.shared_links import SharedLinks, share_host
from sim.engine.shared_time import SharedTime
from sim.engine.time_split import KnownParts
from sim.hardware.costs import Cost


class Engine:
    """One run of a started policy over the steps of a trace, with a cache in its initial state."""

    def __init__(
        self,
        *,
        hooks: Hooks,
        cache: ExpertCache,
        cost: Cost,
        steps: Iterator[Step],
        recorder: Recorder,
        tape: PredictionTape | None = None,
    ) -> None:
        policy = hooks.policy
        self._hooks = hooks
        self._cache = cache
        self._cost = cost
        self._steps = predicted(steps, policy.prefetcher, tape)
        self._recorder = recorder
        self._env = simpy.Environment(0.0)
        self._over = self._env.event()

        self._tell_gate = "gated" in hooks.heard
        self._gate_event = Event(self._env, self._gated)
        self._tell_layer = policy.blocking_prefetch or "begin_layer" in hooks.heard
        # The event after the previous layer: the beginning of a layer if any hook needs it, else directly its gate.
        self._next_event = Event(self._env, self._layer_begins) if self._tell_layer else self._gate_event
        self._end_event = Event(self._env, self._iteration_ends)
        self._shared: SharedTime | None = None
        if cost.effects.contended or share_host(cache, cost):
            self._shared = SharedTime(self._env, cost.effects)
            self._links: Links = SharedLinks(self._env, cache, cost, self._shared)
        else:
            self._links = Links(self._env, cache, cost)
        self._work = self._work_of(policy)
        self._links.on_demanded = self._work.arrived
        self._links.on_prefetched = self._start_if_ready
        self._searcher = Searcher(self._env, hooks, cost, self._found)
        self._layers = cache.model.layers
        self._layer_host_s, self._expert_host_s = cost.effects.layer_host_s, cost.effects.expert_host_s
        self._blocking_prediction = policy.blocking_prediction
        self._blocking_prefetch = policy.blocking_prefetch

    def _work_of(self, policy: Policy) -> ExpertWork:
        return ExpertWork(
            self._env,
            self._cache,
            self._cost,
            on_arrival=policy.compute_on_arrival,
            done=self._experts_done,
            wake=self._links.wake,
        )

    def run(self) -> float:
        """Replay all steps, and return the makespan in seconds."""
        collecting = gc.isenabled()
        gc.disable()  # no cycles are made here, and searching for them would cost a fifth of the time
        try:
            if self._begin_iteration():
                self._env.run(self._over)
        except RuntimeError as error:
            if self._env.peek() < math.inf or self._over.triggered:
                raise
            raise deadlock(self._cache, self._batch.iteration, self._env.now) from error
        finally:
            if collecting:
                gc.enable()
        return self._env.now

    # ---- iterations ----------------------------------------------------------------------------------------------

    def _begin_iteration(self) -> bool:
        """Begin the next step now; returns False if there is none."""
        step = next(self._steps, None)
        if step is None:
            return False
        now_s = self._env.now
        batch = step.batch
        self._step, self._batch = step, batch
        self._start_s, self._search_wait_s, self._prefetch_wait_s = now_s, 0.0, 0.0
        if self._tell_gate:
            self._gates = gates_of(step)
        tokens = len(batch.token)
        self._attention_s = self._cost.dense_s(tokens, step.context, step.attended)
        self._dense_s = self._attention_s + self._layer_host_s
        self._lead_s = 0.0 if self._tell_layer else self._dense_s
        self._exchange_s = self._cost.exchange_s(tokens)
        self._after_s = self._exchange_s + self._cost.driving_s
        self._gap_s = self._after_s + self._lead_s  # from the last expert of a layer to the next layer's event
        self._layer = 0
        self._cache.begin_iteration(batch, now_s)
        if self._cache.work:
            self._charge(now_s)
        self._work.begin_iteration(step)
        self._act(self._hooks.begin_iteration(batch, step.starting), now_s)
        self._links.wake(now_s)
        self._begin_first_layer()
        return True

    def _iteration_ends(self, event: Event) -> None:
        step, now_s = self._step, self._env.now
        known = self._known_parts()
        self._recorder.iteration(step.batch, step.starting, self._start_s, now_s, known, self._cache.counts)
        for update in self._hooks.end_iteration(step.batch, step.maps, step.experts, step.ending):
            self._searcher.charge(update, now_s)
        if not self._begin_iteration():
            self._over.succeed()

    # ---- layers --------------------------------------------------------------------------------------------------

    def _layer_begins(self, event: Event) -> None:
        now_s = self._env.now
        if self._blocking_prefetch:
            self._cache.begin_wait(self._layer)
        self._act(self._hooks.begin_layer(self._batch, self._layer), now_s)
        self._links.waiting_layer, self._waiting_since_s = self._layer, now_s
        self._links.wake(now_s)
        self._start_if_ready()

    def _start_if_ready(self) -> bool:
        """Start the waiting layer, unless the policy waits for its prefetches; returns whether it starts."""
        waiting = self._links.waiting_layer
        if waiting < 0:
            return False
        if self._blocking_prefetch:
            if self._cache.waits_for(waiting):
                return False
            self._cache.end_wait()
        self._links.waiting_layer = -1
        self._prefetch_wait_s += self._env.now - self._waiting_since_s
        self._attend()
        return True

    def _gated(self, event: Event) -> None:
        """The gate: demand the layer's experts, let the policy predict, and compute the present experts."""
        now_s = self._env.now
        layer, step, cache = self._layer, self._step, self._cache
        experts = step.demands[layer]
        demand = cache.demand(layer, experts, now_s)
        if cache.work:
            self._charge(now_s)
        if self._tell_gate:
            self._act(self._hooks.gated(step.batch, self._gates[layer]), now_s)
        shortest_s = self._work.shortest_s(layer, experts)
        start_s = now_s
        if self._blocking_prediction and self._searcher.free_s > now_s:
            start_s = self._searcher.free_s
            self._search_wait_s += start_s - now_s
        start_s += len(experts) * self._expert_host_s
        if self._work.closed_form and len(demand.hits) == len(experts) and demand.waves == 1:
            self._experts_done(start_s + shortest_s, now_s)
        else:
            self._work.begin(demand, start_s, now_s)
        if cache.wake:
            self._links.wake(now_s)

    def _experts_done(self, end_s: float, now_s: float) -> None:
        """The end of the layer's last expert is known; the next part of the iteration begins from there."""
        self._cache.release(self._layer, self._step.demands[self._layer], end_s, now_s)
        self._layer += 1
        if self._layer < self._layers:
            self._begin_next_layer(end_s, now_s)
        else:
            self._finish(end_s, now_s)

    # The times between these moments, without contention.

    def _begin_first_layer(self) -> None:
        self._next_event.after(self._lead_s)

    def _begin_next_layer(self, end_s: float, now_s: float) -> None:
        """After the experts of a layer, which end at `end_s`."""
        self._next_event.after(end_s - now_s + self._gap_s)

    def _attend(self) -> None:
        self._gate_event.after(self._dense_s)

    def _finish(self, end_s: float, now_s: float) -> None:
        """After the experts of the last layer."""
        rows = len(self._batch.request)
        self._end_event.after(end_s + self._after_s + self._cost.head_s(rows) - now_s)

    def _known_parts(self) -> KnownParts:
        """The known parts of the iteration's time."""
        cost, layers = self._cost, self._layers
        missed_s, late_s, waves_s = self._work.waits.seconds
        host_s = layers * self._layer_host_s
        if self._expert_host_s:
            host_s += sum(map(len, self._step.demands)) * self._expert_host_s
        return KnownParts(
            exchange_s=layers * self._exchange_s,
            overhead_s=(layers + 1 + self._work.operations) * cost.launch_s + layers * cost.driving_s + host_s,
            miss_wait_s=missed_s,
            late_wait_s=late_s,
            wave_wait_s=waves_s,
            search_wait_s=self._search_wait_s,
            prefetch_wait_s=self._prefetch_wait_s,
        )

    # ---- predictions ---------------------------------------------------------------------------------------------

    def _charge(self, now_s: float) -> None:
        """Charge the evictor's updates to the predictor's processor."""
        for update in self._cache.work:
            self._searcher.charge(update, now_s)
        self._cache.work.clear()

    def _act(self, actions: Actions, now_s: float) -> None:
        for action in actions:
            if isinstance(action, Prefetch):
                self._cache.plan(action, now_s)
            else:
                self._searcher.ask(self._batch, action, now_s)

    def _found(self, batch: Batch, asked: Search, found: Found) -> None:
        """A search has ended; its answer is too late for layers that have been gated meanwhile."""
        cache, now_s = self._cache, self._env.now
        layer_now = cache.layer_now if batch is self._batch else self._layers
        for prefetch in self._hooks.found(batch, layer_now, asked, found):
            cache.plan(prefetch, now_s)
        if cache.wake:
            self._links.wake(now_s)
        self._start_if_ready()
