"""Links whose copies are slowed down: by sharing host memory, or by computing on their GPUs."""

import math
from functools import partial

import simpy
from typing_extensions import override

from policies.cache.expert_cache import ExpertCache
from policies.types import Copy
from sim.engine.links import Flight, Links
from sim.engine.shared_time import SharedTime
from sim.hardware.costs import Cost

_ALONE = -1  # the bytes of a flight that no other copy joins
_ROUNDING = 1e-9  # relative error of a rate that is computed from two times


class SharedLinks(Links):
    """`Links` in which each copy first has its latency, and then its bytes move in `SharedTime`."""

    def __init__(self, env: simpy.Environment, cache: ExpertCache, cost: Cost, shared: SharedTime) -> None:
        super().__init__(env, cache, cost)
        self._shared = shared
        self._latency_s = {size: cost.copy_latency_s(size) for size in cache.copy_bytes}
        self._bytes_per_s = {size: peak_bytes_per_s(cost, size) for size in cache.copy_bytes}

    @override
    def _set_off(self, copy: Copy) -> Flight:
        flight = self._spare.pop() if self._spare else Flight(self._env, self._bytes_move)
        flight.bytes, flight.copies = _ALONE, [copy]
        flight.after(self._latency_s[copy.bytes])
        return flight

    def _bytes_move(self, flight: Flight) -> None:
        (copy,) = flight.copies
        self._shared.move(copy.gpu, copy.bytes, self._bytes_per_s[copy.bytes], partial(self._arrived, flight))


def peak_bytes_per_s(cost: Cost, size_bytes: int) -> float:
    """The rate at which the bytes of a copy move over a link after its latency."""
    moving_s = cost.copy_s(size_bytes) - cost.copy_latency_s(size_bytes)
    return size_bytes / moving_s if moving_s > 0 else math.inf


def share_host(cache: ExpertCache, cost: Cost) -> bool:
    """Whether the links together can exceed the bandwidth of host memory."""
    if cost.effects.host_bytes_per_s == math.inf:
        return False
    peak = max(peak_bytes_per_s(cost, size) for size in cache.copy_bytes)
    return len(cache.devices) * peak > cost.effects.host_bytes_per_s * (1 + _ROUNDING)
