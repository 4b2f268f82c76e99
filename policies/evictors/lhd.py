"""LHD: least hit density.

It learns at which age experts are used again. So it can learn that the expert just used will be the last to come round,
which recency gets wrong.
"""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from common.errors import UserError
from policies.base import Evictor
from policies.types import Batch, Setup

_OLDEST = 512  # iterations; greater ages count as this one
_RELEARN = 16  # iterations


class LeastHitDensity(Evictor):
    """Keep the experts with the most expected hits per time in their slot, estimated from their age.

    Beckmann, Chen, Cidon: LHD: improving cache hit rate by maximizing hit density (NSDI 2018). Age is the number of
    (iteration, layer) events since the last use, so each layer comes round at multiples of L. The density at an age is
    the hits to come divided by the time to be spent, counted over experts of the same class that reached that age. The
    class says how long before its last use an expert had been used, in octaves of iterations. Every 16 iterations the
    densities are learned anew, and earlier counts fade by `decay`.
    """

    def __init__(self, *, classes: int = 4, decay: float = 0.9) -> None:
        self.classes = classes
        self.decay = decay

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        if self.classes < 1:
            raise UserError(f"lhd: classes: must be at least 1, not {self.classes}")
        if not 0 < self.decay <= 1:
            raise UserError(f"lhd: decay: must be above 0 and at most 1, not {self.decay}")
        super().start(setup)
        self._layers = model.layers
        self._oldest = _OLDEST * model.layers - 1
        shape = self.classes, self._oldest + 1
        self._hits = np.broadcast_to(1e-3 / np.arange(1, shape[1] + 1), shape).copy()  # by class and age
        self._drops = np.zeros(shape)
        self._last = np.zeros(model.total_experts, np.int64)  # event of the last use or arrival
        self._class = np.full(model.total_experts, self.classes - 1)
        self._present = np.zeros(model.total_experts, bool)
        self._event = self._iterations = 0
        self._learn()

    @override
    def on_batch(self, batch: Batch) -> None:
        self._iterations += 1
        if self._iterations % _RELEARN:
            return
        self._hits *= self.decay
        self._drops *= self.decay
        self._learn()

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Count hits by age, and let all experts grow older by one event."""
        self._event += 1
        for expert in experts:
            x = layer * self.experts + expert
            age = self._age(x)
            if self._present[x]:
                self._hits[self._class[x], age] += 1
            self._class[x] = min((age // self._layers).bit_length(), self.classes) - 1 if age >= self._layers else 0
            self._present[x] = True
            self._last[x] = self._event
        self._score()

    @override
    def loaded(self, layer: int, expert: int, now_s: float) -> None:
        """Start a prefetched expert at age 0."""
        x = layer * self.experts + expert
        self._present[x] = True
        self._last[x] = self._event
        self.scores[x] = self._density[self._class[x], 0]

    @override
    def evicted(self, layer: int, expert: int, now_s: float) -> None:
        x = layer * self.experts + expert
        self._present[x] = False
        self._drops[self._class[x], self._age(x)] += 1

    def _age(self, x: int) -> int:
        return min(self._event - int(self._last[x]), self._oldest)

    def _learn(self) -> None:
        """Divide hits to come by time to come, both summed from the oldest age down."""
        hits = self._hits[:, ::-1].cumsum(axis=1)
        lives = hits + self._drops[:, ::-1].cumsum(axis=1)
        self._density = (hits / lives.cumsum(axis=1))[:, ::-1]
        self._score()

    def _score(self) -> None:
        age = np.minimum(self._event - self._last, self._oldest)
        self.scores[:] = self._density[self._class, age]
