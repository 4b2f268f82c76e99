"""Belady's rule: what is demanded again last goes first."""

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from policies.base import Evictor
from policies.prediction.next_use import NextUse
from policies.types import Batch, Setup


class Belady(Evictor):
    """Drop what is demanded again last; told the future of every request.

    Exact when requests are served one after the other: no on-demand policy misses less. An estimate in a batch (see
    `NextUse`). Experts that are there and those that are not are scored alike.
    """

    requires = frozenset({"future"})

    def __init__(self) -> None:
        self._next = NextUse()

    @override
    def start(self, setup: Setup) -> None:
        """Find each expert's first use in the requests to come."""
        model = setup.model
        super().start(setup)
        self._next.start(setup)
        self._layers = model.layers
        self._layer = np.repeat(np.arange(model.layers, dtype=np.float64), model.experts)  # [L·J]

    @override
    def on_batch(self, batch: Batch) -> None:
        """Score each expert by its next use, in layers from the beginning of this iteration."""
        self._next.advance(batch)
        self._use_later = -(self._next.later * self._layers + self._layer)
        self.scores[:] = -(self._next.now * self._layers + self._layer)

    @override
    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """This iteration's use has happened; the next one counts from here."""
        for expert in experts:
            x = layer * self.experts + expert
            self.scores[x] = self._use_later[x]
