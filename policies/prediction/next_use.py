"""When each expert will be demanded next: known to oracles, never to a real policy."""

import numpy as np
from numpy.typing import NDArray

from policies.types import Batch, Future, Setup

_NEVER = np.inf

Uses = NDArray[np.float64]


class NextUse:
    """Iterations from the running one to the next use of each expert, by the known future of every request.

    Exact when requests are served one after the other, in the order of the future. In a batch it is an estimate: the
    nearest use by any of its requests counts, and an expert that none of them uses again is assumed to be used next by
    the requests after them, served one at a time. Several parts of a policy may share one object; each may call it.
    """

    now: Uses  # [L·J] counted from the beginning of this iteration: 0 for what it demands itself
    later: Uses  # [L·J] the next use after this iteration: at least 1
    left: int  # iterations to the end of the longest running request, counting this one
    exact = True  # whether all batches so far had one request

    def __init__(self) -> None:
        self._future: Future | None = None
        self._batch: Batch | None = None

    def start(self, setup: Setup) -> None:
        """Find each expert's first use in the requests to come."""
        model, future = setup.model, setup.future
        assert future is not None  # policies that use this require it
        if future is self._future:
            return
        self._future = future
        self._total = total = model.total_experts
        self._order = {request: place for place, request in enumerate(future.requests)}
        # Iterations from the end of each request to the next use of each expert, [requests, L·J].
        self._after = np.full((len(self._order), total), _NEVER)
        following = np.full(total, _NEVER)
        for request in reversed(future.requests):
            self._after[self._order[request]] = following
            demands = future.demands(request).reshape(-1, total)
            following = np.where(demands.any(axis=0), demands.argmax(axis=0), len(demands) + following)
        self._tables: dict[int, Uses] = {}  # per running request [iterations + 1, L·J]
        self._done: dict[int, int] = {}  # iterations
        self._last = -1  # place of the last request that has begun: in a batch it may end before others

    def advance(self, batch: Batch) -> None:
        """Begin an iteration: look up each expert's next use, from this iteration on and from the next one on."""
        if self._batch is not None and batch.iteration <= self._batch.iteration:
            return  # in a real run, a part of the policy may hear of an iteration after the next one has begun
        self._batch = batch
        requests = batch.request.tolist()
        self.exact = self.exact and len(requests) == 1
        for ended in self._tables.keys() - set(requests):
            del self._tables[ended]
        self._rows = []  # of the running requests: their tables, and the current iteration of each
        for request in requests:
            if request not in self._tables:
                self._tables[request] = self._table(request)
                self._done[request] = 0
            step = self._done[request]
            self._done[request] = step + 1
            self._rows.append((self._tables[request], step))
        self.left = max(len(table) - 1 - step for table, step in self._rows)
        self._last = max(self._last, *(self._order[request] for request in requests))
        self._beyond = self.left + self._after[self._last]
        self.now, self.later = self.after(0), self.after(1)

    def after(self, iterations: int) -> Uses:
        """`[L·J]` iterations from now to the next use that is at least `iterations` away; `iterations` ≤ `left`."""
        rows = [table[min(step + iterations, len(table) - 1)] - step for table, step in self._rows]
        nearest: Uses = np.minimum(rows[0] if len(rows) == 1 else np.min(rows, axis=0), self._beyond)
        return nearest

    def _table(self, request: int) -> Uses:
        """`[iterations + 1, L·J]`: the first iteration of the request, from each one on, that demands the expert."""
        assert self._future is not None
        demands = self._future.demands(request).reshape(-1, self._total)
        table = np.empty((len(demands) + 1, self._total))
        table[-1] = _NEVER
        for step in range(len(demands) - 1, -1, -1):
            table[step] = np.where(demands[step], step, table[step + 1])
        return table
