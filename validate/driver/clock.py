"""Wall time and threads, as a driver sees them."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from policies.types import Search


class Thread(Protocol):
    """What has been started."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds."""
        ...


class Clock:
    """Seconds since its creation. A test puts one in its place whose time is modelled."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()

    def now_s(self) -> float:
        """Seconds since the creation."""
        return time.perf_counter() - self._start_s

    def condition(self, lock: "threading.RLock") -> threading.Condition:
        """What threads wait for and are woken by, under `lock`."""
        return threading.Condition(lock)

    def start(self, run: Callable[[], None], name: str) -> Thread:
        """Run beside the caller. The process may end without it: a copy that hangs must not hang everything."""
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def served(self, search: Search, then: Callable[[], None]) -> None:
        """Go on after predictor work: at once, since real work has taken its time when it is done."""
        then()
