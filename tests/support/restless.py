"""Runs by both drivers of policies that do anything at any moment."""

from dataclasses import replace

import numpy as np

from policies.base import Evictor, Policy, Prefetcher
from policies.evictors.belief_frequency import BeliefAndFrequency
from policies.evictors.recency import LeastRecentlyUsed
from policies.types import Likely, Prefetch, Search
from tests.support.both_drivers import Played, both
from tests.support.builders import shape


class Guarding(Evictor):
    """Guards by scores that are drawn anew at each event, and charges for it."""

    guards = True

    def start(self, setup):
        super().start(setup)
        self._rng = np.random.default_rng(7)

    def touched(self, layer, experts, now_s):
        self.scores[:] = self._rng.random(len(self.scores))
        return [Search("update", layer, 1, 3, int(self._rng.integers(1, 900)))]

    def foreseen(self, fetched, occupants):
        return self.scores[occupants]


class Restless(Prefetcher):
    """Wishes and searches at random at every moment, and lets what it finds mean anything."""

    def __init__(self, seed: int, model) -> None:
        self._rng, self._model = np.random.default_rng(seed), model

    def _wishes(self):
        for _ in range(self._rng.integers(3)):
            count = int(self._rng.integers(1, self._model.experts + 1))
            experts = self._rng.permutation(self._model.experts)[:count].tolist()
            yield Prefetch(int(self._rng.integers(self._model.layers)), experts, self._rng.random(count).tolist())

    def _acts(self):
        yield from self._wishes()
        for _ in range(self._rng.integers(3)):
            yield Search("speculate", 0, 1, int(self._rng.integers(1, 20)), int(self._rng.integers(1, 2000)))
        yield from self._wishes()

    def on_batch(self, batch):
        return self._acts()

    def on_layer(self, batch, layer):
        return self._acts()

    def on_gate(self, batch, gate):
        return self._acts()

    def search(self, search):
        layers = self._rng.integers(self._model.layers, size=1)
        return Likely(layers, self._rng.random((1, 1, self._model.experts)))

    def on_found(self, batch, layer_now, search, found):
        return list(self._wishes())

    def on_batch_end(self, batch, maps, experts):
        return [Search("update", 0, 1, 5, int(self._rng.integers(1, 2000)))]


def nearest_first(layer, expert, weight, distance):
    return -distance + weight / 2


def both_at_random(seed: int, replicas: int, **effects) -> tuple[Played, Played]:
    """Random plans, searches, choices and machines; a link that finds no slot, waves, late answers and promotions."""
    rng = np.random.default_rng(seed)
    model = shape(int(rng.integers(1, 5)), int(rng.integers(3, 7)), top_k=int(rng.integers(1, 3)))
    if seed % 5 == 0:  # as under mixed quantisation
        sizes = np.random.default_rng([seed, 1]).integers(5, 40, model.layers)
        model = replace(model, expert_bytes_by_layer=tuple(sizes.tolist()))
    gpus = max(int(rng.integers(1, 4)), replicas)
    least = max(model.top_k, gpus)
    choices = {
        "blocking_prediction": bool(rng.integers(2)),
        "blocking_prefetch": bool(rng.integers(2)),
        "compute_on_arrival": bool(rng.integers(2)),
        "chunk_bytes": ["whole", 7, 12][int(rng.integers(3))],
        "refused_blocks": bool(rng.integers(2)),
        "copy_key": [None, nearest_first][int(rng.integers(2))],
    }

    def restless() -> Policy:
        evictor = [LeastRecentlyUsed, BeliefAndFrequency, Evictor, Guarding][seed % 4]()
        return Policy(prefetcher=Restless(seed, model), evictor=evictor, **choices)

    given = {"serial_demand": bool(np.random.default_rng([seed, 2]).integers(2)), **effects}
    return both(
        restless,
        model=model,
        gpus=gpus,
        replicas=replicas,
        slots=int(rng.integers(least, model.total_experts + 1)),
        batch_size=1 + seed % 2,
        seed=seed,
        prefill_tokens=int(rng.integers(0, 4)),
        **given,
    )
