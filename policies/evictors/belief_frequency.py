"""FineMoE's evictor: belief × frequency (paper eq. 11)."""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from policies.base import Evictor, items
from policies.types import Float, Setup

BELIEF_FLOOR = 1e-6  # so that frequency decides between improbable experts


class BeliefAndFrequency(Evictor):
    """Eq. 11: evict the largest 1 / (p · freq) first, that is, the smallest p · freq.

    p is the last prediction for the expert, 1/J before the first. freq counts the (iteration, layer) events that
    demanded it. An expert that has never been demanded scores 0.
    """

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        super().start(setup)
        shape = model.layers, model.experts
        belief, frequency = np.full(shape, 1 / model.experts), np.zeros(shape)
        self._rows = list(zip(belief, frequency, self.scores.reshape(shape), strict=True))  # of each layer
        self._items = items(belief), items(frequency), items(self.scores)
        self._floor = np.full(model.experts, BELIEF_FLOOR)

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        belief, frequency, scores = self._items
        base = layer * self.experts
        for expert in experts:
            x = base + expert
            count = frequency[x] + 1.0
            frequency[x] = count
            scores[x] = belief[x] * count

    @override
    def believe(self, layer: int, probs: Float) -> None:
        belief, frequency, scores = self._rows[layer]
        np.maximum(probs, self._floor, out=belief)
        np.multiply(belief, frequency, out=scores)


class InCacheFrequency(BeliefAndFrequency):
    """Eq. 11 with either or both of two rules of the authors' demo.

    Without `count_misses`, freq counts only events that found the expert on its GPU. With `reset_on_evict`, freq and p
    of an evicted expert start anew.
    """

    def __init__(self, *, count_misses: bool, reset_on_evict: bool) -> None:
        self.count_misses = count_misses
        self.reset_on_evict = reset_on_evict

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        super().start(setup)
        self._present = bytearray(model.total_experts)  # 1 from an expert's arrival or demand until its eviction

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        base, present = layer * self.experts, self._present
        super().touched(layer, [j for j in experts if self.count_misses or present[base + j]], now_s)
        for expert in experts:
            present[base + expert] = 1

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        self._present[layer * self.experts + expert] = 1

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        x = layer * self.experts + expert
        self._present[x] = 0
        if self.reset_on_evict:
            belief, frequency, scores = self._items
            belief[x], frequency[x], scores[x] = 1 / self.experts, 0.0, 0.0
