"""Progress of long work on stderr: a bar on a terminal, a line now and then in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

LOG_PACE_S = 30.0  # between two lines


@contextmanager
def bar(
    what: str, total: int | None, unit: str = "request", *, quiet: bool = False
) -> Iterator[Callable[[int], object]]:
    """A bar that vanishes when its work is done; a line every half minute if stderr is not a terminal.

    Call the yielded function with the number of newly finished items. Nothing is shown if `quiet` is set, or the
    environment variable TQDM_DISABLE, which tqdm obeys too.
    """
    if quiet or os.environ.get("TQDM_DISABLE"):
        # No tqdm in a worker: it would create semaphores, about which Python complains if the process is killed.
        yield lambda count: None
        return
    if not sys.stderr.isatty():
        yield _Lines(what, total, unit).update
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, leave=False) as drawn:
        yield drawn.update


class _Lines:
    """A log of the progress; commands that take less than half a minute stay silent."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._begun_s = self._shown_s = time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        now_s = time.monotonic()
        if now_s - self._shown_s >= LOG_PACE_S:
            self._shown_s = now_s
            of = "" if self._total is None else f" of {self._total}"
            passed = f"{self._done}{of} {self._unit}s, {now_s - self._begun_s:.0f} s so far"
            print(f"{self._what}: {passed}", file=sys.stderr, flush=True)


def counted(items: Iterable[T], done: Callable[[int], object]) -> Iterator[T]:
    """The same items; each is counted when the next one is requested."""
    for item in items:
        yield item
        done(1)
