"""Belady's rule for a cache that prefetches."""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from policies.evictors.belady import Belady
from policies.prediction.next_use import NextUse, Uses
from policies.types import Batch, Float, Int, Setup

LAYERS_OF_A_COPY = 16  # a copy that takes this many layers earns one layer of patience
LONGEST_WAIT = 4  # layers


class FarthestNextUse(Belady):
    """Belady's rule for prefetches, which never evict what is needed before the expert fetched.

    Evicting the farthest next use of this moment ("Aggressive") copies more than Belady's rule would: an expert that is
    about to be used may be the better victim afterwards. If copies take much longer than layers, it pays to wait for
    that expert ("Delay"): the victim is the farthest next use after the next `patience` layers, and the prefetch waits
    until it has been used. With gpt-oss-20b and the pocket model, the best wait was a sixteenth of a copy, but at most
    four layers and at most as many as half the slots. Both times, of a copy and of a layer, are measured during the
    run, each as the shortest seen.
    """

    guards = True

    def __init__(self, next_use: NextUse) -> None:
        self._next = next_use

    @override
    def start(self, setup: Setup) -> None:
        super().start(setup)
        self._begun: dict[int, float] = {}  # when each prefetch under way began
        self._fetched = -1
        self._gated_s = self._layer_s = self._copy_s = np.inf
        self._awaited_s = -np.inf

    @override
    def on_batch(self, batch: Batch) -> None:
        super().on_batch(batch)
        self._layer_now = -1
        self._ahead: dict[int, Uses] = {}  # scores, by the number of iterations from now
        if 0 < self._layer_s < np.inf and self._copy_s < np.inf:
            self.patience = min(round(self._copy_s / self._layer_s / LAYERS_OF_A_COPY), LONGEST_WAIT)

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        super().touched(layer, experts, now_s)
        if layer:
            self._layer_s = min(self._layer_s, now_s - self._gated_s)
        self._layer_now, self._gated_s = layer, now_s
        self._copy_s = min(self._copy_s, now_s - self._awaited_s)  # the layer before has waited for that copy
        base = layer * self.experts
        begun = [self._begun.pop(base + expert) for expert in experts if base + expert in self._begun]
        self._awaited_s = max(begun, default=-np.inf)

    @override
    def foreseen(self, fetched: int, occupants: Int) -> Float:
        """Score experts that are used while the prefetch may wait by the use after that."""
        self._fetched = fetched
        scores: Float = self.scores[occupants]
        wait = min(self.patience, len(occupants) // 2)
        if not wait:
            return scores
        end = min(self._layer_now + wait, -self.scores[fetched] - 1, self._next.left * self._layers - 1)
        near = (scores >= -end).nonzero()[0] if end > self._layer_now else ()
        if len(near):
            iteration, layer = divmod(int(end), self._layers)
            some = occupants[near]
            passed = self._layer[some] <= layer
            scores[near] = np.where(passed, self._after(iteration + 1)[some], self._after(iteration)[some])
        return scores

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        """Note the time, since this is when the prefetch that was asked for last begins."""
        if self._fetched >= 0:
            self._begun[self._fetched] = now_s
            self._fetched = -1

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        begun_s = self._begun.pop(layer * self.experts + expert, None)
        if begun_s is not None:
            self._copy_s = min(self._copy_s, now_s - begun_s)

    def _after(self, iterations: int) -> Uses:
        scores = self._ahead.get(iterations)
        if scores is None:
            scores = self._ahead[iterations] = -(self._next.after(iterations) * self._layers + self._layer)
        return scores
