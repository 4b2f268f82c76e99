"""What the threads of a run share: one lock with its conditions, and the first failure."""

import threading
from collections.abc import Callable
from functools import partial

from common.errors import UserError
from validate.driver.clock import Clock, Thread
from validate.driver.noting_lock import NotingLock


class SharedState:
    """One lock for all threads of a run; an exception in any of them stops the run.

    `lock` is reentrant, for the cache's view. Use `locked` as a context manager: an exception raised in it is noted
    before another thread can go on. The model's thread waits on `model`.
    """

    def __init__(self, clock: Clock) -> None:
        self.lock = threading.RLock()
        self.locked = NotingLock(self.lock, self._fail)
        self.stopped = False
        self._clock = clock
        self._conditions: list[threading.Condition] = []
        self._failure: tuple[str, BaseException] | None = None  # with the name of the thread
        self.model = self.condition()

    @property
    def failed(self) -> bool:
        """Whether a thread has failed."""
        return self._failure is not None

    def condition(self) -> threading.Condition:
        """A condition under the lock, which is notified when the run stops."""
        made = self._clock.condition(self.lock)
        self._conditions.append(made)
        return made

    def start(self, run: Callable[[], None], name: str) -> Thread:
        """Start a thread; an exception in it stops the run."""
        return self._clock.start(partial(self._guarded, run), name)

    def stop(self) -> None:
        """Let all threads end. The caller has the lock."""
        self.stopped = True
        for condition in self._conditions:
            condition.notify_all()

    def check(self) -> None:
        """Raise what a thread has raised."""
        if self._failure is None:
            return
        name, error = self._failure
        if isinstance(error, UserError):
            raise error
        raise UserError(f"the {name} has failed: {type(error).__name__}: {error}") from error

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            with self.locked:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Note an exception of this thread, which has the lock: no other thread goes on with what it left behind."""
        self._failure = self._failure or (threading.current_thread().name, error)
        self.stop()
