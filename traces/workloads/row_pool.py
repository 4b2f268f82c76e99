"""Recorded rows that are taken in chains, none twice while others are unused."""

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
        """How many they are."""
        return self.stop - self.start


class RowPool:
    """Rows of recorded requests, taken in rounds: in each, every row is taken once.

    A round goes through the requests in random order. What is left of a request of which a part was taken comes after
    all others of its source, so that as many chains as can begin where a recorded request does.
    """

    def __init__(self, rows: Mapping[int, int], sources: Mapping[int, str], rng: np.random.Generator) -> None:
        self._rows = {request: count for request, count in rows.items() if count}
        self._sources = sources
        self._rng = rng
        self._queues: dict[str, deque[tuple[int, Piece]]] = {}
        self._untouched: set[int] = set()
        self._left = self._queued = self.taken = 0

    def take(self, wanted: int, *, source: str | None = None, first: int | None = None) -> list[Piece]:
        """A chain of so many rows: pieces of different requests of one source, of others once it has no unused rows.

        It begins with the rows of request `first` if none of them is used, else with the `source`, else anywhere.
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
        """Of the rows that were taken, the share that had been taken before."""
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
            self._untouched.remove(first)  # its place in the queue is passed over later
            return Piece(first, 0, self._rows[first])
        self._pass_over_used()
        if source not in self._queues:
            source = min(self._queues, key=lambda name: self._queues[name][0][0])
        _, piece = self._queues[source].popleft()
        self._untouched.discard(piece.request)
        return piece

    def _pass_over_used(self) -> None:
        """Drop what was taken out of turn from the heads of the queues, and the queues that are empty."""
        for name in list(self._queues):
            queue = self._queues[name]
            while queue and queue[0][1].start == 0 and queue[0][1].request not in self._untouched:
                queue.popleft()
            if not queue:
                del self._queues[name]
