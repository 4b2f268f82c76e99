"""Wall time and threads, as a driver sees them."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from policies.types import Search


class Thread(Protocol):
    """A started thread."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds."""
        ...


class Clock:
    """Seconds since its creation. Tests replace it with a clock of modelled time."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()

    def now_s(self) -> float:
        """Seconds since the creation."""
        return time.perf_counter() - self._start_s

    def condition(self, lock: "threading.RLock") -> threading.Condition:
        """A condition under `lock`, for threads to wait on."""
        return threading.Condition(lock)

    def start(self, run: Callable[[], None], name: str) -> Thread:
        """Run in a daemon thread: the process may end without it, so a copy that hangs does not hang everything."""
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def served(self, search: Search, then: Callable[[], None]) -> None:
        """Call `then` after predictor work: at once, since real work has already taken its time."""
        then()
