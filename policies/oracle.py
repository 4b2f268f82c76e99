"""Belady's rule: the eviction that an oracle would choose for a cache without prefetch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.base import Evictor, Policy, Prefetcher
from policies.types import Batch, Future, ModelShape

_NEVER = np.inf


class Belady(Evictor):
    """Drop what is demanded again last; told the future of every request.

    Exact when requests are served one after the other in the order of the future: no on-demand policy misses less. In a
    batch the nearest use by any of its requests counts, and what they leave unused is thought to be next used by the
    requests after them, one at a time: an estimate.
    """

    requires = frozenset({"future"})

    def start(self, model: ModelShape, future: Future | None) -> None:
        """Find each expert's first use in the requests to come."""
        assert future is not None
        super().start(model, future)
        self._future = future
        self._layers = model.layers
        self._layer = np.repeat(np.arange(model.layers, dtype=np.float64), model.experts)  # [L·J]
        self._order = {request: place for place, request in enumerate(future.requests)}
        # What follows a request: iterations from its end to the next use of each expert, [requests, L·J].
        self._after = np.full((len(self._order), model.total_experts), _NEVER)
        following = np.full(model.total_experts, _NEVER)
        for request in reversed(future.requests):
            self._after[self._order[request]] = following
            demands = self._future.demands(request).reshape(-1, model.total_experts)
            first = np.where(demands.any(axis=0), demands.argmax(axis=0), len(demands) + following)
            following = first
        self._next_use: dict[int, NDArray[np.float64]] = {}  # per running request [iterations + 1, L·J]
        self._done: dict[int, int] = {}  # iterations

    def on_batch(self, batch: Batch) -> None:
        """Look up each expert's next use from this iteration on, and from the next one on."""
        requests = batch.request.tolist()
        for ended in self._next_use.keys() - set(requests):
            del self._next_use[ended]
        now, later, left = [], [], []
        for request in requests:
            if request not in self._next_use:
                self._next_use[request] = self._table(request)
                self._done[request] = 0
            table, step = self._next_use[request], self._done[request]
            self._done[request] = step + 1
            now.append(table[step] - step)
            later.append(table[step + 1] - step)
            left.append(len(table) - 1 - step)
        beyond = max(left) + self._after[max(self._order[request] for request in requests)]
        self._use_later = -(np.minimum(np.min(later, axis=0), beyond) * self._layers + self._layer)
        self.scores[:] = -(np.minimum(np.min(now, axis=0), beyond) * self._layers + self._layer)

    def touched(self, layer: int, experts: Sequence[int], now_s: float) -> None:
        """This iteration's use has happened; the next one counts from here."""
        for expert in experts:
            x = layer * self.experts + expert
            self.scores[x] = self._use_later[x]

    def _table(self, request: int) -> NDArray[np.float64]:
        """`[iterations + 1, L·J]`: the first iteration of the request, from each one on, that demands the expert."""
        demands = self._future.demands(request).reshape(-1, len(self.scores))
        table = np.empty((len(demands) + 1, len(self.scores)))
        table[-1] = _NEVER
        for step in range(len(demands) - 1, -1, -1):
            table[step] = np.where(demands[step], step, table[step + 1])
        return table


def oracle() -> Policy:
    """Copy on demand only, drop what is needed again last (Belady): a bound for eviction, not for time."""
    return Policy(prefetcher=Prefetcher(), evictor=Belady())
