"""Simulated runs in which everything is drawn: routing, plans, machine, slots and what the policy may choose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.base import Evictor, Policy, Prefetcher
from policies.cache.invariants import InvariantChecker
from policies.cache.observed_cache import ObservedCache, Observer
from policies.evictors.belief_frequency import BeliefAndFrequency
from policies.evictors.recency import LeastRecentlyUsed
from policies.hooks import Hooks
from policies.types import Prefetch
from sim.engine.batching import Step, fixed_batches
from sim.engine.contended_engine import engine_for
from sim.engine.recorder import Recorder
from sim.hardware.costs import Cost
from tests.support.builders import machine, random_requests, setup_of, shape


class Erratic(Prefetcher):
    """Wishes for anything at any moment, gated layers and experts that are demanded right now included."""

    def __init__(self, rng, model):
        self._rng, self._model = rng, model

    def _wish(self):
        for _ in range(self._rng.integers(3)):
            count = int(self._rng.integers(1, self._model.experts + 1))
            experts = self._rng.permutation(self._model.experts)[:count].tolist()
            yield Prefetch(int(self._rng.integers(self._model.layers)), experts, self._rng.random(count).tolist())

    def on_batch(self, batch):
        return self._wish()

    def on_layer(self, batch, layer):
        return self._wish()

    def on_gate(self, batch, gate):
        return self._wish()


class Guarding(Evictor):
    """Guards by scores drawn at random, all of them anew at each event."""

    guards = True

    def __init__(self, seed=0):
        self._rng = np.random.default_rng(seed)

    def touched(self, layer, experts, now_s):
        self.scores[:] = self._rng.random(len(self.scores))

    def foreseen(self, fetched, occupants):
        return self.scores[occupants]


EVICTORS = (LeastRecentlyUsed, BeliefAndFrequency, Evictor, Guarding)


@dataclass
class Run:
    """A run that has ended."""

    policy: Policy
    cache: ObservedCache
    cost: Cost
    steps: list[Step]
    recorder: Recorder


def random_run(
    seed: int,
    *,
    replicas=1,
    gpus=1,
    evictor=None,
    cost_of=lambda cost: cost,
    observers: Sequence[Observer] = (),
    **choices,
) -> Run:
    """The run of a seed; `choices` of the cache are drawn unless they are given, all else does not depend on them.

    There are at least `replicas` GPUs, and `gpus`; `cost_of` may change what things cost.
    """
    rng = np.random.default_rng(seed)
    model = shape(int(rng.integers(1, 5)), int(rng.integers(2, 7)), top_k=int(rng.integers(1, 3)))
    if seed % 3 == 0:  # as under mixed quantisation
        sizes = np.random.default_rng([seed, 1]).integers(5, 40, model.layers)
        model = replace(model, expert_bytes_by_layer=tuple(sizes.tolist()))
    gpus = max(int(rng.integers(1, 4)), replicas, gpus)
    least = max(model.top_k, gpus)
    total = int(rng.integers(least, max(least, model.total_experts) + 1))
    requests = random_requests(model, rng, requests=2, decoded=8, prefill_tokens=int(rng.integers(0, 4)))
    evictor = evictor or EVICTORS[seed % len(EVICTORS)]()
    policy = Policy(
        prefetcher=Erratic(rng, model),
        evictor=evictor,
        blocking_prefetch=bool(rng.integers(2)),
        compute_on_arrival=bool(rng.integers(2)),
    )
    drawn = {
        "chunk_bytes": ["whole", 7, 12][int(rng.integers(3))],
        "refused_blocks": bool(rng.integers(2)),
        "copy_key": [None, lambda *waiting: hash(waiting) % 7][int(rng.integers(2))],
    }
    evictor.start(setup_of(model))
    cache = ObservedCache(
        model,
        evictor,
        slots=[total // gpus + (gpu < total % gpus) for gpu in range(gpus)],
        replicas=replicas,
        observers=[InvariantChecker(), *observers],
        **{**drawn, **choices},
    )
    cost = cost_of(machine(gpus, bytes_per_s=10.0 ** rng.integers(5, 9), latency_s=1e-6).cost(model))
    recorder = Recorder()
    steps = list(fixed_batches(requests, 1 + seed % 2))
    hooks = Hooks(policy)
    engine_for(cost)(hooks=hooks, cache=cache, cost=cost, steps=iter(steps), recorder=recorder).run()
    return Run(policy, cache, cost, steps, recorder)
