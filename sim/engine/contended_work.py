"""Experts on GPUs that compute more slowly while bytes move to them, so no end is known in advance."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import simpy
from typing_extensions import override

from policies.cache.expert_cache import ExpertCache
from policies.types import Copy, Demand
from sim.engine.expert_work import ExpertWork
from sim.engine.layer_times import LayerTimes
from sim.engine.reused_event import Event
from sim.engine.shared_time import SharedTime
from sim.hardware.costs import Cost


class ContendedWork(ExpertWork):
    """`ExpertWork` with computing in `SharedTime`; `done` is called when a layer's last expert has been computed."""

    closed_form = False

    def __init__(
        self,
        env: simpy.Environment,
        cache: ExpertCache,
        cost: Cost,
        shared: SharedTime,
        *,
        on_arrival: bool,
        done: Callable[[float, float], None],
        wake: Callable[[float], None],
    ) -> None:
        super().__init__(env, cache, cost, on_arrival=on_arrival, done=done, wake=wake)
        self._shared = shared
        self._times = LayerTimes([device.slots for device in cache.devices], range(self._gpus))
        self.waits = self._times.waits
        self._start_event = Event(env, self._started)
        self._queues: list[deque[int]] = [deque() for _ in range(self._gpus)]  # experts to compute next
        self._computing = [False] * self._gpus
        self._waiting: list[int] = []  # present experts that have not been queued

    @override
    def begin(self, demand: Demand, start_s: float, now_s: float) -> None:
        self._demand, self._start_s = demand, start_s
        self._missing = len(self._experts) - len(demand.hits)
        self._uncomputed = len(self._experts)
        self._in_waves = demand.waves > 1
        self._at_once = self._on_arrival or self._in_waves
        self._waiting = list(demand.hits)
        self._times.begin(self._home)
        self._running = start_s <= now_s
        if self._running:
            self._queue_waiting(now_s)
        else:
            self._start_event.after(start_s - now_s)

    @override
    def arrived(self, copy: Copy, now_s: float) -> None:
        expert = copy.number % self._total
        self._missing -= 1
        self._waiting.append(expert)
        self._times.arrived(expert, now_s)
        if self._running:
            self._queue_waiting(now_s)

    def _started(self, event: Event) -> None:
        """The host has launched the layer's experts, and the search wait is over."""
        self._running = True
        self._queue_waiting(self._env.now)

    def _queue_waiting(self, now_s: float) -> None:
        """Queue the present experts, or, without `compute_on_arrival`, all experts once they have arrived."""
        if self._missing and not self._at_once:
            return
        experts: Sequence[int] = self._waiting if self._at_once else self._experts
        for expert in experts:
            self._times.given(expert, now_s)
            self._queues[self._home[expert]].append(expert)
        for expert in experts:
            self._compute_next(self._home[expert])
        self._waiting = []

    def _compute_next(self, gpu: int) -> None:
        if self._queues[gpu] and not self._computing[gpu]:
            self._computing[gpu] = True
            expert = self._queues[gpu].popleft()
            self._shared.compute(gpu, self._seconds[expert], partial(self._computed_one, expert, gpu))

    def _computed_one(self, expert: int, gpu: int) -> None:
        now_s = self._env.now
        self._computing[gpu] = False
        self._compute_next(gpu)
        self._times.computed(expert, now_s)
        self._uncomputed -= 1
        if not self._uncomputed:
            self._times.ended(self._demand, self._start_s, at_once=self._at_once)
            # As in `ExpertWork`, a layer in one wave ends before its pins do, by at least one bit.
            end_s = now_s if self._in_waves else math.nextafter(now_s, math.inf)
            self._done(end_s, now_s)
        elif self._in_waves:
            self._cache.release(self._layer, [expert], now_s, now_s)
        else:
            return
        self._wake(now_s)
