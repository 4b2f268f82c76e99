"""The predictor's own processor, on which searches and store updates take time, in parallel to inference."""

from collections.abc import Callable

import simpy

from policies.hooks import Hooks
from policies.types import Batch, Found, Search
from sim.engine.reused_event import Event
from sim.hardware.costs import Cost


class _SearchEvent(Event):
    """The end of a search."""

    batch: Batch
    asked: Search
    found: Found


class Searcher:
    """Serves searches one at a time, first come, first served, and calls `found` when one ends."""

    def __init__(
        self,
        env: simpy.Environment,
        hooks: Hooks,
        cost: Cost,
        found: Callable[[Batch, Search, Found], None],
    ) -> None:
        self.free_s = 0.0  # when all requests so far will have ended
        self._env = env
        self._answer = hooks.search
        self._cost = cost
        self._found = found
        self._spare: list[_SearchEvent] = []

    def ask(self, batch: Batch, search: Search, now_s: float) -> None:
        """Queue a search; it is answered from what is known now."""
        event = self._spare.pop() if self._spare else _SearchEvent(self._env, self._ended)
        event.batch, event.asked, event.found = batch, search, self._answer(search)
        self.charge(search, now_s)
        event.after(self.free_s - now_s)

    def charge(self, search: Search, now_s: float) -> None:
        """Queue work without an answer."""
        if self.free_s < now_s:
            self.free_s = now_s
        self.free_s += self._cost.search_s(search)

    def _ended(self, event: _SearchEvent) -> None:
        self._found(event.batch, event.asked, event.found)
        self._spare.append(event)
