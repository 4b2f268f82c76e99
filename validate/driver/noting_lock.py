"""A lock that reports exceptions raised while it is held."""

import threading
from collections.abc import Callable
from types import TracebackType


class NotingLock:
    """Holds a lock; an exception raised under it is passed to `note` before another thread can go on."""

    def __init__(self, lock: "threading.RLock", note: Callable[[BaseException], None]) -> None:
        self._lock = lock
        self._note = note

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._note(error)
        self._lock.release()
