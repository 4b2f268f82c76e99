"""A pool of recorded rows that are taken in chains; no row is reused while others are unused."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Piece:
    """Successive rows of a recorded request, counted within its prefill or within its decode iterations."""

    request: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


class RowPool:
    """Rows of recorded requests, taken in rounds: each round takes every row once.

    A round visits the requests in random order. The rest of a partly taken request is queued after all others of its
    source, so that as many chains as possible start where a recorded request starts.
    """

    def __init__(self, rows: Mapping[int, int], sources: Mapping[int, str], rng: np.random.Generator) -> None:
        self._rows = {request: count for request, count in rows.items() if count}
        self._sources = sources
        self._rng = rng
        self._queues: dict[str, deque[tuple[int, Piece]]] = {}
        self._untouched: set[int] = set()
        self._left = self._queued = self.taken = 0

    def take(self, wanted: int, *, source: str | None = None, first: int | None = None) -> list[Piece]:
        """Take a chain of `wanted` rows: pieces of requests of one source, then of others when it has no unused rows.

        The chain starts with request `first` if none of its rows is used, else with the `source`, else anywhere.
        """
        pieces = []
        self.taken += wanted
        while wanted:
            if not self._left:
                self._begin_round()
            piece = self._next(source, first)
            used = Piece(piece.request, piece.start, piece.start + min(wanted, piece.rows))
            if used.stop < piece.stop:
                self._queue(Piece(piece.request, used.stop, piece.stop))
            pieces.append(used)
            wanted -= used.rows
            self._left -= used.rows
            source, first = source or self._sources[used.request], None
        return pieces

    @property
    def repeated(self) -> float:
        """Share of the taken rows that had been taken before."""
        return max(0, self.taken - sum(self._rows.values())) / self.taken if self.taken else 0.0

    def _begin_round(self) -> None:
        self._queues.clear()
        self._untouched = set(self._rows)
        self._left = sum(self._rows.values())
        for request in self._rng.permutation(sorted(self._rows)).tolist():
            self._queue(Piece(request, 0, self._rows[request]))

    def _queue(self, piece: Piece) -> None:
        self._queued += 1
        self._queues.setdefault(self._sources[piece.request], deque()).append((self._queued, piece))

    def _next(self, source: str | None, first: int | None) -> Piece:
        if first in self._untouched:
            self._untouched.remove(first)  # its entry in the queue is skipped later
            return Piece(first, 0, self._rows[first])
        self._drop_used()
        if source not in self._queues:
            source = min(self._queues, key=lambda name: self._queues[name][0][0])
        _, piece = self._queues[source].popleft()
        self._untouched.discard(piece.request)
        return piece

    def _drop_used(self) -> None:
        """Drop pieces taken out of turn from the heads of the queues, and drop empty queues."""
        for name in list(self._queues):
            queue = self._queues[name]
            while queue and queue[0][1].start == 0 and queue[0][1].request not in self._untouched:
                queue.popleft()
            if not queue:
                del self._queues[name]
