"""Computes the running layer's experts: each on its own GPU, and one after another on each GPU."""

from collections.abc import Callable, Sequence

import numpy as np
import simpy

from policies.cache.expert_cache import ExpertCache
from policies.types import Copy, Demand
from sim.engine.batching import Step
from sim.engine.reused_event import Event
from sim.engine.time_split import LayerWaits
from sim.hardware.costs import Cost


class _ComputedEvent(Event):
    """The end of one expert's computation in a layer that runs in waves."""

    expert: int


class ExpertWork:
    """Computes experts as they arrive, after the last arrival, or, in a layer that runs in waves, as slots allow.

    `done` is called with the time at which the last expert of a layer will have been computed, as soon as that is
    known. `wake` is called when a slot has become free.
    """

    closed_form = True
    """Whether the end of a layer is known when it begins with all experts present."""

    def __init__(
        self,
        env: simpy.Environment,
        cache: ExpertCache,
        cost: Cost,
        *,
        on_arrival: bool,
        done: Callable[[float, float], None],
        wake: Callable[[float], None],
    ) -> None:
        self._env = env
        self._cache = cache
        self._cost = cost
        self._on_arrival = on_arrival
        self._done = done
        self._wake = wake
        self._gpus = len(cache.devices)
        self._total = total = cache.model.experts
        # The GPU of each expert by layer; with replicas, the initial one.
        self._homes = [cache.home[start : start + total] for start in range(0, len(cache.home), total)]
        self._layers = np.arange(len(self._homes))[:, None]
        # [L, J + 1]: a number for each GPU in each layer; the last column is for -1, an expert that is not executed.
        self._bins = np.pad(np.array(self._homes) + self._layers * self._gpus, ((0, 0), (0, 1)), constant_values=0)
        self._bins[:, -1] = len(self._homes) * self._gpus
        self._one_token_s = cost.expert_s(1)
        self._one_token_each_s = dict.fromkeys(range(total), self._one_token_s)
        self.waits = LayerWaits([device.slots for device in cache.devices])
        self.operations = 0  # experts on the longest GPU of each layer of the iteration
        self._missing = 0  # experts that have not arrived
        self._uncomputed = 0  # experts not computed yet, in a layer that runs in waves
        self._spare: list[_ComputedEvent] = []

    def begin_iteration(self, step: Step) -> None:
        """Count the experts on the busiest GPU of each layer; for all layers at once if each expert has one token."""
        self._loads = step.loads
        self.operations = 0
        self.waits.begin_iteration()
        if step.loads is None and self._cache.fixed:
            bins = self._bins[self._layers, step.experts[0]]  # [L, K]
            counts = np.bincount(bins.ravel(), minlength=len(bins) * self._gpus)[: len(bins) * self._gpus]
            self._busiest: list[int] = counts.reshape(-1, self._gpus).max(axis=1).tolist()
            self.operations = sum(self._busiest)

    def shortest_s(self, layer: int, experts: Sequence[int]) -> float:
        """Set the running layer, and return how long its busiest GPU takes if every expert is present.

        Call this after the layer's experts have been demanded: from then until their release, their homes are fixed.
        """
        self._layer, self._experts = layer, experts
        fixed = self._cache.fixed
        self._home = self._homes[layer] if fixed else self._cache.home[layer * self._total : (layer + 1) * self._total]
        if self._loads is None:
            self._seconds = self._one_token_each_s
            if fixed:
                busiest = self._busiest[layer]
            else:
                busiest = self._on_busiest(experts)
                self.operations += busiest
            self._shortest_s = busiest * self._one_token_s
            return self._shortest_s
        loads = self._loads[layer]
        self._seconds = dict(zip(experts, map(self._cost.expert_s, loads), strict=True))
        busy_s = self._from(0.0, experts)
        self._shortest_s = max(busy_s)
        longest = busy_s.index(self._shortest_s)
        self.operations += [self._home[expert] for expert in experts].count(longest)
        return self._shortest_s

    def begin(self, demand: Demand, start_s: float, now_s: float) -> None:
        """Begin to compute a layer with missing experts, or one that runs in waves, from `start_s` on."""
        self._missing = len(self._experts) - len(demand.hits)
        in_waves = demand.waves > 1
        self._resident_s = start_s + self._shortest_s
        self._only_misses = not (demand.late or in_waves)
        if not self._only_misses:
            at_once = self._on_arrival or in_waves
            self.waits.begin_layer(demand, self._home, self._resident_s if at_once else start_s)
        if in_waves:
            self._uncomputed = len(self._experts)
            self._busy_s = [start_s] * self._gpus
            for expert in demand.hits:
                self._compute_in_wave(expert, self._home[expert], now_s)
        else:
            self._busy_s = self._from(start_s, demand.hits if self._on_arrival else ())

    def arrived(self, copy: Copy, now_s: float) -> None:
        """An expert that the layer waits for has arrived."""
        self._missing = missing = self._missing - 1
        expert, gpu, busy_s = copy.number % self._total, copy.gpu, self._busy_s
        if self._uncomputed:
            self.waits.arrived(expert, gpu, self._compute_in_wave(expert, gpu, now_s))
            return
        if self._on_arrival:
            begin_s = busy_s[gpu]
            if begin_s < now_s:
                begin_s = now_s
            busy_s[gpu] = end_s = begin_s + self._seconds[expert]
        else:
            end_s = now_s
        if not self._only_misses and end_s > self.waits.end_s:
            self.waits.arrived(expert, gpu, end_s)
        if not missing:
            if not self._on_arrival:
                busy_s = self._from(max(now_s, *busy_s), self._experts)
            end_s = max(busy_s)
            if self._only_misses:
                self.waits.all_missed(end_s - self._resident_s)
            self._done(end_s, now_s)

    def _on_busiest(self, experts: Sequence[int]) -> int:
        """The number of these experts on the GPU that has the most of them."""
        count = [0] * self._gpus
        for expert in experts:
            count[self._home[expert]] += 1
        return max(count)

    def _from(self, start_s: float, experts: Sequence[int]) -> list[float]:
        """When each GPU has computed these experts, if it begins at `start_s`."""
        busy_s = [start_s] * self._gpus
        for expert in experts:
            busy_s[self._home[expert]] += self._seconds[expert]
        return busy_s

    def _compute_in_wave(self, expert: int, gpu: int, now_s: float) -> float:
        """Let a GPU compute an expert next and schedule its end, which frees a slot; returns the time of the end."""
        end_s = max(self._busy_s[gpu], now_s) + self._seconds[expert]
        self._busy_s[gpu] = end_s
        event = self._spare.pop() if self._spare else _ComputedEvent(self._env, self._computed)
        event.expert = expert
        event.after(end_s - now_s)
        return end_s

    def _computed(self, event: _ComputedEvent) -> None:
        """An expert of a layer that runs in waves has been computed."""
        self._spare.append(event)
        self._uncomputed -= 1
        now_s = self._env.now
        if self._uncomputed:
            self._cache.release(self._layer, [event.expert], now_s, now_s)
        else:
            self._done(now_s, now_s)
        self._wake(now_s)
