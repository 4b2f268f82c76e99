"""The second driver: the simulator's cache and policies, with threads and real time instead of modelled time.

    the model's thread       begin_iteration, begin_layer, gated, computed, end_iteration; waits for what it demands
    a thread per link        asks its device for the next copy and moves it
    the predictor's thread   hears what happens, in order, and plans; the model waits for it only if the policy says so

One lock guards the cache. A prefetcher is only ever called by the predictor's thread, beside the cache, but for
`on_found`, which is called under the lock. An evictor is called by the cache. There is no torch here: bytes are moved
by a function that is passed in, and what is done with an expert that has arrived is the caller's.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

from common.errors import UserError
from policies.cache.deadlock import deadlock
from policies.cache.device import Device
from policies.cache.expert_cache import ExpertCache
from policies.hooks import Actions, Hooks
from policies.types import Batch, Copy, Demand, Float, Found, Gate, Int, Prefetch, Search
from sim.engine.layer_times import LayerTimes
from sim.engine.recorder import Recorder
from sim.engine.time_split import KnownParts
from validate.driver.clock import Clock, Thread
from validate.driver.noting_lock import NotingLock

_PATIENCE_S = 0.5  # for a thread that ends; one that moves a large chunk is left behind
TURN_S = 1e-4  # how long a thread may keep the interpreter while others want it: Python's 5 ms outlast a layer


class _Moment(NamedTuple):
    """How far inference is: the iteration and its last gated layer."""

    iteration: int
    layer: int


class _Event(NamedTuple):
    """Something that the predictor's thread has to do: call one of the hooks, or charge what the evictor has done."""

    call: str
    arguments: tuple[Any, ...]
    batch: Batch
    moment: _Moment


class _Link:
    """What the thread of one link waits for."""

    def __init__(self, device: Device, woken: threading.Condition) -> None:
        self.device = device
        self.woken = woken
        self.idle = True
        self.asked = False  # to look for work


