"""Time of the oracle: a heap of moments at which something happens, and work whose speed changes."""

import heapq
import itertools
from collections.abc import Callable
from typing import Any

Action = Callable[[], None]


class Clock:
    """Carries out actions in the order of their moments; at equal moments, of those it heard of first.

    `works` are dicts with the seconds that a work would still take alone (`left`), its `speed` (1 is alone), and what
    to do when it ends (`then`). `speeds` sets all speeds anew before time goes on.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.near_misses = 0  # two moments that differ by rounding alone: their order says nothing
        self.works: list[dict[str, Any]] = []
        self._moments: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, action: Action) -> None:
        heapq.heappush(self._moments, (self.now + seconds, next(self._numbers), action))

    def work(self, seconds: float, action: Action, **facts: Any) -> None:
        """Work that takes so many seconds alone; `facts` say what it is."""
        number = next(self._numbers)
        self.works.append(
            {"left": seconds, "speed": 1.0, "end": self.now + seconds, "number": number, "then": action, **facts}
        )

    def run(self, speeds: Callable[[], None], settle: Action, finished: Callable[[], bool]) -> None:
        settle()
        while not finished():
            if self._first()[0] > self.now:  # what happens at one moment changes speeds once, after all of it
                self._set_speeds(speeds)
            moment, _, work = self._first()
            if work is None:
                _, _, action = heapq.heappop(self._moments)
            else:
                action = work["then"]
                self.works.remove(work)
            self.near_misses += 0 < moment - self.now < 1e-9 * moment
            self.now = moment
            action()
            settle()

    def _first(self) -> tuple[float, int, dict[str, Any] | None]:
        """What happens next: its moment, its number, and the work that ends, if it is one."""
        ends = [(work["end"], work["number"], work) for work in self.works]
        waits = [(*self._moments[0][:2], None)] if self._moments else []
        return min([*ends, *waits], key=lambda each: each[:2])

    def _set_speeds(self, speeds: Callable[[], None]) -> None:
        before = [work["speed"] for work in self.works]
        speeds()
        for work, old in zip(self.works, before, strict=True):
            if work["speed"] != old:  # what is left is known when the speed changes
                work["left"] = max(0.0, work["end"] - self.now) * old
                work["end"] = self.now + work["left"] / work["speed"]
