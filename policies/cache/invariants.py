"""Invariants of the expert cache, as functions that tests and `--check` run.

1. No GPU has more experts than slots, and each is in a slot of its own.
2. Copies begun = evictions + cancelled copies + experts present.
3. Bytes counted = bytes of the chunks that arrived, and chunks arrive in order, one or several at a time.
4. Hits + late + misses = distinct demands.
5. Nothing is released, that is, computed, before it has arrived.
6. Time never goes back.
7. Prefetched copies = useful + late + wasted + cancelled + not used yet.
8. An expert that the running layer has demanded is not evicted before its release.
9. An expert is on one of its homes, and stays there until it is evicted.
10. With serial demand, no copy of a demanded expert begins while another one moves that was demanded when it began.
11. With serial demand, no prefetch for a waiting layer begins while another one moves that began in the same wait.
"""

from typing import Any

import numpy as np

from policies.cache.expert_cache import ExpertCache
from policies.cache.residency import ABSENT, RESIDENT

CLOCK_TOLERANCE_S = 1e-9  # times computed from different events may differ by a rounding error


class InvariantError(AssertionError):
    """An invariant of the cache is broken: a defect of this project or of a plug-in, not of the input."""


def check_slots(cache: ExpertCache) -> None:
    """Invariant 1."""
    residency = cache.residency
    present = np.frombuffer(bytes(residency.where), np.uint8) != ABSENT
    home, slot = np.array(cache.home)[present], np.array(residency.slot)[present]
    for device in cache.devices:
        taken = slot[home == device.gpu]
        _require(
            len(np.unique(taken)) == len(taken) <= device.slots and bool((taken < device.slots).all()),
            1,
            f"GPU {device.gpu} with {device.slots} slots has experts in slots {sorted(taken.tolist())}",
        )


def check_copies(cache: ExpertCache, preloaded: int) -> None:
    """Invariants 2 and 7."""
    residency, counts = cache.residency, cache.counts
    present = len(residency.where) - residency.where.count(ABSENT)
    gone = counts.evictions + counts.cancelled
    _require(
        counts.copies + preloaded == gone + present,
        2,
        f"{counts.copies} copies and {preloaded} preloaded, {gone} dropped and {present} present",
    )
    _require(
        counts.unused == residency.unused.count(1),
        7,
        f"{counts.unused} of {counts.prefetched} prefetches have not ended, {residency.unused.count(1)} are unused",
    )


def check_homes(cache: ExpertCache, x: int, gpu: int) -> None:
    """Invariant 9 for a present expert that was put on this GPU."""
    _require(
        cache.home[x] == gpu and gpu in cache.homes[x],
        9,
        f"expert {x} of homes {cache.homes[x]} was put on GPU {gpu} and is on GPU {cache.home[x]}",
    )


class InvariantChecker:
    """An observer that raises `InvariantError` at the first call that breaks an invariant."""

    def __init__(self, preloaded: int = 0) -> None:
        self._preloaded = preloaded
        self._now_s = -CLOCK_TOLERANCE_S
        self._demands = 0
        self._bytes = 0
        self._next_chunk: dict[int, int] = {}
        self._gpu: dict[int, int] = {}  # where each expert was put last
        self._pinned: set[int] = set()
        self._moving: list[Any] = []  # copies that were demanded when they began
        self._awaited: list[Any] = []  # copies for the waiting layer that began in the last prefetch wait

    def called(self, cache: ExpertCache, now_s: float, call: str, given: Any, answer: Any) -> None:
        """Check what this call may have broken."""
        if call == "release":
            self._released(cache, given[0], given[1])
            return
        _require(now_s >= self._now_s - CLOCK_TOLERANCE_S, 6, f"{call} at {now_s} s after {self._now_s} s")
        self._now_s = max(self._now_s, now_s)
        if call == "begin_iteration":
            check_slots(cache)
            for x, gpu in self._gpu.items():
                if cache.residency.where[x] != ABSENT:
                    check_homes(cache, x, gpu)
        elif call == "demand":
            self._demanded(cache, given[0], given[1])
        elif call == "copied":
            self._arrived(cache, given)
        elif call == "next_copy" and answer is not None:
            _require(answer.victim not in self._pinned, 8, f"expert {answer.victim} was dropped while in use")
            self._gpu[answer.number] = answer.gpu
            check_homes(cache, answer.number, answer.gpu)
            if answer.demanded:
                self._moving.append(answer)
                one = len(self._moving) == 1 or cache.turns is None
                _require(one, 10, f"experts {[copy.number for copy in self._moving]} move at a time")
            elif cache.awaited is not None and answer.number // cache.model.experts == cache.awaited.layer:
                self._awaited.append(answer)
                one = len(self._awaited) == 1
                _require(one, 11, f"awaited experts {[copy.number for copy in self._awaited]} move at a time")

    def _demanded(self, cache: ExpertCache, layer: int, experts: list[int]) -> None:
        self._awaited.clear()  # the wait is over, whatever still moves
        self._pinned = {layer * cache.model.experts + expert for expert in experts}
        self._demands += len(self._pinned)
        counts = cache.counts
        counted = counts.hits + counts.late + counts.misses
        _require(counted == self._demands, 4, f"{counted} counted, {self._demands} demanded")
        check_copies(cache, self._preloaded)

    def _released(self, cache: ExpertCache, layer: int, experts: list[int]) -> None:
        for expert in experts:
            x = layer * cache.model.experts + expert
            computed_already = x not in self._pinned
            _require(
                computed_already or cache.residency.where[x] == RESIDENT,
                5,
                f"expert {expert} of layer {layer} was released before it had arrived",
            )
            if not computed_already:
                check_homes(cache, x, self._gpu.get(x, cache.home[x]))  # preloaded experts were never put
            self._pinned.discard(x)

    def _arrived(self, cache: ExpertCache, copy: Any) -> None:
        x = copy.number
        self._moving = [other for other in self._moving if other is not copy]
        self._awaited = [other for other in self._awaited if other is not copy]
        check_homes(cache, x, copy.gpu)
        sizes = cache.chunk_bytes[x // cache.model.experts]
        end, chunks = copy.chunk + copy.chunks, len(sizes)
        in_order = copy.chunk in (0, self._next_chunk.get(x, 0)) and copy.chunk < end <= chunks
        _require(in_order, 3, f"chunks {copy.chunk} … {end - 1} of expert {x}")
        self._next_chunk[x] = end % chunks
        self._bytes += sum(sizes[copy.chunk : end])
        _require(cache.counts.bytes == self._bytes, 3, f"{cache.counts.bytes} counted, {self._bytes} arrived")


def _require(condition: bool, number: int, found: str) -> None:
    if not condition:
        raise InvariantError(f"invariant {number} of the expert cache: {found}")
