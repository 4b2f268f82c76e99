"""Copies and computations whose speed depends on what else runs at the same time.

Copies to all GPUs share the host's memory bandwidth. On one GPU, copying and computing slow each other down. All speeds
are determined anew whenever an activity begins or ends. An activity whose speed does not change keeps its end, to the
last bit.
"""

import math
from collections.abc import Callable

import simpy

from sim.engine.fair_shares import fair_shares
from sim.engine.reused_event import Event
from sim.hardware.effects import Effects


class _Activity:
    """A copy to a GPU, or a computation on it."""

    __slots__ = ("end_s", "gpu", "left", "number", "peak", "rate", "since_s", "then")

    def __init__(self, gpu: int, left: float, peak: float, then: Callable[[], None]) -> None:
        self.gpu = gpu
        self.left = left  # bytes, or seconds of computing at full speed, left at `since_s`
        self.peak = peak  # full speed, per second
        self.then = then
        self.number = 0  # rises in the order in which activities begin
        self.rate = 0.0  # per second, since `since_s`
        self.since_s = 0.0
        self.end_s = math.inf

    def set_rate(self, rate: float, now_s: float) -> None:
        """Continue at another speed."""
        if rate == self.rate:
            return
        passed_s = now_s - self.since_s
        if passed_s > 0 and self.rate:
            self.left = max(0.0, self.left - self.rate * passed_s)
        self.rate, self.since_s = rate, now_s
        self.end_s = now_s + self.left / rate


class _Due(Event):
    """The next end of an activity, as expected when the event was scheduled."""

    version: int


class SharedTime:
    """Runs copies and computations in parallel; each GPU has at most one copy and one computation at a time.

    If activities end at the same moment, the one that began first ends first.
    """

    def __init__(self, env: simpy.Environment, effects: Effects) -> None:
        self._env = env
        self._host_bytes_per_s = effects.host_bytes_per_s
        self._compute_slowdown = effects.compute_slowdown
        self._copy_slowdown = effects.copy_slowdown
        self._copies: dict[int, _Activity] = {}  # by GPU, in the order in which they began
        self._computations: dict[int, _Activity] = {}
        self._begun = 0
        self._version = 0  # of the expected end
        self._due_s = math.inf
        self._ending = False
        self._spare: list[_Due] = []

    def move(self, gpu: int, size_bytes: int, bytes_per_s: float, then: Callable[[], None]) -> None:
        """Move bytes to a GPU from now on, at this rate or slower."""
        self._begin(self._copies, _Activity(gpu, size_bytes, bytes_per_s, then))

    def compute(self, gpu: int, seconds: float, then: Callable[[], None]) -> None:
        """Compute on a GPU from now on; this takes `seconds` if no bytes move to it."""
        self._begin(self._computations, _Activity(gpu, seconds, 1.0, then))

    def _begin(self, running: dict[int, _Activity], activity: _Activity) -> None:
        self._begun += 1
        activity.number, activity.since_s = self._begun, self._env.now
        running[activity.gpu] = activity
        if not self._ending:
            self._retime()

    def _retime(self) -> None:
        """Determine every speed, and schedule the next end."""
        now_s, copies, computations = self._env.now, self._copies, self._computations
        caps = [copy.peak / self._copy_slowdown if copy.gpu in computations else copy.peak for copy in copies.values()]
        for copy, rate in zip(copies.values(), fair_shares(caps, self._host_bytes_per_s), strict=True):
            copy.set_rate(rate, now_s)
        for computation in computations.values():
            computation.set_rate(1.0 / self._compute_slowdown if computation.gpu in copies else 1.0, now_s)
        due_s = min((each.end_s for each in (*copies.values(), *computations.values())), default=math.inf)
        if due_s != self._due_s:
            self._due_s = due_s
            self._version += 1
            if due_s < math.inf:
                event = self._spare.pop() if self._spare else _Due(self._env, self._ends)
                event.version = self._version
                event.after(max(0.0, due_s - now_s))

    def _ends(self, event: _Due) -> None:
        self._spare.append(event)
        if event.version != self._version:
            return  # outdated: an activity has begun or ended meanwhile
        over = []
        for running in (self._copies, self._computations):
            over += [each for each in running.values() if each.end_s <= self._due_s]
        for each in over:
            del (self._copies if self._copies.get(each.gpu) is each else self._computations)[each.gpu]
        over.sort(key=lambda each: each.number)
        self._due_s = math.inf
        self._ending = True
        for each in over:
            each.then()
        self._ending = False
        self._retime()
