"""The driver for real devices: the simulator's cache and policies, with threads and real time instead of modelled time.

    the model's thread       begin_iteration, begin_layer, gated, computed, end_iteration; waits for its demands
    a thread per link        asks its device for the next copy and moves it
    the predictor's thread   calls the prefetcher in order, and plans; the model waits for it only if the policy says so

One lock guards the cache. Only the predictor's thread calls the prefetcher, without the lock except in `on_found`. The
cache calls the evictor. This module does not use torch: a function that moves bytes is passed in, and the caller
computes the experts that have arrived.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from policies.cache.deadlock import deadlock
from policies.cache.device import Device
from policies.cache.expert_cache import ExpertCache
from policies.hooks import Hooks
from policies.types import Batch, Copy, Demand, Float, Gate, Int
from sim.engine.layer_times import LayerTimes
from sim.engine.recorder import Recorder
from sim.engine.time_split import KnownParts
from validate.driver.clock import Clock, Thread
from validate.driver.predictor import Predictor
from validate.driver.shared_state import SharedState

_PATIENCE_S = 0.5  # for a thread to end; one that moves a large chunk is left behind
TURN_S = 1e-4  # how long a thread may keep the interpreter while others want it: Python's 5 ms are longer than a layer


class _Link:
    """A link, and the condition that its thread waits on."""

    def __init__(self, device: Device, woken: threading.Condition) -> None:
        self.device = device
        self.woken = woken
        self.idle = True
        self.asked = False  # to look for work


class Driver:
    """Runs a started policy on a cache in its initial state.

    `processors` `[G]` says which processor computes the experts of each GPU: logical devices may share one. Iterations
    are recorded by the clock, with the parts of their time as `sim.engine.time_split` defines them.

    A context manager: its threads live as long as it is open. An exception in one of them is raised by the next call
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

        self._shared = shared = SharedState(clock)
        cache.lock = shared.lock  # reentrant, since `on_found` is called with it and may look at the cache
        self._predictor = Predictor(hooks, cache, clock, shared, self._wake)
        self._links = [_Link(device, shared.condition()) for device in cache.devices]
        self._threads: list[Thread] = []

        self._arrived: deque[int] = deque()  # experts that the running layer waited for, until they are computed
        self._times = LayerTimes([device.slots for device in cache.devices], processors)
        self._experts: Sequence[int] = ()  # that the running layer demands
        self._given = 0  # how many of them the caller has received for computation
        self._uncomputed = 0

    def __enter__(self) -> Self:
        self._turn_s = sys.getswitchinterval()
        sys.setswitchinterval(TURN_S)
        for link in self._links:
            self._threads.append(self._shared.start(partial(self._serve, link), f"link {link.device.gpu}"))
        self._threads.append(self._shared.start(self._predictor.run, "predictor"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._shared.locked:
            while error is None and self._predictor.unheard and not self._shared.failed:  # it handles the last events
                self._shared.model.wait()
            self._shared.stop()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        sys.setswitchinterval(self._turn_s)
        if error is None:
            self._shared.check()

    # ---- the model's thread --------------------------------------------------------------------------------------

    def begin_iteration(self, batch: Batch, starting: Sequence[int]) -> None:
        """An iteration begins: its embeddings are known, no layer has run. `starting` are requests new to the run."""
        with self._shared.locked:
            self._shared.check()
            self._predictor.batch, self._starting = batch, starting
            self._start_s = self._clock.now_s()
            self._overhead_s = self._search_wait_s = self._prefetch_wait_s = 0.0
            self._times.waits.begin_iteration()
            self.cache.begin_iteration(batch, self._start_s)
            self._predictor.charge()
            self._predictor.notify("begin_iteration", batch, starting)
            self._wake()
            self._overhead_s += self._clock.now_s() - self._start_s

    def begin_layer(self, layer: int) -> None:
        """A layer begins, before its attention; returns when the policy lets it start."""
        blocking = self._policy.blocking_prefetch
        if not blocking and "begin_layer" not in self._hooks.heard:
            return
        since_s, waited_s = self._clock.now_s(), 0.0
        with self._shared.locked:
            self._shared.check()
            if blocking:
                self.cache.begin_wait(layer)
            self._predictor.notify("begin_layer", self._predictor.batch, layer)
            self._wake()
            if blocking:
                waited_s = self._wait_while(lambda: bool(self._predictor.unheard) or self.cache.waits_for(layer))
                self.cache.end_wait()
        self._prefetch_wait_s += waited_s
        self._overhead_s += self._clock.now_s() - since_s - waited_s

    def gated(self, gate: Gate, experts: Sequence[int]) -> Iterator[int]:
        """The router has run: the distinct `experts` are demanded, in rising order.

        Yields each expert when it is in its slot, in the order of computation. The caller calls `computed` for each,
        perhaps later.
        """
        layer, since_s, searching_s = gate.layer, self._clock.now_s(), 0.0
        with self._shared.locked:
            self._shared.check()
            self._layer, self._experts = layer, experts
            self._given, self._uncomputed = 0, len(experts)
            self._arrived.clear()
            demand = self.cache.demand(layer, experts, self._clock.now_s())
            total = self.cache.model.experts
            self._times.begin(self.cache.home[layer * total : (layer + 1) * total])
            self._in_waves = demand.waves > 1
            self._predictor.charge()
            self._predictor.notify("gated", self._predictor.batch, gate)
            self._wake()
            if self._policy.blocking_prediction:
                searching_s = self._wait_while(lambda: self._predictor.busy)
        start_s = self._clock.now_s()
        for expert in self._ready(demand):
            self._given += 1
            self._times.given(expert, self._clock.now_s())
            yield expert
        with self._shared.locked:
            while self._uncomputed:  # until the caller has reported every expert as computed
                self._shared.check()
                self._shared.model.wait()
            self._shared.check()
            self._search_wait_s += searching_s
            at_once = self._policy.compute_on_arrival or self._in_waves
            layer_s = self._times.ended(demand, start_s, at_once=at_once)
            self._overhead_s += self._clock.now_s() - since_s - searching_s - layer_s

    def computed(self, expert: int) -> None:
        """An expert of the running layer has been computed; slots become free after the last one, or in waves."""
        now_s = self._clock.now_s()
        with self._shared.locked:
            self._shared.check()
            self._times.computed(expert, now_s)
            # A link that has been asked takes its slot first, as it would if it decided at once.
            while self._in_waves and any(link.asked for link in self._links):
                self._shared.check()
                self._shared.model.wait()
            self._uncomputed -= 1
            if self._uncomputed and not self._in_waves:
                return
            now_s = self._clock.now_s()
            self.cache.release(self._layer, [expert] if self._uncomputed else self._experts, now_s, now_s)
            self._wake()
            if not self._uncomputed:
                self._shared.model.notify_all()

    def end_iteration(self, maps: Float, experts: Int, ending: Sequence[int]) -> None:
        """An iteration has ended, the last of the requests `ending`.

        `maps` `[T, L, J]` are the outputs of its routers, `experts` `[T, L, K]` the experts that it executed.
        """
        with self._shared.locked:
            self._shared.check()
            batch = self._predictor.batch
            assert batch is not None
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
            self._recorder.iteration(batch, self._starting, self._start_s, now_s, measured, self.cache.counts)
            self._predictor.notify("end_iteration", batch, maps, experts, ending)

    def _ready(self, demand: Demand) -> Iterator[int]:
        """The experts of the running layer in the order of computation, each when it is in its slot."""
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
        with self._shared.locked:
            self._wait_while(lambda: not self._arrived)
            return self._arrived.popleft()

    def _wait_while(self, condition: Callable[[], bool]) -> float:
        """Wait with the lock and return the seconds; a `UserError` if nothing is left that could end the wait."""
        since_s = self._clock.now_s()
        while condition():
            self._shared.check()
            if self._is_stuck():
                assert self._predictor.batch is not None
                raise deadlock(self.cache, self._predictor.batch.iteration, self._clock.now_s())
            self._shared.model.wait()
        self._shared.check()
        return self._clock.now_s() - since_s

    def _is_stuck(self) -> bool:
        """Whether all other threads wait too, without work to do, and no expert is being computed."""
        working = any(link.asked or not link.idle for link in self._links)
        computing = self._given + self._uncomputed > len(self._experts)
        return not (working or computing or self._predictor.busy)

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
        while not self._shared.stopped:
            copy = self._awaited(link)
            while copy is not None:
                self._move(copy)
                copy = self._landed(link, copy)

    def _awaited(self, link: _Link) -> Copy | None:
        """Wait until the link is asked to look for work; returns the copy that it finds."""
        with self._shared.locked:
            while not link.asked and not self._shared.stopped:
                link.woken.wait()
            link.asked = False
            copy = None if self._shared.stopped else link.device.next_copy(self._clock.now_s())
            link.idle = copy is None
            self._wake()  # another link, which may have got the turn
            # The link has taken its slot, or a layer need not wait for prefetches that find no slot.
            self._shared.model.notify_all()
            return copy

    def _landed(self, link: _Link, copy: Copy) -> Copy | None:
        """A chunk has arrived; returns the next copy, if there is any."""
        device = link.device
        with self._shared.locked:
            now_s = self._clock.now_s()
            complete = device.copied(copy, now_s)
            if complete and copy.demanded:
                expert = copy.number % self.cache.model.experts
                self._arrived.append(expert)
                self._times.arrived(expert, now_s)
            following = None if self._shared.stopped else device.next_copy(now_s)
            link.idle = following is None
            if complete or link.idle:
                self._shared.model.notify_all()
            self._wake()  # another link, which may have got the turn
            return following
