"""A clock whose time is modelled, for real threads: one runs at a time, and time passes when all of them wait.

What becomes ready at one moment runs in the order in which it was scheduled, as in the simulator.
"""

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable

from policies.types import Search


class _Task:
    """A thread of the run, and the signal that it may go on."""

    def __init__(self) -> None:
        self.turn = threading.Semaphore(0)
        self.over = False
        self.joining: list[_Task] = []


class FakeClock:
    """Stands for `validate.driver.clock.Clock`; made, and waited with, by the thread that runs the model."""

    def __init__(self, search_s: Callable[[Search], float]) -> None:
        self._search_s = search_s
        self._now_s = 0.0
        self._search_free_s = 0.0
        self._ready: deque[_Task] = deque()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._local = threading.local()
        self._local.task = _Task()

    def now_s(self) -> float:
        return self._now_s

    def condition(self, lock: "threading.RLock") -> "_Condition":
        return _Condition(self, lock)

    def start(self, run: Callable[[], None], name: str) -> "_Joinable":
        task = _Task()

        def body() -> None:
            self._local.task = task
            task.turn.acquire()
            run()
            task.over = True
            self._ready.extend(task.joining)
            self._pass_on()

        threading.Thread(target=body, name=name, daemon=True).start()
        self._ready.append(task)
        return _Joinable(self, task)

    def served(self, search: Search, then: Callable[[], None]) -> None:
        """Searches are served one at a time, first come, first served."""
        self._search_free_s = max(self._search_free_s, self._now_s) + self._search_s(search)
        self.at(self._search_free_s, then)

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Call something that does not wait."""
        heapq.heappush(self._later, (time_s, next(self._number), call))

    def sleep(self, seconds: float) -> None:
        self.wait_for(lambda over: self.at(self._now_s + seconds, over))

    def wait_for(self, begin: Callable[[Callable[[], None]], None]) -> None:
        """Begin something and wait until it calls what it is given."""
        me = self._local.task
        begin(lambda: self._ready.append(me))
        self.park()

    def park(self) -> None:
        """Let others run until this thread is ready again."""
        me = self._local.task
        if self._pass_on() is not me:
            me.turn.acquire()
        else:
            me.turn.acquire(blocking=False)

    def _pass_on(self) -> _Task:
        while not self._ready:
            assert self._later, "every thread waits, for nothing"
            self._now_s, _, call = heapq.heappop(self._later)
            call()
        task = self._ready.popleft()
        task.turn.release()
        return task


class _Condition:
    def __init__(self, clock: FakeClock, lock: "threading.RLock") -> None:
        self._clock = clock
        self._lock = lock
        self._waiting: deque[_Task] = deque()

    def wait(self) -> None:
        self._waiting.append(self._clock._local.task)
        self._lock.release()
        self._clock.park()
        self._lock.acquire()

    def notify(self) -> None:
        if self._waiting:
            self._clock._ready.append(self._waiting.popleft())

    def notify_all(self) -> None:
        while self._waiting:
            self.notify()


class _Joinable:
    def __init__(self, clock: FakeClock, task: _Task) -> None:
        self._clock = clock
        self._task = task

    def join(self, timeout: float | None = None) -> None:
        if not self._task.over:
            self._task.joining.append(self._clock._local.task)
            self._clock.park()
