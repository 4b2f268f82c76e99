"""Links and GPUs under a fake clock, which slow each other down as the effects of a machine say.

It stands for a real machine: every so often all that runs goes on by what has passed, at the speed of that time.
"""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Literal

from policies.types import Copy
from sim.hardware.costs import Cost
from tests.support.fake_clock import FakeClock

_ROUNDING_S = 1e-14  # what takes less than that is over


class _Flow:
    """Bytes on the link of a GPU, or seconds of work on it."""

    def __init__(
        self, kind: Literal["bytes", "work"], gpu: int, left: float, peak: float, over: Callable[[], None]
    ) -> None:
        self.kind, self.gpu, self.left, self.peak, self.over = kind, gpu, left, peak, over
        self.speed = 0.0


class FakeMachine:
    """One link and one GPU of each number, and the host memory behind all links.

    Whatever ends at one moment ends in the order in which it began.
    """

    def __init__(self, clock: FakeClock, cost: Cost, gpus: int) -> None:
        self._clock = clock
        self._cost = cost
        self._effects = cost.effects
        self._contended = self._effects.contended
        self._shared = self._contended or self._effects.host_bytes_per_s < math.inf
        self._flows: list[_Flow] = []
        self._went_on_s = 0.0
        self._changes = 0
        self._queues: list[deque[tuple[float, Callable[[], None]]]] = [deque() for _ in range(gpus)]
        self._busy = [False] * gpus

    def move(self, copy: Copy) -> None:
        """Let a copy take its time; called by the thread of its link."""
        copy_s = self._cost.copy_s(copy.bytes)
        if not self._shared:
            self._clock.sleep(copy_s)
            return
        latency_s = self._cost.copy_latency_s(copy.bytes)
        self._clock.sleep(latency_s)
        peak = copy.bytes / (copy_s - latency_s)
        self._clock.wait_for(lambda over: self._begin(_Flow("bytes", copy.gpu, copy.bytes, peak, over)))

    def work(self, gpu: int, seconds: float, *, after_s: float = 0.0) -> None:
        """Let a GPU work, once the CPU has done what comes before, and wait for it."""
        if not self._contended:
            self._clock.sleep(after_s + seconds)
            return
        if after_s:
            self._clock.sleep(after_s)
        self._clock.wait_for(partial(self.queue, gpu, seconds))

    def queue(self, gpu: int, seconds: float, over: Callable[[], None]) -> None:
        """Let a GPU work once it has done what was queued before."""
        self._queues[gpu].append((seconds, over))
        self._work_on(gpu)

    def _work_on(self, gpu: int) -> None:
        if self._busy[gpu] or not self._queues[gpu]:
            return
        self._busy[gpu] = True
        seconds, over = self._queues[gpu].popleft()

        def ended() -> None:
            self._busy[gpu] = False
            self._work_on(gpu)
            over()

        if self._contended:
            self._begin(_Flow("work", gpu, seconds, 1.0, ended))
        else:
            self._clock.at(self._clock.now_s() + seconds, ended)

    def _begin(self, flow: _Flow) -> None:
        self._go_on()
        self._flows.append(flow)
        self._look_ahead()

    def _go_on(self) -> None:
        """Let what runs advance to this moment."""
        passed_s = self._clock.now_s() - self._went_on_s
        for flow in self._flows:
            flow.left -= flow.speed * passed_s
        self._went_on_s += passed_s

    def _look_ahead(self) -> None:
        """Give everything its speed, and come back when the first of it will be over."""
        self._set_speeds()
        self._changes += 1
        if self._flows:
            next_s = min(max(flow.left, 0.0) / flow.speed for flow in self._flows)
            self._clock.at(self._clock.now_s() + next_s, partial(self._came_back, self._changes))

    def _came_back(self, changes: int) -> None:
        if changes != self._changes:
            return  # speeds have changed since
        self._go_on()
        over = [flow for flow in self._flows if flow.left <= flow.peak * _ROUNDING_S]
        self._flows = [flow for flow in self._flows if flow not in over]
        self._look_ahead()
        for flow in over:
            self._clock.at(self._clock.now_s(), flow.over)

    def _set_speeds(self) -> None:
        """Raise all copies' speeds together until each is at its own limit or host memory gives no more."""
        moving = {flow.gpu for flow in self._flows if flow.kind == "bytes"}
        working = {flow.gpu for flow in self._flows if flow.kind == "work"}
        limit, rest = {}, self._effects.host_bytes_per_s
        for flow in self._flows:
            if flow.kind == "work":
                flow.speed = 1 / self._effects.compute_slowdown if flow.gpu in moving else 1.0
            else:
                limit[flow] = flow.peak / self._effects.copy_slowdown if flow.gpu in working else flow.peak
        while limit:
            equal = rest / len(limit)
            slow = [flow for flow in limit if limit[flow] <= equal] or list(limit)
            for flow in slow:
                flow.speed = min(limit.pop(flow), equal)
                rest -= flow.speed
