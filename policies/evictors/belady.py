"""Belady's rule: evict what is demanded again last."""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from policies.base import Evictor
from policies.prediction.next_use import NextUse
from policies.types import Batch, Setup


class Belady(Evictor):
    """Evict what is demanded again last, by the known future of every request.

    Exact when requests are served one after the other: no on-demand policy misses less. In a batch it is an estimate
    (see `NextUse`). Absent experts are scored like resident ones.
    """

    requires = frozenset({"future"})

    def __init__(self) -> None:
        self._next = NextUse()

    @override
    def start(self, setup: Setup) -> None:
        model = setup.model
        super().start(setup)
        self._next.start(setup)
        self._layers = model.layers
        self._layer = np.repeat(np.arange(model.layers, dtype=np.float64), model.experts)  # [L·J]

    @override
    def on_batch(self, batch: Batch) -> None:
        self._next.advance(batch)
        self._use_later = -(self._next.later * self._layers + self._layer)
        self.scores[:] = -(self._next.now * self._layers + self._layer)

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """Score the experts by their next use, since that of this iteration has happened."""
        for expert in experts:
            x = layer * self.experts + expert
            self.scores[x] = self._use_later[x]
