"""The predictor's thread: calls the prefetcher's hooks in order, beside inference, and plans what they return."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from policies.cache.expert_cache import ExpertCache
from policies.hooks import Actions, Hooks
from policies.types import Batch, Found, Prefetch, Search
from validate.driver.clock import Clock
from validate.driver.shared_state import SharedState


class _Moment(NamedTuple):
    """The progress of inference: the iteration and its last gated layer."""

    iteration: int
    layer: int


class _Event(NamedTuple):
    """A task of the predictor's thread: to call a hook, or to charge the evictor's updates."""

    call: str
    arguments: tuple[Any, ...]
    batch: Batch
    moment: _Moment


class Predictor:
    """Queues events for the prefetcher; `run` handles them in a thread of its own.

    Other threads call `notify` and `charge` with the lock. `wake` lets idle links look for work.
    """

    def __init__(
        self, hooks: Hooks, cache: ExpertCache, clock: Clock, shared: SharedState, wake: Callable[[], None]
    ) -> None:
        self.batch: Batch | None = None  # of the running iteration
        self.unheard = 0  # events that the prefetcher has not handled yet
        self.unanswered = 0  # searches and updates under way
        self._hooks = hooks
        self._cache = cache
        self._clock = clock
        self._shared = shared
        self._wake = wake
        self._woken = shared.condition()
        self._events: deque[_Event] = deque()

    @property
    def busy(self) -> bool:
        """Whether it has events to handle, or searches and updates under way."""
        return bool(self.unheard or self.unanswered)

    def notify(self, call: str, *arguments: Any) -> None:
        """Queue a call of a hook, unless the prefetcher does not override it."""
        if call in self._hooks.heard:
            self._enqueue(call, arguments)

    def charge(self) -> None:
        """Queue the evictor's updates, which take their time after earlier requests."""
        if self._cache.work:
            self._enqueue("charge", tuple(self._cache.work))
            self._cache.work.clear()

    def run(self) -> None:
        """Handle events until the run stops."""
        while (event := self._next_event()) is not None:
            if event.call in ("charge", "end_iteration"):
                updates = event.arguments if event.call == "charge" else self._hooks.end_iteration(*event.arguments)
                for update in updates:
                    self._take_time(update, self._finished)
            else:
                self._act(getattr(self._hooks, event.call)(*event.arguments), event)
            with self._shared.locked:
                self.unheard -= 1
                self._shared.model.notify_all()

    def _enqueue(self, call: str, arguments: tuple[Any, ...]) -> None:
        assert self.batch is not None
        self._events.append(_Event(call, arguments, self.batch, self._now()))
        self.unheard += 1
        self._woken.notify()

    def _next_event(self) -> _Event | None:
        with self._shared.locked:
            while not self._events and not self._shared.stopped:
                self._woken.wait()
            return None if self._shared.stopped else self._events.popleft()

    def _act(self, actions: Actions, event: _Event) -> None:
        for action in actions:
            if isinstance(action, Prefetch):
                self._plan(action, event.moment)
            else:
                self._take_time(action, partial(self._found, event.batch, action, self._hooks.search(action)))

    def _take_time(self, search: Search, then: Callable[[], None]) -> None:
        """Call `then` when the search has taken its time; real work has taken it once it is answered."""
        with self._shared.locked:
            self.unanswered += 1
        self._clock.served(search, then)

    def _found(self, batch: Batch, asked: Search, found: Found) -> None:
        """A search has ended: the policy handles the answer while the cache is locked."""
        with self._shared.locked:
            layer_now = self._cache.layer_now if batch is self.batch else self._cache.model.layers
            for prefetch in self._hooks.found(batch, layer_now, asked, found):
                self._cache.plan(prefetch, self._clock.now_s())
            self._wake()
            self.unanswered -= 1
            self._shared.model.notify_all()

    def _finished(self) -> None:
        with self._shared.locked:
            self.unanswered -= 1
            self._shared.model.notify_all()

    def _plan(self, prefetch: Prefetch, moment: _Moment) -> None:
        """Carry out a plan that was decided at `moment`, unless its layer has been gated since."""
        with self._shared.locked:
            later = prefetch.layer <= moment.layer  # the plan is for the iteration after that of the moment
            if _Moment(moment.iteration + later, prefetch.layer) > self._now():
                self._cache.plan(prefetch, self._clock.now_s())
                self._wake()

    def _now(self) -> _Moment:
        assert self.batch is not None
        return _Moment(self.batch.iteration, self._cache.layer_now)