class Driver:
    """Runs a policy that has been started, on a cache that is as it shall begin.

    `processors` `[G]` says which processor computes the experts of each GPU: logical devices may share one. Iterations
    are recorded with the parts of their time as `sim.engine.time_split` defines them, by the clock.

    A context manager: its threads live as long as it is open. Whatever fails in one of them is raised by the next call
    from the model's thread, or by the call that waits.
    """

    def __init__(
        self,
        *,
        hooks: Hooks,
        cache: ExpertCache,
        move: Callable[[Copy], None],
        processors: Sequence[int],
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self.cache = cache
        self._policy = hooks.policy
        self._hooks = hooks
        self._move = move
        self._recorder = recorder
        self._clock = clock

        self._lock = cache.lock = threading.RLock()  # `on_found` is called under it and may look at the cache
        self._held = NotingLock(self._lock, self._fail)
        self._model = clock.condition(self._lock)
        self._predictor = clock.condition(self._lock)
        self._links = [_Link(device, clock.condition(self._lock)) for device in cache.devices]
        self._threads: list[Thread] = []
        self._failure: tuple[str, BaseException] | None = None  # of which thread
        self._stopped = False

        self._events: deque[_Event] = deque()
        self._unheard = 0  # events that the prefetcher has not done with
        self._unanswered = 0  # searches and updates that it works on
        self._batch: Batch | None = None
        self._arrived: deque[int] = deque()  # experts that the running layer waited for, until they are computed
        self._times = LayerTimes([device.slots for device in cache.devices], processors)
        self._experts: Sequence[int] = ()  # that the running layer demands
        self._given = 0  # of them to be computed
        self._uncomputed = 0

    def __enter__(self) -> Self:
        self._turn_s = sys.getswitchinterval()
        sys.setswitchinterval(TURN_S)
        for link in self._links:
            name = f"link {link.device.gpu}"
            self._threads.append(self._clock.start(partial(self._guarded, partial(self._serve, link)), name))
        self._threads.append(self._clock.start(partial(self._guarded, self._predict), "predictor"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            while error is None and self._unheard and self._failure is None:  # what was said last is heard
                self._model.wait()
            self._stopped = True
            self._wake_all()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        sys.setswitchinterval(self._turn_s)
        if error is None:
            self._check()

    # ---- the model's thread --------------------------------------------------------------------------------------

    def begin_iteration(self, batch: Batch, starting: Sequence[int]) -> None:
        """An iteration begins: its embeddings are known, no layer has run. `starting` are requests new to the run."""
        with self._held:
            self._check()
            self._batch, self._starting = batch, starting
            self._start_s = self._clock.now_s()
            self._overhead_s = self._search_wait_s = self._prefetch_wait_s = 0.0
            self._times.waits.begin_iteration()
            self.cache.begin_iteration(batch, self._start_s)
            self._charge()
            self._tell("begin_iteration", batch, starting)
            self._wake()
            self._overhead_s += self._clock.now_s() - self._start_s

    def begin_layer(self, layer: int) -> None:
        """A layer begins, before its attention; returns when the policy lets it start."""
        blocking = self._policy.blocking_prefetch
        if not blocking and "begin_layer" not in self._hooks.heard:
            return
        since_s, waited_s = self._clock.now_s(), 0.0
        with self._held:
            self._check()
            if blocking:
                self.cache.begin_wait(layer)
            self._tell("begin_layer", self._batch, layer)
            self._wake()
            if blocking:
                waited_s = self._wait_while(lambda: bool(self._unheard) or self.cache.waits_for(layer))
                self.cache.end_wait()
        self._prefetch_wait_s += waited_s
        self._overhead_s += self._clock.now_s() - since_s - waited_s

    def gated(self, gate: Gate, experts: Sequence[int]) -> Iterator[int]:
        """The router has spoken: the distinct `experts` are demanded, in rising order.

        Yields each when it is in its slot, in the order in which they are to be computed; the caller says of each
        when it has been `computed`, which may be later.
        """
        layer, since_s, searching_s = gate.layer, self._clock.now_s(), 0.0
        with self._held:
            self._check()
            self._layer, self._experts = layer, experts
            self._given, self._uncomputed = 0, len(experts)
            self._arrived.clear()
            demand = self.cache.demand(layer, experts, self._clock.now_s())
            total = self.cache.model.experts
            self._times.begin(self.cache.home[layer * total : (layer + 1) * total])
            self._in_waves = demand.waves > 1
            self._charge()
            self._tell("gated", self._batch, gate)
            self._wake()
            if self._policy.blocking_prediction:
                searching_s = self._wait_while(lambda: bool(self._unheard or self._unanswered))
        start_s = self._clock.now_s()
        for expert in self._ready(demand):
            self._given += 1
            self._times.given(expert, self._clock.now_s())
            yield expert
        with self._held:
            while self._uncomputed:  # whoever computes says so
                self._check()
                self._model.wait()
            self._check()
            self._search_wait_s += searching_s
            at_once = self._policy.compute_on_arrival or self._in_waves
            layer_s = self._times.ended(demand, start_s, at_once=at_once)
            self._overhead_s += self._clock.now_s() - since_s - searching_s - layer_s

    def computed(self, expert: int) -> None:
        """An expert of the running layer has been computed: with the last of them, or in waves, slots become free."""
        now_s = self._clock.now_s()
        with self._held:
            self._check()
            self._times.computed(expert, now_s)
            # A link that has been asked takes its slot first, as it would if it were as quick as a decision.
            while self._in_waves and any(link.asked for link in self._links):
                self._check()
                self._model.wait()
            self._uncomputed -= 1
            if self._uncomputed and not self._in_waves:
                return
            now_s = self._clock.now_s()
            self.cache.release(self._layer, [expert] if self._uncomputed else self._experts, now_s, now_s)
            self._wake()
            if not self._uncomputed:
                self._model.notify_all()

    def end_iteration(self, maps: Float, experts: Int, ending: Sequence[int]) -> None:
        """An iteration has ended, the last of the requests `ending`.

        `maps` `[T, L, J]` is what its routers said, `experts` `[T, L, K]` what it executed.
        """
        with self._held:
            self._check()
            assert self._batch is not None
            now_s = self._clock.now_s()
            missed_s, late_s, waves_s = self._times.waits.seconds
            measured = KnownParts(
                exchange_s=0.0,
                overhead_s=self._overhead_s,
                miss_wait_s=missed_s,
                late_wait_s=late_s,
                wave_wait_s=waves_s,
                search_wait_s=self._search_wait_s,
                prefetch_wait_s=self._prefetch_wait_s,
            )
            self._recorder.iteration(self._batch, self._starting, self._start_s, now_s, measured, self.cache.counts)
            self._tell("end_iteration", self._batch, maps, experts, ending)

    def _ready(self, demand: Demand) -> Iterator[int]:
        """The experts of the running layer in the order in which they are to be computed, each when it is there."""
        missing = len(self._experts) - len(demand.hits)
        if self._policy.compute_on_arrival or self._in_waves:
            yield from demand.hits
            for _ in range(missing):
                yield self._next_arrived()
        else:
            for _ in range(missing):
                self._next_arrived()
            yield from self._experts

    def _next_arrived(self) -> int:
        """The next expert that has arrived for the running layer."""
        with self._held:
            self._wait_while(lambda: not self._arrived)
            return self._arrived.popleft()

    def _wait_while(self, condition: Callable[[], bool]) -> float:
        """Wait under the lock; for how long. A `UserError` if nothing is left that could end it."""
        since_s = self._clock.now_s()
        while condition():
            self._check()
            if self._is_stuck():
                assert self._batch is not None
                raise deadlock(self.cache, self._batch.iteration, self._clock.now_s())
            self._model.wait()
        self._check()
        return self._clock.now_s() - since_s

    def _is_stuck(self) -> bool:
        """Whether all other threads wait too, for nothing that has been asked of them, and no expert is computed."""
        working = any(link.asked or not link.idle for link in self._links)
        computing = self._given + self._uncomputed > len(self._experts)
        return not (working or computing or self._unheard or self._unanswered)

    # ---- the links' threads --------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Let every idle link that may have work ask for it."""
        for device in self.cache.wake:
            link = self._links[device.gpu]
            if link.idle and not link.asked:
                link.asked = True
                link.woken.notify()
        self.cache.wake.clear()

    def _serve(self, link: _Link) -> None:
        while not self._stopped:
            copy = self._awaited(link)
            while copy is not None:
                self._move(copy)
                copy = self._landed(link, copy)

    def _awaited(self, link: _Link) -> Copy | None:
        """Wait until the link is asked to look for work; what it finds."""
        with self._held:
            while not link.asked and not self._stopped:
                link.woken.wait()
            link.asked = False
            copy = None if self._stopped else link.device.next_copy(self._clock.now_s())
            link.idle = copy is None
            self._wake()  # another link, to which the turn has gone
            self._model.notify_all()  # it has taken its slot, or a layer need not wait for prefetches that find none
            return copy

    def _landed(self, link: _Link, copy: Copy) -> Copy | None:
        """A chunk has arrived: the next one, if there is any."""
        device = link.device
        with self._held:
            now_s = self._clock.now_s()
            complete = device.copied(copy, now_s)
            if complete and copy.demanded:
                expert = copy.number % self.cache.model.experts
                self._arrived.append(expert)
                self._times.arrived(expert, now_s)
            following = None if self._stopped else device.next_copy(now_s)
            link.idle = following is None
            if complete or link.idle:
                self._model.notify_all()
            self._wake()  # another link, if it is the turn of what it waits with
            return following

    # ---- the predictor's thread ----------------------------------------------------------------------------------

    def _tell(self, call: str, *arguments: Any) -> None:
        """Let the prefetcher hear of something, unless it does not listen."""
        if call in self._hooks.heard:
            self._enqueue(call, arguments)

    def _charge(self) -> None:
        """Let the evictor's work take its time after what was asked before."""
        if self.cache.work:
            self._enqueue("charge", tuple(self.cache.work))
            self.cache.work.clear()

    def _enqueue(self, call: str, arguments: tuple[Any, ...]) -> None:
        assert self._batch is not None
        self._events.append(_Event(call, arguments, self._batch, self._now()))
        self._unheard += 1
        self._predictor.notify()

    def _predict(self) -> None:
        while (event := self._next_event()) is not None:
            if event.call in ("charge", "end_iteration"):
                updates = event.arguments if event.call == "charge" else self._hooks.end_iteration(*event.arguments)
                for update in updates:
                    self._take_time(update, self._finished)
            else:
                self._act(getattr(self._hooks, event.call)(*event.arguments), event)
            with self._held:
                self._unheard -= 1
                self._model.notify_all()

    def _next_event(self) -> _Event | None:
        with self._held:
            while not self._events and not self._stopped:
                self._predictor.wait()
            return None if self._stopped else self._events.popleft()

    def _act(self, actions: Actions, event: _Event) -> None:
        for action in actions:
            if isinstance(action, Prefetch):
                self._plan(action, event.moment)
            else:
                self._take_time(action, partial(self._found, event.batch, action, self._hooks.search(action)))

    def _take_time(self, search: Search, then: Callable[[], None]) -> None:
        """Go on when the search has taken its time: a real one has taken it when it is answered."""
        with self._held:
            self._unanswered += 1
        self._clock.served(search, then)

    def _found(self, batch: Batch, asked: Search, found: Found) -> None:
        """A search has ended: the cache stands still while the policy makes of it what it will."""
        with self._held:
            layer_now = self.cache.layer_now if batch is self._batch else self.cache.model.layers
            for prefetch in self._hooks.found(batch, layer_now, asked, found):
                self.cache.plan(prefetch, self._clock.now_s())
            self._wake()
            self._unanswered -= 1
            self._model.notify_all()

    def _finished(self) -> None:
        with self._held:
            self._unanswered -= 1
            self._model.notify_all()

    def _plan(self, prefetch: Prefetch, moment: _Moment) -> None:
        """Plan what was decided on what was known at `moment`, unless its layer has been gated meanwhile."""
        with self._held:
            later = prefetch.layer <= moment.layer  # it means the iteration after that of the moment
            if _Moment(moment.iteration + later, prefetch.layer) > self._now():
                self.cache.plan(prefetch, self._clock.now_s())
                self._wake()

    def _now(self) -> _Moment:
        assert self._batch is not None
        return _Moment(self._batch.iteration, self.cache.layer_now)

    # ---- failures ------------------------------------------------------------------------------------------------

    def _guarded(self, run: Callable[[], None]) -> None:
        """Run a thread; what it raises ends the run."""
        try:
            run()
        except BaseException as error:
            with self._held:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Something was raised in this thread, which holds the lock: no other one goes on with what it left behind."""
        self._failure = self._failure or (threading.current_thread().name, error)
        self._stopped = True
        self._wake_all()

    def _wake_all(self) -> None:
        self._model.notify_all()
        self._predictor.notify()
        for link in self._links:
            link.woken.notify()

    def _check(self) -> None:
        """Raise what a thread has raised."""
        if self._failure is None:
            return
        name, error = self._failure
        if isinstance(error, UserError):
            raise error
        raise UserError(f"the {name} has failed: {type(error).__name__}: {error}") from error
