"""The links that carry experts from host memory to their GPUs; each moves one copy at a time."""

from collections.abc import Callable

import simpy

from policies.cache.expert_cache import ExpertCache
from policies.cache.residency import NEVER
from policies.types import Copy
from sim.engine.reused_event import Event
from sim.hardware.costs import Cost


class Flight(Event):
    """Copies of one size that begin at the same moment on several links, so they arrive together."""

    bytes: int
    copies: list[Copy]


class _Expiry(Event):
    """The moment at which a layer's pins end."""

    at_s: float


class Links:
    """Moves the copies that the devices of a cache choose.

    When an expert is complete, `on_demanded` is called with its copy if the running layer demands it. Otherwise
    `on_prefetched` is called, which returns whether it has scheduled anything. It is skipped if `waiting_layer`, the
    layer in its prefetch wait, certainly waits on: for the copy that the link continues with, or for one that arrives
    in the same flight.
    """

    on_demanded: Callable[[Copy, float], None]
    on_prefetched: Callable[[], bool]
    waiting_layer = -1

    def __init__(self, env: simpy.Environment, cache: ExpertCache, cost: Cost) -> None:
        self._env = env
        self._cache = cache
        self._copy_s = {size: cost.copy_s(size) for size in cache.copy_bytes}
        self._devices = cache.devices
        self._experts = cache.model.experts
        self._in_turns = cache.turns is not None
        self._idle = [True] * len(cache.devices)
        self._spare: list[Flight] = []
        self._expiry_event = _Expiry(env, self._pins_expire)
        self._expiry_scheduled = False

    def wake(self, now_s: float) -> None:
        """Let every idle link that may have work choose a copy."""
        cache, idle = self._cache, self._idle
        flight = None
        in_vain = []  # so that a device that is listed twice chooses once
        for device in cache.wake:
            if idle[device.gpu]:
                copy = device.next_copy(now_s)
                idle[device.gpu] = False
                if copy is None:
                    in_vain.append(device.gpu)
                elif flight is not None and flight.bytes == copy.bytes:
                    flight.copies.append(copy)
                else:
                    flight = self._set_off(copy)
        for gpu in in_vain:
            idle[gpu] = True
        cache.wake.clear()
        if cache.stalled:
            self._watch_expiry(now_s)

    def _set_off(self, copy: Copy) -> Flight:
        flight = self._spare.pop() if self._spare else Flight(self._env, self._arrived)
        flight.bytes, flight.copies = copy.bytes, [copy]
        flight.after(self._copy_s[copy.bytes])
        return flight

    def _arrived(self, flight: Flight) -> None:
        """Copies have arrived: the next copy begins on each link."""
        now_s, experts = self._env.now, self._experts
        last = -1  # an expert in this flight that the waiting layer needs
        if self.waiting_layer >= 0:
            number = flight.copies[-1].number
            if number // experts == self.waiting_layer and self._cache.residency.planned[number]:
                last = number
        following_flight = None  # the flight that may take more copies; any other event scheduled in between ends it
        for copy in flight.copies:
            device = self._devices[copy.gpu]
            complete = device.copied(copy, now_s)
            following = device.next_copy(now_s)
            if following is None:
                self._idle[copy.gpu] = True
            elif following_flight is not None and following_flight.bytes == following.bytes:
                following_flight.copies.append(following)
            else:
                following_flight = self._set_off(following)
            if self._in_turns and not copy.demanded and self._cache.wake:  # the turn passes before the layer checks
                self.wake(now_s)
                following_flight = None
            if complete:
                if copy.demanded:
                    self.on_demanded(copy, now_s)
                    following_flight = None
                    if self._in_turns:
                        self.wake(now_s)
                elif last >= 0 and copy.number != last:
                    continue  # the layer cannot start before that one has arrived
                elif (following is None or following.number // experts != self.waiting_layer) and self.on_prefetched():
                    following_flight = None
        self._spare.append(flight)
        if self._cache.stalled:
            self._watch_expiry(now_s)

    def _watch_expiry(self, now_s: float) -> None:
        """Wake stalled links when the layer's pins end, if that time is known and in the future."""
        at_s = self._cache.residency.unpin_s
        if now_s < at_s < NEVER and not self._expiry_scheduled:
            self._expiry_scheduled = True
            self._expiry_event.at_s = at_s
            self._expiry_event.after(at_s - now_s)

    def _pins_expire(self, event: _Expiry) -> None:
        self._expiry_scheduled = False
        self._cache.wake_stalled()
        # The clock may be short of the intended time by a rounding error, and the pins would still be valid then.
        self.wake(max(event.at_s, self._env.now))
